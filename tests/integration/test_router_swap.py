"""Routes and revisions change under load: no request is lost, on kept connections nor on new ones, HTTP nor gRPC.

`PENSTOCK_FULL=1` makes 1,000 weight changes and 100 replacements of it.
"""

import asyncio
import contextlib
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import grpc.aio

from .routerpod import UNARY, RouterPod, Upstream, free_ports, running_router, split

FULL = bool(os.environ.get("PENSTOCK_FULL"))
CHANGES, REPLACEMENTS = (1000, 100) if FULL else (200, 20)
PAUSE = 0.004


@dataclass
class Load:
    """Requests of several clients until the context ends: who answered them, and what went wrong."""

    port: int
    answers: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    total: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        clients = [self._kept_http, self._kept_http, self._new_http, self._kept_grpc, self._kept_grpc, self._new_grpc]
        tasks = [asyncio.create_task(client()) for client in clients]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _kept_http(self) -> None:
        async with aiohttp.ClientSession() as session:
            await self._repeat(lambda: self._post(session))

    async def _new_http(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            await self._repeat(lambda: self._post(session), pause=2 * PAUSE)

    async def _kept_grpc(self) -> None:
        async with self._channel() as channel:
            await self._repeat(lambda: self._infer(channel))

    async def _new_grpc(self) -> None:
        async def one() -> str:
            async with self._channel() as channel:
                return await self._infer(channel)

        await self._repeat(one, pause=8 * PAUSE)

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)])

    async def _post(self, session: aiohttp.ClientSession) -> str:
        async with session.post(f"http://127.0.0.1:{self.port}/v2/models/digits/infer", data=b"x" * 2000) as answer:
            text = await answer.text()
            return text if answer.status == 200 else f"lost: {answer.status} {text}"

    async def _infer(self, channel: grpc.aio.Channel) -> str:
        return str((await channel.unary_unary(UNARY)(b"x" * 2000, timeout=10)).decode())

    async def _repeat(self, request: Callable[[], Awaitable[str]], pause: float = PAUSE) -> None:
        while True:
            try:
                answer = await request()
            except (aiohttp.ClientError, grpc.aio.AioRpcError) as error:
                answer = f"lost: {type(error).__name__} {error}"
            self.total += 1
            (self.lost if answer.startswith("lost") else self.answers)[answer] += 1
            await asyncio.sleep(pause)


async def test_weight_changes_lose_nothing(tmp_path: Path) -> None:
    [port] = free_ports(1)
    async with running_router(tmp_path) as pod, Upstream("a") as a, Upstream("b") as b:
        await pod.api.put_servers("digits-a", a)
        await pod.api.put_servers("digits-b", b)
        await pod.api.put_split(split("digits", port, {"a": 1000, "b": 0}))
        await pod.ready()
        async with Load(port).running() as load:
            for generation in range(2, CHANGES + 2):
                weight = generation * 137 % 1001
                await pod.api.put_split(split("digits", port, {"a": 1000 - weight, "b": weight}, generation))
                await pod.attested("digits", generation)
    print(f"{CHANGES} changes, {load.total} requests, lost {dict(load.lost)}, answers {dict(load.answers)}")
    assert not load.lost
    assert min(load.answers["a"], load.answers["b"]) > 0.3 * load.total


async def test_replacements_of_whole_revisions_lose_nothing(tmp_path: Path) -> None:
    """New cluster, warm, shift, old one taken out of the split and its server stopped after the drain."""
    [port] = free_ports(1)
    async with running_router(tmp_path, drain=0.5) as pod, contextlib.AsyncExitStack() as last:
        old = await last.enter_async_context(Upstream("r0"))
        await pod.api.put_servers("digits-r0", old)
        await pod.api.put_split(split("digits", port, {"r0": 1000}))
        await pod.ready()
        async with Load(port).running() as load:
            generation, stack = 1, last
            for turn in range(1, REPLACEMENTS + 1):
                generation, stack = await _replace(pod, port, turn, generation, stack)
        await stack.aclose()
        clusters = await pod.admin("/config_dump?resource=dynamic_active_clusters&mask=cluster.name")
    print(f"{REPLACEMENTS} replacements, {load.total} requests, lost {dict(load.lost)}")
    assert not load.lost
    assert set(load.answers) == {f"r{turn}" for turn in range(REPLACEMENTS + 1)}
    assert clusters.count('"name"') <= 6, "old clusters are pruned"


async def _replace(
    pod: RouterPod, port: int, turn: int, generation: int, stack: contextlib.AsyncExitStack
) -> tuple[int, contextlib.AsyncExitStack]:
    before, after = f"r{turn - 1}", f"r{turn}"
    fresh = contextlib.AsyncExitStack()
    server = await fresh.enter_async_context(Upstream(after))
    await pod.api.put_split(split("digits", port, {before: 1000, after: 0}, generation + 1))
    await pod.api.put_servers(f"digits-{after}", server)
    await pod.until("digits", lambda told: told["warm"].get(f"digits-{after}") == 1)
    await pod.api.put_split(split("digits", port, {before: 500, after: 500}, generation + 2))
    await pod.attested("digits", generation + 2)
    await pod.api.put_split(split("digits", port, {after: 1000}, generation + 3))
    await pod.attested("digits", generation + 3)
    await _answered_by_now(pod, f"digits-{before}")
    await pod.api.put_servers(f"digits-{before}")
    await asyncio.sleep(0.1)
    await stack.aclose()
    return generation + 3, fresh


async def _answered_by_now(pod: RouterPod, revision: str) -> None:
    """Until no request is on its way through the revision: its drain, on a machine that may be busy."""
    busy = re.compile(rf"^\S*/{re.escape(revision)}/\S*::rq_active::[1-9]", re.MULTILINE)
    async with asyncio.timeout(60):
        await asyncio.sleep(0.1)
        while busy.search(await pod.admin("/clusters")):  # noqa: ASYNC110 - Envoy notifies nobody
            await asyncio.sleep(0.05)


async def test_servers_come_and_go_without_loss(tmp_path: Path) -> None:
    """The same revision: a second server beside the first, then the first leaves while it still answers."""
    [port] = free_ports(1)
    async with running_router(tmp_path) as pod, Upstream("a") as one, Upstream("a") as two:
        await pod.api.put_servers("digits-a", one)
        await pod.api.put_split(split("digits", port, {"a": 1000}))
        await pod.ready()
        async with Load(port).running() as load:
            for _ in range(REPLACEMENTS):
                for servers in ((one, two), (two,), (two, one), (one,)):
                    await pod.api.put_servers("digits-a", *servers)
                    wanted = {"digits-a": len(servers)}
                    await pod.until("digits", lambda told, wanted=wanted: told["warm"] == wanted)
                    await asyncio.sleep(0.05)
    print(f"{4 * REPLACEMENTS} changes of servers, {load.total} requests, lost {dict(load.lost)}")
    assert not load.lost
    assert min(one.seen.total(), two.seen.total()) > 100


async def test_models_exchange_their_ports_and_others_lose_nothing(tmp_path: Path) -> None:
    """Three rotate, two swap, one follows another; Envoy by itself refuses a port that another listener has."""
    first, second, third, fourth, bystander = free_ports(5)
    layouts: list[dict[str, int]] = [
        {"m1": first, "m2": second, "m3": third},
        {"m1": second, "m2": third, "m3": first},
        {"m1": third, "m2": second, "m3": first},
        {"m1": first, "m2": third, "m3": fourth},
    ]
    async with running_router(tmp_path) as pod, contextlib.AsyncExitStack() as stack:
        for model in ("m1", "m2", "m3", "digits"):
            await pod.api.put_servers(f"{model}-a", await stack.enter_async_context(Upstream(model)))
        await pod.api.put_split(split("digits", bystander, {"a": 1000}))
        await pod.attested("digits", 1)
        fresh = aiohttp.TCPConnector(force_close=True)
        async with Load(bystander).running() as load, aiohttp.ClientSession(connector=fresh) as client:
            for generation, ports in enumerate(layouts, 1):
                for model, port in ports.items():
                    await pod.api.put_split(split(model, port, {"a": 1000}, generation))
                for model in ports:
                    told = await pod.attested(model, generation, 10)
                    assert not told["rejected"]
                for model, port in ports.items():
                    async with client.get(f"http://127.0.0.1:{port}/v2") as answer:
                        assert await answer.text() == model
    assert (load.lost, load.answers["digits"]) == ({}, load.total)
    assert "duplicate address" not in pod.log.read_text()
