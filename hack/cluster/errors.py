"""The one error that users see without a traceback."""


class ClusterError(Exception):
    """Something a person can act on; its text is one complete sentence."""
