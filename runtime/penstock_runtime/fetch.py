"""`python -m penstock_runtime.fetch`: the init container of a serving pod; from the artifact store into the repository.

Every scale-up and every cold start waits for this program, so it imports the standard library alone. It streams the
layer through its hash into a staging folder of the same volume, and only a whole, verified model is renamed into place.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from penstock.api.reasons import Reason

from .failure import Failure
from .mounts import Places, termination_log
from .registry import Refused, Registry, RegistryAuth, parse_reference
from .web import Answer, Truncated, Unreachable, Web

__all__ = ["fetch", "main"]

_STAGING = ".staging"
_PIECE = 1 << 20
_PAUSES = (0.25, 0.5, 1, 2, 4)


def main() -> int:
    """Run the container; returns its exit code."""
    places = Places.here()
    try:
        fetch(os.environ, places)
    except Failure as failure:
        text = json.dumps({"reason": failure.reason, "message": failure.message})
        termination_log(places, text)
        print(text, file=sys.stderr)
        return 1
    return 0


def fetch(environment: Mapping[str, str], places: Places, web: Web | None = None) -> None:
    """Put the revision's model into the repository; raises Failure."""
    artifact = json.loads(environment["PENSTOCK_ARTIFACT"])
    plain = [host for host in environment.get("PENSTOCK_PLAIN_HTTP", "").split(",") if host]
    staging = places.models / _STAGING
    _clear(places.models)
    staging.mkdir()
    root = _model_root(staging, environment, places)
    _download(artifact, web or Web(plain, pauses=_PAUSES), places, root)
    for path in sorted(staging.iterdir()):
        path.rename(places.models / path.name)
    staging.rmdir()


def _clear(models: Path) -> None:
    """Remove what an interrupted start left: the volume outlives the container."""
    models.mkdir(parents=True, exist_ok=True)
    for path in models.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _model_root(staging: Path, environment: Mapping[str, str], places: Places) -> Path:
    """Where the layer unpacks to: a version of one model beside our config.pbtxt, or the repository itself."""
    if not places.config.is_file():
        return staging
    model = staging / environment["PENSTOCK_SERVED_NAME"]
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(places.config, model / "config.pbtxt")
    return version


def _download(artifact: Mapping[str, str], web: Web, places: Places, root: Path) -> None:
    reference, layer = parse_reference(artifact["repository"]), artifact["layer"]
    token = places.token.read_text().strip() if places.token.is_file() else ""
    where = f"{reference.host}/{reference.repository}"
    try:
        registry = Registry(reference.host, web, RegistryAuth(token=token))
        with registry.blob(reference.repository, layer) as answer:
            stream = _HashingStream(answer, int(artifact["sizeBytes"]))
            _unpack(stream, root)
            found = stream.finish()
    except Refused as error:
        if error.status == 404:
            message = f"the artifact store {where} no longer holds {layer}; it has to be prepared again"
            raise Failure(Reason.ARTIFACT_MISSING, message) from error
        raise Failure(Reason.STORE_UNAVAILABLE, f"the artifact store refused {layer}: {error}") from error
    except (Unreachable, Truncated) as error:
        raise Failure(Reason.STORE_UNAVAILABLE, f"the artifact store: {error}") from error
    except (tarfile.TarError, OSError) as error:
        message = f"{layer} of {where} cannot be unpacked below /models: {error}"
        raise Failure(Reason.STORE_UNAVAILABLE, message) from error
    if found != layer:
        message = f"the artifact store {where} sent bytes with {found} for {layer}; its storage is damaged"
        raise Failure(Reason.DIGEST_MISMATCH, message)


class _HashingStream:
    """The file that tarfile reads: passes an answer's bytes on, hashes them, and stops past the size on record."""

    def __init__(self, answer: Answer, most: int) -> None:
        self._chunks = answer.chunks(_PIECE)
        self._rest = memoryview(b"")
        self._hash = hashlib.sha256()
        self._left = most

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        if not self._rest:
            self._rest = memoryview(self._next())
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def _next(self) -> bytes:
        chunk = next(self._chunks, b"")
        self._hash.update(chunk)
        self._left -= len(chunk)
        if self._left < 0:
            raise tarfile.ReadError("it is longer than the revision's record says")
        return chunk

    def finish(self) -> str:
        """Read to the end; the digest of all."""
        while self._next():
            pass
        return f"sha256:{self._hash.hexdigest()}"


def _unpack(stream: _HashingStream, root: Path) -> None:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=_PIECE) as archive:
        for member in archive:
            parts = member.name.split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise tarfile.ReadError(f"unsafe member {member.name!r}")
            target = root.joinpath(*parts)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                _write(target, archive, member)
            else:
                raise tarfile.ReadError(f"member {member.name!r} is no plain file")


def _write(target: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        for piece in _member_pieces(archive, member):
            file.write(piece)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _member_pieces(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    content = archive.extractfile(member)
    assert content is not None
    while piece := content.read(_PIECE):
        yield piece


if __name__ == "__main__":
    sys.exit(main())
