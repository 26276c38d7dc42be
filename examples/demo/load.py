"""An open-loop load generator for the v2 protocol: standard library alone, so it runs in any pod that has Python.

Requests are due at times fixed beforehand, whatever the server does; each is sent once, and its latency counts from
when it was due. A client that waits for answers before it asks again would go quiet exactly while the server is in
trouble, and report that nothing was lost. By itself it knows one door, HTTP/1.1 over new or kept connections; others
may be given to `Load`.

Standard output is JSON lines: `{"progress": ...}` several times a second, one `{"result": ...}` at the end. SIGTERM
ends the offering; requests under way are waited for. With --records every request is a line of its own in a file.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO
from urllib.parse import urlsplit

__all__ = ["Answer", "Door", "HttpDoor", "Load", "Plan", "Request", "percentile", "read_requests"]

REVISION_HEADER = "x-penstock-revision"
_PROGRESS_SECONDS = 0.2
_SHOWN_FAILURES = 20
_LARGEST_HEAD = 64 << 10


@dataclass(frozen=True)
class Request:
    """One body to post, and the labels of which the answer must be one; none: any answer with status 200 will do."""

    body: bytes
    labels: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Plan:
    """What is offered: `rate` requests a second until `count` of them or `seconds` are over."""

    rate: float
    seconds: float
    count: int = 1_000_000_000
    arrivals: str = "fixed"
    """`fixed` intervals, or `poisson`: independent users."""
    timeout: float = 30.0
    """Seconds from when a request was due."""
    most_in_flight: int = 2048
    """Bounds this process; a request due beyond it fails, it is not put off."""
    seed: int = 20

    def due_times(self) -> Iterator[float]:
        """Seconds after the start, one per request."""
        chance, due = random.Random(self.seed), 0.0  # noqa: S311 - arrivals, not secrets
        for number in range(1, self.count + 1):
            if due >= self.seconds:
                return
            yield due
            due = due + chance.expovariate(self.rate) if self.arrivals == "poisson" else number / self.rate


@dataclass(frozen=True)
class Answer:
    """What came back, and what is wrong with it; empty when nothing is."""

    status: str
    wrong: str = ""
    revision: str = ""
    """Which revision a router says has answered."""


class Door(Protocol):
    """One way to ask the model; exceptions other than OSError, ValueError and EOFError are its own business."""

    name: str
    share: float
    """Of the requests, beside the shares of the other doors."""

    async def ask(self, number: int) -> Answer:
        """Send the request with this number, once."""

    async def close(self) -> None:
        """Give back what it holds."""


class HttpDoor:
    """HTTP/1.1; `kept` connections used in turn, or with 0 a new one for each request.

    `host` may be set anew at any time, as a client does whose name has resolved to another address. Of `headers`,
    lines like `x-user: 7`, each request carries one in turn.
    """

    def __init__(
        self, url: str, requests: Iterable[Request], *, kept: int = 0, share: float = 1, headers: Sequence[str] = ()
    ) -> None:
        address = urlsplit(url)
        self.name, self.share = ("http-kept" if kept else "http-new"), share
        self.host, self._port, self._kept = address.hostname or "", address.port or 80, kept
        self._messages = [(_head(address.path, address.netloc, item.body, kept=bool(kept)), item) for item in requests]
        self._headers = [f"{line}\r\n".encode() for line in headers] or [b""]
        if not self._messages or not self.host:
            raise ValueError("a load needs http://host:port/path and at least one request")
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, number: int) -> Answer:
        """Send it and judge what comes."""
        start, request = self._messages[number % len(self._messages)]
        line = self._headers[number % len(self._headers)]
        head, body = await self._post(b"".join((start, line, b"\r\n", request.body)))
        status = int(head.split(" ", 2)[1])
        return Answer(str(status), _complaint(request, status, body), _header(head, REVISION_HEADER))

    async def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.popleft()[1].close()

    async def _post(self, message: bytes) -> tuple[str, bytes]:
        reader, writer = await self._connection()
        keep = False
        try:
            writer.write(message)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = await reader.readexactly(_content_length(head))
            keep = len(self._idle) < self._kept and _header(head, "connection").lower() != "close"
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return head, body

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection that has rested longest; those the server has closed meanwhile are no loss."""
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self._port, limit=_LARGEST_HEAD)


@dataclass
class _Tally:
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    latest_start: float = 0.0

    def progress(self) -> dict[str, int]:
        return {"sent": self.sent, "answered": len(self.latencies), "failed": len(self.failures)}


class Load:
    """One run of a plan; `stop` ends it early."""

    def __init__(self, plan: Plan, doors: Sequence[Door], records: TextIO | None = None) -> None:
        self._plan, self._doors, self._records = plan, tuple(doors), records
        self._tally = _Tally()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Offer nothing more."""
        self._stopped.set()

    def progress(self) -> dict[str, int]:
        """How many were sent, answered and failed so far."""
        return self._tally.progress()

    async def run(self) -> dict[str, Any]:
        """Offer everything, wait for the last answer, and tell what happened."""
        start, under_way = time.monotonic(), set[asyncio.Task[None]]()
        for number, (due, door) in enumerate(zip(self._plan.due_times(), _turns(self._doors), strict=False)):
            if await self._stopped_before(start + due):
                break
            self._tally.sent += 1
            if len(under_way) >= self._plan.most_in_flight:
                self._note(due, door, 0, Answer("", f"not started: {len(under_way)} requests are under way"))
                continue
            task = asyncio.create_task(self._ask(start, due, door, number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        offered = time.monotonic() - start
        if under_way:
            await asyncio.wait(under_way)
        for door in self._doors:
            await door.close()
        return self._result(offered, time.monotonic() - start)

    async def _stopped_before(self, moment: float) -> bool:
        left = moment - time.monotonic()
        if left <= 0:
            await asyncio.sleep(0)
            return self._stopped.is_set()
        try:
            await asyncio.wait_for(self._stopped.wait(), left)
        except TimeoutError:
            return False
        return True

    async def _ask(self, start: float, due: float, door: Door, number: int) -> None:
        began = time.monotonic() - start
        self._tally.latest_start = max(self._tally.latest_start, began - due)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._plan.timeout - (began - due)):
                answer = await door.ask(number)
        except TimeoutError:
            answer = Answer("", f"no answer within {self._plan.timeout:g} s")
        except (OSError, ValueError, EOFError) as error:
            answer = Answer("", f"{type(error).__name__}: {error}")
        self._note(due, door, time.monotonic() - start - due, answer)

    def _note(self, due: float, door: Door, seconds: float, answer: Answer) -> None:
        if answer.wrong:
            self._tally.failures.append((due, answer.wrong))
        else:
            self._tally.latencies.append(seconds)
        if self._records:
            line = (round(time.time(), 4), round(seconds, 5), door.name, answer.status, answer.revision, answer.wrong)
            self._records.write(json.dumps(line) + "\n")

    def _result(self, offered: float, elapsed: float) -> dict[str, Any]:
        tally = self._tally
        found = {f"p{q}_ms": round(percentile(tally.latencies, q) * 1000, 3) for q in (50, 95, 99, 100)}
        shown = [{"second": round(due, 3), "error": error} for due, error in tally.failures[:_SHOWN_FAILURES]]
        return {
            "requests": tally.sent,
            "answered": len(tally.latencies),
            "failed": len(tally.failures),
            "seconds": round(elapsed, 3),
            "offered_per_second": round(tally.sent / offered, 2) if offered else 0.0,
            "latest_start_ms": round(tally.latest_start * 1000, 3),
            **found,
            "failures": shown,
            "errors": dict(Counter(error for _, error in tally.failures).most_common(_SHOWN_FAILURES)),
        }


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least q percent of the values do not exceed (nearest rank); 0 of no values."""
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(q / 100 * len(values)), 1) - 1]


def read_requests(path: Path) -> list[Request]:
    """From a JSON list of {"body": a v2 inference request, "labels": [accepted answers]}."""
    return [
        Request(json.dumps(item["body"]).encode(), frozenset(item.get("labels", ())))
        for item in json.loads(path.read_bytes())
    ]


def _turns(doors: Sequence[Door]) -> Iterator[Door]:
    """Endlessly, each door as often as its share says, as evenly as can be."""
    credit = [0.0] * len(doors)
    whole = sum(door.share for door in doors)
    while True:
        credit = [have + door.share for have, door in zip(credit, doors, strict=True)]
        chosen = max(range(len(doors)), key=credit.__getitem__)
        credit[chosen] -= whole
        yield doors[chosen]


def _head(path: str, host: str, body: bytes, *, kept: bool) -> bytes:
    lines = (
        f"POST {path or '/'} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Connection: {'keep-alive' if kept else 'close'}",
    )
    return ("\r\n".join(lines) + "\r\n").encode()


def _header(head: str, wanted: str) -> str:
    """The value of a header, empty where there is none."""
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == wanted:
            return value.strip()
    return ""


def _content_length(head: str) -> int:
    length = _header(head, "content-length")
    if not length:
        raise ValueError("the answer has no Content-Length")
    return int(length)


def _complaint(request: Request, status: int, body: bytes) -> str:
    if status != 200:
        return f"status {status}: {body[:200].decode(errors='replace')}"
    if not request.labels:
        return ""
    outputs = {output["name"]: output["data"] for output in json.loads(body).get("outputs", ())}
    label = next(islice(outputs.get("label", ()), 1), None)
    return "" if label in request.labels else f"label {label}, expected one of {sorted(request.labels)}"


async def serve_program(load: Load) -> None:
    """Run it as a program: progress and result on standard output, ended by SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, load.stop)
    progress = asyncio.create_task(_report_progress(load))
    result = await load.run()
    progress.cancel()
    print(json.dumps({"result": result}), flush=True)


async def _report_progress(load: Load) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        print(json.dumps({"progress": load.progress()}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://host:port/v2/models/NAME/infer")
    parser.add_argument("requests", type=Path, help='JSON list of {"body": {...}, "labels": [...]}')
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=Plan.count, help="at most so many")
    parser.add_argument("--arrivals", choices=("fixed", "poisson"), default="fixed")
    parser.add_argument("--timeout", type=float, default=Plan.timeout)
    parser.add_argument("--kept", type=int, default=0, help="connections to keep; 0: a new one for each request")
    parser.add_argument("--records", type=Path, help="file for [time, seconds, door, status, revision, wrong] lines")
    return parser.parse_args()


async def _main(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        records = stack.enter_context(options.records.open("w", buffering=1)) if options.records else None
        plan = Plan(options.rate, options.seconds, options.count, options.arrivals, options.timeout)
        door = HttpDoor(options.url, read_requests(options.requests), kept=options.kept)
        await serve_program(Load(plan, [door], records))


if __name__ == "__main__":
    asyncio.run(_main(_options()))
    sys.exit(0)
