"""What is written down about a running cluster: who started it, and which processes it is."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hack.cluster.process import Process
from hack.cluster.progress import say


@dataclass(frozen=True)
class Record:
    """The content of ``cluster.json``; written after every start, so that nothing is lost."""

    checkout: str
    versions: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    ready: bool = False

    def with_process(self, process: Process) -> Record:
        """Return the record with one more process, replacing an earlier one of its name."""
        others = tuple(p for p in self.processes if p.name != process.name)
        return replace(self, processes=(*others, process))

    def process(self, name: str) -> Process | None:
        """Return the process of a component, alive or not."""
        return next((p for p in self.processes if p.name == name), None)

    def write(self, path: Path) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(path)


def read(path: Path) -> Record | None:
    """Return the record, or None where no cluster was started or the file is unreadable."""
    try:
        content = json.loads(path.read_text())
        processes = tuple(Process(**entry) for entry in content.pop("processes"))
        return Record(**content, processes=processes)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one `up` or `down` run at a time on this machine; a second one waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another `up` or `down` to end.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
