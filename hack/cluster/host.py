"""What the cluster needs from this machine: packages, free ports, forwarding."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.cluster.progress import step
from hack.cluster.settings import Settings, port_variable

_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ipset": "ipset",
    "openssl": "openssl",
}
"""A program that shows that a Debian package is there, and the package."""

_LISTEN = "0A"
_BRIDGE_PORTS = frozenset({"apiserver", "kubelet", "metrics-server", "dns"})
"""Ports on the bridge's address; the others are on loopback."""


def require_packages(packages: dict[str, str] | None = None) -> None:
    """Install what is missing; raise `ClusterError` when this machine does not let us."""
    wanted = _PACKAGES if packages is None else packages
    missing = sorted({name for program, name in wanted.items() if not shutil.which(program)})
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"These Debian packages are needed: as root, `apt-get install {names}`.")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    with step(f"install {names}", expect="about 20 seconds"):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            shell.run(*apt, *command, environment={"DEBIAN_FRONTEND": "noninteractive"})


def require_root() -> None:
    """Raise `ClusterError` unless this may make bridges, mounts and namespaces."""
    if os.geteuid() != 0:
        raise ClusterError("A kubelet and containers need root: run this with sudo.")


def require_free_ports(settings: Settings) -> None:
    """Raise `ClusterError` that names the first port that another program holds."""
    listening = list(_listening_tcp())
    for name, port in settings.ports.items():
        ours = settings.bridge_address if name in _BRIDGE_PORTS else "127.0.0.1"
        if any(taken == port and address in {ours, "0.0.0.0", "::"} for address, taken in listening):  # noqa: S104 - compared with, not bound to
            raise ClusterError(
                f"Port {port}, wanted for {name}, is in use by another program: stop that or "
                f"choose another port with {port_variable(name)}."
            )


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _listening_tcp() -> Iterable[tuple[str, int]]:
    """Read the kernel's tables of listening sockets: an address as text, and the port."""
    for table, size in (("tcp", 8), ("tcp6", 32)):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            local, state = line.split()[1], line.split()[3]
            address, _, port = local.partition(":")
            if state == _LISTEN:
                yield _address(address, size), int(port, 16)


def _address(hexadecimal: str, size: int) -> str:
    """Decode an address of ``/proc/net``: 32-bit words, each in host byte order."""
    words = [bytes.fromhex(hexadecimal[i : i + 8])[::-1] for i in range(0, size, 8)]
    family = socket.AF_INET if size == 8 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words))
