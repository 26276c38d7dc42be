"""The agent beside Envoy in a router pod: TrafficSplits and EndpointSlices in, Envoy's files and attested routes out.

Standard library only, and nothing of `penstock`: it lives beside every fleet in 64 MiB, and an operator of another
release must be able to talk to it.
"""
