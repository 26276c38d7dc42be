"""The API server as Penstock uses it: requests, what is known of the cluster, the work queue, the lease, events."""
