"""Container images as data: configurations, manifests, layers and the archives that carry them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


@dataclass(frozen=True)
class Blob:
    """Bytes in memory or in a file, known by their digest."""

    digest: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def read(self) -> bytes:
        """Return the bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def copy_to(self, file: BinaryIO) -> None:
        """Write the bytes to an open file."""
        file.write(self.read())


@dataclass(frozen=True)
class Image:
    """A named image with everything that it consists of; layers are uncompressed, lowest first."""

    reference: str
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def manifest(self) -> Blob:
        """The document that names configuration and layers."""
        return blob(
            _encoded(
                {
                    "schemaVersion": 2,
                    "mediaType": _MANIFEST,
                    "config": _descriptor(_CONFIG, self.config),
                    "layers": [_descriptor(_LAYER, layer) for layer in self.layers],
                }
            )
        )


def blob(content: bytes) -> Blob:
    """Return ``content`` with its digest."""
    return Blob("sha256:" + hashlib.sha256(content).hexdigest(), content)


def of_program(
    reference: str,
    program: Path,
    user: str,
    arguments: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Image:
    """Return an image that holds only one static program and some text files.

    A few lines of tar are all it takes; no builder is needed for it.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        _add(tar, program.name, program.read_bytes(), mode=0o755)
        for name, text in (files or {}).items():
            _add(tar, name, text.encode())
    layer = blob(content.getvalue())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": user, "Entrypoint": [f"/{program.name}"], "Cmd": list(arguments)},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    }
    return Image(reference, blob(_encoded(config)), (layer,))


def write_archive(image: Image, archive: Path, present: Iterable[str] = ()) -> None:
    """Write an OCI archive; layers whose digests the receiver has are left out."""
    known = set(present)
    manifest = image.manifest
    index = {
        "schemaVersion": 2,
        "manifests": [
            _descriptor(_MANIFEST, manifest) | {"annotations": dict.fromkeys(_NAMES, image.reference)},
        ],
    }
    with tarfile.open(archive, mode="w") as tar:
        _add(tar, "oci-layout", _encoded({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _encoded(index))
        for part in (manifest, image.config, *image.layers):
            if part.digest not in known:
                name = f"blobs/{part.digest.replace(':', '/')}"
                if isinstance(part.content, bytes):
                    _add(tar, name, part.content)
                else:
                    tar.add(part.content, name)
                known.add(part.digest)


def _descriptor(media_type: str, part: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": part.digest, "size": part.size}


def _encoded(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
