"""Where the servers of a revision are: EndpointSlices, merged and checked."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["REVISION_LABEL", "Endpoint", "Piece", "merged"]

REVISION_LABEL = "penstock.dev/revision"


@dataclass(frozen=True, order=True)
class Endpoint:
    """One server; health is asked on its HTTP port for both protocols."""

    address: str
    http: int
    grpc: int


@dataclass(frozen=True)
class Piece:
    """What one EndpointSlice says: servers that are ready, and those that go and still serve."""

    revision: str
    ready: tuple[Endpoint, ...] = ()
    going: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Piece":
        """The slice without what cannot be used: without both ports it is empty, what is no address is passed over."""
        revision = str((found.get("metadata", {}).get("labels") or {}).get(REVISION_LABEL, ""))
        ports = {port.get("name"): port.get("port") for port in found.get("ports") or ()}
        http, grpc = ports.get("http"), ports.get("grpc")
        if not isinstance(http, int) or not isinstance(grpc, int):
            return cls(revision)
        ready, going = [], []
        for item in found.get("endpoints") or ():
            conditions = item.get("conditions") or {}
            addresses = item.get("addresses") or ()
            if not addresses or not _is_address(addresses[0]):
                continue
            endpoint = Endpoint(str(addresses[0]), http, grpc)
            if conditions.get("ready") is not False:
                ready.append(endpoint)
            elif conditions.get("serving") and conditions.get("terminating"):
                going.append(endpoint)
        return cls(revision, tuple(ready), tuple(going))


def merged(pieces: Iterable[Piece]) -> tuple[Endpoint, ...]:
    """Servers of all slices of a revision, each once, sorted.

    When none is ready those that go serve on until a successor is, as kube-proxy does it: the only pod of a revision
    may be replaced without an outage. Several Services may select the same pods. Where pods have addresses of both
    families IPv4 is taken alone, or each would count twice.
    """
    known = list(pieces)
    for found in ([one.ready for one in known], [one.going for one in known]):
        servers = {one.address: one for part in found for one in part}
        if chosen := [one for one in servers.values() if ":" not in one.address] or list(servers.values()):
            return tuple(sorted(chosen))
    return ()


def _is_address(text: object) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True
