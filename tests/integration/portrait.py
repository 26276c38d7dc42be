"""Everything Penstock has made in a namespace, without what differs between two equal runs.

Left out are uids, times, versions, what other controllers write, and signatures. Names that hash the namespace are put
back to what they stand for, so that the same story told in two namespaces gives the same portrait.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.api.preparation import REQUEST_VARIABLE
from penstock.api.resource import KIND
from penstock.api.router import ROUTER_KIND
from penstock.controller.credentials import read_claims
from penstock.core.names import (
    COMPONENT_LABEL,
    MANAGED_BY,
    MEANS_ANNOTATION,
    PREPARATION_LABEL,
    RENDERED_ANNOTATION,
    REVISION_LABEL,
)
from penstock.kube.client import KubeClient
from penstock.kube.objects import KINDS, Manifest

__all__ = ["NUDGE", "differences", "owned_by_penstock", "portray"]

NUDGE = "test/nudge"
"""An annotation that means nothing."""
_NOT_OURS = ("Event", "Lease", KIND)
_KINDS = tuple(k.name for k in KINDS.values() if k.namespaced and not k.optional and k.name not in _NOT_OURS)
_LABEL = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
_VOLATILE = frozenset(
    {
        "uid", "resourceVersion", "creationTimestamp", "time", "since", "startTime", "endTime", "lastTransitionTime",
        "clusterIP", "clusterIPs", "iat", "nbf", "exp", RENDERED_ANNOTATION, "failedJob", NUDGE,
        "renewTime", "generation", "attestedGeneration", "resolvedTime", MEANS_ANNOTATION, "means",
    }
)  # fmt: skip


async def owned_by_penstock(client: KubeClient, namespace: str) -> list[Manifest]:
    """All labelled objects of the namespace, by kind and name."""
    listings = await asyncio.gather(*(client.list(kind, namespace, labels=_LABEL) for kind in _KINDS))
    return [item for listing in listings for item in listing.items]


async def portray(client: KubeClient, namespace: str) -> dict[str, Any]:
    """Kind and name of each object, and what it says."""
    deployments = (await client.list(KIND, namespace)).items
    objects = [*deployments, *await owned_by_penstock(client, namespace)]
    stand_ins = _stand_ins(namespace, objects)
    portrait: dict[str, Any] = {}
    for item in objects:
        if item["kind"] != "Pod":
            named = _renamed(_essence(item), stand_ins)
            portrait[f"{item['kind']} {named['metadata']['name']}"] = named
    pods = Counter(_renamed(_purpose(item), stand_ins) for item in objects if item["kind"] == "Pod")
    return portrait | {f"Pods: {purpose}": count for purpose, count in pods.items()}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One line for each place where two portraits differ."""
    return list(_differences("", found, expected))


def _differences(path: str, found: Any, expected: Any) -> Iterable[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            yield from _differences(f"{path}/{key}", found.get(key), expected.get(key))
    elif found != expected:
        yield f"{path}: {json.dumps(found)[:300]}, undisturbed {json.dumps(expected)[:300]}"


def _stand_ins(namespace: str, objects: Iterable[Manifest]) -> dict[str, str]:
    """What a text is replaced by; longer texts first."""
    found = {namespace: "NAMESPACE"}
    for item in objects:
        metadata = item["metadata"]
        if item["kind"] == KIND:
            found |= {metadata["uid"]: "UID", f"penstock-{metadata['uid'][:8]}": "penstock-UID"}
            preparation = item.get("status", {}).get("preparation", {})
            found |= _hashes(f"PREPARATION-{item['spec']['model']['uri']}", preparation.get("key"))
        if item["kind"] == ROUTER_KIND:
            found[metadata["uid"]] = "UID-OF-ROUTER"
        if item["kind"] == "ControllerRevision":
            uri = item["data"]["model"]["uri"]
            found[metadata["name"].rpartition("-")[2]] = f"REVISION-{uri}"
            found |= _hashes(f"PREPARATION-{uri}", item["data"].get("preparation"))
        if item["kind"] == "Job":
            container = item["spec"]["template"]["spec"]["containers"][0]
            request = next(entry["value"] for entry in container["env"] if entry["name"] == REQUEST_VARIABLE)
            asked = json.loads(request)
            found |= _hashes(f"PREPARATION-{asked['uri']}", metadata["labels"][PREPARATION_LABEL])
            if "gates" in asked or asked["opener"] != "Basic":
                found[metadata["name"].rpartition("-")[2]] = f"JOB-{asked['opener']}-{asked.get('gates')}"
            found[metadata["uid"]] = "UID-OF-JOB"
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _hashes(name: str, key: str | None) -> dict[str, str]:
    return {key: name, key[:8]: name} if key else {}


def _renamed(value: Any, stand_ins: Mapping[str, str]) -> Any:
    text = json.dumps(value, sort_keys=True)
    for old, new in stand_ins.items():
        text = text.replace(old, new)
    return json.loads(text)


def _essence(item: Manifest) -> Manifest:
    kept: Manifest = _steady({key: value for key, value in item.items() if key != "status" or item["kind"] == KIND})
    kept["metadata"].setdefault("annotations", {})
    kept["metadata"]["managedFields"] = [
        _steady(entry)
        for entry in sorted(item["metadata"]["managedFields"], key=lambda entry: str(entry["manager"]))
        if entry["manager"].startswith("penstock")
    ]
    if item["kind"] == "Secret":
        kept["data"] = {name: _claims(value) for name, value in item["data"].items()}
    return kept


def _claims(value: str) -> Any:
    """What a token opens; a key is only there."""
    return _steady(read_claims(base64.b64decode(value).decode())) or "..."


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_steady(item) for item in value]
    return value


def _purpose(pod: Manifest) -> str:
    labels = pod["metadata"]["labels"]
    return f"{labels[COMPONENT_LABEL]} {labels.get(REVISION_LABEL) or labels.get(PREPARATION_LABEL)}"
