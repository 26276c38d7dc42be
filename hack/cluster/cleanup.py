"""Removing a cluster, whole or half-dead, and proving that nothing of it is left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hack.cluster import binaries, cgroups, containers, network, packetfilter, process, shell
from hack.cluster.errors import ClusterError
from hack.cluster.process import Process
from hack.cluster.record import Record
from hack.cluster.settings import Settings

_LOG_LINKS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_PROGRAMS = frozenset(
    {"containerd", "containerd-shim-runc-v2", "coredns", "etcd", "kubelet", "kube-proxy"}
    | {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "metrics-server"}
    | {"kube-router"}
)


def remove(settings: Settings, found: Record | None) -> list[str]:
    """Stop and remove everything; return a line for each thing that would not go.

    Nobody will miss the state, so all but containerd are killed outright: first what restarts
    containers, then, through containerd's socket, the containers, then the rest.
    """
    recorded = found.processes if found else ()
    settings = settings.as_started(found.addresses) if found else settings
    process.stop([p for p in recorded if p.name != "containerd"], 0)
    _stop_containers(settings, recorded)
    process.stop(recorded, 5)
    process.stop(_strays(settings), 0)
    cgroups.remove()
    _unmount(settings)
    _remove_chains(settings)
    network.remove(settings)
    _remove_kubelet_files(settings)
    shell.succeeds("rm", "-rf", "--one-file-system", settings.directory)
    return remains(settings)


def remains(settings: Settings) -> list[str]:
    """Return what is left of a removed cluster, one line for each kind of thing."""
    left = {
        "processes": [str(p.pid) for p in _strays(settings)],
        "mounts": _mounts(settings),
        "packet-filter chains": packetfilter.remains(settings),
        "control groups": [str(path) for path in cgroups.remains()],
        "bridges": [settings.bridge] if network.exists(settings) else [],
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
    packetfilter.remove(settings)


def _remove_kubelet_files(settings: Settings) -> None:
    """Remove the few things that a kubelet makes at fixed places, whatever its own folder."""
    for link in _LOG_LINKS.glob("*.log"):
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{settings.directory}/"):
                link.unlink()
    for name in ("kubelet.sock", "kubelet_internal_checkpoint"):
        (_DEVICE_PLUGINS / name).unlink(missing_ok=True)
    for folder in (_LOG_LINKS, _DEVICE_PLUGINS, _DEVICE_PLUGINS.parent):
        with suppress(OSError):
            folder.rmdir()
