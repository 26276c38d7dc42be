"""Archives: unpacking what users bring without trusting it, and writing the one layer that is published.

Unpacking takes regular files and folders only. Links, devices, absolute paths and `..` are refused, sizes are counted
while they are written and never believed, and a ratio bounds what a small archive may grow to.
"""

import errno
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from penstock.api.reasons import Reason

from .content import CHUNK, Budget, StoredFile, safe_path, store
from .failure import Failure

__all__ = ["LayerEntry", "is_archive_name", "layer_chunks", "layer_size", "unpack"]

_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_RATIO = 200
_RATIO_FREE = 64 << 20
"""Bytes that any archive may grow to, however small it is."""
_LONGEST_READ = 16 << 20
"""What one header may make the reader hold in memory."""
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ArithmeticError,
    LookupError, ValueError,
)  # fmt: skip
"""What Python's readers raise about broken bytes; bz2 and offsets that lead nowhere are an OSError, see `_reading`."""
_EXECUTABLE_NAMES = ("triton_python_backend_stub",)


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)


def unpack(path: Path, root: Path, budget: Budget, below: str = "") -> list[StoredFile]:
    """Unpack a tar, gzipped tar or zip into `root` (under `below`); raises Failure for anything unsafe or broken."""
    bomb = _RatioGuard(path.stat().st_size, budget, path.name)
    opener = {b"PK\x03\x04": _zip_members, b"PK\x05\x06": _zip_members}
    with path.open("rb") as file:
        magic = file.read(4)
    members = opener.get(magic, _tar_members)(path, gzipped=magic[:2] == b"\x1f\x8b")
    return [store(bomb.count(chunks), root, _join(below, name), budget) for name, chunks in members]


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what a reader says of a broken archive into a Failure; an error of the disk stays one."""
    try:
        yield
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        message = f"{name} is not a whole tar, tar.gz or zip archive: {str(error) or type(error).__name__}"
        raise Failure(Reason.INVALID_MODEL, message) from error


def _join(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name


@dataclass
class _RatioGuard:
    packed: int
    budget: Budget
    name: str
    unpacked: int = 0

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, as long as the archive grows within reason."""
        for chunk in chunks:
            self.unpacked += len(chunk)
            if self.unpacked > max(_RATIO_FREE, self.packed * _RATIO):
                message = f"{self.name} ({self.packed} bytes) unpacks to more than {_RATIO} times its size; not a model"
                raise Failure(Reason.TOO_LARGE, message)
            yield chunk


class _Guarded:
    """A file whose reader asks for small pieces: a header that claims gigabytes is refused before they are read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()


Members = Iterator[tuple[str, Iterator[bytes]]]


def _tar_members(path: Path, *, gzipped: bool) -> Members:
    with _reading(path.name), gzip.open(path, "rb") if gzipped else path.open("rb") as file:
        guarded: Any = _Guarded(file)
        with tarfile.open(fileobj=guarded, mode="r:") as archive:
            for member in archive:
                name = _member_name(member.name, folder=member.isdir())
                if member.isreg():
                    content = archive.extractfile(member)
                    assert content is not None
                    yield name, _pieces(content, member.size, path.name)
                elif not member.isdir():
                    raise _refused(member.name, "a link or a device")


def _zip_members(path: Path, *, gzipped: bool) -> Members:
    del gzipped
    with _reading(path.name), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _member_name(member.filename, folder=member.is_dir())
            kind = (member.external_attr >> 16) & 0o170000
            if member.flag_bits & 1:
                raise _refused(member.filename, "encrypted")
            if kind not in (0, 0o100000, 0o040000):
                raise _refused(member.filename, "a link or a device")
            if not member.is_dir():
                with archive.open(member) as content:
                    yield name, _pieces(content, member.file_size, path.name)


def _member_name(name: str, *, folder: bool) -> str:
    name = name.removeprefix("./")
    if folder and name in ("", "."):
        return ""
    return safe_path(name.rstrip("/") if folder else name)


def _refused(name: str, what: str) -> Failure:
    message = f"the archive member {name[:100]!r} is {what}; only plain files and folders are unpacked"
    return Failure(Reason.INVALID_MODEL, message)


def _pieces(file: IO[bytes], size: int, archive: str) -> Iterator[bytes]:
    seen = 0
    with _reading(archive):
        while chunk := file.read(min(CHUNK, max(1, size - seen))):
            seen += len(chunk)
            yield chunk
        if seen != size:
            raise EOFError(f"a member has {seen} of its {size} bytes")


@dataclass(frozen=True)
class LayerEntry:
    """One entry of the published layer: a file of the verified content under its new name, or an empty folder."""

    name: str
    file: StoredFile | None = None


def layer_size(entries: Iterable[LayerEntry]) -> int:
    """Bytes of the tar that `layer_chunks` writes."""
    total = sum(len(_header(entry)) + _padded(entry.file.size if entry.file else 0) for entry in entries)
    return total + 2 * tarfile.BLOCKSIZE


def layer_chunks(entries: Iterable[LayerEntry], read: Callable[[StoredFile], Iterable[bytes]]) -> Iterator[bytes]:
    """A tar that depends on names and bytes alone: sorted, no times, no owners; `read` gives a file's bytes."""
    for entry in sorted(entries, key=lambda entry: entry.name):
        yield _header(entry)
        if entry.file:
            yield from read(entry.file)
            yield bytes(_padded(entry.file.size) - entry.file.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(entry: LayerEntry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    if entry.file is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size = entry.file.size
        info.mode = 0o755 if entry.name.rpartition("/")[2] in _EXECUTABLE_NAMES else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
