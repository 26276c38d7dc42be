"""Envoy's configuration as pure functions: typed splits and addresses in, JSON documents out.

Three documents are watched by Envoy, each in a folder of its own: a file subscription costs an inotify instance, of
which a node has 128 per user; so all models share a table of routes, and endpoints stand inside their clusters.
"""
