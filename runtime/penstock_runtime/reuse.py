"""Reuse: what was converted or optimized once is found again by its inputs, and never made twice.

The name is a hash of all that decides the result. What is found under it is believed only as far as its digests go:
it must be of this namespace's own repository, be made from this very source, and unpack to the bytes that its layer
is named by. Anything else is as good as nothing there.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationRequest
from penstock.api.report import REPORT_TYPE

from .content import Budget, Content, collect
from .evidence import PROVENANCE_TYPE
from .fetch import unpack_layer
from .gathering import Gathered
from .publish import digest_of
from .registry import Registry, parse_reference

__all__ = ["Reused", "conversion_key", "find_result", "result_tag"]

_LARGEST_DOCUMENT = 4 << 20
_DECIDING_GATES = ("parity", "accuracy", "size")
_CONVERTING = ("format", "trust", "entrypoint", "convert", "inputs", "outputs", "opener")
_FROM = ("precision", "minSpeedup", "prune", "hook")


@dataclass(frozen=True)
class Reused:
    """An earlier result: `content` is its files, unpacked and verified; None where the source itself is served."""

    facts: ModelFacts
    report: Mapping[str, Any]
    content: Content | None

    def to_marker(self) -> dict[str, Any]:
        """What the opener is told."""
        facts = self.facts.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {"facts": facts, "report": dict(self.report), "derived": self.content is not None}


def conversion_key(request: PreparationRequest, gathered: Gathered, opened: Mapping[str, Any]) -> str:
    """Hex SHA-256 of all that decides what a conversion and an optimization give.

    The CPU counts only where candidates are timed on it; gates and their data count only where they choose between
    candidates, which is under Auto.
    """
    asked = request.model_dump(mode="json", by_alias=True, exclude_none=True)
    optimize = asked.get("optimize") or {}
    named: dict[str, Any] = {
        "source": gathered.content.digest,
        "convert": {name: asked.get(name) for name in _CONVERTING},
        "optimize": {name: optimize[name] for name in _FROM if name in optimize},
        "calibration": [gathered.calibration, (optimize.get("calibration") or {}).get("maxSamples")],
        "tools": opened.get("tools", {}),
    }
    if optimize.get("precision", "None") != "None" or "hook" in optimize:
        named["machine"] = (opened.get("machine") or {}).get("flags")
    if optimize.get("precision") == "Auto" or "hook" in optimize:
        gates = asked.get("gates") or {}
        named["gates"] = {name: gates[name] for name in _DECIDING_GATES if name in gates}
        named["dataset"] = gathered.dataset
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def result_tag(key: str) -> str:
    """The tag of the evidence that names a result."""
    return f"prepared-{key[:32]}"


def find_result(
    key: str, request: PreparationRequest, gathered: Gathered, registry: Registry, folder: Path
) -> Reused | None:
    """The earlier result of this key, its files below `folder`; None where there is none to be trusted."""
    try:
        return _read_result(key, request, gathered, registry, folder)
    except Exception:  # noqa: BLE001 - a store that is away or holds nonsense makes nothing impossible, only longer
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _read_result(
    key: str, request: PreparationRequest, gathered: Gathered, registry: Registry, folder: Path
) -> Reused | None:
    name = parse_reference(request.repository).repository
    manifest = registry.manifest(name, result_tag(key)).data
    config, (layer,) = manifest["config"], manifest["layers"]
    if manifest["artifactType"] != REPORT_TYPE or config["mediaType"] != PROVENANCE_TYPE:
        return None
    provenance = _document(registry, name, config["digest"])
    report = _document(registry, name, layer["digest"])
    facts = ModelFacts.model_validate(provenance["facts"])
    mine = facts.artifact.repository == request.repository and facts.digest == gathered.content.digest
    if provenance["key"] != key or not mine:
        return None
    kept = {part: report[part] for part in ("conversion", "optimization") if part in report}
    if not facts.derived:
        return Reused(facts, kept, None)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unpack_layer(registry, name, facts.artifact.layer, facts.artifact.size_bytes, folder)
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return Reused(facts, kept, collect(folder, paths, facts.artifact.layer, Budget(request.max_bytes)))


def _document(registry: Registry, name: str, digest: str) -> Any:
    with registry.blob(name, digest) as answer:
        data = answer.text(_LARGEST_DOCUMENT)
    if digest_of(data) != digest:
        raise ValueError(f"the store sent other bytes for {digest}")
    return json.loads(data)
