"""Removing a cluster, whole or half-dead, and proving that nothing of it is left."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from hack.cluster import binaries, containers, network, process, shell
from hack.cluster.errors import ClusterError
from hack.cluster.process import Process
from hack.cluster.record import Record
from hack.cluster.settings import Settings

_ORDER: tuple[tuple[str, ...], ...] = (
    ("kubelet", "kube-proxy", "network-policy", "coredns", "metrics-server")
    + ("kube-scheduler", "kube-controller-manager"),
    ("kube-apiserver",),
    ("etcd",),
)
_LOG_LINKS = Path("/var/log/containers")


def remove(settings: Settings, found: Record | None) -> list[str]:
    """Stop and remove everything; return a line for each thing that would not go."""
    recorded = found.processes if found else ()
    for names in _ORDER[:1]:
        process.stop([p for p in recorded if p.name in names], 3)
    _stop_containers(settings, recorded)
    for names in _ORDER[1:]:
        process.stop([p for p in recorded if p.name in names], 5)
    process.stop(recorded, 5)
    process.stop(_strays(settings), 2)
    _unmount(settings)
    _remove_chains(settings)
    network.remove(settings)
    _remove_cgroups()
    _remove_log_links(settings)
    shutil.rmtree(settings.directory, ignore_errors=True)
    return remains(settings)


def remains(settings: Settings) -> list[str]:
    """Return what is left of a removed cluster, one line for each kind of thing."""
    left = {
        "processes": [str(p.pid) for p in _strays(settings)],
        "mounts": _mounts(settings),
        "packet-filter chains": network.chains(settings),
        "control groups": [str(path) for path in _cgroups()],
        "bridges": [settings.bridge] if Path("/sys/class/net", settings.bridge).exists() else [],
        "folders": [str(settings.directory)] if settings.directory.exists() else [],
    }
    return [f"{len(things)} {kind}: {', '.join(things)}" for kind, things in left.items() if things]


def _stop_containers(settings: Settings, recorded: tuple[Process, ...]) -> None:
    containerd = next((p for p in recorded if p.name == "containerd"), None)
    if containerd and containerd.alive():
        with suppress(ClusterError):
            containers.stop_all(settings)


def _strays(settings: Settings) -> list[Process]:
    """Return processes that name the cluster's folder, such as a dead containerd's shims.

    Only programs of the cluster itself are meant; an editor or `tail` with a log open is not.
    """
    found = []
    for pid in process.with_arguments(f"{settings.directory}/"):
        with suppress(OSError):
            program = Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
            if program in _PROGRAMS and (one := process.identify(program, pid)):
                found.append(one)
    return found


_PROGRAMS = frozenset(
    {"containerd", "containerd-shim-runc-v2", "coredns", "etcd", "kubelet", "kube-proxy"}
    | {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "metrics-server"}
    | {"kube-network-policies", "kube-router"}
)


def _mounts(settings: Settings) -> list[str]:
    """Return mounts below the cluster's folder, innermost first."""
    lines = Path("/proc/mounts").read_text().splitlines()
    points = (line.split()[1].encode().decode("unicode_escape") for line in lines)
    return sorted((p for p in points if p.startswith(f"{settings.directory}/")), reverse=True)


def _unmount(settings: Settings) -> None:
    for point in _mounts(settings):
        shell.succeeds("umount", point) or shell.succeeds("umount", "-l", point)


def _remove_chains(settings: Settings) -> None:
    if (program := binaries.built("kube-proxy", settings.cache)) is not None:
        shell.succeeds(program, "--cleanup", patience=30)


def _cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [path for pattern in ("kubepods", "*/kubepods") for path in root.glob(pattern)]


def _remove_cgroups() -> None:
    """Remove the kubelet's trees; a group that still holds a process refuses, and is reported."""
    deadline = time.monotonic() + 3
    while (trees := _cgroups()) and time.monotonic() < deadline:
        for tree in trees:
            for path in sorted((p for p in tree.rglob("*") if p.is_dir()), reverse=True):
                with suppress(OSError):
                    path.rmdir()
            with suppress(OSError):
                tree.rmdir()
        time.sleep(0.05)


def _remove_log_links(settings: Settings) -> None:
    """Remove the links to pods' logs that the kubelet makes outside its own folder."""
    for link in _LOG_LINKS.glob("*.log"):
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{settings.directory}/"):
                link.unlink()
