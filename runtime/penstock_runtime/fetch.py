"""`python -m penstock_runtime.fetch`: the init container of a serving pod; from the artifact store into the repository.

Where the installation has a cache on every node, this node's is asked first, and the store whatever comes of it.

Every scale-up and every cold start waits for this program, so it imports the standard library alone. It streams the
layer through its hash into a staging folder of the same volume, and only a whole, verified model is renamed into place.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from penstock.api.reasons import Reason

from .failure import Failure, full_disk
from .mounted import CHECKSUMS, link_mounted
from .mounts import Places, termination_log
from .nearby import nearby_blob
from .registry import Refused, Registry, RegistryAuth, parse_reference
from .web import Answer, Truncated, Unreachable, Web

__all__ = ["DamagedLayerError", "fetch", "main", "unpack_layer"]

_STAGING = ".staging"
_PIECE = 1 << 20
_PAUSES = (0.25, 0.5, 1, 2, 4)
_BROKEN = (tarfile.TarError, ValueError, LookupError, ArithmeticError)
"""What unpacking raises about bytes that nobody has published, a name with a zero byte too."""


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
    try:
        _lay_out(artifact, environment, places, web)
    except OSError as error:
        full = full_disk(error) is not None
        message = f"{artifact['layer']} of {artifact['repository']} cannot be unpacked below /models: {error}"
        if full:
            message += "; free disk on the node"
        raise Failure(Reason.NOT_ENOUGH_DISK if full else Reason.STORE_UNAVAILABLE, message) from error


def _lay_out(artifact: Mapping[str, str], environment: Mapping[str, str], places: Places, web: Web | None) -> None:
    plain = [host for host in environment.get("PENSTOCK_PLAIN_HTTP", "").split(",") if host]
    staging = places.models / _STAGING
    _clear(places.models)
    staging.mkdir()
    root = _model_root(staging, environment, places)
    claim = environment.get("PENSTOCK_CLAIM")
    cache = environment.get("PENSTOCK_NODE_CACHE", "")
    if not (cache and _from_node(cache, artifact, places, root)):
        _download(artifact, web or Web(plain, pauses=_PAUSES), places, root)
    if claim:
        _lay_out_mounted(places, root, claim)
    for path in sorted(staging.iterdir()):
        path.rename(places.models / path.name)
    staging.rmdir()


def _clear(folder: Path) -> None:
    """Remove what an interrupted start or try left: the volume outlives the container."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _lay_out_mounted(places: Places, root: Path, claim: str) -> None:
    """Of mounted content only the checksums were downloaded."""
    checksums = root / CHECKSUMS
    text = checksums.read_bytes()
    checksums.unlink()
    started = time.monotonic()
    size = link_mounted(text, places.content, root, claim)
    print(f"verified {size} bytes of {claim} in {time.monotonic() - started:.1f} s")


def _model_root(staging: Path, environment: Mapping[str, str], places: Places) -> Path:
    """Where the layer unpacks to: a version of one model beside our config.pbtxt, or the repository itself."""
    if not places.config.is_file():
        return staging
    model = staging / environment["PENSTOCK_SERVED_NAME"]
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(places.config, model / "config.pbtxt")
    return version


def _token(places: Places) -> str:
    return places.token.read_text().strip() if places.token.is_file() else ""


def _from_node(cache: str, artifact: Mapping[str, str], places: Places, root: Path) -> bool:
    """Whether the node's cache had it; if not, nothing of the attempt is left below `root`."""
    started, layer = time.monotonic(), artifact["layer"]
    try:
        with nearby_blob(cache, parse_reference(artifact["repository"]), layer, _token(places)) as answer:
            _unpack_answer(answer, layer, int(artifact["sizeBytes"]), root)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the artifact store is asked
        took = time.monotonic() - started
        print(f"the node's cache {cache} did not help ({error}; {took:.1f} s); asking the store", file=sys.stderr)
        _clear(root)
        return False
    print(f"{layer} came from the node's cache in {time.monotonic() - started:.2f} s")
    return True


def _download(artifact: Mapping[str, str], web: Web, places: Places, root: Path) -> None:
    reference, layer, token = parse_reference(artifact["repository"]), artifact["layer"], _token(places)
    where = f"{reference.host}/{reference.repository}"
    try:
        registry = Registry(reference.host, web, RegistryAuth(token=token))
        unpack_layer(registry, reference.repository, layer, int(artifact["sizeBytes"]), root)
    except DamagedLayerError as error:
        message = f"the artifact store {where} sent {error}; its storage is damaged"
        raise Failure(Reason.DIGEST_MISMATCH, message) from error
    except Refused as error:
        if error.status == 404:
            message = f"the artifact store {where} no longer holds {layer}; it has to be prepared again"
            raise Failure(Reason.ARTIFACT_MISSING, message) from error
        raise Failure(Reason.STORE_UNAVAILABLE, f"the artifact store refused {layer}: {error}") from error
    except (Unreachable, Truncated) as error:
        raise Failure(Reason.STORE_UNAVAILABLE, f"the artifact store: {error}") from error


class DamagedLayerError(Exception):
    """The bytes that came are not those that the layer is named by."""


def unpack_layer(registry: Registry, repository: str, layer: str, size: int, root: Path) -> None:
    """Stream a layer through its hash into `root`, which holds a verified model only when this returns.

    Raises DamagedLayerError, OSError, and what the registry raises.
    """
    with registry.blob(repository, layer) as answer:
        _unpack_answer(answer, layer, size, root)


def _unpack_answer(answer: Answer, layer: str, size: int, root: Path) -> None:
    stream = _HashingStream(answer, size)
    try:
        _unpack(stream, root)
        found = stream.finish()
    except _BROKEN as error:
        raise DamagedLayerError(f"bytes that are not {layer} ({error})") from error
    if found != layer:
        raise DamagedLayerError(f"bytes with {found} for {layer}")


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
