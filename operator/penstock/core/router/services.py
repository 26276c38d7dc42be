"""The Services people address: the model's own, which never changes its name, and the preview of a candidate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api.resource import Metadata
from penstock.core.names import COMPONENT_LABEL, DEPLOYMENT_LABEL, REVISION_LABEL, ROUTER_LABEL, object_metadata

__all__ = ["Target", "client_service", "preview_service", "to_revision", "to_router"]

HTTP_PORT, GRPC_PORT = 8000, 8001
_NOWHERE = "none"
"""A revision that no pod carries: what a client Service selects while nothing serves."""


@dataclass(frozen=True)
class Target:
    """The pods behind a Service, and the ports of theirs that HTTP and gRPC go to."""

    selector: Mapping[str, str]
    http: str | int = "http"
    grpc: str | int = "grpc"


def to_revision(owner: Metadata, revision: str | None) -> Target:
    """The serving pods of one revision; with None no pods at all."""
    return Target({DEPLOYMENT_LABEL: owner.name, REVISION_LABEL: revision or _NOWHERE})


def to_router(router: str, port: int) -> Target:
    """A router fleet, at the listener of one model; it takes HTTP/1.1 and gRPC on one port."""
    return Target({ROUTER_LABEL: router, COMPONENT_LABEL: "router"}, port, port)


def client_service(owner: Metadata, target: Target) -> dict[str, Any]:
    """The address clients use, `<md>`; it never changes, only what is behind it does."""
    return _service(owner, owner.name, "client", target)


def preview_service(owner: Metadata, revision: str) -> dict[str, Any]:
    """`<md>-preview`: the candidate's pods themselves, for tests before any request is switched to them."""
    return _service(owner, f"{owner.name}-preview", "preview", to_revision(owner, revision))


def _service(owner: Metadata, name: str, component: str, target: Target) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_metadata(owner, name, component),
        "spec": {
            "type": "ClusterIP",
            "selector": dict(target.selector),
            "ports": [
                _port("http", HTTP_PORT, target.http, "http"),
                _port("grpc", GRPC_PORT, target.grpc, "kubernetes.io/h2c"),
            ],
        },
    }


def _port(name: str, port: int, target: str | int, protocol: str) -> dict[str, Any]:
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP", "appProtocol": protocol}
