"""Sizes and times that more than one room derives from the same few numbers."""

from math import ceil

__all__ = ["DEFAULT_CPU_LIMIT", "DEFAULT_CPU_REQUEST", "PRE_STOP_SECONDS", "exit_timeout", "grace_period", "mebibytes"]

DEFAULT_CPU_REQUEST = "100m"
DEFAULT_CPU_LIMIT = "1"
PRE_STOP_SECONDS = 10
"""How long a pod that is going away keeps serving while its removal from endpoints spreads (facts/triton.md §3.5)."""
_EXIT_MARGIN_SECONDS = 5
_GRACE_MARGIN_SECONDS = 10


def mebibytes(size: int) -> str:
    """A quantity of whole MiB, rounded up."""
    return f"{ceil(size / 2**20)}Mi"


def exit_timeout(request_timeout: float) -> int:
    """Seconds tritonserver waits for requests in flight: the longest request and a margin."""
    return ceil(request_timeout) + _EXIT_MARGIN_SECONDS


def grace_period(request_timeout: float) -> int:
    """terminationGracePeriodSeconds: preStop, then Triton's own wait, then a margin; less would lose requests."""
    return PRE_STOP_SECONDS + exit_timeout(request_timeout) + _GRACE_MARGIN_SECONDS
