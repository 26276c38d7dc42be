"""Objects that the host's helpers need in the cluster: rights, and where metrics-server listens."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from hack.cluster import shell
from hack.cluster.identities import Identities
from hack.cluster.settings import Settings

_NAME = "metrics-server"
_RBAC = "rbac.authorization.k8s.io"


def apply(settings: Settings, who: Identities, kubectl: Path) -> None:
    """Apply all objects, server-side, so that a second call changes nothing."""
    items = {"apiVersion": "v1", "kind": "List", "items": objects(settings, who)}
    shell.run(
        *(kubectl, "--kubeconfig", settings.kubeconfig),
        *("apply", "--server-side", "--force-conflicts", "--filename", "-"),
        stdin=json.dumps(items),
    )


def objects(settings: Settings, who: Identities) -> list[dict[str, Any]]:
    """Return the roles of the host processes and metrics-server's Service and APIService."""
    rules = [
        _rule("", ["nodes/metrics"], ["get"]),
        _rule("", ["pods", "nodes", "namespaces", "configmaps"], ["get", "list", "watch"]),
    ]
    dns = [
        _rule("", ["endpoints", "services", "pods", "namespaces"], ["list", "watch"]),
        _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
    ]
    policy = [
        _rule("", ["pods", "nodes", "namespaces", "services", "endpoints"], ["list", "watch", "get"]),
        _rule("networking.k8s.io", ["networkpolicies"], ["list", "watch", "get"]),
        _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch", "get"]),
    ]
    return [
        _cluster_role(_NAME, rules),
        _cluster_role_binding(_NAME, _NAME),
        _cluster_role_binding(_NAME, "system:auth-delegator"),
        _reader_binding(),
        _cluster_role("coredns", dns),
        _cluster_role_binding("coredns", "coredns"),
        _cluster_role("network-policy", policy),
        _cluster_role_binding("network-policy", "network-policy"),
        *_metrics_service(settings),
        _api_service(who),
    ]


def _metrics_service(settings: Settings) -> list[dict[str, Any]]:
    """Return a Service without selector: its endpoint is a process of the host, on the bridge."""
    ports = [{"name": "https", "port": 443, "protocol": "TCP"}]
    service = _object("v1", "Service", _NAME, "kube-system", spec={"ports": ports})
    endpoints = _object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{_NAME}-host",
        "kube-system",
        addressType="IPv4",
        endpoints=[{"addresses": [settings.bridge_address], "conditions": {"ready": True}}],
        ports=[{"name": "https", "port": settings.ports[_NAME], "protocol": "TCP"}],
    )
    endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": _NAME}
    return [service, endpoints]


def _api_service(who: Identities) -> dict[str, Any]:
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "service": {"name": _NAME, "namespace": "kube-system"},
        "caBundle": base64.b64encode(who.authority.certificate.read_bytes()).decode(),
    }
    return _object("apiregistration.k8s.io/v1", "APIService", "v1beta1.metrics.k8s.io", spec=spec)


def _cluster_role(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return _object(f"{_RBAC}/v1", "ClusterRole", f"penstock:{name}", rules=rules)


def _cluster_role_binding(user: str, role: str) -> dict[str, Any]:
    own = not role.startswith("system:")
    return _object(
        f"{_RBAC}/v1",
        "ClusterRoleBinding",
        f"penstock:{user}" if own else f"penstock:{user}:{role.removeprefix('system:')}",
        roleRef={
            "apiGroup": _RBAC,
            "kind": "ClusterRole",
            "name": f"penstock:{role}" if own else role,
        },
        subjects=[_subject(user)],
    )


def _reader_binding() -> dict[str, Any]:
    """Let metrics-server read which front proxy to trust."""
    return _object(
        f"{_RBAC}/v1",
        "RoleBinding",
        f"penstock:{_NAME}",
        "kube-system",
        roleRef={
            "apiGroup": _RBAC,
            "kind": "Role",
            "name": "extension-apiserver-authentication-reader",
        },
        subjects=[_subject(_NAME)],
    )


def _subject(user: str) -> dict[str, str]:
    return {"apiGroup": _RBAC, "kind": "User", "name": f"penstock:{user}"}


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _object(api_version: str, kind: str, name: str, namespace: str = "", **content: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}
