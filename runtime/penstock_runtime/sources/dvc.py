"""A `.dvc` pointer: what it points to, fetched from its remote and checked by the MD5s that DVC keeps.

The pointer is read by the source of its own URI, the files by the source of `spec.model.dvcRemote`, both with the same
credentials.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from penstock.api.reasons import Reason
from penstock_runtime.content import MOST_FILES, Budget, Content, safe_path, store
from penstock_runtime.failure import Failure

from . import Context, Opened, Signed, Source
from . import open_source as open_any
from .files import finish_folder, store_single
from .objects import read_small
from .service import checked

__all__ = ["DvcSource", "Pointer", "open_source", "read_pointer"]

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_LARGEST_POINTER = 64 << 10
_LARGEST_FOLDER = 16 << 20


class _Readable(Protocol):
    """A source that has files below it."""

    def child(self, path: str) -> "_Readable": ...

    def read(self) -> Opened: ...


@dataclass(frozen=True)
class Pointer:
    """The one output of a pointer: its name, its MD5, and whether the remote has DVC 3's layout."""

    path: str
    md5: str
    modern: bool

    @property
    def is_folder(self) -> bool:
        """Whether the MD5 is of a folder's listing."""
        return self.md5.endswith(".dir")


def open_source(uri: str, context: Context) -> "DvcSource":
    """The pointer behind a URI; raises Failure."""
    pointer = open_any(uri, replace(context, dvc_remote=""))
    remote = open_any(context.dvc_remote, replace(context, dvc_remote=""))
    for place, source in ((uri, pointer), (context.dvc_remote, remote)):
        if not hasattr(source, "child"):
            message = f"{place} cannot be read file by file; DVC pointers and remotes are at s3, gs, az, https or pvc"
            raise Failure(Reason.INVALID_SPEC, message)
    return DvcSource(uri, pointer, cast("_Readable", remote), context.dvc_remote.rstrip("/"))


def read_pointer(text: bytes, place: str) -> Pointer:
    """The one output of a `.dvc` file; raises Failure."""
    import yaml  # noqa: PLC0415 - only for such a source

    try:
        outputs = yaml.safe_load(text)["outs"]
        (output,) = outputs
        md5, name = str(output["md5"]), str(output["path"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        message = f"{place} is no .dvc file with one output and its md5; write the one that `dvc add` made"
        raise Failure(Reason.UNKNOWN_FORMAT, message) from error
    if not _MD5.fullmatch(md5):
        raise Failure(Reason.UNKNOWN_FORMAT, f"{place} names the md5 {md5[:64]!r}, which is none")
    return Pointer(name.rstrip("/").rpartition("/")[2], md5, output.get("hash") == "md5")


class DvcSource:
    """One pointer and its remote."""

    def __init__(self, uri: str, pointer: Source, remote: _Readable, remote_uri: str) -> None:
        self._uri = uri
        self._pointer = pointer
        self._remote = remote
        self._remote_uri = remote_uri

    def resolve(self) -> str:
        """The MD5 in the pointer."""
        return f"md5 {self._read_pointer().md5}"

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write what the pointer means."""
        pointer = self._read_pointer()
        if not pointer.is_folder:
            opened = self._open(pointer, pointer.md5)
            budget.expect(opened.size or 0, f"{pointer.path} of {self._uri}")
            return store_single(opened.chunks, root, pointer.path, budget)
        listing = self._open(pointer, pointer.md5)
        entries = self._entries(read_small(listing.chunks, self._place(pointer, pointer.md5), _LARGEST_FOLDER))
        return finish_folder(
            root, [store(self._open(pointer, md5).chunks, root, path, budget) for path, md5 in entries.items()]
        )

    def signed(self, content: Content) -> Signed:
        """The detached signature beside the pointer."""
        return self._pointer.signed(content)

    def _read_pointer(self) -> Pointer:
        opened = cast("_Readable", self._pointer).read()
        return read_pointer(read_small(opened.chunks, self._uri, _LARGEST_POINTER), self._uri)

    def _open(self, pointer: Pointer, md5: str) -> Opened:
        opened = self._remote.child(_key(pointer, md5)).read()
        wanted = md5.removesuffix(".dir")
        digest = hashlib.md5(usedforsecurity=False)
        return Opened(checked(opened.chunks, digest, wanted, self._place(pointer, md5)), opened.size)

    def _place(self, pointer: Pointer, md5: str) -> str:
        return f"{self._remote_uri}/{_key(pointer, md5)}"

    def _entries(self, text: bytes) -> Mapping[str, str]:
        try:
            listed: Any = json.loads(text)
            found = {safe_path(str(entry["relpath"])): str(entry["md5"]) for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            message = f"the folder that {self._uri} points to is not listed as DVC lists folders"
            raise Failure(Reason.UNKNOWN_FORMAT, message) from error
        if len(found) > MOST_FILES or not all(_MD5.fullmatch(md5) for md5 in found.values()):
            message = (
                f"the folder that {self._uri} points to lists {len(found)} files; {MOST_FILES} with an md5 are accepted"
            )
            raise Failure(Reason.INVALID_MODEL, message)
        return dict(sorted(found.items()))


def _key(pointer: Pointer, md5: str) -> str:
    return f"{'files/md5/' if pointer.modern else ''}{md5[:2]}/{md5[2:]}"
