"""Built images in the cache: one small file each, and layers that all of them share.

Whole archives would hold the same base and the same dependencies again for every change of code.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hack.cluster import oci
from hack.cluster.errors import ClusterError
from hack.cluster.oci import Blob, Image

_KEPT = 3


@dataclass(frozen=True)
class Source:
    """A layer that can be written: its digest, and what writes it."""

    digest: str
    write: Callable[[BinaryIO], None]


class Store:
    """Images below ``folder``; safe to use by several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"

    def find(self, reference: str) -> Image | None:
        """Return an image, and mark it as used now, or None where it was never built."""
        path = self._path(reference)
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        path.touch()
        config, *layers = (Blob(d, self._blob(d)) for d in (content["config"], *content["layers"]))
        return Image(reference, config, tuple(layers))

    def add(self, reference: str, config: bytes, layers: list[Source]) -> Image:
        """Keep an image; only layers that are new are written, and checked against their digest."""
        digest = oci.blob(config).digest
        with self._locked():
            for source in (Source(digest, oci.blob(config).copy_to), *layers):
                if not self._blob(source.digest).exists():
                    self._keep(source)
            content = {"config": digest, "layers": [layer.digest for layer in layers]}
            scratch = self._path(reference).with_suffix(".tmp")
            scratch.write_text(json.dumps(content, indent=1) + "\n")
            scratch.replace(self._path(reference))
            self._prune(reference)
        found = self.find(reference)
        if found is None:
            raise ClusterError(f"{reference} disappeared from {self._folder}: is something else pruning it?")
        return found

    def _keep(self, source: Source) -> None:
        target = self._blob(source.digest)
        scratch = target.with_suffix(".part")
        with scratch.open("wb") as file:
            source.write(file)
        with scratch.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.digest:
            scratch.unlink()
            raise ClusterError(f"A layer reads as {found} but should be {source.digest}.")
        scratch.replace(target)

    def _prune(self, reference: str) -> None:
        """Keep the images of a name that were used last, and the blobs that any image needs."""
        name = reference.rpartition("/")[2].partition(":")[0]
        same_name = sorted(self._folder.glob(f"{name}-*.json"), key=lambda path: path.stat().st_mtime)
        for path in same_name[:-_KEPT]:
            path.unlink()
        needed: set[str] = set()
        for path in self._folder.glob("*-*.json"):
            content = json.loads(path.read_text())
            needed.update((content["config"], *content["layers"]))
        for path in self._blobs.iterdir():
            if f"sha256:{path.name}" not in needed:
                path.unlink()

    def _path(self, reference: str) -> Path:
        return self._folder / f"{reference.rpartition('/')[2].replace(':', '-')}.json"

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.partition(":")[2]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._blobs.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".store.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
