"""An open-loop load generator for the v2 protocol: standard library alone, so it runs in any pod that has Python.

Requests are due at times fixed beforehand, whatever the server does; each opens a connection of its own, is sent once,
and its latency counts from when it was due. A client that waits for answers before it asks again would go quiet exactly
while the server is in trouble, and report that nothing was lost.

Standard output is JSON lines: `{"progress": ...}` several times a second, one `{"result": ...}` at the end. SIGTERM
ends the offering; requests under way are waited for.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Load", "Plan", "Request", "percentile", "read_requests"]

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

    url: str
    rate: float
    seconds: float
    count: int
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

    def __init__(self, plan: Plan, requests: Iterable[Request]) -> None:
        address = urlsplit(plan.url)
        self._plan = plan
        self._host, self._port = address.hostname or "", address.port or 80
        self._heads = [(_head(address.path, address.netloc, request.body), request) for request in requests]
        if not self._heads or not self._host:
            raise ValueError("a load needs http://host:port/path and at least one request")
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
        for due, (head, request) in zip(self._plan.due_times(), cycle(self._heads), strict=False):
            if await self._stopped_before(start + due):
                break
            self._tally.sent += 1
            if len(under_way) >= self._plan.most_in_flight:
                self._fail(due, f"not started: {len(under_way)} requests are under way")
                continue
            task = asyncio.create_task(self._ask(start, due, head, request))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        offered = time.monotonic() - start
        if under_way:
            await asyncio.wait(under_way)
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

    async def _ask(self, start: float, due: float, head: bytes, request: Request) -> None:
        began = time.monotonic() - start
        self._tally.latest_start = max(self._tally.latest_start, began - due)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._plan.timeout - (began - due)):
                wrong = _verdict(request, await self._post(head + request.body))
        except TimeoutError:
            wrong = f"no answer within {self._plan.timeout:g} s"
        except (OSError, ValueError, EOFError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            self._fail(due, wrong)
        else:
            self._tally.latencies.append(time.monotonic() - start - due)

    async def _post(self, message: bytes) -> tuple[int, bytes]:
        """Status and body of the answer on a new connection."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=_LARGEST_HEAD)
        try:
            writer.write(message)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            return int(head.split(" ", 2)[1]), await reader.readexactly(_content_length(head))
        finally:
            writer.close()

    def _fail(self, due: float, error: str) -> None:
        self._tally.failures.append((due, error))

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


def _head(path: str, host: str, body: bytes) -> bytes:
    lines = (
        f"POST {path or '/'} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _content_length(head: str) -> int:
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            return int(value)
    raise ValueError("the answer has no Content-Length")


def _verdict(request: Request, answer: tuple[int, bytes]) -> str:
    """What is wrong with an answer, empty when nothing is."""
    status, body = answer
    if status != 200:
        return f"status {status}: {body[:200].decode(errors='replace')}"
    if not request.labels:
        return ""
    outputs = {output["name"]: output["data"] for output in json.loads(body).get("outputs", ())}
    label = next(islice(outputs.get("label", ()), 1), None)
    return "" if label in request.labels else f"label {label}, expected one of {sorted(request.labels)}"


async def _report_progress(load: Load) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        print(json.dumps({"progress": load.progress()}), flush=True)


async def _main(plan: Plan, requests: list[Request]) -> None:
    load = Load(plan, requests)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, load.stop)
    progress = asyncio.create_task(_report_progress(load))
    result = await load.run()
    progress.cancel()
    print(json.dumps({"result": result}), flush=True)


def _plan() -> tuple[Plan, list[Request]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://host:port/v2/models/NAME/infer")
    parser.add_argument("requests", type=Path, help='JSON list of {"body": {...}, "labels": [...]}')
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--arrivals", choices=("fixed", "poisson"), default="fixed")
    parser.add_argument("--timeout", type=float, default=Plan.timeout)
    options = vars(parser.parse_args())
    return Plan(**{name: options[name] for name in options if name != "requests"}), read_requests(options["requests"])


if __name__ == "__main__":
    asyncio.run(_main(*_plan()))
    sys.exit(0)
