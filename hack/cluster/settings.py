"""Where the cluster lives and which addresses it takes, all changeable by environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hack.cluster.errors import ClusterError

CHECKOUT = Path(__file__).resolve().parents[2]
"""The repository that this code belongs to; the owner recorded in ``cluster.json``."""

_PODS = ipaddress.IPv4Network("10.88.0.0/16")
_SERVICES = ipaddress.IPv4Network("10.96.0.0/16")

DEFAULT_PORTS: Mapping[str, int] = {
    "apiserver": 6443,
    "etcd": 2379,
    "etcd-peer": 2380,
    "controller-manager": 10257,
    "scheduler": 10259,
    "kubelet": 10250,
    "kubelet-healthz": 10248,
    "kube-proxy-healthz": 10256,
    "kube-proxy-metrics": 10249,
    "metrics-server": 10443,
    "dns": 53,
}


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for what is expensive to make and safe to keep between checkouts."""
    if chosen := environ.get("PENSTOCK_CACHE"):
        return Path(chosen)
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "penstock"


@dataclass(frozen=True)
class Settings:
    """Everything about the cluster that a machine may need otherwise."""

    directory: Path = Path("/var/lib/penstock/cluster")
    cache: Path = field(default_factory=cache_dir)
    pod_cidr: ipaddress.IPv4Network = _PODS
    service_cidr: ipaddress.IPv4Network = _SERVICES
    bridge: str = "penstock0"
    node: str = "penstock"
    network_policy: bool = True
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read ``PENSTOCK_*``; raise `ClusterError` for a value that cannot be used."""
        try:
            return cls(
                directory=Path(environ.get("PENSTOCK_CLUSTER_DIR") or cls.directory).absolute(),
                cache=cache_dir(environ).absolute(),
                pod_cidr=ipaddress.IPv4Network(environ.get("PENSTOCK_POD_CIDR") or cls.pod_cidr),
                service_cidr=ipaddress.IPv4Network(environ.get("PENSTOCK_SERVICE_CIDR") or cls.service_cidr),
                bridge=environ.get("PENSTOCK_BRIDGE") or cls.bridge,
                network_policy=_flag(environ, default=cls.network_policy),
                ports={
                    name: int(environ.get(port_variable(name)) or default) for name, default in DEFAULT_PORTS.items()
                },
            )
        except ValueError as error:
            raise ClusterError(f"A PENSTOCK_* environment variable is wrong: {error}.") from error

    @property
    def addresses(self) -> dict[str, str]:
        """What a running cluster's record says of them; `as_started` reads it back."""
        return {
            "server": self.server,
            "pods": str(self.pod_cidr),
            "services": str(self.service_cidr),
            "bridge": self.bridge,
            "dns": self.bridge_address,
            "dns-port": str(self.ports["dns"]),
        }

    def as_started(self, addresses: Mapping[str, str]) -> Settings:
        """Return the settings that a running cluster was started with.

        Whoever looks at it, or takes it down, may have another environment.
        """
        if not addresses:
            return self
        return replace(
            self,
            pod_cidr=ipaddress.IPv4Network(addresses["pods"]),
            service_cidr=ipaddress.IPv4Network(addresses["services"]),
            bridge=addresses["bridge"],
            ports={
                **self.ports,
                "apiserver": int(addresses["server"].rpartition(":")[2]),
                "dns": int(addresses["dns-port"]),
            },
        )

    @property
    def bridge_address(self) -> str:
        """The host's address on the pod network: API server, DNS and kubelet listen there."""
        return str(self.pod_cidr.network_address + 1)

    @property
    def kubernetes_service_address(self) -> str:
        """The first service address, which the API server gives to ``default/kubernetes``."""
        return str(self.service_cidr.network_address + 1)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.bridge_address}:{self.ports['apiserver']}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def logs(self) -> Path:
        """One ``<component>.log`` each, and ``audit.jsonl``."""
        return self.directory / "log"

    @property
    def containerd_socket(self) -> Path:
        """The socket of this cluster's own containerd."""
        return self.directory / "containerd.sock"

    @property
    def record(self) -> Path:
        """The JSON file that says who started the cluster and which processes it is."""
        return self.directory / "cluster.json"

    @property
    def lock(self) -> Path:
        """Held during `up` and `down`; beside the folder, because `down` removes the folder."""
        return self.directory.with_name(self.directory.name + ".lock")


def port_variable(name: str) -> str:
    """Return the environment variable that moves port ``name``."""
    return "PENSTOCK_PORT_" + name.upper().replace("-", "_")


def _flag(environ: Mapping[str, str], *, default: bool) -> bool:
    value = environ.get("PENSTOCK_NETWORK_POLICY", environ.get("NETWORK_POLICY", ""))
    return default if value == "" else value not in {"0", "false", "no"}
