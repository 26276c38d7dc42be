"""Acceptance: what the opener says it found or made, checked against the words of the API and the files themselves.

What it found is a choice among the files that were hashed when they were fetched. What it made is read without
following links, counted and hashed now; whatever changes afterwards is not published.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import ArtifactRef, ModelFacts
from penstock.api.preparation import PreparationRequest
from penstock.api.reasons import Reason

from .content import Budget, Content, StoredFile, collect, store
from .failure import Failure
from .gathering import Gathered
from .meeting import PREPARED
from .mounted import CHECKSUMS
from .publish import Layout
from .reuse import Reused

__all__ = ["Accepted", "accept"]

_NO_DIGEST = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Accepted:
    """What may be measured and published: `facts` know no artifact yet."""

    facts: ModelFacts
    content: Content
    layout: Layout

    def to_marker(self) -> dict[str, Any]:
        """What the measuring container is told: facts, and where each file of the model's version lies."""
        facts = self.facts.model_dump(mode="json", by_alias=True, exclude_none=True)
        files = {name: str(self.content.root / source) for name, source in self.layout.files.items()}
        return {"facts": facts, "files": files, "folders": list(self.layout.folders)}

    def to_publish(self, work: Path) -> tuple[Content, Layout]:
        """The layer's files: the model's own, or for a mounted one their checksums alone."""
        if self.facts.mount is None:
            return self.content, self.layout
        folder = work / "checksums"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CHECKSUMS).unlink(missing_ok=True)
        text = json.dumps(self._checksums(), sort_keys=True, separators=(",", ":")).encode()
        file = store([text], folder, CHECKSUMS, Budget(len(text)))
        return Content(folder, (file,), f"sha256:{file.sha256}"), Layout({CHECKSUMS: CHECKSUMS})

    def _checksums(self) -> dict[str, Any]:
        known = {file.path: file for file in self.content.files}
        single = self.facts.mount is not None and _names_file(self.facts.mount.path, self.content)
        return {
            "files": {
                name: {"source": "" if single else source, "size": known[source].size, "sha256": known[source].sha256}
                for name, source in self.layout.files.items()
            },
            "folders": list(self.layout.folders),
        }


def accept(
    answer: Mapping[str, Any], request: PreparationRequest, gathered: Gathered, reused: Reused | None, work: Path
) -> Accepted:
    """The opener's answer, believed as far as it goes; raises Failure."""
    facts = reused.facts if reused and reused.content else _unpublished_facts(answer, request, gathered)
    if reused and reused.content:
        return Accepted(facts, reused.content, _plain(reused.content.files))
    prepared = answer.get("prepared")
    if prepared is None:
        return Accepted(facts, gathered.content, _layout(answer, "files"))
    layout = _layout(answer, "prepared")
    content = collect(work / PREPARED, set(layout.files.values()), gathered.content.digest, Budget(request.max_bytes))
    return Accepted(facts, content, layout)


def _unpublished_facts(answer: Mapping[str, Any], request: PreparationRequest, gathered: Gathered) -> ModelFacts:
    """The facts in an answer, with the digest that was verified and an artifact that is not there yet."""
    artifact = ArtifactRef(repository=request.repository, manifest=_NO_DIGEST, layer=_NO_DIGEST, size_bytes=0)
    try:
        own = {"digest": gathered.content.digest, "artifact": artifact, "derived": "prepared" in answer}
        facts = ModelFacts.model_validate({**answer["facts"], **own, "mount": gathered.mount, "report": None})
    except (ValidationError, KeyError, TypeError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer is malformed: {error}") from error
    if facts.mount is not None and facts.derived:
        message = "the model was changed, and spec.model.delivery: Mount serves the claim's own files; write Copy"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return facts


def _layout(answer: Mapping[str, Any], key: str) -> Layout:
    files, folders = answer.get(key), answer.get("folders", [])
    if not isinstance(files, dict) or not isinstance(folders, list) or not files:
        raise Failure(Reason.PREPARATION_FAILED, "the inspection's answer names no files")
    return Layout({str(name): str(source) for name, source in files.items()}, tuple(map(str, folders)))


def _plain(files: tuple[StoredFile, ...]) -> Layout:
    return Layout({file.path: file.path for file in files})


def _names_file(path: str, content: Content) -> bool:
    return len(content.files) == 1 and path.rpartition("/")[2] == content.files[0].path
