"""What a preparation pod mounts: where its containers meet, and for the one with the network the user's Secrets."""

from typing import Any

from penstock.core.names import PUSH_SECRET
from penstock.core.settings import Settings
from penstock.core.sizes import mebibytes

from .room import work_room
from .task import Content, Task

__all__ = ["Json", "mount", "resolve_volumes", "source_environment", "source_mounts", "temporary", "volumes"]

Json = dict[str, Any]
_SMALL_TMP, _LARGE_TMP = "64Mi", "512Mi"
_SHARED_MEMORY = "1Gi"


def mount(name: str, path: str, *, writable: bool = False, below: str | None = None) -> Json:
    """One volumeMount."""
    found: Json = {"name": name, "mountPath": path}
    if below:
        found["subPath"] = below
    if not writable:
        found["readOnly"] = True
    return found


def temporary(name: str) -> Json:
    """A container's own /tmp."""
    return mount(name, "/tmp", writable=True)  # noqa: S108 - a mount of the container's own


def volumes(task: Task, settings: Settings) -> list[Json]:
    """All volumes of a preparation's pod."""
    found = [
        _empty("work", mebibytes(work_room(task, settings).limit)),
        _empty("tmp", _SMALL_TMP),
        _empty("inspect-tmp", _LARGE_TMP if task.is_heavy else _SMALL_TMP),
        {"name": "registry", "secret": {"secretName": PUSH_SECRET}},
        *_source_volumes(task),
    ]
    if task.is_measured:
        found += [
            _empty("server-tmp", _LARGE_TMP),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
            _empty("measure-tmp", _SMALL_TMP),
        ]
    if task.is_sequential:
        found += [_empty("keep", _SMALL_TMP), _empty("user-tmp", _LARGE_TMP)]
    return found


def resolve_volumes(task: Task) -> list[Json]:
    """Of the pod that only asks what the URI means; the source may be in the artifact store."""
    return [
        _empty("work", _SMALL_TMP),
        _empty("tmp", _SMALL_TMP),
        {"name": "registry", "secret": {"secretName": PUSH_SECRET}},
        *_source_volumes(task),
    ]


def _empty(name: str, limit: str) -> Json:
    return {"name": name, "emptyDir": {"sizeLimit": limit}}


def _source_volumes(task: Task) -> list[Json]:
    """Secrets, certificates and claims of the sources; those that do not exist are the container's to name."""
    found: list[Json] = []
    for content in task.contents:
        if content.credentials:
            secret = {"secretName": content.credentials.name, "optional": True}
            found.append({"name": _credentials(content), "secret": secret})
    if task.model.signature:
        reference = task.model.signature.key_secret_ref
        secret = {"secretName": reference.name, "items": [_item(reference.key)], "optional": True}
        found.append({"name": "signature", "secret": secret})
    for content in task.contents:
        authority = content.connection.ca_config_map_ref if content.connection else None
        if authority:
            items = {"name": authority.name, "items": [_item(authority.key)], "optional": True}
            found.append({"name": f"{content.name}-ca", "configMap": items})
    for claim, name in _claims(task).items():
        found.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return found


def _claims(task: Task) -> dict[str, str]:
    """One volume for each claim: a pod that names the same one twice waits for ever for the second to be mounted."""
    found: dict[str, str] = {}
    for content in task.contents:
        if content.claim:
            found.setdefault(content.claim, _source(content))
    return found


def source_mounts(task: Task) -> list[Json]:
    """The same as mounts of the `transfer` container; no other gets any of them but a mounted model's own claim."""
    named = [_credentials(content) for content in task.contents if content.credentials]
    found = [mount(name, f"/etc/penstock/{name}") for name in named]
    if task.model.signature:
        found.append(mount("signature", "/etc/penstock/signature"))
    for content in task.contents:
        if content.connection and content.connection.ca_config_map_ref:
            found.append(mount(f"{content.name}-ca", f"/etc/penstock/ca/{content.name}"))
        if content.claim:
            found.append(mount(_claims(task)[content.claim], f"/{_source(content)}"))
    return found


def source_environment(task: Task) -> dict[str, str]:
    """Names of what may be missing, for the sentences that say so."""
    found = {}
    for content in task.contents:
        if content.credentials:
            prefix = "" if content.name == "model" else f"{content.name.upper()}_"
            found[f"PENSTOCK_{prefix}CREDENTIALS"] = content.credentials.name
    if task.model.signature:
        reference = task.model.signature.key_secret_ref
        found["PENSTOCK_SIGNATURE_KEY"] = f"{reference.name}/{reference.key}"
    if task.prepare.pod and task.prepare.pod.service_account_name:
        found["PENSTOCK_KEYLESS"] = "1"
    return found


def _item(key: str) -> Json:
    return {"key": key, "path": key}


def _credentials(content: Content) -> str:
    return "credentials" if content.name == "model" else f"{content.name}-credentials"


def _source(content: Content) -> str:
    return "source" if content.name == "model" else f"{content.name}-source"
