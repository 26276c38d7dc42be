"""The pod network: one bridge and its CNI configuration; and their removal."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.cluster.settings import Settings

_CNI_CACHE = Path("/var/lib/cni/results")
_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}


def create(settings: Settings) -> None:
    """Make the bridge with its address first, so that the API server can listen on it."""
    if not exists(settings):
        _refuse_overlap(settings)
        shell.run("ip", "link", "add", settings.bridge, "type", "bridge")
        address = f"{settings.bridge_address}/{settings.pod_cidr.prefixlen}"
        shell.run("ip", "addr", "add", address, "dev", settings.bridge)
        shell.run("ip", "link", "set", settings.bridge, "up")
    _set_sysctls()
    _configure_cni(settings)


def exists(settings: Settings) -> bool:
    """Say whether the bridge is there."""
    return Path("/sys/class/net", settings.bridge).exists()


def remove(settings: Settings) -> None:
    """Remove the bridge, and what the CNI library remembers of our pods outside our folder."""
    if exists(settings):
        shell.run("ip", "link", "del", settings.bridge)
    for entry in _CNI_CACHE.glob("*-*"):
        with suppress(OSError):
            if f'"{settings.directory}/' in entry.read_text(errors="replace"):
                entry.unlink()


def _configure_cni(settings: Settings) -> None:
    folder = settings.directory / "cni"
    folder.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": settings.bridge,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(settings.directory / "cni-addresses"),
            "ranges": [[{"subnet": str(settings.pod_cidr)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    content = {"cniVersion": "1.0.0", "name": settings.bridge, "plugins": [bridge, ports]}
    (folder / "10-penstock.conflist").write_text(json.dumps(content, indent=1))


def _set_sysctls() -> None:
    """Forward packets, also those that stay on the bridge, through the packet filter."""
    if not Path("/proc/sys/net/bridge").exists() and (modprobe := shutil.which("modprobe")):
        shell.succeeds(modprobe, "-q", "br_netfilter")
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if not path.exists():
            raise ClusterError(f"The kernel has no {name.replace('/', '.')}: load br_netfilter.")
        path.write_text(value)


def _refuse_overlap(settings: Settings) -> None:
    """Raise when another interface already has the pod network; routing would be a lottery."""
    for entry in json.loads(shell.run("ip", "-json", "-4", "route", "show")):
        if entry.get("dst", "").partition("/")[0] == str(settings.pod_cidr.network_address):
            raise ClusterError(
                f"The pod network {settings.pod_cidr} is already routed to {entry.get('dev')}: "
                "choose another with PENSTOCK_POD_CIDR."
            )
