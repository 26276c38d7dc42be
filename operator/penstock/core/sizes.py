"""Sizes and times that more than one room derives from the same few numbers."""

from collections.abc import Mapping
from math import ceil

from penstock.api.spec import Resources, ServerSpec
from penstock.api.units import quantity_value

__all__ = [
    "DEFAULT_CPU_LIMIT",
    "PRE_STOP_SECONDS",
    "exit_timeout",
    "fill_resources",
    "grace_period",
    "mebibytes",
    "server_resources",
]

_DEFAULT_CPU_REQUEST = "100m"
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


def server_resources(server: ServerSpec | None, memory_bytes: int) -> dict[str, dict[str, str]]:
    """Resources of a server's container: as asked, the rest from defaults and from what its model needs."""
    asked = (server.resources if server else None) or Resources()
    requests, limits = dict(asked.requests or {}), dict(asked.limits or {})
    limits.setdefault("cpu", max(DEFAULT_CPU_LIMIT, requests.get("cpu", "0"), key=quantity_value))
    limits.setdefault("memory", max(mebibytes(memory_bytes), requests.get("memory", "0"), key=quantity_value))
    requests.setdefault("cpu", min(_DEFAULT_CPU_REQUEST, limits["cpu"], key=quantity_value))
    requests.setdefault("memory", limits["memory"])
    return {"requests": requests, "limits": limits}


def fill_resources(
    asked: Resources | None, requests: Mapping[str, str], limits: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """As asked, filled up with defaults; a default never contradicts what was asked."""
    said = asked or Resources()
    wanted, roofs = dict(said.requests or {}), dict(said.limits or {})
    for name, value in requests.items():
        wanted.setdefault(name, min(value, roofs.get(name, value), key=quantity_value))
    for name, value in limits.items():
        roofs.setdefault(name, max(value, wanted.get(name, value), key=quantity_value))
    return {"requests": wanted, "limits": roofs}
