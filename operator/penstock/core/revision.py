"""Preparations, revisions and their records: what names them, and what is needed to render one again.

A preparation is named by its inputs, a revision by what it serves and how. Both names are hashes of what the user wrote
and what inspection found, never of defaults, so that neither a new release nor a changed default moves anybody.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from penstock.api.base import wire
from penstock.api.facts import ModelFacts
from penstock.api.model import ModelSpec, SourceFormat
from penstock.api.openers import Opener
from penstock.api.preparation import needs_server
from penstock.api.proving import OptimizeSpec
from penstock.api.resource import Metadata, ModelDeployment
from penstock.api.spec import EnvVar, ModelDeploymentSpec

from .names import object_metadata, revision_name

__all__ = ["RevisionRecord", "canonical_hash", "name_revision", "preparation_key", "record_manifest", "revision_hash"]

RECORD_VERSION = 1
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, check_circular=False)


def canonical_hash(value: Any) -> str:
    """Hex SHA-256 of the value's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def preparation_key(spec: ModelDeploymentSpec, namespace: str, resolved: str | None = None) -> str:
    """Names a preparation by its inputs; the namespace is one, as each has an artifact repository of its own.

    `resolved` is what a refresh has found the URI to mean, where that is something else than when it was first fetched.
    How the server is configured counts only where gates measure it.
    """
    model = wire(spec.model)
    model.pop("servedName", None)
    model.pop("refresh", None)
    inputs: dict[str, Any] = {"model": model, "namespace": namespace}
    asked = {"optimize": spec.optimize, "gates": spec.gates}
    inputs.update({name: said for name, part in asked.items() if part and (said := wire(part))})
    if needs_server(spec.gates):
        inputs["server"] = wire(spec.server) if spec.server else {}
        inputs["env"] = wire(spec.pod).get("env", []) if spec.pod else []
    if resolved:
        inputs["resolved"] = resolved
    return canonical_hash(inputs)[:16]


def revision_hash(deployment: ModelDeployment, facts: ModelFacts) -> str:
    """Names a revision by its content and by what the user wrote of its serving, normalised.

    The source's digest names content that is served as it is; what was made from it has its layer's digest as well.
    """
    spec = deployment.spec
    known = facts.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True, exclude={"artifact", "warnings", "report"}
    )
    if facts.derived:
        known["layer"] = facts.artifact.layer
    pod = wire(spec.pod) if spec.pod else {}
    return canonical_hash(
        {
            "facts": known,
            "servedName": spec.model.served_name,
            "server": wire(spec.server) if spec.server else {},
            "env": pod.get("env", []),
            "runtimeClassName": pod.get("runtimeClassName"),
        }
    )[:8]


@dataclass(frozen=True)
class RevisionRecord:
    """Everything needed to render a revision again, long after spec has moved on. Immutable once written."""

    name: str
    preparation: str
    model: ModelSpec
    facts: ModelFacts
    served_name: str
    server: dict[str, Any]
    """Server settings with every default applied, as `modelrepo` stores them."""
    resources: dict[str, dict[str, str]]
    env: tuple[EnvVar, ...]
    runtime_class: str | None
    server_image: str
    fetch_image: str
    plain_http: tuple[str, ...]
    image_pull_secrets: tuple[str, ...]
    number: int = 1
    """Grows with each record of a deployment; the order of history."""
    optimize: OptimizeSpec | None = None
    format: SourceFormat | None = None
    opener: Opener | None = None
    """As a first look has found them; with them the content is prepared again in one go."""
    resolved: str | None = None
    """What the URI meant when this content was prepared."""
    node_cache: str | None = None
    """host:port that `fetch` asks before the artifact store."""

    def to_json(self) -> dict[str, Any]:
        """The `data` of the ControllerRevision; what older releases did not know is there only where they matter."""
        later = {
            "optimize": wire(self.optimize) if self.optimize else None,
            "format": self.format,
            "opener": self.opener,
            "resolved": self.resolved,
            "nodeCache": self.node_cache,
        }
        return {
            **{name: value for name, value in later.items() if value},
            "version": RECORD_VERSION,
            "preparation": self.preparation,
            "model": wire(self.model),
            "facts": wire(self.facts),
            "servedName": self.served_name,
            "server": self.server,
            "resources": self.resources,
            "env": [wire(variable) for variable in self.env],
            "runtimeClassName": self.runtime_class,
            "images": {"server": self.server_image, "fetch": self.fetch_image},
            "plainHttp": list(self.plain_http),
            "imagePullSecrets": list(self.image_pull_secrets),
        }

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> "RevisionRecord":
        """From a ControllerRevision; raises KeyError or pydantic.ValidationError for one that is not ours."""
        data = manifest["data"]
        if data["version"] != RECORD_VERSION:
            raise KeyError(f"record version {data['version']} is newer than this operator knows ({RECORD_VERSION})")
        return cls(
            name=manifest["metadata"]["name"],
            preparation=data["preparation"],
            model=ModelSpec.model_validate(data["model"]),
            facts=ModelFacts.model_validate(data["facts"]),
            served_name=data["servedName"],
            server=data["server"],
            resources=data["resources"],
            env=tuple(EnvVar.model_validate(variable) for variable in data["env"]),
            runtime_class=data.get("runtimeClassName"),
            server_image=data["images"]["server"],
            fetch_image=data["images"]["fetch"],
            plain_http=tuple(data["plainHttp"]),
            image_pull_secrets=tuple(data["imagePullSecrets"]),
            number=manifest.get("revision", 1),
            optimize=OptimizeSpec.model_validate(data["optimize"]) if "optimize" in data else None,
            format=data.get("format"),
            opener=data.get("opener"),
            resolved=data.get("resolved"),
            node_cache=data.get("nodeCache"),
        )


def record_manifest(owner: Metadata, record: RevisionRecord) -> dict[str, Any]:
    """The immutable ControllerRevision of a record."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": object_metadata(owner, record.name, "revision", record.name),
        "revision": record.number,
        "data": record.to_json(),
    }


def name_revision(deployment: ModelDeployment, facts: ModelFacts) -> str:
    """The revision that the deployment's spec asks for, its content being known."""
    return revision_name(deployment.metadata.name, revision_hash(deployment, facts))
