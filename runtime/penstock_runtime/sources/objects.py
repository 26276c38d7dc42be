"""Object stores: one object, an archive that is unpacked, or everything below a prefix, whichever store it is."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.api.reasons import Reason
from penstock_runtime.content import MOST_FILES, Budget, Content, store
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature

from . import Opened, Signed
from .files import SIGNATURE_LIMIT, finish_folder, store_single

__all__ = ["Bucket", "Listed", "ObjectSource", "listing_digest"]


@dataclass(frozen=True, order=True)
class Listed:
    """One object of a listing; `tag` changes with its content (an ETag, a generation)."""

    key: str
    size: int
    tag: str


class Bucket(Protocol):
    """One bucket or container. Every method raises Failure, SOURCE_NOT_FOUND where there is no such key."""

    def shown(self, key: str) -> str:
        """The key's URI."""

    def tag(self, key: str) -> str:
        """What the object's content is known by."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins so."""

    def open(self, key: str, tag: str | None = None) -> Opened:
        """Ask for the object now, read it later; with `tag` only as it was listed."""


class ObjectSource:
    """One key or prefix of one bucket."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the object of that key, or else all below that prefix."""
        if self._names_object:
            try:
                opened = self._bucket.open(self._key)
            except Failure as failure:
                if failure.reason is not Reason.SOURCE_NOT_FOUND:
                    raise
            else:
                budget.expect(opened.size or 0, self._bucket.shown(self._key))
                return store_single(opened.chunks, root, self._key.rpartition("/")[2], budget)
        return self._fetch_prefix(root, budget)

    def signed(self, content: Content) -> Signed:
        """The detached signature at `<key>.sig`."""
        del content
        key = self._key.rstrip("/") + ".sig"
        place = self._bucket.shown(key)
        try:
            opened = self._bucket.open(key)
            return Signed(place, ((decode_signature(read_small(opened.chunks, place)), b""),))
        except Failure as failure:
            if failure.reason is Reason.SOURCE_NOT_FOUND:
                return Signed(place)
            raise
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{place}: {error}") from error

    def resolve(self) -> str:
        """The object's tag, or a digest of the prefix's listing."""
        if self._names_object:
            try:
                return self._bucket.tag(self._key)
            except Failure as failure:
                if failure.reason is not Reason.SOURCE_NOT_FOUND:
                    raise
        return listing_digest((item.key, item.size, item.tag) for item in self._below())

    def child(self, path: str) -> "ObjectSource":
        """What lies below this prefix under a relative path."""
        return ObjectSource(self._bucket, f"{self._prefix}{path}")

    def read(self) -> Opened:
        """The one object of that key."""
        return self._bucket.open(self._key)

    @property
    def _names_object(self) -> bool:
        return bool(self._key) and not self._key.endswith("/")

    @property
    def _prefix(self) -> str:
        return f"{self._key.rstrip('/')}/" if self._key.rstrip("/") else ""

    def _fetch_prefix(self, root: Path, budget: Budget) -> Content:
        listed = self._below()
        budget.expect(sum(item.size for item in listed), self._bucket.shown(self._prefix))
        files = []
        for item in listed:
            opened = self._bucket.open(item.key, item.tag)
            files.append(store(opened.chunks, root, item.key.removeprefix(self._prefix), budget))
        return finish_folder(root, files)

    def _below(self) -> list[Listed]:
        found = []
        for item in self._bucket.list(self._prefix):
            if not item.key.endswith("/"):
                found.append(item)
            if len(found) > MOST_FILES:
                message = f"{self._bucket.shown(self._prefix)} holds more than {MOST_FILES} objects"
                raise Failure(Reason.TOO_LARGE, f"{message}; name the model's own prefix")
        if not found:
            message = f"{self._bucket.shown(self._key)} is neither an object nor a prefix of any"
            raise Failure(Reason.SOURCE_NOT_FOUND, message)
        return sorted(found)


def listing_digest(entries: Iterable[tuple[str, int, str]]) -> str:
    """sha256 over (path, size, tag) of every file, in path order: what a folder is known by without reading it."""
    digest = hashlib.sha256()
    for path, size, tag in sorted(entries):
        digest.update(f"{path}\0{size}\0{tag}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def read_small(chunks: Iterable[bytes], place: str, most: int = SIGNATURE_LIMIT) -> bytes:
    """All of a small file; raises Failure."""
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > most:
            raise Failure(Reason.TOO_LARGE, f"{place} is larger than the {most} bytes such a file may have")
    return text
