"""Everything a Router consists of in the cluster, owned by it to the last object."""

from math import ceil
from typing import Any

from penstock.api.resource import API_VERSION
from penstock.api.router import FIRST_PORT, LAST_PORT, ROUTER_KIND, Router, RouterUpdate
from penstock.api.units import duration_seconds
from penstock.core.names import COMPONENT_LABEL, MANAGED_BY, ROUTER_LABEL
from penstock.core.revision import canonical_hash
from penstock.core.settings import Settings

from .pod import AGENT_PORT, STATS_PORT, pod_template

__all__ = ["TEMPLATE_ANNOTATION", "fleet_name", "fleet_objects"]

CLUSTER_ROLE = "penstock-router"
"""Of the chart: it may read splits, routers and endpoints, and the operator may bind it and no other."""
TEMPLATE_ANNOTATION = "penstock.dev/template"
"""On router pods: the hash of the template they were made from, which tells those that wait to be replaced."""
_PROGRESS_MARGIN_SECONDS = 600


def fleet_name(router: str) -> str:
    """The name of every object of a fleet."""
    return f"penstock-router-{router}"


def fleet_objects(router: Router, settings: Settings, *, paused: bool = False) -> tuple[dict[str, Any], ...]:
    """The manifests, the Deployment last; a `paused` one keeps its pods as they are, whatever its template says."""
    return (
        _account(router),
        _binding(router),
        _policy(router, settings.namespace),
        _budget(router),
        _deployment(router, settings, paused=paused),
    )


def _metadata(router: Router) -> dict[str, Any]:
    owner = {
        "apiVersion": API_VERSION,
        "kind": ROUTER_KIND,
        "name": router.metadata.name,
        "uid": router.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": fleet_name(router.metadata.name),
        "namespace": router.metadata.namespace,
        "labels": _labels(router),
        "ownerReferences": [owner],
    }


def _labels(router: Router) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "penstock",
        **MANAGED_BY,
        "app.kubernetes.io/part-of": "penstock",
        **_selector(router),
    }


def _selector(router: Router) -> dict[str, str]:
    return {COMPONENT_LABEL: "router", ROUTER_LABEL: router.metadata.name}


def _account(router: Router) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(router),
        "automountServiceAccountToken": False,
    }


def _binding(router: Router) -> dict[str, Any]:
    name, namespace = fleet_name(router.metadata.name), router.metadata.namespace
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(router),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CLUSTER_ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }


def _policy(router: Router, operator: str) -> dict[str, Any]:
    """Models and statistics are for everybody, the agent's answers for the operator's namespace."""
    models = {"protocol": "TCP", "port": FIRST_PORT, "endPort": LAST_PORT}
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator}}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(router),
        "spec": {
            "podSelector": {"matchLabels": _selector(router)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [models, {"protocol": "TCP", "port": STATS_PORT}]},
                {"from": peers, "ports": [{"protocol": "TCP", "port": AGENT_PORT}]},
            ],
        },
    }


def _budget(router: Router) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(router),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": _selector(router)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _deployment(router: Router, settings: Settings, *, paused: bool) -> dict[str, Any]:
    spec, name = router.spec, fleet_name(router.metadata.name)
    pause = ceil(duration_seconds((spec.update or RouterUpdate()).pause))
    image = spec.image or settings.router_image
    template = pod_template(
        router.metadata.name, name, spec, image, settings.image_pull_secrets, labels=_labels(router)
    )
    template["metadata"]["annotations"][TEMPLATE_ANNOTATION] = canonical_hash(template)[:16]
    body: dict[str, Any] = {
        "replicas": spec.replicas,
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": pause + _PROGRESS_MARGIN_SECONDS,
        "selector": {"matchLabels": _selector(router)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": template,
    }
    if pause:
        body["minReadySeconds"] = pause
    if paused:
        body["paused"] = True
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(router), "spec": body}
