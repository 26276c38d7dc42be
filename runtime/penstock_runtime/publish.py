"""Publishing: the verified files as one tar layer under one manifest of the artifact store.

Everything is a pure function of names and bytes, so preparing the same content again restores the same digests. The
bytes are read twice, to name the layer and to send it; what changed on the shared volume since it was verified, or
between the two, is refused and never becomes a blob.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.api.facts import ArtifactRef
from penstock.api.reasons import Reason

from .archive import LayerEntry, layer_chunks, layer_size
from .content import Content, StoredFile, open_below, read_regular, safe_path
from .failure import Failure
from .registry import Refused, Registry, parse_reference
from .web import Truncated, Unreachable

__all__ = ["EMPTY_DIGEST", "MANIFEST_TYPE", "Layout", "digest_of", "model_manifest", "publish"]

ARTIFACT_TYPE = "application/vnd.penstock.model.v1"
LAYER_TYPE = "application/vnd.penstock.model.layer.v1.tar"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
EMPTY_DIGEST = f"sha256:{hashlib.sha256(_EMPTY).hexdigest()}"


@dataclass(frozen=True)
class Layout:
    """What goes where in the layer: new path of each source path, and folders that must exist though empty."""

    files: Mapping[str, str]
    folders: tuple[str, ...] = ()


def publish(content: Content, layout: Layout, repository: str, registry: Registry) -> ArtifactRef:
    """Make sure that the store holds layer and manifest; raises Failure."""
    entries = _entries(content, layout)
    name = parse_reference(repository).repository
    reader = _VerifiedReader(content)
    size = layer_size(entries)
    digest = hashlib.sha256()
    for chunk in layer_chunks(entries, reader.read):
        digest.update(chunk)
    layer = f"sha256:{digest.hexdigest()}"
    manifest = model_manifest(layer, size)
    reference = ArtifactRef(repository=repository, manifest=digest_of(manifest), layer=layer, size_bytes=size)
    try:
        if not registry.has_blob(name, layer):
            registry.upload(name, layer, size, lambda: layer_chunks(entries, reader.read))
        if not registry.has_blob(name, EMPTY_DIGEST):
            registry.upload(name, EMPTY_DIGEST, len(_EMPTY), lambda: [_EMPTY])
        registry.put_manifest(name, f"sha256-{digest.hexdigest()[:32]}", manifest, MANIFEST_TYPE)
        found = registry.manifest(name, reference.manifest)
    except (Refused, Unreachable, Truncated) as error:
        raise Failure(Reason.STORE_UNAVAILABLE, f"publishing to the artifact store {repository}: {error}") from error
    assert found.digest == reference.manifest
    return reference


def _entries(content: Content, layout: Layout) -> list[LayerEntry]:
    known = {file.path: file for file in content.files}
    entries = [LayerEntry(safe_path(folder)) for folder in layout.folders]
    for name, source in layout.files.items():
        if source not in known:
            message = f"the inspection asks to publish {source[:100]!r}, which was not downloaded"
            raise Failure(Reason.PREPARATION_FAILED, message)
        entries.append(LayerEntry(safe_path(name), known[source]))
    if not layout.files:
        raise Failure(Reason.PREPARATION_FAILED, "the inspection names no file to publish")
    return entries


class _VerifiedReader:
    """Reads files of the content, and stops when their bytes are not the ones that were verified."""

    def __init__(self, content: Content) -> None:
        self._root = content.root

    def read(self, file: StoredFile) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in read_regular(self._root / file.path, lambda _: open_below(self._root, file.path)):
                size += len(chunk)
                if size > file.size:
                    raise self._changed(file)
                digest.update(chunk)
                yield chunk
        except OSError as error:
            raise self._changed(file) from error
        if digest.hexdigest() != file.sha256:
            raise self._changed(file)

    @staticmethod
    def _changed(file: StoredFile) -> Failure:
        message = f"{file.path} changed after it was verified; the model is not published"
        return Failure(Reason.PREPARATION_FAILED, message)


def model_manifest(layer: str, size: int) -> bytes:
    """The manifest of a layer of that digest and size; its own digest depends on nothing else."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": _EMPTY_TYPE, "digest": EMPTY_DIGEST, "size": len(_EMPTY)},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer, "size": size}],
    }
    return json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()


def digest_of(data: bytes) -> str:
    """How the store names these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
