"""Routes of the Gateway API that publish a model: they lead to its client Service, whatever that leads to.

Everything that the API server would fill in is written out, so that a live route is compared with ours word for word.
An HTTPRoute and a GRPCRoute cannot share a hostname on one listener: a Gateway must then leave one of them out. So
each has hostnames of its own, and there is a route for each list that has any. Nor do they share a name: Contour 1.33
keeps what it says of routes by name alone, and of two it would tell one.
"""

from math import ceil
from typing import Any

from penstock.api.resource import Metadata
from penstock.api.traffic import GATEWAY_GROUP, GRPC_ROUTE, HTTP_ROUTE, GatewayReference, TrafficSpec
from penstock.api.units import duration_seconds
from penstock.core.names import object_metadata

from .services import GRPC_PORT, HTTP_PORT

__all__ = ["routes"]

_MARGIN_SECONDS = 5
"""A Gateway waits longer than the router, whose 504 is one that is counted."""


def routes(owner: Metadata, traffic: TrafficSpec) -> list[dict[str, Any]]:
    """The routes that `spec.traffic` asks for, `<md>` and `<md>-grpc`."""
    found = []
    if traffic.parent_refs and traffic.hostnames:
        found.append(_route(owner, traffic, HTTP_ROUTE, owner.name, traffic.hostnames, _http_rule(owner, traffic)))
    if traffic.parent_refs and traffic.grpc_hostnames:
        found.append(
            _route(owner, traffic, GRPC_ROUTE, f"{owner.name}-grpc", traffic.grpc_hostnames, _grpc_rule(owner))
        )
    return found


def _parent(parent: GatewayReference) -> dict[str, Any]:
    said = {"namespace": parent.namespace, "sectionName": parent.section_name, "port": parent.port}
    given = {key: value for key, value in said.items() if value is not None}
    return {"group": GATEWAY_GROUP, "kind": "Gateway", "name": parent.name, **given}


def _route(
    owner: Metadata, traffic: TrafficSpec, kind: str, name: str, hostnames: tuple[str, ...], rule: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": kind,
        "metadata": object_metadata(owner, name, "publication"),
        "spec": {
            "parentRefs": [_parent(parent) for parent in traffic.parent_refs or ()],
            "hostnames": list(hostnames),
            "rules": [rule],
        },
    }


def _http_rule(owner: Metadata, traffic: TrafficSpec) -> dict[str, Any]:
    longest = ceil(duration_seconds(traffic.timeout)) + _MARGIN_SECONDS
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [_backend(owner, HTTP_PORT)],
        "timeouts": {"request": f"{longest}s"},
    }


def _grpc_rule(owner: Metadata) -> dict[str, Any]:
    return {"backendRefs": [_backend(owner, GRPC_PORT)]}


def _backend(owner: Metadata, port: int) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": owner.name, "port": port, "weight": 1}
