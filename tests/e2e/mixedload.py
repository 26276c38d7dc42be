"""Load over every door at once: `python -m tests.e2e.mixedload SETTINGS.json`, on a machine that reaches the cluster.

HTTP and gRPC, new and kept connections by share, and beside them streams, which are counted apart. Where SETTINGS
names a DNS server, the host is a name, resolved there and kept for `ttl` seconds as clients' caches do.
"""

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import grpc
from examples.demo.load import REVISION_HEADER, Answer, HttpDoor, Load, Plan, Request, serve_program
from tritonclient.grpc import service_pb2

_SERVICE = "/inference.GRPCInferenceService/"
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_BETWEEN = 0.5
"""Seconds between two messages of a stream."""


@dataclass(frozen=True)
class Settings:
    """What is offered; `data` are rows of one FP32 input."""

    host: str
    model: str
    tensor: str
    data: list[list[float]]
    records: str
    rate: float = 200
    seconds: float = 3600
    timeout: float = 20
    shares: dict[str, float] = field(default_factory=lambda: {"http-new": 0.25, "http-kept": 0.75})
    kept: int = 8
    headers: list[str] = field(default_factory=list)
    """Header lines, of which each HTTP request carries one in turn."""
    streams: dict[str, float] = field(default_factory=dict)
    """Seconds that each stream of a name lasts; the next follows at once."""
    dns: str = ""
    ttl: float = 30
    http_port: int = 8000
    grpc_port: int = 8001

    def write(self, path: Path) -> None:
        """As the program reads it."""
        path.write_text(json.dumps(asdict(self)))


class GrpcDoor:
    """ModelInfer; `kept` channels used in turn, or with 0 a new one for each request."""

    def __init__(self, host: str, port: int, messages: list[bytes], *, kept: int = 0, share: float = 1) -> None:
        self.name, self.share, self.host = ("grpc-kept" if kept else "grpc-new"), share, host
        self._port, self._messages, self._kept = port, messages, kept
        self._channels: deque[grpc.aio.Channel] = deque()

    def open(self) -> grpc.aio.Channel:
        """A channel with a connection of its own."""
        return grpc.aio.insecure_channel(f"{self.host}:{self._port}", options=_OWN_CONNECTION)

    async def ask(self, number: int) -> Answer:
        """Send it and judge what comes."""
        message = self._messages[number % len(self._messages)]
        if not self._kept:
            async with self.open() as channel:
                return await self._infer(channel, message)
        while len(self._channels) < self._kept:
            self._channels.append(self.open())
        self._channels.rotate()
        return await self._infer(self._channels[0], message)

    async def close(self) -> None:
        """Close the kept channels."""
        while self._channels:
            await self._channels.popleft().close()

    async def _infer(self, channel: grpc.aio.Channel, message: bytes) -> Answer:
        call = channel.unary_unary(f"{_SERVICE}ModelInfer")(message)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            told = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
            wrong = f"grpc {error.code().name}: {error.details()}"
            return Answer(f"grpc {error.code().value[0]}", wrong[:300], str(told.get(REVISION_HEADER, "")))
        return Answer("grpc 0", "", str(dict(await call.initial_metadata()).get(REVISION_HEADER, "")))


class Streams:
    """One ModelStreamInfer after the other, each as long as the next; every message must be answered."""

    def __init__(self, name: str, seconds: float, door: GrpcDoor, message: bytes, records: TextIO) -> None:
        self._name, self._seconds, self._door, self._message = name, seconds, door, message
        self._records = records

    async def run(self) -> None:
        """Until cancelled; each stream leaves a line when it has ended."""
        while True:
            start = time.monotonic()
            wrong = ""
            try:
                async with self._door.open() as channel:
                    wrong = await self._stream(channel)
            except grpc.aio.AioRpcError as error:
                wrong = f"grpc {error.code().name}: {error.details()}"[:300]
            line = (round(time.time(), 4), round(time.monotonic() - start, 3), self._name, "", "", wrong)
            self._records.write(json.dumps(line) + "\n")
            await asyncio.sleep(_BETWEEN if wrong else 0)

    async def _stream(self, channel: grpc.aio.Channel) -> str:
        sent = 0

        async def messages() -> AsyncIterator[bytes]:
            nonlocal sent
            end = time.monotonic() + self._seconds
            while time.monotonic() < end:
                sent += 1
                yield self._message
                await asyncio.sleep(_BETWEEN)

        answered = 0
        async for answer in channel.stream_stream(f"{_SERVICE}ModelStreamInfer")(messages()):
            found = service_pb2.ModelStreamInferResponse.FromString(answer)
            if found.error_message:
                return f"message {answered + 1}: {found.error_message}"[:300]
            answered += 1
        return "" if answered == sent else f"{answered} of {sent} messages were answered"


class Followed(Load):
    """A load that also tells how many of its first requests have all ended, as `settled`."""

    def __init__(self, plan: Plan, doors: Sequence[Any], records: TextIO) -> None:
        super().__init__(plan, doors, records)
        self._open, self._begun = set[int](), 0

    def progress(self) -> dict[str, int]:
        """With those that a request still under way holds up left out."""
        return {**super().progress(), "settled": min(self._open, default=self._begun)}

    async def _ask(self, start: float, due: float, door: Any, number: int) -> None:
        self._begun = number + 1
        self._open.add(number)
        try:
            await super()._ask(start, due, door, number)
        finally:
            self._open.discard(number)


def resolve(name: str, server: str, seconds: float = 2) -> str:
    """The first IPv4 address that a DNS server has for a name; raises OSError."""
    number = random.randrange(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(seconds)
        asking.sendto(question, (server, 53))
        answer = asking.recv(4096)
    count, at = struct.unpack("!H", answer[6:8])[0], len(question)
    for _ in range(count):
        at += 2 if answer[at] >= 0xC0 else answer.index(b"\0", at) - at + 1
        kind, _, _, length = struct.unpack("!HHIH", answer[at : at + 10])
        at += 10
        if kind == 1:
            return socket.inet_ntoa(answer[at : at + 4])
        at += length
    raise OSError(f"{server} knows no address of {name}")


def http_requests(settings: Settings) -> list[Request]:
    return [
        Request(json.dumps({"inputs": [{"name": settings.tensor, "datatype": "FP32", "shape": [1, len(row)],
                                        "data": row}]}).encode())
        for row in settings.data
    ]  # fmt: skip


def grpc_messages(settings: Settings) -> Iterator[bytes]:
    for row in settings.data:
        message = service_pb2.ModelInferRequest(model_name=settings.model)
        tensor = message.inputs.add(name=settings.tensor, datatype="FP32", shape=[1, len(row)])
        tensor.contents.fp32_contents.extend(row)
        yield message.SerializeToString()


def doors(settings: Settings, host: str) -> list[Any]:
    """One for each share that is not 0."""
    url = f"http://{host}:{settings.http_port}/v2/models/{settings.model}/infer"
    messages, requests = list(grpc_messages(settings)), http_requests(settings)
    found: list[Any] = []
    for name, share in settings.shares.items():
        kind, _, way = name.partition("-")
        kept = settings.kept if way == "kept" else 0
        if kind == "grpc":
            found.append(GrpcDoor(host, settings.grpc_port, messages, kept=kept, share=share))
        else:
            found.append(HttpDoor(url, requests, kept=kept, share=share, headers=settings.headers))
    return found


async def keep_resolving(settings: Settings, found: list[Any]) -> None:
    """Ask again when the answer is as old as a cache may keep it; without an answer the old one stays."""
    while True:
        await asyncio.sleep(settings.ttl)
        with suppress(OSError):
            host = await asyncio.to_thread(resolve, settings.host, settings.dns)
            for door in found:
                door.host = host


async def offer(settings: Settings, records: TextIO) -> None:
    """All of it, until stopped."""
    host = await asyncio.to_thread(resolve, settings.host, settings.dns) if settings.dns else settings.host
    found, message = doors(settings, host), next(grpc_messages(settings))
    streamed = GrpcDoor(host, settings.grpc_port, [message])
    beside = [
        asyncio.create_task(Streams(name, seconds, streamed, message, records).run())
        for name, seconds in settings.streams.items()
    ]
    if settings.dns:
        beside.append(asyncio.create_task(keep_resolving(settings, [*found, streamed])))
    await serve_program(Followed(Plan(settings.rate, settings.seconds, timeout=settings.timeout), found, records))
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)


def main() -> None:
    """As the settings in the file say."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    with Path(settings.records).open("w", buffering=1) as records:
        asyncio.run(offer(settings, records))


if __name__ == "__main__":
    main()
