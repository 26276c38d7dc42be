"""The preparation Job: one container with the network and the credentials, one that opens the model with neither.

Both start together and meet in an emptyDir. The opener has no Secret, no token and, after its imports, no sockets, so a
model that runs code when it is loaded finds nothing to take and nowhere to send it (architecture.md, law 10).
"""

from typing import Any
from urllib.parse import urlsplit

from penstock.api.model import ModelSpec
from penstock.api.preparation import REQUEST_VARIABLE, PreparationRequest
from penstock.api.resource import Metadata
from penstock.api.spec import PrepareSpec, Resources
from penstock.api.units import duration_seconds
from penstock.core.names import PREPARATION_LABEL, PUSH_SECRET, job_name, labels, object_metadata
from penstock.core.security import container_security, pod_security
from penstock.core.settings import Settings
from penstock.core.sizes import mebibytes

__all__ = ["preparation_job", "preparation_request"]

_KEPT_AFTER_END = 3600
_ROOM_PER_BYTE = 2
"""The source and, unpacked or as the layer to publish, its copy."""
_ROOM_FOR_MARKERS = 64 * 2**20
_TRANSFER_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "96Mi"},
    "limits": {"cpu": "1", "memory": "384Mi"},
}
_INSPECT_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "256Mi"},
    "limits": {"cpu": "1", "memory": "2Gi"},
}


def preparation_request(model: ModelSpec, namespace: str, settings: Settings) -> PreparationRequest:
    """What the Job is asked to do."""
    return PreparationRequest(
        uri=model.uri,
        format=model.format or "Auto",
        digest=model.digest,
        verify_signature=(model.signature.type or "Cosign") if model.signature else "",
        trust=model.trust or "Data",
        inputs=tuple(tensor.model_dump() for tensor in model.inputs or ()),
        outputs=tuple(tensor.model_dump() for tensor in model.outputs or ()),
        repository=f"{settings.registry}/{namespace}",
        plain_http=settings.plain_http,
        max_bytes=settings.max_model_bytes,
    )


def preparation_job(
    owner: Metadata, key: str, model: ModelSpec, prepare: PrepareSpec | None, settings: Settings
) -> dict[str, Any]:
    """The Job of one preparation; the same arguments give the same manifest."""
    name = job_name(owner.name, key)
    prepare = prepare or PrepareSpec()
    metadata = object_metadata(owner, name, "prepare")
    metadata["labels"][PREPARATION_LABEL] = key
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": max(1, round(duration_seconds(prepare.timeout))),
            "ttlSecondsAfterFinished": _KEPT_AFTER_END,
            "template": {
                "metadata": {"labels": {**labels(owner, "prepare"), PREPARATION_LABEL: key}},
                "spec": _pod(owner, model, prepare, settings),
            },
        },
    }


def _pod(owner: Metadata, model: ModelSpec, prepare: PrepareSpec, settings: Settings) -> dict[str, Any]:
    room = settings.max_model_bytes * _ROOM_PER_BYTE + _ROOM_FOR_MARKERS
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": pod_security(),
        "containers": [
            _transfer(model, preparation_request(model, owner.namespace, settings), settings.jobs_image),
            _inspect(preparation_request(model, owner.namespace, settings), prepare, settings.jobs_image),
        ],
        "volumes": [
            {"name": "work", "emptyDir": {"sizeLimit": mebibytes(room)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "inspect-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "registry", "secret": {"secretName": PUSH_SECRET}},
            *_source_volumes(model),
        ],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return pod


def _source_volumes(model: ModelSpec) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    if model.credentials_secret_ref:
        secret = {"secretName": model.credentials_secret_ref.name, "optional": True}
        volumes.append({"name": "credentials", "secret": secret})
    if model.signature:
        reference = model.signature.key_secret_ref
        item = {"key": reference.key, "path": reference.key}
        volumes.append(
            {"name": "signature", "secret": {"secretName": reference.name, "items": [item], "optional": True}}
        )
    claim = _claim(model)
    if claim:
        volumes.append({"name": "source", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _claim(model: ModelSpec) -> str | None:
    parts = urlsplit(model.uri)
    return parts.netloc if parts.scheme == "pvc" else None


def _environment(request: PreparationRequest, extra: dict[str, str]) -> list[dict[str, str]]:
    text = request.model_dump_json(by_alias=True, exclude_none=True)
    return [{"name": name, "value": value} for name, value in {REQUEST_VARIABLE: text, **extra}.items()]


def _transfer(model: ModelSpec, request: PreparationRequest, image: str) -> dict[str, Any]:
    mounts = [
        {"name": "work", "mountPath": "/work"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the container's own
        {"name": "registry", "mountPath": "/etc/penstock/registry", "readOnly": True},
    ]
    extra = {}
    if model.credentials_secret_ref:
        extra["PENSTOCK_CREDENTIALS"] = model.credentials_secret_ref.name
        mounts.append({"name": "credentials", "mountPath": "/etc/penstock/credentials", "readOnly": True})
    if model.signature:
        reference = model.signature.key_secret_ref
        extra["PENSTOCK_SIGNATURE_KEY"] = f"{reference.name}/{reference.key}"
        mounts.append({"name": "signature", "mountPath": "/etc/penstock/signature", "readOnly": True})
    if _claim(model):
        mounts.append({"name": "source", "mountPath": "/source", "readOnly": True})
    return {
        "name": "transfer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "penstock_runtime.transfer"],
        "env": _environment(request, extra),
        "resources": _TRANSFER_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _inspect(request: PreparationRequest, prepare: PrepareSpec, image: str) -> dict[str, Any]:
    return {
        "name": "inspect",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "penstock_runtime.inspect"],
        "env": _environment(request, {}),
        "resources": _merged(prepare.resources),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "inspect-tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the container's own
        ],
    }


def _merged(resources: Resources | None) -> dict[str, dict[str, str]]:
    asked = resources or Resources()
    return {
        "requests": {**_INSPECT_RESOURCES["requests"], **(asked.requests or {})},
        "limits": {**_INSPECT_RESOURCES["limits"], **(asked.limits or {})},
    }
