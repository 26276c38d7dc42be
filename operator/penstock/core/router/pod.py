"""The pods of a router fleet: Envoy, and beside it the agent that writes its configuration and reads its counters.

Two facts of the kubelet shape them (facts/cluster-proof.md §2). A container that is down makes its pod unready, a
sidecar too: so the agent's program runs under a loop of its own and the agent has no probe, or a hanging agent would
take a healthy Envoy out of service. And a pod must not be Ready before Envoy knows every route: Envoy's startup probe
therefore asks the agent, once; from then on Envoy answers for itself.
"""

from math import ceil
from typing import Any

from penstock.api.base import wire
from penstock.api.router import RouterPod, RouterSpec
from penstock.api.units import duration_seconds, quantity_value
from penstock.core.names import ROUTER_LABEL
from penstock.core.security import container_security, pod_security

__all__ = ["AGENT_PORT", "STATS_PORT", "pod_template"]

STATS_PORT, AGENT_PORT = 10090, 10091
_FOLDER = "/run/penstock"
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_EXIT_MARGIN_SECONDS = 15
_STARTUP_SECONDS = 3600
"""An API server that is away keeps a new pod waiting, not restarting."""
_TOKEN_SECONDS = 3607
"""As the kubelet's own projected tokens."""
_REQUESTS = {"cpu": "100m", "memory": "128Mi"}
_LIMITS = {"memory": "512Mi"}
_AGENT_RESOURCES = {"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": "96Mi"}}
_PLACEMENT = ("nodeSelector", "tolerations", "affinity", "priorityClassName")


def _drain_seconds(spec: RouterSpec) -> int:
    """How long a pod that goes away serves its last requests."""
    return ceil(duration_seconds(spec.drain))


def pod_template(
    name: str, account: str, spec: RouterSpec, image: str, pull_secrets: tuple[str, ...], labels: dict[str, str]
) -> dict[str, Any]:
    """The template; `labels` are the fleet's own and win over those of the spec."""
    asked = spec.pod or RouterPod()
    return {
        "metadata": {
            "labels": {**(asked.labels or {}), **labels},
            "annotations": {**(asked.annotations or {}), "kubectl.kubernetes.io/default-container": "envoy"},
        },
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _drain_seconds(spec) + _EXIT_MARGIN_SECONDS,
            "securityContext": pod_security(),
            "initContainers": [_agent(name, spec, image)],
            "containers": [_envoy(spec, image)],
            "volumes": _volumes(),
            **_placement(name, asked, pull_secrets),
        },
    }


def _placement(name: str, asked: RouterPod, pull_secrets: tuple[str, ...]) -> dict[str, Any]:
    said = wire(asked)
    found = {field: said[field] for field in _PLACEMENT if field in said}
    found["topologySpreadConstraints"] = said.get("topologySpreadConstraints", [_spread(name)])
    pulls = dict.fromkeys([*pull_secrets, *(item["name"] for item in said.get("imagePullSecrets", ()))])
    if pulls:
        found["imagePullSecrets"] = [{"name": pull} for pull in pulls]
    return found


def _spread(name: str) -> dict[str, Any]:
    """Over hosts where there are several; one host alone is no reason to have no router."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {ROUTER_LABEL: name}},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _volumes() -> list[dict[str, Any]]:
    token = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return [
        {"name": "run", "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": "token", "projected": {"sources": token}},
    ]


def _agent(name: str, spec: RouterSpec, image: str) -> dict[str, Any]:
    return {
        "name": "agent",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["penstock-agent"],
        "env": [
            _of_the_pod("PENSTOCK_NAMESPACE", "metadata.namespace"),
            {"name": "PENSTOCK_ROUTER", "value": name},
            {"name": "PENSTOCK_DRAIN_SECONDS", "value": str(_drain_seconds(spec))},
            _of_the_pod("PENSTOCK_POD_NAME", "metadata.name"),
            _of_the_pod("PENSTOCK_POD_UID", "metadata.uid"),
            _of_the_pod("NODE_IP", "status.hostIP"),
            _of_the_pod("POD_IP", "status.podIP"),
            _envoy_memory(),
        ],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT}],
        "resources": _AGENT_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "run", "mountPath": _FOLDER},
            {"name": "token", "mountPath": _TOKEN_FOLDER, "readOnly": True},
        ],
    }


def _envoy_memory() -> dict[str, Any]:
    """The limit as it is in the pod, which others than us may set too: where Envoy refuses requests by itself."""
    return {
        "name": "PENSTOCK_ENVOY_MEMORY",
        "valueFrom": {"resourceFieldRef": {"containerName": "envoy", "resource": "limits.memory"}},
    }


def _of_the_pod(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _envoy(spec: RouterSpec, image: str) -> dict[str, Any]:
    """One worker: what the agent attests is proven of the worker that answered it. A fleet grows by replicas."""
    ready = {"httpGet": {"path": "/ready", "port": "stats"}}
    return {
        "name": "envoy",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["penstock-envoy"],
        "args": [
            *("-c", f"{_FOLDER}/bootstrap.json"),
            *("--concurrency", "1"),
            *("--drain-time-s", str(_drain_seconds(spec))),
            *("--drain-strategy", "immediate"),
            *("--file-flush-interval-msec", "200"),
            *("--log-level", "warning"),
        ],
        "ports": [{"name": "stats", "containerPort": STATS_PORT}],
        "resources": _resources(spec),
        "securityContext": container_security(),
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": AGENT_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": _STARTUP_SECONDS,
        },
        "readinessProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {**ready, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": AGENT_PORT}}},
        "volumeMounts": [{"name": "run", "mountPath": _FOLDER}],
    }


def _resources(spec: RouterSpec) -> dict[str, dict[str, str]]:
    """As asked, filled up with defaults; a default never contradicts what was asked."""
    asked = wire(spec.resources) if spec.resources else {}
    requests, limits = asked.get("requests", {}), asked.get("limits", {})
    filled = {name: _smaller(value, limits.get(name)) for name, value in _REQUESTS.items() if name not in requests}
    roofs = {name: _larger(value, requests.get(name)) for name, value in _LIMITS.items() if name not in limits}
    return {"requests": {**filled, **requests}, "limits": {**roofs, **limits}}


def _smaller(default: str, limit: str | None) -> str:
    return limit if limit is not None and quantity_value(limit) < quantity_value(default) else default


def _larger(default: str, request: str | None) -> str:
    return request if request is not None and quantity_value(request) > quantity_value(default) else default
