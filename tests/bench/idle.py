"""What Ready ModelDeployments cost while nothing changes, and what a start over them costs.

`make bench-idle` writes build/bench/idle.json. The real operator, in a process of its own and over TLS, looks after 50
Ready ModelDeployments on a private API server with the real controllers; pods have no node, their status is written as
a kubelet would write it (tests/integration/fakecluster.py). From 60 s after the last change its requests are counted
for SECONDS (600) in the API server's audit log, its CPU and memory are read from /proc. Needs neither root nor a
cluster. Exit code 1 when a bar is missed: no write but those of the lease, less than 1 % of a core.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hack.cluster.host import free_ports
from hack.cluster.settings import CHECKOUT
from tests.integration.apiserver import connected
from tests.integration.fakecluster import AuditedControlPlane, install_crds, pretending_kubelet
from tests.integration.operators import Operator, operator_environment, start_operator

from penstock.api.resource import API_VERSION, KIND
from penstock.kube.client import KubeClient

__all__ = ["BARS", "main", "measure"]

BARS = {"writes": 0, "cpu_percent": 1.0}
NAMESPACE, SYSTEM = "bench", "penstock-system"
USER = f"system:serviceaccount:{SYSTEM}:penstock"
READS = frozenset({"get", "list", "watch"})
PATIENCE = 900.0
_TICKS = os.sysconf("SC_CLK_TCK")
_HURRIED = "tests.bench.hurried"
"""The operator without its rate limit: it fills the cluster, it is never measured."""


@dataclass(frozen=True)
class Place:
    """Where it is measured: the administrator's client, the operator's own kubeconfig, and what it was heard asking."""

    client: KubeClient
    kubeconfig: Path
    audit: Path
    folder: Path
    port: int

    def start(self, module: str = "penstock.cli") -> Operator:
        """An operator for all namespaces; always the same pod, so that the lease is its own at once."""
        environment = operator_environment(
            self.kubeconfig,
            SYSTEM,
            identity="bench",
            PENSTOCK_WATCH_NAMESPACES="",
            PENSTOCK_PORT=str(self.port),
            PYTHONPATH=str(CHECKOUT),
        )
        return start_operator(environment, self.folder / "operator.log", module)

    def requests(self, since: float, until: float) -> "Requests":
        """What the operator asked between two moments of the wall clock."""
        return Requests(tuple(_heard(self.audit, since, until)))

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 while nobody answers."""
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{self.port}/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for series, _, value in lines if series.partition("{")[0] == name)


@dataclass(frozen=True)
class Requests:
    """Verb and resource of each."""

    asked: tuple[tuple[str, str], ...]

    @property
    def writes(self) -> int:
        """Writes, those of the lease aside."""
        return sum(verb not in READS and resource != "leases" for verb, resource in self.asked)

    def by_verb(self) -> dict[str, int]:
        """All of them, `update leases` for example."""
        return dict(sorted(Counter(f"{verb} {resource}" for verb, resource in self.asked).items()))


async def measure(count: int, seconds: float, rest: float, starts: Iterable[int], folder: Path) -> dict[str, Any]:
    """Idle with `count`, then starts over each number of ModelDeployments, in rising order."""
    async with _place(folder) as place:
        found: dict[str, Any] = {"deployments": count}
        await _fill(place, 0, count)
        startups = {str(count): await _start_up(place, count)}
        operator = place.start()
        try:
            await _ready(place, count)
            found |= await _idle(place, operator, seconds, rest)
        finally:
            await operator.terminate()
        filled = count
        for number in starts:
            await _fill(place, filled, number)
            startups[str(number)] = await _start_up(place, number)
            filled = number
        missed = [name for name, bar in BARS.items() if not (found[name] == 0 if bar == 0 else found[name] < bar)]
        missed += [f"startup {number}" for number, start in startups.items() if start["writes"]]
        return {**found, "startup": startups, "bars": BARS, "missed": missed}


@asynccontextmanager
async def _place(folder: Path) -> AsyncIterator[Place]:
    with AuditedControlPlane(folder / "control-plane", controllers=True) as cluster:
        kubeconfig = cluster.user(USER, ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}"])
        async with connected(cluster.kubeconfig) as client, pretending_kubelet(cluster.kubeconfig):
            await install_crds(client)
            for name in (NAMESPACE, SYSTEM):
                await client.post({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            await _allow_everything(client)
            yield Place(client, kubeconfig, cluster.audit, folder, free_ports(1)[0])


async def _allow_everything(client: KubeClient) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }
    path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    answer = await client.connection.send("POST", path, body=binding)
    assert answer.code == 201, answer.body


async def _fill(place: Place, first: int, last: int) -> None:
    """Make them, have them prepared and served, and wait until each is Ready."""
    _say(f"making {last - first} ModelDeployments")
    operator = place.start(_HURRIED)
    try:
        for number in range(first, last):
            await place.client.post(_deployment(number))
        async with asyncio.timeout(PATIENCE):
            while await _available(place) < last:  # noqa: ASYNC110 - the API server is asked
                await asyncio.sleep(1)
    finally:
        await operator.terminate()


def _deployment(number: int) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"model-{number:04}", "namespace": NAMESPACE},
        "spec": {"model": {"uri": f"oci://models.example/digits:n{number}"}},
    }


async def _available(place: Place) -> int:
    found = await place.client.list(KIND, NAMESPACE)
    return sum(item.get("status", {}).get("phase") == "Available" for item in found.items)


async def _ready(place: Place, count: int) -> dict[str, float]:
    """Wait until it leads, has listed everything and has looked at each once; seconds from now."""
    started, marks = time.monotonic(), {}
    async with asyncio.timeout(PATIENCE):
        for mark, name, least in (("leading", "penstock_leader", 1), ("reconciled", "penstock_reconcile_total", count)):
            while await place.metric(name) < least:  # noqa: ASYNC110 - another process is asked
                await asyncio.sleep(0.05)
            marks[f"{mark}_s"] = round(time.monotonic() - started, 2)
    return marks


async def _start_up(place: Place, count: int) -> dict[str, Any]:
    """From the process's start until each ModelDeployment was looked at once."""
    await asyncio.sleep(5)
    _say(f"starting over {count} ModelDeployments")
    since = time.time()
    operator = place.start()
    try:
        marks = await _ready(place, count)
        cpu, memory = _cpu_seconds(operator.pid), _memory(operator.pid)
        await asyncio.sleep(2)
        asked = place.requests(since, time.time())
    finally:
        await operator.terminate()
    return {**marks, "cpu_s": round(cpu, 2), **memory, "writes": asked.writes, "requests": asked.by_verb()}


async def _idle(place: Place, operator: Operator, seconds: float, rest: float) -> dict[str, Any]:
    _say(f"resting {rest:.0f} s, then measuring {seconds:.0f} s")
    await asyncio.sleep(rest)
    since, cpu = time.time(), _cpu_seconds(operator.pid)
    passes = await place.metric("penstock_reconcile_total")
    await asyncio.sleep(seconds)
    until, used = time.time(), _cpu_seconds(operator.pid) - cpu
    passes = await place.metric("penstock_reconcile_total") - passes
    asked = place.requests(since, until)
    return {
        "seconds": round(until - since, 1),
        "writes": asked.writes,
        "requests": asked.by_verb(),
        "requests_per_minute": round(len(asked.asked) / (until - since) * 60, 1),
        "reconciles": int(passes),
        "cpu_percent": round(100 * used / (until - since), 3),
        **_memory(operator.pid),
    }


def _heard(audit: Path, since: float, until: float) -> Iterable[tuple[str, str]]:
    with audit.open() as lines:
        for line in lines:
            entry = json.loads(line)
            asked = datetime.fromisoformat(entry["requestReceivedTimestamp"]).astimezone(UTC).timestamp()
            if entry["user"]["username"] == USER and since <= asked <= until:
                reference = entry.get("objectRef", {})
                yield entry["verb"], "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int) -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        name: round(int(lines[field].split()[0]) / 1024, 1)
        for name, field in (("rss_mib", "VmRSS"), ("peak_mib", "VmHWM"))
    }


def _get(url: str) -> str:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", flush=True)


def main() -> int:
    """Measure, write the file, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS", "600")))
    parser.add_argument("--rest", type=float, default=60, help="seconds after the last change that do not count")
    parser.add_argument("--starts", type=int, nargs="*", default=[500], help="ModelDeployments to measure a start over")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "bench" / "idle.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-idle-") as folder:
        found = asyncio.run(
            measure(options.deployments, options.seconds, options.rest, sorted(options.starts), Path(folder))
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
