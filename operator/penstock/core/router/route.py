"""The two kinds between the operator and the routers, as manifests, and how a deployment holds on to its fleet."""

from typing import Any

from penstock.api.base import wire
from penstock.api.resource import API_VERSION, KIND, Metadata
from penstock.api.router import ROUTER_KIND, SPLIT_KIND, TrafficSplitSpec
from penstock.core.names import COMPONENT_LABEL, MANAGED_BY, object_metadata

__all__ = ["default_router", "member_manager", "membership", "traffic_split"]


def traffic_split(owner: Metadata, spec: TrafficSplitSpec) -> dict[str, Any]:
    """The desired route of a ModelDeployment; it carries its name and goes with it."""
    return {
        "apiVersion": API_VERSION,
        "kind": SPLIT_KIND,
        "metadata": object_metadata(owner, owner.name, "route"),
        "spec": wire(spec),
    }


def default_router(namespace: str, name: str = "default") -> dict[str, Any]:
    """A fleet made on first use. Its label says so: one that people wrote stays when its last model goes."""
    own = {"app.kubernetes.io/name": "penstock", COMPONENT_LABEL: "router", "app.kubernetes.io/part-of": "penstock"}
    return {
        "apiVersion": API_VERSION,
        "kind": ROUTER_KIND,
        "metadata": {"name": name, "namespace": namespace, "labels": {**own, **MANAGED_BY}},
        "spec": {},
    }


def member_manager(owner: Metadata) -> str:
    """The field manager by which one ModelDeployment holds its own ownerReference on a Router."""
    return f"penstock-{owner.uid[:8]}"


def membership(owner: Metadata, router: str, router_uid: str, *, member: bool) -> dict[str, Any]:
    """What `member_manager(owner)` applies to a Router: its one ownerReference, or to leave it, none.

    `ownerReferences` is a map by uid, so every member holds its own entry, and the garbage collector removes a fleet
    with the last of them. None of them is the controller.
    """
    reference = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "blockOwnerDeletion": False,
    }
    metadata: dict[str, Any] = {"name": router, "namespace": owner.namespace, "uid": router_uid}
    if member:
        metadata["ownerReferences"] = [reference]
    return {"apiVersion": API_VERSION, "kind": ROUTER_KIND, "metadata": metadata}
