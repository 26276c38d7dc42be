"""Processes that outlive the command that started them, and how to know them again.

A pid alone is no identity: after a restart of the machine, or just some hours, it may belong to
someone else. A process is ours only while its start time is the one that was recorded.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STATE, _START_TIME = 0, 19
"""Positions of these fields in ``/proc/PID/stat`` behind the command's closing parenthesis."""


@dataclass(frozen=True)
class Process:
    """A started program: its pid, its start in clock ticks since boot, and the boot's id."""

    name: str
    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Say whether this very process, and not a later one with its pid, still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            os.kill(self.pid, number)


def boot_id() -> str:
    """Return the kernel's random id of this boot; start times repeat between boots."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return the start of ``pid`` in clock ticks since boot; None when gone or a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] in "ZX" else int(fields[_START_TIME])


def identify(name: str, pid: int) -> Process | None:
    """Return the running process ``pid`` with all that tells it from others."""
    started = start_time(pid)
    return None if started is None else Process(name, pid, started, boot_id())


def start(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Start ``command`` in a session of its own with its output in ``log``.

    The child is not waited for: it belongs to init once this command ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            cwd="/",
            start_new_session=True,
        )
    child.returncode = 0  # keeps `Popen.__del__` from warning about a child left running on purpose
    return Process(name, child.pid, start_time(child.pid) or 0, boot_id())


def stop(processes: Iterable[Process], patience: float) -> None:
    """Ask all to end, wait up to ``patience`` seconds for them together, then insist."""
    left = [process for process in processes if process.alive()]
    for process in left:
        process.signal(signal.SIGTERM)
    left = wait_gone(left, patience)
    for process in left:
        process.signal(signal.SIGKILL)
    wait_gone(left, 5.0)


def wait_gone(processes: Iterable[Process], patience: float) -> list[Process]:
    """Wait until none of ``processes`` lives; return those that still do after ``patience``."""
    deadline = time.monotonic() + patience
    while (left := [process for process in processes if process.alive()]) and (time.monotonic() < deadline):
        _reap()
        time.sleep(0.05)
        processes = left
    return left


def with_arguments(fragment: str) -> list[int]:
    """Return the pids of all processes whose command line contains ``fragment``."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fragment.encode() in arguments:
                found.append(int(entry.name))
    return found


def _reap() -> None:
    """Collect ended children, which are zombies until then."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
