"""Reading layers straight out of buildah's storage.

`buildah push` would compute and write every layer of an image anew, the unchanged hundreds of
megabytes with the changed one. The storage keeps, for each layer, its files and the tar headers
that were around them ("tar-split"), so that exactly the missing layers can be put together again;
their digests prove that it was done right.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from hack.cluster.errors import ClusterError
from hack.images.store import Source

_FILE, _BYTES = 1, 2


def layers(root: Path, image_id: str, digests: list[str]) -> list[Source]:
    """Return the layers of an image, lowest first; ``digests`` are those of its configuration."""
    images = {image["id"]: image for image in _read(root / "overlay-images" / "images.json")}
    known = {layer["id"]: layer for layer in _read(root / "overlay-layers" / "layers.json")}
    chain: list[dict[str, Any]] = []
    identifier = images[image_id]["layer"]
    while identifier:
        chain.insert(0, known[identifier])
        identifier = known[identifier].get("parent", "")
    found = [layer["diff-digest"] for layer in chain]
    if found != digests:
        raise ClusterError(f"buildah's storage {root} does not hold the layers of image {image_id}.")
    return [_source(root, layer["id"], layer["diff-digest"]) for layer in chain]


def _source(root: Path, identifier: str, digest: str) -> Source:
    headers = root / "overlay-layers" / f"{identifier}.tar-split.gz"
    files = root / "overlay" / identifier / "diff"
    return Source(digest, lambda target: _assemble(headers, files, target))


def _assemble(headers: Path, files: Path, target: BinaryIO) -> None:
    with gzip.open(headers, "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["type"] == _BYTES:
                target.write(base64.b64decode(entry["payload"]))
            elif entry["type"] == _FILE and entry.get("size"):
                with (files / _name(entry)).open("rb") as content:
                    shutil.copyfileobj(content, target, 1 << 20)


def _name(entry: dict[str, Any]) -> str:
    """Return a path; names that are no UTF-8 are kept apart, in base 64."""
    if raw := entry.get("name_raw"):
        return base64.b64decode(raw).decode(errors="surrogateescape")
    return str(entry["name"]).lstrip("/")


def _read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content
