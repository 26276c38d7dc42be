"""Content that stays in its claim: verify every byte against the checksums on record, then link it into the repository.

The claim is mounted read-only, so what was verified can only be changed by somebody who mounts it elsewhere to write.
Whole files are hashed on every start of a pod, at the speed of the volume; a cheaper look (sizes, times) would not see
a file that was replaced by another one of its size. Standard library only: pods wait for this.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.api.reasons import Reason

from .content import open_regular, safe_path
from .failure import Failure

__all__ = ["CHECKSUMS", "link_mounted"]

CHECKSUMS = "checksums.json"
_PIECE = 4 << 20


def link_mounted(checksums: bytes, content: Path, root: Path, claim: str) -> int:
    """Make `root` hold a link into `content` for every file on record; the bytes verified. Raises Failure.

    `content` is where the claim's folder or single file is mounted, for this container and for the server alike.
    """
    record = json.loads(checksums)
    total = 0
    for name, entry in sorted(record["files"].items()):
        source = content / safe_path(entry["source"]) if entry["source"] else content
        _verify(source, entry, f"{claim}: {entry['source'] or 'the file'}")
        target = root / safe_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        total += int(entry["size"])
    for name in record.get("folders", ()):
        (root / safe_path(name)).mkdir(parents=True, exist_ok=True)
    return total


def _verify(path: Path, entry: Mapping[str, Any], what: str) -> None:
    try:
        size, digest = _digest(path, int(entry["size"]))
    except FileNotFoundError as error:
        message = f"{what} is no longer there; put it back, or change spec.model.uri"
        raise Failure(Reason.SOURCE_NOT_FOUND, message) from error
    except OSError as error:
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"{what} cannot be read: {error.strerror or error}") from error
    if (size, digest) != (entry["size"], entry["sha256"]):
        seen = f"{size} bytes" if size != entry["size"] else f"sha256:{digest}"
        expected = f"{entry['size']} bytes" if size != entry["size"] else f"sha256:{entry['sha256']}"
        message = (
            f"{what} has {seen}, this revision was prepared with {expected}; content that is served in place must not "
            "change: write a new folder and change spec.model.uri"
        )
        raise Failure(Reason.DIGEST_MISMATCH, message)


def _digest(path: Path, expected: int) -> tuple[int, str]:
    """Size and sha256 in hex; the bytes of a file of another size are not read."""
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            return size, ""
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return size, digest.hexdigest()
