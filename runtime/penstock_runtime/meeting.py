"""Where the two containers of a preparation meet: small marker files in the shared folder, and a lock each.

A marker appears whole, by rename. A lock is held for as long as its process lives, so that the other side learns of a
death (an out-of-memory kill takes the whole container) at once instead of at the Job's deadline.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Meeting", "PartnerDiedError"]

FETCHED, INSPECTED, FAILED = "fetched.json", "inspected.json", "failed"
SOURCE = "source"
_PAUSE = 0.02
_LARGEST_MARKER = 1 << 20


class PartnerDiedError(Exception):
    """The other container ended without an answer."""


class Meeting:
    """One container's end of the meeting; `name` is its own, `partner` the other's."""

    def __init__(self, folder: Path, name: str, partner: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.folder = folder
        self._partner = folder / f"{partner}.lock"
        self._sleep = sleep
        self._lock = _held_lock(folder / f"{name}.lock")

    def write(self, marker: str, data: Any) -> None:
        """Leave a marker."""
        scratch = self.folder / f".{marker}.part"
        scratch.write_text(json.dumps(data))
        scratch.rename(self.folder / marker)

    def wait(self, *markers: str) -> str:
        """The first of the markers to appear; raises PartnerDiedError when the other side ends before."""
        while True:
            died = self._partner_died()
            for marker in markers:
                if (self.folder / marker).exists():
                    return marker
            if died:
                raise PartnerDiedError(f"the {self._partner.stem} container ended without an answer")
            self._sleep(_PAUSE)

    def read(self, marker: str) -> Any:
        """What a marker says; raises ValueError or OSError. What the other side wrote is not to be trusted."""
        descriptor = os.open(self.folder / marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_LARGEST_MARKER + 1)
        if len(text) > _LARGEST_MARKER:
            raise ValueError(f"{marker} is larger than {_LARGEST_MARKER} bytes")
        return json.loads(text)

    def _partner_died(self) -> bool:
        try:
            descriptor = os.open(self._partner, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def _held_lock(path: Path) -> int:
    """A lock that is held from the moment it can be seen; given up by the kernel when the process ends."""
    scratch = path.with_suffix(".part")
    descriptor = os.open(scratch, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    scratch.rename(path)
    return descriptor
