"""Container images without a container engine and without a registry.

Debian's ``debootstrap`` makes the base, ``buildah`` runs the Dockerfiles, and containerd imports
the archives; only package registries are asked for anything.
"""
