"""What a router pod costs with 200 models, idle and with traffic, and how fast a weight changes.

`make bench-fleet` writes build/bench/fleet.json. The real agent and the real Envoy run as processes of their own
(tests/integration/routerpod.py) against a pretended API server; each model has a stable revision and all of them one
small server, so health checks are as many as in a real fleet. CPU and memory are read from /proc, for SECONDS (30) each
while nobody asks, while 5 models share 200 requests/s and one is watched every second as in a rollout, and while all
models have a little. A weight change is timed from the watch event being sent to the agent telling it as attested.
Exit code 1 when a bar is missed: the agent below 64 MiB, half an hour of 200 busy models included, and below 1 % of a
core while idle.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.integration.routerpod import PretendedApi, RouterPod, running_router, split, uid_of

from penstock_runtime.agent.http import Client
from penstock_runtime.agent.observe import answer
from penstock_runtime.agent.ring import KEPT, Rings
from penstock_runtime.agent.state import RouteState
from penstock_runtime.agent.stats import BOUNDS, LOOK, read_path

__all__ = ["BARS", "main", "measure"]

BARS = {"agent_mib": 64.0, "agent_idle_percent": 1.0}
FIRST_PORT = 24000
_TICKS = os.sysconf("SC_CLK_TCK")
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Server:
    """Answers everything at once; it stands for every revision."""

    address: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.address, 0)
        self.http_port = self.grpc_port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(OSError, EOFError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)
        self.writers.discard(writer)
        writer.close()


@dataclass(frozen=True)
class Cost:
    """CPU time of both processes at a moment."""

    at: float
    agent: float
    envoy: float

    @classmethod
    def now(cls, pod: RouterPod) -> "Cost":
        assert pod.agent is not None
        assert pod.envoy is not None
        return cls(time.monotonic(), _cpu_seconds(pod.agent.pid), _cpu_seconds(pod.envoy.pid))

    def since(self, earlier: "Cost") -> dict[str, float]:
        """Percent of a core."""
        seconds = self.at - earlier.at
        return {
            "agent_percent": round(100 * (self.agent - earlier.agent) / seconds, 2),
            "envoy_percent": round(100 * (self.envoy - earlier.envoy) / seconds, 2),
        }


async def measure(models: int, seconds: float, changes: int, folder: Path) -> dict[str, Any]:
    """All figures; `models` at least 6."""
    async with Server() as server, running_router(folder) as pod:
        found: dict[str, Any] = {"models": models, "cores": os.cpu_count()}
        found["ready_s"] = await _fill(pod, pod.api, server, models)
        _say("idle")
        found["idle"] = {**await _cost_of(pod, seconds), **_memory(pod), **await _scrapes(pod)}
        found["idle"]["envoy_percent_unasked"] = await _unasked(pod, seconds)
        _say(f"{changes} weight changes")
        found["propagation_ms"] = await _propagation(pod, changes)
        _say("5 models with 200 requests/s, one of them watched")
        found["rollout"] = await _under_load(pod, range(5), 40, seconds, lambda: _watch(pod, "m0"))
        _say("all models with 1 request/s")
        found["busy"] = await _under_load(pod, range(models), 1, seconds, lambda: _watch(pod, "m0"))
        found["load_average"] = os.getloadavg()[0]
    _say("half an hour of rings")
    found["rings"] = _rings(models)
    agent = found["busy"]["agent_mib"] + found["rings"]["mib"]
    found["bars"] = {
        "agent_mib": {"limit": BARS["agent_mib"], "seen": round(agent, 1)},
        "agent_idle_percent": {"limit": BARS["agent_idle_percent"], "seen": found["idle"]["agent_percent"]},
    }
    found["missed"] = [name for name, bar in found["bars"].items() if bar["seen"] > bar["limit"]]
    return found


async def _fill(pod: RouterPod, api: PretendedApi, server: Server, models: int) -> float:
    began = time.monotonic()
    for n in range(models):
        for revision in ("a", "b") if n == 0 else ("a",):
            await api.put_servers(f"m{n}-{revision}", server)  # type: ignore[arg-type]
        weights = {"a": 900, "b": 100} if n == 0 else {"a": 1000}
        await api.put_split(split(f"m{n}", FIRST_PORT + n, weights))
    await pod.ready(120)
    for n in range(models):
        await pod.attested(f"m{n}", 1, 60)
    return round(time.monotonic() - began, 2)


async def _cost_of(pod: RouterPod, seconds: float) -> dict[str, float]:
    await asyncio.sleep(3)
    before = Cost.now(pod)
    await asyncio.sleep(seconds)
    return Cost.now(pod).since(before)


async def _unasked(pod: RouterPod, seconds: float) -> float:
    """Envoy's own cost, health checks above all, while the agent is stopped; the rest is what looking costs it."""
    assert pod.agent is not None
    pod.agent.send_signal(signal.SIGSTOP)
    try:
        return (await _cost_of(pod, seconds))["envoy_percent"]
    finally:
        pod.agent.send_signal(signal.SIGCONT)


async def _propagation(pod: RouterPod, changes: int) -> dict[str, float]:
    """From an event to every new request meeting it; the agent is asked every 2 ms, which is included."""
    client, times = Client(pod.agent_url), []
    for n in range(changes):
        began = time.monotonic()
        await pod.api.put_split(split("m0", FIRST_PORT, {"a": 900 - n % 800, "b": 100 + n % 800}, n + 2))
        while await _generation(client) != n + 2:  # noqa: ASYNC110 - another process attests
            await asyncio.sleep(0.002)
        times.append(1000 * (time.monotonic() - began))
        await asyncio.sleep(0.02)
    client.close()
    return {**_quantiles(times), "n": changes}


async def _generation(client: Client) -> int:
    told = json.loads(await client.get(f"/v1/observe?uid={uid_of('m0')}"))
    return int(told["splits"][uid_of("m0")]["generation"])


async def _scrapes(pod: RouterPod) -> dict[str, Any]:
    """Size and time of what the agent reads every second, and of what Prometheus would."""
    admin, stats = Client(f"http://127.0.0.1:{pod.admin_port}"), Client(f"http://127.0.0.1:{pod.stats_port}")
    pages: dict[str, Callable[[], Awaitable[bytes]]] = {
        "look": lambda: admin.get(LOOK),
        "read_one": lambda: admin.get(read_path([uid_of("m0")[:8]])),
        "read_all": lambda: admin.get(read_path()),
        "prometheus": lambda: stats.get("/stats/prometheus"),
    }
    found = {}
    for name, page in pages.items():
        times = []
        for _ in range(10):
            began = time.monotonic()
            size = len(await page())
            times.append(1000 * (time.monotonic() - began))
        found[name] = {"bytes": size, **_quantiles(times)}
    admin.close()
    stats.close()
    return {"scrapes": found}


async def _under_load(
    pod: RouterPod, models: Sequence[int], rate: float, seconds: float, watch: Callable[[], Awaitable[None]]
) -> dict[str, Any]:
    sent: list[int] = []
    tasks = [asyncio.create_task(_client(FIRST_PORT + n, rate, sent)) for n in models]
    tasks.append(asyncio.ensure_future(watch()))
    try:
        found: dict[str, Any] = await _cost_of(pod, seconds)
        found |= {**_memory(pod), **await _scrapes(pod), "requests": len(sent), "failed": sum(map(_is_bad, sent))}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


def _is_bad(status: int) -> bool:
    return status != 200


async def _client(port: int, rate: float, sent: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        due = time.monotonic() + random.random() / rate
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += 1 / rate
            writer.write(b"GET /v2/models/m/ready HTTP/1.1\r\nhost: bench\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            sent.append(int(head.split(b" ", 2)[1]))
    finally:
        writer.close()


async def _watch(pod: RouterPod, model: str) -> None:
    """What the operator does with a model in a rollout: the last rows, every second."""
    client, since = Client(pod.agent_url), 0
    try:
        while True:
            told = json.loads(await client.get(f"/v1/observe?uid={uid_of(model)}&since={since}"))
            rows = told["splits"][uid_of(model)]["rows"]
            since = rows[-1][0] if rows else since
            await asyncio.sleep(1)
    finally:
        client.close()


class _OneRoute:
    def __init__(self, state: RouteState) -> None:
        self._state = state

    def get(self, uid: str) -> RouteState | None:
        return self._state if uid == self._state.uid else None

    def all(self) -> list[RouteState]:
        return [self._state]


def _rings(models: int) -> dict[str, Any]:
    """Memory of full rings, two revisions with 100 requests a second each, from 8; and the longest answer."""
    chance, uids, some = random.Random("rings"), [uid_of(f"m{n}") for n in range(models)], 8
    texts = [_busy_second(chance) for _ in range(500)]
    keep = frozenset(uids[:some])
    tracemalloc.start()
    rings = Rings()
    for second in range(KEPT):
        rings.open(1_700_000_000 + second)
        for uid in keep:
            rings.write(uid, '{"generation":1}', texts[chance.randrange(500)])
        rings.tidy(keep)
    size = tracemalloc.get_traced_memory()[0] / some
    tracemalloc.stop()
    routes, uid = _OneRoute(RouteState(uids[0], 1, {"a": 1000})), uids[0]
    began = time.perf_counter()
    text = answer(routes, rings, [uid], rings.last - 900, rings.last, lambda _: {})
    took = time.perf_counter() - began
    return {
        "kib_per_busy_model": round(size / 1024, 1),
        "mib": round(size * models / 2**20, 1),
        "answer_of_900_rows": {"ms": round(1000 * took, 2), "bytes": len(text)},
    }


def _busy_second(chance: random.Random) -> str:
    def one() -> str:
        latency = [0] * (len(BOUNDS) + 1)
        for _ in range(100):
            latency[min(len(BOUNDS), int(chance.lognormvariate(2, 0.5)))] += 1
        return f"[100,{int(chance.random() < 0.1)},0,0,[{','.join(map(str, latency))}]]"

    return f'{{"digits-5b8d0c11":{one()},"digits-7c9f41d2":{one()}}}'


def _quantiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    places = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) for name, share in places.items()}


def _memory(pod: RouterPod) -> dict[str, float]:
    assert pod.agent is not None
    assert pod.envoy is not None
    return {"agent_mib": _rss(pod.agent.pid), "envoy_mib": _rss(pod.envoy.pid)}


def _rss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> int:
    """Measure, write the file, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS", "30")))
    parser.add_argument("--changes", type=int, default=100)
    output = Path(__file__).resolve().parents[2] / "build" / "bench" / "fleet.json"
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-fleet-") as folder:
        found = asyncio.run(measure(options.models, options.seconds, options.changes, Path(folder)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
