"""The small objects around a revision's Deployment: Services, configuration, disruption budget."""

from typing import Any

from penstock.api.resource import Metadata
from penstock.core.names import DEPLOYMENT_LABEL, REVISION_LABEL, object_metadata

from .deployment import GRPC_PORT, HTTP_PORT, METRICS_PORT, Serving

__all__ = ["config_map", "disruption_budget", "headless_service"]

_HTTP = {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
_GRPC = {
    "name": "grpc",
    "port": GRPC_PORT,
    "targetPort": "grpc",
    "protocol": "TCP",
    "appProtocol": "kubernetes.io/h2c",
}


def headless_service(owner: Metadata, revision: str) -> dict[str, Any]:
    """The pods of one revision by name, for whoever asks a revision rather than the model."""
    metrics = {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_metadata(owner, revision, "server", revision),
        "spec": {
            "clusterIP": "None",
            "selector": {DEPLOYMENT_LABEL: owner.name, REVISION_LABEL: revision},
            "ports": [_HTTP, _GRPC, metrics],
        },
    }


def config_map(owner: Metadata, serving: Serving) -> dict[str, Any] | None:
    """config.pbtxt of a revision, for the pods to mount and people to read; None for a verbatim repository."""
    if serving.config_text is None:
        return None
    name = serving.record.name
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(owner, name, "server", name),
        "immutable": True,
        "data": {"config.pbtxt": serving.config_text},
    }


def disruption_budget(owner: Metadata, revision: str, *, candidate: bool = False) -> dict[str, Any]:
    """One serving pod at a time may be drained; `maxUnavailable`, because with `minAvailable` one could never move.

    It counts the pods of one revision: a candidate that is not ready, or a pod that never will be, must not keep
    stable's from being drained. A candidate has one of its own, of its own name.
    """
    selector = {DEPLOYMENT_LABEL: owner.name, REVISION_LABEL: revision}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": object_metadata(owner, revision if candidate else owner.name, "server"),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
