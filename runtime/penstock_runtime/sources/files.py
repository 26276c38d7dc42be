"""What every source ends with: a single file, unpacked where it is an archive, or a folder; and its digest."""

from collections.abc import Iterable
from pathlib import Path

from penstock_runtime.archive import is_archive_name, unpack
from penstock_runtime.content import Budget, Content, StoredFile, folder_digest, safe_path, store

__all__ = ["SIGNATURE_LIMIT", "finish_folder", "store_single"]

SIGNATURE_LIMIT = 64 << 10
ARCHIVE_PLACE = ".archive"


def store_single(chunks: Iterable[bytes], root: Path, name: str, budget: Budget) -> Content:
    """One file; an archive is unpacked, keeps the digest of its own bytes, and stays beside for its signature."""
    root.mkdir(parents=True, exist_ok=True)
    if not is_archive_name(name):
        file = store(chunks, root, safe_path(name), budget)
        return Content(root, (file,), f"sha256:{file.sha256}")
    folder = root.with_name(root.name + ARCHIVE_PLACE)
    folder.mkdir(parents=True, exist_ok=True)
    archive = store(chunks, folder, name, budget)
    budget.start_unpacking()
    files = unpack(folder / archive.path, root, budget)
    return Content(root, tuple(sorted(files)), f"sha256:{archive.sha256}", folder / archive.path)


def finish_folder(root: Path, files: Iterable[StoredFile]) -> Content:
    """A folder's content under the digest of its `sha256sum` lines."""
    root.mkdir(parents=True, exist_ok=True)
    ordered = tuple(sorted(files))
    return Content(root, ordered, folder_digest(ordered))
