"""The control groups that all pods run in, below one group of the cluster's own.

Whatever process is found in there is a pod's, whoever its parent is by now, and may be killed;
another kubelet's ``kubepods`` elsewhere in the tree is never touched.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
GROUP = "penstock"

_CONTROLLERS = frozenset({"cpu", "cpuset", "hugetlb", "io", "memory", "pids"})
_PATIENCE = 5.0
_PROCESSES_PER_CORE = 2
"""All pods together weigh as much as so many processes of the machine; a group weighs as much as one by itself."""


def prepare(root: Path = ROOT) -> None:
    """Make the cluster's group in every hierarchy, with limits allowed below it."""
    if (root / "cgroup.controllers").exists():
        _hand_down(root)
        (root / GROUP).mkdir(exist_ok=True)
        _hand_down(root / GROUP)
        _weigh(root / GROUP / "cpu.weight", 100)
        return
    for hierarchy in root.iterdir():
        if (hierarchy / "tasks").exists():
            group = hierarchy / GROUP
            group.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists():
                    (group / file).write_text((hierarchy / file).read_text())
            _weigh(group / "cpu.shares", 1024)


def remove(root: Path = ROOT) -> None:
    """Kill what still runs in the cluster's groups, and remove them."""
    deadline = time.monotonic() + _PATIENCE
    while (groups := remains(root)) and time.monotonic() < deadline:
        for group in groups:
            for below in _deepest_first(group):
                _kill(below)
                with suppress(OSError):
                    below.rmdir()
        time.sleep(0.02)


def remains(root: Path = ROOT) -> list[Path]:
    """Return the cluster's groups that exist, one for each hierarchy."""
    return [path for pattern in (GROUP, f"*/{GROUP}") for path in sorted(root.glob(pattern))]


def _weigh(file: Path, process: int) -> None:
    if file.exists():
        file.write_text(str(process * _PROCESSES_PER_CORE * (os.cpu_count() or 1)))


def _hand_down(group: Path) -> None:
    """Allow groups below ``group`` to have limits (cgroup v2).

    Inside a container the root group holds processes, which forbids it to hand controllers down;
    they move into a group of their own, as Docker does for Docker in Docker.
    """
    handed_down = group / "cgroup.subtree_control"
    missing = set((group / "cgroup.controllers").read_text().split()) & _CONTROLLERS
    missing -= set(handed_down.read_text().split())
    wanted = " ".join(f"+{name}" for name in sorted(missing))
    if not wanted:
        return
    try:
        handed_down.write_text(wanted)
    except OSError:
        init = group / "init"
        init.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (init / "cgroup.procs").write_text(pid)
        handed_down.write_text(wanted)


def _deepest_first(group: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def _kill(group: Path) -> None:
    """Kill the processes of a group; those of a foreign pid namespace read as 0 and are left."""
    with suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            if int(pid) > 0:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
