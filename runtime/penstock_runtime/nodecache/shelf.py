"""Content on the disk: `sha256/<hex>`, written to `tmp/`, compared with its digest, synced, and only then renamed.

What a killed process left in `tmp/` is removed at the next start. Whoever reads has an open file, so that nothing is
taken from under a reader; the ledger's bytes are given back when the last one has closed it.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from .ledger import Ledger

__all__ = ["Filling", "Held", "Shelf", "disk_room"]

log = logging.getLogger("penstock.nodecache.shelf")

PROOF_SECONDS = 3600.0
_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_room(folder: Path, keep_free: float) -> int:
    """Bytes that may be written below `folder` while this share of its disk stays free; never below zero."""
    told = os.statvfs(folder)
    return max(0, int((told.f_bavail - keep_free * told.f_blocks) * told.f_frsize))


class Held:
    """Whole content, open for reading. `unproven`: nobody has compared it with its digest for an hour, so do it now."""

    def __init__(self, shelf: "Shelf", digest: str, size: int, descriptor: int, *, unproven: bool) -> None:
        self.digest, self.size, self.descriptor, self.unproven = digest, size, descriptor, unproven
        self._shelf = shelf

    def prove(self, found: str) -> bool:
        """Tell the digest that was found; content that has another one is given to nobody any more."""
        if found == self.digest:
            self._shelf.mark_proven(self.digest)
            return True
        self._shelf.condemn(self.digest)
        return False

    def close(self) -> None:
        """The reader goes."""
        os.close(self.descriptor)
        self._shelf.release(self.digest)


class Filling:
    """Content on its way to the shelf; readers may follow in `descriptor` by offset."""

    def __init__(self, shelf: "Shelf", digest: str, size: int, path: Path, descriptor: int) -> None:
        self.digest, self.size, self.descriptor = digest, size, descriptor
        self._shelf, self._path = shelf, path
        self._hash, self._written = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> int:
        """Append; returns how many bytes are there now. Raises OSError."""
        view = memoryview(chunk)
        while view:
            done = os.pwrite(self.descriptor, view, self._written)
            self._written += done
            view = view[done:]
        self._hash.update(chunk)
        return self._written

    @property
    def sound(self) -> bool:
        """Whether the bytes written are those that the digest names."""
        return self._written == self.size and f"sha256:{self._hash.hexdigest()}" == self.digest

    def keep(self) -> None:
        """Sync and put on the shelf, after `sound`; raises OSError."""
        os.fsync(self.descriptor)
        self._shelf.place(self.digest, self._path)

    def close(self) -> None:
        """The writer and all who followed have gone; what was not kept goes with them."""
        os.close(self.descriptor)
        self._path.unlink(missing_ok=True)
        self._shelf.release(self.digest)


class Shelf:
    """The folder and its books; one process at a time has it, any number of threads use it."""

    def __init__(
        self,
        folder: Path,
        limit: int,
        clock: Callable[[], float],
        room: Callable[[Path], int] = lambda folder: disk_room(folder, 0),
    ) -> None:
        """Waits for another process that has the folder; raises OSError where it cannot be written."""
        self._kept, self._tmp = folder / "sha256", folder / "tmp"
        self._clock, self._room = clock, room
        self._lock = threading.Lock()
        self._ledger = Ledger(limit)
        self._proven: dict[str, float] = {}
        self._count = 0
        self.evicted = 0
        """How often content had to go for other content."""
        self.damaged = 0
        """How often content was not what its name says."""
        self._guard = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._guard, fcntl.LOCK_EX)
        self._tidy()

    def _tidy(self) -> None:
        """Begin with what is whole; how recently it was used stands in the files' times."""
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir()
        self._kept.mkdir(exist_ok=True)
        found = []
        for path in list(self._kept.iterdir()):
            if _NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            else:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        room, kept = self._ledger.limit, []
        for _, size, path in sorted(found, reverse=True):
            if size > room:
                path.unlink()
            else:
                room -= size
                kept.append((f"sha256:{path.name}", size))
        for digest, size in reversed(kept):
            self._ledger.reserve(digest, size, size)
            self._ledger.fill(digest)
            self._ledger.release(digest)

    @property
    def used(self) -> int:
        """Bytes held or reserved."""
        with self._lock:
            return self._ledger.used

    @property
    def digests(self) -> tuple[str, ...]:
        """What is whole, the least recently used first."""
        with self._lock:
            return self._ledger.digests

    @property
    def limit(self) -> int:
        """Bytes that it may hold."""
        return self._ledger.limit

    def open(self, digest: str) -> Held | None:
        """Whole content to read, or None; a file that is not as it was written counts as none."""
        with self._lock:
            size = self._ledger.take(digest)
            if size is None:
                return None
            try:
                descriptor = self._open_file(digest, size)
            except OSError as error:
                log.warning("%s is not on the disk as it was: %s", digest, error)
                self._discard(digest)
                self._ledger.release(digest)
                return None
            unproven = self._clock() - self._proven.get(digest, -PROOF_SECONDS) >= PROOF_SECONDS
        return Held(self, digest, size, descriptor, unproven=unproven)

    def _open_file(self, digest: str, size: int) -> int:
        path = self._path(digest)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check_size(descriptor, size)
            os.utime(path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def begin(self, digest: str, size: int) -> Filling | None:
        """Room for new content, what was least recently used making way; None where there is not enough.

        The disk's room is taken at once: a disk that is full shows before the first byte, not in the middle.
        """
        with self._lock:
            victims = self._ledger.reserve(digest, size, self._room(self._kept))
            if victims is None:
                return None
            for victim in victims:
                self._proven.pop(victim, None)
                self._path(victim).unlink(missing_ok=True)
            self.evicted += len(victims)
            self._count += 1
            path = self._tmp / f"{self._count}-{digest.removeprefix('sha256:')}"
        try:
            return Filling(self, digest, size, path, _allocate(path, size))
        except OSError as error:
            log.warning("no room for %s (%d bytes): %s", digest, size, error)
            path.unlink(missing_ok=True)
            self.release(digest)
            return None

    def place(self, digest: str, path: Path) -> None:
        """Whole, compared and synced content gets its name; a rename that a dying node forgets leaves it in `tmp/`."""
        with self._lock:
            path.rename(self._path(digest))
            self._ledger.fill(digest)
            self._proven[digest] = self._clock()

    def mark_proven(self, digest: str) -> None:
        """Its bytes were just found to be right."""
        with self._lock:
            self._proven[digest] = self._clock()

    def condemn(self, digest: str) -> None:
        """Its bytes are wrong."""
        log.warning("%s was damaged on the disk; it is fetched anew when it is asked for again", digest)
        with self._lock:
            self._discard(digest)

    def release(self, digest: str) -> None:
        """One who held it has gone."""
        with self._lock:
            self._ledger.release(digest)

    def _discard(self, digest: str) -> None:
        self.damaged += 1
        self._ledger.condemn(digest)
        self._proven.pop(digest, None)
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._kept / digest.removeprefix("sha256:")

    def close(self) -> None:
        """Let the next process have the folder."""
        os.close(self._guard)


def _check_size(descriptor: int, size: int) -> None:
    found = os.fstat(descriptor).st_size
    if found != size:
        raise OSError(errno.EIO, f"it has {found} bytes instead of {size}")


def _allocate(path: Path, size: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in _FULL:
            os.close(descriptor)
            raise
    return descriptor
