"""Large calls by the dozen: Envoy refuses some of them before the kernel ends it for the memory they take."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import grpc.aio

from .routerpod import UNARY, RouterPod, Upstream, free_ports, running_router, split

MIB = 1 << 20
LIMIT, CALLS, BODY = 320 * MIB, 12, bytes(40 * MIB)
"""Unprotected Envoy came to 400 MiB with these calls, and to 650 MiB with 48 MiB each and their copies."""


async def test_large_calls_are_refused_before_they_take_all_memory(tmp_path: Path) -> None:
    faces, digits = free_ports(2)
    async with running_router(tmp_path, memory=LIMIT) as pod, Upstream("a") as a, Upstream("b") as b:
        for revision, server in {"faces-a": a, "faces-b": b, "digits-a": a}.items():
            await pod.api.put_servers(revision, server)
        copies = {"name": "faces-b", "share": 1000}
        await pod.api.put_split(split("faces", faces, {"a": 1000, "b": 0}, timeoutMilliseconds=60_000, shadow=copies))
        await pod.api.put_split(split("digits", digits, {"a": 1000}))
        await pod.attested("faces", 1)
        await pod.attested("digits", 1)
        async with _memory(pod) as peaks, _small_requests(digits) as others:
            codes = Counter(await asyncio.gather(*(_call(faces, BODY) for _ in range(CALLS))))
        assert max(peaks) < LIMIT, f"MiB: {max(peaks) / MIB:.0f}; {codes}"
        assert codes["INTERNAL"] + codes["UNAVAILABLE"] > 0, "or this test would prove nothing"
        assert set(others) <= {"200 a", "503 envoy overloaded"}, "no connection is refused, nothing else is answered"
        async with asyncio.timeout(60):
            while await _call(faces, b"x") != "OK":  # noqa: ASYNC110 - another process recovers
                await asyncio.sleep(0.05)
        assert pod.envoy
        assert pod.envoy.poll() is None


@contextlib.asynccontextmanager
async def _memory(pod: RouterPod) -> AsyncIterator[list[int]]:
    """Bytes of Envoy's own, every 10 ms."""
    assert pod.envoy
    status, peaks = Path(f"/proc/{pod.envoy.pid}/status"), list[int]()

    def read() -> int:
        [line] = (line for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) << 10

    async def look() -> None:
        while True:
            peaks.append(read())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def _small_requests(port: int) -> AsyncIterator[Counter[str]]:
    """To another model meanwhile: how each was answered."""
    answers: Counter[str] = Counter()

    async def ask(client: aiohttp.ClientSession) -> None:
        while True:
            async with client.get(f"http://127.0.0.1:{port}/v2") as answer:
                answers[f"{answer.status} {await answer.text()}"] += 1
            await asyncio.sleep(0.02)

    async with aiohttp.ClientSession() as client:
        task = asyncio.create_task(ask(client))
        try:
            yield answers
        finally:
            assert not task.done(), task.result()
            task.cancel()


async def _call(port: int, body: bytes) -> str:
    """The code of a call; the upstream refuses messages beyond 4 MiB when it has got them whole."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            await channel.unary_unary(UNARY)(body, timeout=50)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"
