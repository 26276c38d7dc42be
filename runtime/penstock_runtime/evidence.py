"""Evidence: the report of a preparation, and the provenance of what came of it, as they stand in the artifact store.

One manifest holds both: the report is its layer, the provenance its config, the model's manifest its subject. The
provenance of what was converted or optimized also says by which inputs, so that the same inputs find it again.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.api.facts import ArtifactRef, ModelFacts
from penstock.api.preparation import PreparationError, PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.report import REPORT_SCHEMA, REPORT_TYPE, GateRow, read_report

from .failure import Failure
from .gathering import Gathered
from .publish import MANIFEST_TYPE, digest_of, model_manifest
from .registry import Refused, Registry, parse_reference
from .web import Truncated, Unreachable

__all__ = ["PROVENANCE_TYPE", "Evidence", "build_report", "provenance_of", "publish_evidence"]

PROVENANCE_TYPE = "application/vnd.penstock.provenance.v1+json"
_PARTS = ("conversion", "optimization", "parity", "serving", "machine", "tools")
_NOT_KEPT = frozenset({"credentialsSecretRef", "plainHttp", "maxBytes", "resolve"})
"""Of a request: the names of Secrets, and what says nothing about the result."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one preparation, whether it succeeded or not."""

    report: Mapping[str, Any]
    provenance: Mapping[str, Any]
    subject: ArtifactRef | None = None
    tags: tuple[str, ...] = ()


def build_report(
    request: PreparationRequest,
    gathered: Gathered,
    opened: Mapping[str, Any],
    told: Sequence[Mapping[str, Any]],
    rows: Sequence[GateRow],
    source_format: str,
    error: PreparationError | None = None,
) -> dict[str, Any]:
    """The report's JSON; `told` are the reports of the opener and of the measurement, in order.

    A part that is not what the schema says is left out: it was written where the model was opened.
    """
    content = gathered.content
    source = {
        "uri": request.uri,
        "digest": content.digest,
        "format": source_format,
        "size_bytes": content.size,
        "files": len(content.files),
        "resolved": gathered.resolved or "",
        "signature": request.verify_signature,
    }
    report: dict[str, Any] = {"schema": REPORT_SCHEMA, "source": source}
    if error is not None:
        report["error"] = {"reason": error.reason, "message": error.message}
    for part in (opened, *told):
        report |= {name: _finite(part[name]) for name in _PARTS if name in part and _is_sound(name, part[name])}
    return {**report, "gates": [row.model_dump(mode="json", exclude_none=True) for row in rows]}


def _is_sound(name: str, value: Any) -> bool:
    with contextlib.suppress(ValueError, TypeError):
        read_report(json.dumps({"schema": REPORT_SCHEMA, name: _finite(value)}))
        return True
    return False


def _finite(value: Any) -> Any:
    """The same value with nothing for numbers that JSON has no words for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance_of(
    request: PreparationRequest, gathered: Gathered, opened: Mapping[str, Any], facts: ModelFacts | None
) -> dict[str, Any]:
    """Source, request without secrets, tools and machine; a pure function of them, so it holds no time."""
    digests = {"source": gathered.content.digest, "dataset": gathered.dataset, "calibration": gathered.calibration}
    return {
        "schema": "penstock.dev/provenance/v1",
        "request": _without_secrets(request.model_dump(mode="json", by_alias=True, exclude_none=True)),
        "resolved": gathered.resolved,
        "digests": {name: digest for name, digest in digests.items() if digest},
        "machine": _finite(opened.get("machine", {})),
        "tools": _finite(opened.get("tools", {})),
        "facts": facts.model_dump(mode="json", by_alias=True, exclude_none=True) if facts else None,
    }


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items() if name not in _NOT_KEPT}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def publish_evidence(evidence: Evidence, repository: str, registry: Registry) -> str:
    """Store report and provenance; returns the manifest's digest. Raises Failure."""
    name = parse_reference(repository).repository
    report, provenance = _encode(evidence.report), _encode(evidence.provenance)
    manifest = _encode(_manifest(evidence, report, provenance))
    digest = digest_of(manifest)
    try:
        for blob in (report, provenance):
            if not registry.has_blob(name, digest_of(blob)):
                registry.upload(name, digest_of(blob), len(blob), lambda blob=blob: [blob])  # type: ignore[misc]
        for tag in (f"report-{digest[7:39]}", *evidence.tags):
            registry.put_manifest(name, tag, manifest, MANIFEST_TYPE)
    except (Refused, Unreachable, Truncated) as error:
        message = f"publishing the report to the artifact store {repository}: {error}"
        raise Failure(Reason.STORE_UNAVAILABLE, message) from error
    return digest


def _manifest(evidence: Evidence, report: bytes, provenance: bytes) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": REPORT_TYPE,
        "config": {"mediaType": PROVENANCE_TYPE, "digest": digest_of(provenance), "size": len(provenance)},
        "layers": [{"mediaType": REPORT_TYPE, "digest": digest_of(report), "size": len(report)}],
    }
    subject = evidence.subject
    if subject is not None:
        size = len(model_manifest(subject.layer, subject.size_bytes))
        manifest["subject"] = {"mediaType": MANIFEST_TYPE, "digest": subject.manifest, "size": size}
    return manifest


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
