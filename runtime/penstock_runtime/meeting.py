"""Where the containers of a preparation meet: small marker files in the shared folder, and a lock each.

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

OPENED = "opened.json"
"""The opener is there: its tools and its machine."""
FETCHED = "fetched.json"
"""Source and data are there and verified."""
INSPECTED = "inspected.json"
"""What the opener found and made, or why it could not."""
ACCEPTED = "accepted.json"
"""What was made is checked and may be measured in a server."""
MEASURED = "measured.json"
"""What the server did."""
FAILED = "failed"
"""Nobody need wait any longer."""
SOURCE, DATASET, CALIBRATION, HOOK = "source", "dataset", "calibration", "hook"
PREPARED, REUSED = "prepared", "reused"
"""Written by the opener; below it, unpacked by the transfer, the result of the same conversion."""
ANSWERS, METRIC, METRIC_SOURCE = "answers", "metric", "metric-source"
"""The source framework's answers to the dataset; and what a metric of the user's own reads, of the model and of it."""
_PAUSE = 0.02
_LARGEST_MARKER = 1 << 20


class PartnerDiedError(Exception):
    """Another container ended without an answer; `partner` is its name."""

    def __init__(self, partner: str) -> None:
        super().__init__(f"the {partner} container ended without an answer")
        self.partner = partner


class Meeting:
    """One container's end of the meeting; `name` is its own, `partner` the other's."""

    def __init__(self, folder: Path, name: str, partner: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.folder = folder
        self._partner = partner
        self._sleep = sleep
        self._lock = _held_lock(folder / f"{name}.lock")

    def write(self, marker: str, data: Any) -> None:
        """Leave a marker."""
        scratch = self.folder / f".{marker}.part"
        scratch.unlink(missing_ok=True)
        with scratch.open("x") as file:
            file.write(json.dumps(data))
        scratch.rename(self.folder / marker)

    def wait(self, *markers: str, partner: str | None = None) -> str:
        """The first of the markers to appear; raises PartnerDiedError when the one who leaves it ends before.

        `partner` is another container than the meeting's own.
        """
        name = partner or self._partner
        while True:
            died = self._has_died(name)
            for marker in markers:
                if (self.folder / marker).exists():
                    return marker
            if died:
                raise PartnerDiedError(name)
            self._sleep(_PAUSE)

    def read(self, marker: str) -> Any:
        """What a marker says; raises ValueError or OSError. What the other side wrote is not to be trusted."""
        descriptor = os.open(self.folder / marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_LARGEST_MARKER + 1)
        if len(text) > _LARGEST_MARKER:
            raise ValueError(f"{marker} is larger than {_LARGEST_MARKER} bytes")
        return json.loads(text)

    def clear(self, *markers: str) -> None:
        """Remove markers that somebody else may have left before their time."""
        for marker in markers:
            (self.folder / marker).unlink(missing_ok=True)

    def _has_died(self, partner: str) -> bool:
        try:
            descriptor = os.open(self.folder / f"{partner}.lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
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
