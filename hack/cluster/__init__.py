"""A real one-node Kubernetes on this machine, from Go modules and Debian packages.

People without a cluster, and the end-to-end tests, get the genuine API server, kubelet and
kube-proxy here, without a container engine and without an image registry.
"""
