"""`pvc://claim/path`: a file or folder of a volume claim, which the operator has mounted read-only."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content, read_regular, safe_path, store
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature

from . import Context, Signed
from .files import SIGNATURE_LIMIT, finish_folder, store_single

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
