"""The pod network: one bridge, one masquerading rule, one CNI configuration; and their removal.

Only what carries the cluster's own name or lies under its own folder is ever removed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.cluster.settings import Settings

_CNI_CACHE = Path("/var/lib/cni/results")
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
}


def create(settings: Settings) -> None:
    """Make the bridge with its address first, so that the API server can listen on it."""
    if not Path("/sys/class/net", settings.bridge).exists():
        _refuse_overlap(settings)
        shell.run("ip", "link", "add", settings.bridge, "type", "bridge")
        address = f"{settings.bridge_address}/{settings.pod_cidr.prefixlen}"
        shell.run("ip", "addr", "add", address, "dev", settings.bridge)
        shell.run("ip", "link", "set", settings.bridge, "up")
    _set_sysctls()
    for operation in ("-D", "-A"):
        _masquerade(settings, operation)
    _forward(settings, "-D")
    _forward(settings, "-A")
    _configure_cni(settings)


def remove(settings: Settings) -> None:
    """Remove bridge, rules and what the CNI plugins remember outside the cluster's folder."""
    _masquerade(settings, "-D")
    _forward(settings, "-D")
    if Path("/sys/class/net", settings.bridge).exists():
        shell.run("ip", "link", "del", settings.bridge)
    _remove_host_ports(settings)
    for entry in _CNI_CACHE.glob(f"{settings.bridge}-*"):
        entry.unlink()


def chains(settings: Settings) -> list[str]:
    """Return the packet-filter chains that the cluster made, in all tables."""
    ours = ("KUBE-", "CNI-HOSTPORT", "CNI-DN-")
    found = []
    for table in ("nat", "filter", "mangle"):
        rules = shell.run("iptables-save", "-t", table).splitlines()
        found += [
            line.split()[0][1:] for line in rules if line.startswith(tuple(f":{p}" for p in ours))
        ]
        found += [line for line in rules if f'"{settings.bridge}"' in line and "comment" in line]
    return found


def _set_sysctls() -> None:
    """Forward packets, also those that stay on the bridge, through the packet filter."""
    if not Path("/proc/sys/net/bridge").exists() and (modprobe := shutil.which("modprobe")):
        shell.succeeds(modprobe, "-q", "br_netfilter")
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if not path.exists():
            raise ClusterError(f"The kernel has no {name.replace('/', '.')}: load br_netfilter.")
        path.write_text(value)


def _masquerade(settings: Settings, operation: str) -> None:
    """Hide pods behind the host's address towards all but pods.

    One rule for all, instead of the bridge plugin's chain for every pod, leaves nothing behind
    when pods are killed without asking the plugin.
    """
    cidr = str(settings.pod_cidr)
    _iptables(
        *("-t", "nat", operation, "POSTROUTING", "-s", cidr, "!", "-d", cidr),
        *("-m", "comment", "--comment", f"{settings.bridge}: leave the pod network"),
        *("-j", "MASQUERADE"),
        check=operation != "-D",
    )


def _forward(settings: Settings, operation: str) -> None:
    """Accept forwarded packets of pods also where a firewall's policy drops them."""
    for direction in ("-i", "-o"):
        _iptables(
            *("-t", "filter", operation, "FORWARD", direction, settings.bridge),
            *("-m", "comment", "--comment", f"{settings.bridge}: pods"),
            *("-j", "ACCEPT"),
            check=operation != "-D",
        )


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


def _remove_host_ports(settings: Settings) -> None:
    """Remove the port map's chains of this network's pods, known by the comment they carry."""
    mark = f'\\"{settings.bridge}\\"'
    for line in shell.run("iptables-save", "-t", "nat").splitlines():
        if line.startswith("-A CNI-HOSTPORT-DNAT") and mark in line:
            chain = line.split()[-1]
            number = _rule_number("CNI-HOSTPORT-DNAT", chain)
            _iptables("-t", "nat", "-D", "CNI-HOSTPORT-DNAT", number)
            _iptables("-t", "nat", "-F", chain)
            _iptables("-t", "nat", "-X", chain)


def _rule_number(chain: str, target: str) -> str:
    lines = shell.run("iptables", "-t", "nat", "-n", "--line-numbers", "-L", chain).splitlines()
    return next(line.split()[0] for line in lines if target in line.split())


def _refuse_overlap(settings: Settings) -> None:
    """Raise when another interface already has the pod network; routing would be a lottery."""
    for entry in json.loads(shell.run("ip", "-json", "-4", "route", "show")):
        if entry.get("dst", "").partition("/")[0] == str(settings.pod_cidr.network_address):
            raise ClusterError(
                f"The pod network {settings.pod_cidr} is already routed to {entry.get('dev')}: "
                "choose another with PENSTOCK_POD_CIDR."
            )


