"""Content: the files of a model as they were verified, and the budget they had to fit.

Its hashes are remembered by the process that downloaded: whatever the inspecting container does to the shared volume
afterwards, only these bytes are published.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.api.reasons import Reason

from .failure import Failure

__all__ = [
    "Budget",
    "Content",
    "StoredFile",
    "collect",
    "folder_digest",
    "open_below",
    "open_regular",
    "read_regular",
    "safe_path",
    "store",
]

CHUNK = 1 << 20
MOST_FILES = 10_000
_LONGEST_PATH = 1024


@dataclass(frozen=True, order=True)
class StoredFile:
    """One file below the content's root: relative path with `/`, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Content:
    """Files below `root`, in path order, and the digest by which this content is known.

    The digest is sha256 of a single file's bytes, an OCI manifest's own, or `folder_digest`. `archive` is the file that
    `files` were unpacked from.
    """

    root: Path
    files: tuple[StoredFile, ...]
    digest: str
    archive: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def sums_text(files: Iterable[StoredFile]) -> bytes:
    """What `sha256sum` would print for these files, sorted by path: the text a folder's digest and signature are of."""
    ordered = sorted(files, key=lambda file: file.path.encode())
    return "".join(f"{file.sha256}  {file.path}\n" for file in ordered).encode()


def folder_digest(files: Iterable[StoredFile]) -> str:
    """sha256 of the sorted `sha256sum` lines."""
    return f"sha256:{hashlib.sha256(sums_text(files)).hexdigest()}"


class Budget:
    """How many bytes and files may still be written; going over is TooLarge, said with both numbers."""

    def __init__(self, most_bytes: int, most_files: int = MOST_FILES) -> None:
        self._most_bytes, self._most_files = most_bytes, most_files
        self._bytes = self._files = 0

    def expect(self, size: int, what: str) -> None:
        """Refuse at once what announces itself as too large."""
        if self._bytes + size > self._most_bytes:
            raise self._too_large(f"{what} has {self._bytes + size} bytes")

    def take(self, size: int, what: str) -> None:
        """Count bytes that are about to be written."""
        self._bytes += size
        if self._bytes > self._most_bytes:
            raise self._too_large(f"{what} goes on after {self._bytes} bytes")

    def start_unpacking(self) -> None:
        """Count from zero again: what is unpacked has the same limit as the archive had."""
        self._bytes = self._files = 0

    def forget(self, size: int) -> None:
        """Give back what was counted for a file that is removed again."""
        self._bytes -= size
        self._files -= 1

    def add_file(self) -> None:
        """Count a file."""
        self._files += 1
        if self._files > self._most_files:
            message = f"the source holds more than {self._most_files} files; pack what the model needs alone"
            raise Failure(Reason.TOO_LARGE, message)

    def _too_large(self, seen: str) -> Failure:
        limit = f"the limit for a model is {self._most_bytes} bytes"
        return Failure(
            Reason.TOO_LARGE, f"{seen}, {limit}; use a smaller model or raise the chart's operator.maxModelSize"
        )


def store(chunks: Iterable[bytes], root: Path, path: str, budget: Budget) -> StoredFile:
    """Write a stream to `root/path`, counted and hashed; a full disk is TooLarge, since eviction would say less.

    Raises whatever `chunks` raises.
    """
    target = root / safe_path(path)
    budget.add_file()
    digest, size = hashlib.sha256(), 0
    stream = iter(chunks)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in stream:
                budget.take(len(chunk), path)
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise _storing_failed(error, path, size) from error
    return StoredFile(path, size, digest.hexdigest())


def _storing_failed(error: OSError, path: str, size: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        message = f"the work volume is full after {size} bytes of {path}; raise the chart's operator.maxModelSize"
        return Failure(Reason.TOO_LARGE, message)
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return Failure(Reason.INVALID_MODEL, f"the source holds {path!r} twice, or as a file and a folder")
    if error.errno == errno.ENAMETOOLONG:
        return Failure(Reason.INVALID_MODEL, f"the source holds a name that is too long: {path[:100]!r}...")
    return error


def safe_path(path: str) -> str:
    """The same relative path, or Failure where it is absolute, climbs, or would not be one line of text."""
    parts = path.split("/")
    wrong = (
        not path
        or len(path) > _LONGEST_PATH
        or any(part in ("", ".", "..") for part in parts)
        or not path.isprintable()
        or "\\" in path
    )
    if wrong:
        message = f"the source holds the path {path[:100]!r}; only relative paths below its own folder are accepted"
        raise Failure(Reason.INVALID_MODEL, message)
    return path


def open_regular(path: Path) -> int:
    """A descriptor for reading of a regular file, never of what a link points to; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: Path, opener: Callable[[Path], int] = open_regular) -> Iterator[bytes]:
    """The bytes of a regular file in pieces; raises OSError."""
    with os.fdopen(opener(path), "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def open_below(root: Path, path: str) -> int:
    """A descriptor of a regular file below `root`, where no part of the way, nor `root`, is a link; raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    *parts, name = path.split("/")
    try:
        for part in parts:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(root / path))
    return descriptor


def collect(root: Path, paths: Iterable[str], digest: str, budget: Budget) -> Content:
    """Content of files that somebody else wrote below `root`: read once without following links, counted and hashed.

    Raises Failure for a path that is not a plain file below it.
    """
    return Content(root, tuple(sorted(_measure(root, safe_path(path), budget) for path in paths)), digest)


def _measure(root: Path, path: str, budget: Budget) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    budget.add_file()
    try:
        for chunk in read_regular(root / path, lambda _: open_below(root, path)):
            budget.take(len(chunk), path)
            digest.update(chunk)
            size += len(chunk)
    except OSError as error:
        message = f"the opener names {path[:100]!r}, which cannot be read as a plain file: {error.strerror}"
        raise Failure(Reason.PREPARATION_FAILED, message) from error
    return StoredFile(path, size, digest.hexdigest())
