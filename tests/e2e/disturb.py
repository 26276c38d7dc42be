"""What is done to a cluster under test: processes frozen and killed, packets dropped. Only the local one allows it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hack.cluster import record
from hack.cluster.settings import Settings

from .cluster import Object

_PROC = Path("/proc")


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stopped, whatever they were about to do; they go on at the end of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def component(name: str) -> int:
    """The pid of a component of the local cluster, `kube-apiserver` or `coredns`."""
    found = record.read(Settings.from_environment().record)
    process = found.process(name) if found else None
    assert process, f"no {name} in the local cluster's record"
    assert process.alive(), f"{name} of the local cluster has ended"
    return process.pid


def container_pids(pod: Object, container: str) -> list[int]:
    """Processes of a running container as this machine numbers them, the first started first."""
    status = pod["status"]
    states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    (name,) = [state["containerID"].rpartition("/")[2] for state in states if state["name"] == container]
    found = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit() and name in _cgroup(entry)]
    started = {pid: moment for pid in found if (moment := _started(pid)) is not None}
    assert started, f"no process of container {container} of {pod['metadata']['name']} was found"
    return sorted(started, key=started.__getitem__)


def processes(pod: Object, container: str, words: str) -> list[int]:
    """Those of a container whose command line has these words."""
    pids = container_pids(pod, container)
    return [pid for pid in pids if words in _command_line(pid)]


def kill(*pids: int) -> None:
    """At once and without a word."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def packets_dropped(port: int) -> Iterator[None]:
    """Nothing between pods reaches this TCP port; what this machine itself asks does."""
    match = ("-p", "tcp", "--dport", str(port), "-m", "comment", "--comment", "penstock e2e")
    rule = ("PREROUTING", *match, "-j", "DROP")
    subprocess.run(["iptables", "-w", "-t", "raw", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "-t", "raw", "-D", *rule], check=True)


def wait_until(condition, what: str, seconds: float = 120, every: float = 0.2) -> None:
    """Ask again and again; raises AssertionError with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(every)


def _cgroup(entry: Path) -> str:
    try:
        return (entry / "cgroup").read_text()
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """None when it has ended meanwhile: it must not pass for the first one, which keeps its container up."""
    try:
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None
