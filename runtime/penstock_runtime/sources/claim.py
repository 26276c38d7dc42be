"""`pvc://claim/path`: a file or folder of a volume claim, which the operator has mounted read-only."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content, StoredFile, folder_digest, read_regular, safe_path, store
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature

from . import Context, Opened, Signed
from .files import SIGNATURE_LIMIT, finish_folder, store_single
from .objects import listing_digest

__all__ = ["ClaimSource", "open_source"]


def open_source(uri: str, context: Context) -> "ClaimSource":
    """The path behind a URI; raises Failure."""
    parts = urlsplit(uri)
    path = unquote(parts.path).strip("/")
    return ClaimSource(parts.netloc, context.claim, safe_path(path) if path else "")


class ClaimSource:
    """One file or folder of one claim."""

    def __init__(self, claim: str, mount: Path, path: str) -> None:
        self._claim = claim
        self._mount = mount
        self._path = path

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Copy it below `root`; links are followed as long as they stay within the claim."""
        if not self._mount.is_dir():
            message = f"the claim {self._claim} is not mounted at {self._mount}; this is the operator's fault"
            raise Failure(Reason.SOURCE_UNAVAILABLE, message)
        start = self._inside(self._mount / self._path)
        if start.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            files = [store(self._read(path), root, name, budget) for name, path in self._walk(start)]
            if not files:
                raise Failure(Reason.SOURCE_NOT_FOUND, f"{self._shown(start)} is an empty folder")
            return finish_folder(root, files)
        budget.expect(start.stat().st_size, self._shown(start))
        return store_single(self._read(start), root, start.name, budget)

    @property
    def path(self) -> str:
        """Below the claim's root, without slashes around it."""
        return self._path

    def read_in_place(self) -> Content:
        """The same content where it lies, read once for its digests; raises Failure for what a mount would not show.

        `root` of a single file is the folder around it.
        """
        start = self._mount / self._path
        found = self._inside(start)
        root, paths = (found, list(self._walk(found))) if found.is_dir() else (found.parent, [(found.name, found)])
        if found != self._mount.resolve() / self._path or any(root / name != path for name, path in paths):
            message = f"{self._shown(start)} holds links, which a mount would not follow; write delivery: Copy"
            raise Failure(Reason.INVALID_MODEL, message)
        if not paths:
            raise Failure(Reason.SOURCE_NOT_FOUND, f"{self._shown(start)} is an empty folder")
        files = [self._hashed(name, path) for name, path in paths]
        if found.is_dir():
            return Content(root, tuple(sorted(files)), folder_digest(files))
        return Content(root, tuple(files), f"sha256:{files[0].sha256}")

    def _hashed(self, name: str, path: Path) -> StoredFile:
        digest, size = hashlib.sha256(), 0
        for chunk in self._read(path):
            digest.update(chunk)
            size += len(chunk)
        return StoredFile(safe_path(name), size, digest.hexdigest())

    def resolve(self) -> str:
        """A digest over the path, size and time of change of every file; nothing is read."""
        start = self._inside(self._mount / self._path)
        files = self._walk(start) if start.is_dir() else [(start.name, start)]
        return listing_digest((name, path.stat().st_size, str(path.stat().st_mtime_ns)) for name, path in files)

    def child(self, path: str) -> "ClaimSource":
        """What lies below this path."""
        return ClaimSource(
            self._claim, self._mount, f"{self._path}/{safe_path(path)}" if self._path else safe_path(path)
        )

    def read(self) -> Opened:
        """The one file of that path."""
        path = self._inside(self._mount / self._path)
        return Opened(self._read(path), path.stat().st_size)

    def signed(self, content: Content) -> Signed:
        """The detached signature beside it, `<path>.sig`."""
        del content
        path = self._mount / f"{self._path}.sig"
        if not path.is_file():
            return Signed(self._shown(path))
        text = b"".join(self._read(self._inside(path)))[:SIGNATURE_LIMIT]
        try:
            return Signed(self._shown(path), ((decode_signature(text), b""),))
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{self._shown(path)}: {error}") from error

    def _inside(self, path: Path) -> Path:
        try:
            found = path.resolve(strict=True)
        except FileNotFoundError as error:
            raise Failure(Reason.SOURCE_NOT_FOUND, f"{self._shown(path)} does not exist") from error
        except (OSError, RuntimeError) as error:
            raise self._denied(path, error) from error
        if not found.is_relative_to(self._mount.resolve()):
            raise Failure(Reason.SOURCE_DENIED, f"{self._shown(path)} is a link out of its claim")
        return found

    def _walk(self, start: Path) -> Iterator[tuple[str, Path]]:
        def stop(error: OSError) -> None:
            raise self._denied(Path(error.filename), error)

        for folder, folders, names in os.walk(start, onerror=stop):
            folders[:] = sorted(name for name in folders if name != "lost+found")
            for name in sorted(names):
                path = Path(folder) / name
                yield path.relative_to(start).as_posix(), self._inside(path)

    def _read(self, path: Path) -> Iterator[bytes]:
        try:
            yield from read_regular(path)
        except OSError as error:
            raise self._denied(path, error) from error

    def _denied(self, path: Path, error: Exception) -> Failure:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        message = f"{self._shown(path)} cannot be read: {cause}; the preparation runs as uid {os.getuid()}"
        return Failure(Reason.SOURCE_DENIED, message)

    def _shown(self, path: Path) -> str:
        for mount in (self._mount, self._mount.resolve()):
            if path.is_relative_to(mount):
                return f"pvc://{self._claim}/{path.relative_to(mount).as_posix()}"
        return str(path)
