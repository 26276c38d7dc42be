"""The end of a router pod, the keeper of the agent, and the server that the kubelet and the operator ask."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock_runtime.agent import drain as module
from penstock_runtime.agent.clocks import Clocks
from penstock_runtime.agent.drain import Drain, is_allowed
from penstock_runtime.agent.server import Answer, serve

RUNTIME = Path(__file__).parents[2] / "runtime"
NODE = frozenset(["10.0.0.1", "10.244.0.1"])
PEERS = {
    "127.0.0.1": True,
    "::1": True,
    "::ffff:127.0.0.1": True,
    "10.0.0.1": True,
    "::ffff:10.244.0.1": True,
    "10.244.0.9": False,
    "fd00::9": False,
}


@pytest.mark.parametrize("peer", PEERS)
def test_only_the_pod_and_its_node_may_drain(peer: str) -> None:
    assert is_allowed(peer, NODE) is PEERS[peer]


class FakeEnvoy:
    """Counts down its active requests."""

    def __init__(self, *active: int, gone: bool = False) -> None:
        self.active, self.gone, self.drains = list(active), gone, 0

    async def start_drain(self) -> None:
        if self.gone:
            raise ConnectionRefusedError("gone")
        self.drains += 1

    async def active_requests(self) -> int:
        return self.active.pop(0) if self.active else 0


class FakeTime:
    """Sleeping moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, real = 0.0, asyncio.sleep

        async def sleep(seconds: float) -> None:
            self.now += seconds
            await real(0)

        monkeypatch.setattr(module.asyncio, "sleep", sleep)
        self.clocks = Clocks(monotonic=lambda: self.now, wall=lambda: self.now, boot="")


DRAINS: dict[str, tuple[list[int], float, float]] = {
    "nobody asks: 5 s, since other nodes learn late": ([], 60.0, 5.0),
    "until the last request is answered": ([3, 2, 1], 60.0, 5.75),
    "no longer than asked": ([1] * 1000, 10.0, 10.0),
    "a short drain is short": ([1] * 1000, 2.0, 2.0),
}


@pytest.mark.parametrize("case", DRAINS)
async def test_how_long_a_drain_takes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    active, seconds, expected = DRAINS[case]
    envoy, clock = FakeEnvoy(*active), FakeTime(monkeypatch)
    drain = Drain(envoy, seconds, clock.clocks)  # type: ignore[arg-type]
    await asyncio.gather(drain.wait(), drain.wait())
    assert (clock.now, envoy.drains, drain.started) == (expected, 1, True)


async def test_without_envoy_there_is_nothing_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch)
    await Drain(FakeEnvoy(gone=True), 60.0, clock.clocks).wait()  # type: ignore[arg-type]
    assert clock.now == 0


async def test_an_envoy_too_busy_to_hear_of_the_drain_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    envoy, clock = FakeEnvoy(2, 1), FakeTime(monkeypatch)
    told, mute = envoy.start_drain, [TimeoutError, TimeoutError]

    async def start_drain() -> None:
        if mute:
            raise mute.pop()
        await told()

    monkeypatch.setattr(envoy, "start_drain", start_drain)
    await Drain(envoy, 60.0, clock.clocks).wait()  # type: ignore[arg-type]
    assert (envoy.drains, envoy.active) == (1, [])


async def test_an_envoy_too_busy_to_say_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(FakeEnvoy):
        async def active_requests(self) -> int:
            if (left := await super().active_requests()) < 0:
                raise TimeoutError
            return left

    clock = FakeTime(monkeypatch)
    await Drain(Busy(-1, -1, 3, 0), 60.0, clock.clocks).wait()  # type: ignore[arg-type]
    assert clock.now == 5.75


async def test_the_server_answers_get_alone() -> None:
    async def hello(peer: str, query: dict[str, str]) -> Answer:
        return Answer.text(200, f"{peer} {query.get('x', '')}")

    async def broken(_peer: str, _query: dict[str, str]) -> Answer:
        raise ValueError("since is 'y'; expected seconds")

    server = await serve("127.0.0.1", 0, {"/hello": hello, "/broken": broken})
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    kept = aiohttp.TCPConnector(limit=1)
    async with server, aiohttp.ClientSession(connector=kept) as session:

        async def ask(method: str, path: str, **more: Any) -> tuple[int, str]:
            async with session.request(method, base + path, **more) as answer:
                return answer.status, (await answer.text()).strip()

        assert await ask("GET", "/hello?x=1") == (200, "127.0.0.1 1")
        assert await ask("GET", "/hello?x=2") == (200, "127.0.0.1 2")
        assert (await ask("POST", "/hello", data=b"x"))[0] == 405
        assert await ask("GET", "/other") == (404, "there is no /other; there are /broken, /hello")
        assert await ask("GET", "/hello?x=1&x=2") == (400, "x is given 2 times; expected once")
        last = await ask("GET", "/broken", headers={"Connection": "close"})
        assert last == (400, "since is 'y'; expected seconds")


CHILD = """
import os, sys, time
name = sys.argv[1]
turn = int(open(name).read() or 0) if os.path.exists(name) else 0
open(name, "w").write(str(turn + 1))
pipe = int(os.environ["PENSTOCK_HEARTBEAT"])
os.write(pipe, b".")
if turn == 0:
    sys.exit(3)
while turn == 2:
    os.write(pipe, b".")
    time.sleep(0.05)
time.sleep(60)
"""


def test_the_keeper_starts_again_what_dies_or_hangs_and_ends_with_sigterm(tmp_path: Path) -> None:
    """The first child dies, the second hangs, the third lives."""
    count = tmp_path / "count"
    program = (
        "import sys; from penstock_runtime.agent.keeper import Keeper; "
        "Keeper([sys.executable, '-c', sys.argv[1], sys.argv[2]], silence=0.5).run()"
    )
    keeper = subprocess.Popen(
        [sys.executable, "-c", program, CHILD, str(count)],
        env={"PYTHONPATH": str(RUNTIME)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (count.exists() and count.read_text() == "3") and time.monotonic() < deadline:
        time.sleep(0.02)
    keeper.send_signal(signal.SIGTERM)
    _, told = keeper.communicate(timeout=20)
    assert keeper.returncode == 0
    assert [line.partition("agent ")[2] for line in told.splitlines()] == [
        "ended with 3",
        "hung and was killed",
        "ended with -15",
    ]


async def test_the_agent_ends_with_sigterm_whoever_keeps_a_connection(tmp_path: Path) -> None:
    """Neither Envoy nor the API server is there yet; one client keeps a connection, another is in its first line."""
    ports = free_ports(5)
    names = ("AGENT", "ADMIN", "ATTEST", "STATS")
    environment = {f"PENSTOCK_{name}_PORT": str(port) for name, port in zip(names, ports, strict=False)} | {
        "PYTHONPATH": str(RUNTIME),
        "PENSTOCK_NAMESPACE": "vision",
        "PENSTOCK_ROUTER": "default",
        "PENSTOCK_RUN": str(tmp_path),
        "PENSTOCK_CREDENTIALS": str(tmp_path),
        "PENSTOCK_API": f"http://127.0.0.1:{ports[4]}",
    }
    command = [sys.executable, "-m", "penstock_runtime.agent"]
    agent = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    async with session.get(f"http://127.0.0.1:{ports[0]}/ready") as answer:
                        assert answer.status == 503
                        break
                await asyncio.sleep(0.02)
            _, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.write(b"GET /re")
            await writer.drain()
            agent.send_signal(signal.SIGTERM)
            _, told = await agent.communicate()
            writer.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            agent.kill()
    assert (agent.returncode, b"Traceback" in told) == (0, False), told.decode()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
