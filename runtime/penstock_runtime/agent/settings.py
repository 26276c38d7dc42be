"""What a router pod is told by its environment, and where its files and ports are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ports", "Settings"]

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Ports:
    """Ports of the pod; `admin` and `attest` listen on loopback only."""

    agent: int = 10091
    stats: int = 10090
    admin: int = 9901
    attest: int = 9902


@dataclass(frozen=True)
class Settings:
    """Everything that differs between router pods."""

    namespace: str
    router: str
    run: Path
    """The folder that agent and Envoy share; it outlives both containers, but not the pod."""
    drain: float
    """Seconds that a pod that goes away serves its last requests."""
    api: str
    credentials: Path
    """Folder of token and ca.crt."""
    node: frozenset[str]
    """Addresses of the node; its kubelet may start the drain."""
    ipv6: bool = False
    memory: int = 0
    """Bytes that Envoy's container may use; 0: not known."""
    ports: Ports = Ports()

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """From the environment; raises KeyError with the name of a variable that is missing."""
        found = os.environ if environment is None else environment
        ports = {name: int(value) for name in Ports.__annotations__ if (value := found.get(_port_variable(name)))}
        return cls(
            namespace=found["PENSTOCK_NAMESPACE"],
            router=found["PENSTOCK_ROUTER"],
            run=Path(found.get("PENSTOCK_RUN", "/run/penstock")),
            drain=float(found.get("PENSTOCK_DRAIN_SECONDS", "60")),
            api=found.get("PENSTOCK_API") or _in_cluster(found),
            credentials=Path(found.get("PENSTOCK_CREDENTIALS", _SERVICE_ACCOUNT)),
            node=frozenset(filter(None, (found.get("NODE_IP"), default_gateway()))),
            memory=int(found.get("PENSTOCK_ENVOY_MEMORY") or 0),
            ipv6=":" in found.get("POD_IP", ""),
            ports=Ports(**ports),
        )

    @property
    def anywhere(self) -> str:
        """All addresses of the pod, of both families where it has both."""
        return "::" if self.ipv6 else "0.0.0.0"  # noqa: S104 - clients, probes and scrapers come from outside the pod

    @property
    def envoy(self) -> Path:
        """What Envoy reads."""
        return self.run / "envoy"

    @property
    def units_log(self) -> Path:
        """Where Envoy logs failed and slow requests of sticky models."""
        return self.run / "units.log"

    @property
    def state(self) -> Path:
        """What only the agent reads."""
        return self.run / "state"


def _port_variable(name: str) -> str:
    return f"PENSTOCK_{name.upper()}_PORT"


def _in_cluster(found: Mapping[str, str]) -> str:
    host, port = found["KUBERNETES_SERVICE_HOST"], found["KUBERNETES_SERVICE_PORT"]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def default_gateway(table: Path = Path("/proc/net/route")) -> str | None:
    """The pod's IPv4 gateway: where a bridge is the pod network, the kubelet's requests come from it."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return None
    for row in rows:
        if len(row) > 2 and row[1] == "00000000" and row[2] != "00000000":
            return ".".join(str(part) for part in reversed(bytes.fromhex(row[2])))
    return None
