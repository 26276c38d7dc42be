"""Mixed load on a deployment under test, and every request of it as a record."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.traffic import Traffic
from hack.cluster.settings import CHECKOUT

from .mixedload import Settings

SHARES = {"http-new": 0.2, "http-kept": 0.5, "grpc-new": 0.05, "grpc-kept": 0.25}


@dataclass(frozen=True)
class Outcome:
    """One request or stream, as the client saw it end; `time` is of the wall clock."""

    time: float
    seconds: float
    door: str
    status: str
    revision: str
    wrong: str

    @property
    def due(self) -> float:
        """When it was to be sent; how long the answer took, and this machine to notice it, is no part of that."""
        return self.time - self.seconds

    def told(self) -> str:
        """For a sentence."""
        clock = time.strftime("%H:%M:%S", time.gmtime(self.time)) + f"{self.time % 1:.3f}"[1:]
        return f"{clock} {self.door} {self.revision or '-'} after {self.seconds * 1000:.0f} ms: {self.wrong}"


class Offered:
    """A running generator; `new()` gives what has ended since it was asked last."""

    def __init__(self, traffic: Traffic, records: Path) -> None:
        self.traffic = traffic
        self._file = records.open()
        self._rest = ""
        self.outcomes: list[Outcome] = []

    def new(self) -> list[Outcome]:
        """Requests that have ended since the last call, oldest first."""
        self.traffic.progress()
        lines = (self._rest + self._file.read()).split("\n")
        self._rest = lines.pop()
        found = [Outcome(*json.loads(line)) for line in lines]
        self.outcomes += found
        return found

    def forget(self) -> None:
        """What has ended so far is of no interest any more."""
        self.new()
        self.outcomes.clear()

    def wait(self, wanted: Callable[[Outcome], bool], seconds: float = 60) -> Outcome:
        """The first request, of those not yet given, of which this holds; raises AssertionError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for outcome in self.new():
                if wanted(outcome):
                    return outcome
            time.sleep(0.05)
        raise AssertionError(f"no such request in {seconds:.0f} s, of {len(self.outcomes)}")

    def wait_count(self, count: int, seconds: float = 120) -> None:
        """Until so many more were sent."""
        self.traffic.wait_for(self.traffic.progress()["sent"] + count, seconds)

    def wait_settled(self, seconds: float = 60) -> None:
        """Until everything that is sent by now has ended, one way or the other."""
        sent, deadline = self.traffic.progress()["sent"], time.monotonic() + seconds
        while (settled := self.traffic.progress().get("settled", 0)) < sent:
            assert time.monotonic() < deadline, f"request {settled} has not ended {seconds:.0f} s after it was sent"
            time.sleep(0.1)

    def finish(self) -> dict[str, Any]:
        """End it; the generator's own result."""
        result = self.traffic.finish()
        self.new()
        return result

    def close(self) -> None:
        """Read no more."""
        self._file.close()


@contextmanager
def offered(settings: Settings, folder: Path) -> Iterator[Offered]:
    """Start the generator on this machine, with its settings and records in the folder."""
    records, file = Path(settings.records), folder / "load.json"
    records.parent.mkdir(parents=True, exist_ok=True)
    records.write_text("")
    settings.write(file)
    command = [sys.executable, "-m", "tests.e2e.mixedload", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        load = Offered(Traffic(process, lambda: process.send_signal(signal.SIGTERM)), records)
        try:
            yield load
        finally:
            process.kill()
            load.close()


def requests(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that are no streams."""
    return [outcome for outcome in outcomes if not outcome.door.startswith("stream")]


def lost(outcomes: Iterable[Outcome], faulty: str = "") -> list[Outcome]:
    """Failed requests, but not those that the faulty revision itself was given."""
    return [outcome for outcome in requests(outcomes) if outcome.wrong and not (faulty and outcome.revision == faulty)]


def tally(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Requests, and failed ones, by door."""
    asked, failed = Counter[str](), Counter[str]()
    for outcome in outcomes:
        asked[outcome.door] += 1
        failed[outcome.door] += bool(outcome.wrong)
    return {door: {"requests": asked[door], "failed": failed[door]} for door in sorted(asked)}


def describe(outcomes: list[Outcome], most: int = 5) -> str:
    """A few of them, for a message."""
    return "; ".join(outcome.told() for outcome in outcomes[:most]) or "none"
