"""The Deployment of one revision: fetch by digest, then Triton, with probes and grace periods measured for it.

Two rules hold here. What stands in the pod template comes from the revision's record, from spec.pod and from the
request timeout alone, so that a new release moves nobody. And readiness asks for this model, never for the whole
server: one version that loads or failed to load would otherwise take the pod out of service.
"""

from dataclasses import dataclass
from typing import Any

from penstock.api.base import wire
from penstock.api.resource import Metadata
from penstock.api.spec import PodSpec
from penstock.core.names import DEPLOYMENT_LABEL, PULL_SECRET, REVISION_LABEL, labels, object_metadata
from penstock.core.revision import RevisionRecord
from penstock.core.security import container_security, pod_security
from penstock.core.sizes import PRE_STOP_SECONDS, exit_timeout, grace_period, mebibytes

__all__ = ["METRICS_PORT", "Serving", "deployment"]

GRPC_PORT, HTTP_PORT, METRICS_PORT = 8001, 8000, 8002
_STARTUP_SECONDS = 1800
_PLACEMENT = ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName")
_CONTENT = "/content"
"""Where a claim is mounted whose content stays there."""
_FETCH_RESOURCES = {"requests": {"cpu": "50m", "memory": "48Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}


@dataclass(frozen=True)
class Serving:
    """A record with what is derived from it, and what may change without making a revision."""

    record: RevisionRecord
    config_text: str | None
    """config.pbtxt as rendered, or None where the user's repository is served verbatim."""
    entry_model: str
    load_models: tuple[str, ...]
    verbatim: bool
    flags: tuple[str, ...]
    """Flags of tritonserver that follow from spec.server."""
    shm_bytes: int
    request_timeout: float
    """Seconds; the longest a request may take."""
    placement: PodSpec | None = None
    surges: bool = True
    """There is room for a pod more while others are replaced."""


def deployment(owner: Metadata, serving: Serving, replicas: int | None) -> dict[str, Any]:
    """The manifest; `replicas` None leaves the number to whoever scales it."""
    name = serving.record.name
    selector = {DEPLOYMENT_LABEL: owner.name, REVISION_LABEL: name}
    more = int(serving.surges)
    spec: dict[str, Any] = {
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": _STARTUP_SECONDS + 600,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": more, "maxUnavailable": 1 - more}},
        "template": {"metadata": _pod_metadata(owner, serving), "spec": _pod(serving)},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": object_metadata(owner, name, "server", name),
        "spec": spec,
    }


def _pod_metadata(owner: Metadata, serving: Serving) -> dict[str, Any]:
    placement = serving.placement or PodSpec()
    metadata: dict[str, Any] = {
        "labels": {**(placement.labels or {}), **labels(owner, "server", serving.record.name)},
        "annotations": {**(placement.annotations or {}), "kubectl.kubernetes.io/default-container": "server"},
    }
    return metadata


def _pod(serving: Serving) -> dict[str, Any]:
    record, timeout = serving.record, serving.request_timeout
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period(timeout),
        "securityContext": pod_security(),
        "initContainers": [_fetch(serving)],
        "containers": [_server(serving)],
        "volumes": _volumes(serving),
    }
    asked = wire(serving.placement) if serving.placement else {}
    pod.update({field: asked[field] for field in _PLACEMENT if field in asked})
    if "serviceAccountName" in asked:
        pod["serviceAccountName"] = asked["serviceAccountName"]
    if record.runtime_class:
        pod["runtimeClassName"] = record.runtime_class
    pulls = dict.fromkeys([*record.image_pull_secrets, *(item["name"] for item in asked.get("imagePullSecrets", ()))])
    if pulls:
        pod["imagePullSecrets"] = [{"name": name} for name in pulls]
    return pod


def _volumes(serving: Serving) -> list[dict[str, Any]]:
    record = serving.record
    room = mebibytes(2 * record.facts.artifact.size_bytes + 16 * 2**20)
    volumes: list[dict[str, Any]] = [
        {"name": "models", "emptyDir": {"sizeLimit": room}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": mebibytes(serving.shm_bytes)}},
        {"name": "registry", "secret": {"secretName": PULL_SECRET}},
    ]
    if serving.config_text is not None:
        volumes.append({"name": "config", "configMap": {"name": record.name}})
    mount = record.facts.mount
    if mount:
        volumes.append({"name": "content", "persistentVolumeClaim": {"claimName": mount.claim, "readOnly": True}})
    return volumes


def _content_mounts(serving: Serving) -> list[dict[str, Any]]:
    """The model's part of the claim, in the same place in both containers: the repository holds links into it."""
    mount = serving.record.facts.mount
    if not mount:
        return []
    found: dict[str, Any] = {"name": "content", "mountPath": _CONTENT, "readOnly": True}
    return [{**found, "subPath": mount.path} if mount.path else found]


def _fetch(serving: Serving) -> dict[str, Any]:
    record = serving.record
    mounts = [
        {"name": "models", "mountPath": "/models"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the container's own
        {"name": "registry", "mountPath": "/etc/penstock/registry", "readOnly": True},
    ]
    if serving.config_text is not None:
        mounts.append({"name": "config", "mountPath": "/etc/penstock/config", "readOnly": True})
    mounts.extend(_content_mounts(serving))
    claimed, cache = record.facts.mount, record.node_cache
    return {
        "name": "fetch",
        "image": record.fetch_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "penstock_runtime.fetch"],
        "env": [
            {"name": "PENSTOCK_ARTIFACT", "value": record.facts.artifact.model_dump_json(by_alias=True)},
            {"name": "PENSTOCK_PLAIN_HTTP", "value": ",".join(record.plain_http)},
            {"name": "PENSTOCK_SERVED_NAME", "value": serving.entry_model},
            *([{"name": "PENSTOCK_CLAIM", "value": f"pvc://{claimed.claim}/{claimed.path}"}] if claimed else ()),
            *([{"name": "PENSTOCK_NODE_CACHE", "value": cache}] if cache else ()),
        ],
        "resources": _FETCH_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _server(serving: Serving) -> dict[str, Any]:
    record = serving.record
    ready = {"path": f"/v2/models/{serving.entry_model}/ready", "port": "http"}
    container: dict[str, Any] = {
        "name": "server",
        "image": record.server_image,
        "imagePullPolicy": "IfNotPresent",
        "args": _arguments(serving),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": record.resources,
        "securityContext": container_security(),
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": 1,
            "failureThreshold": _STARTUP_SECONDS,
            "timeoutSeconds": 2,
        },
        "readinessProbe": {"httpGet": ready, "periodSeconds": 2, "failureThreshold": 3, "timeoutSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "periodSeconds": 10,
            "failureThreshold": 6,
            "timeoutSeconds": 5,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the container's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount of the container's own
            *_content_mounts(serving),
        ],
    }
    if record.env:
        container["env"] = [wire(variable) for variable in record.env]
    return container


def _arguments(serving: Serving) -> list[str]:
    arguments = [
        "--model-repository=/models",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in serving.load_models),
        "--strict-readiness=false",
        f"--exit-timeout-secs={exit_timeout(serving.request_timeout)}",
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--metrics-port={METRICS_PORT}",
    ]
    if not serving.verbatim:
        arguments.append("--disable-auto-complete-config")
    return [*arguments, *serving.flags]
