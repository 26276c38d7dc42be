"""A closed-loop load generator: so many requests under way at once, each latency from the first byte sent.

One thread and one selector keep all connections busy with requests that were encoded beforehand, so that on one or two
cores the generator stays out of the way; how much of a core it took is part of the result. The run is cut into windows,
and a window in which other work on the node took the processors away is not counted.
"""

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from .data import Array
from .v2 import take_answer

__all__ = ["LoadPlan", "LoadResult", "Window", "run_load"]

Foreign = Callable[[], "str | None"]
"""Says why the window since it was last asked must not count; None: nothing was in the way."""
_RECEIVE = 1 << 18
_PATIENCE = 60.0
_MOST_BROKEN = 100
"""Failures of a window, per connection, at which nothing more is to be learned."""


@dataclass(frozen=True)
class LoadPlan:
    """How long: until `requests` are counted, or `seconds` have passed; after a warm-up, in windows of so many seconds.

    `fewest` requests are waited for even beyond `seconds`, up to twice as long: a slow model still gets some. Windows
    that do not count are made up for within the same bounds.
    """

    concurrency: int
    requests: int = 1000
    seconds: float = 20.0
    warm_up: float = 1.0
    window: float = 1.0
    fewest: int = 20
    least_seconds: float = 2.0


@dataclass
class Window:
    """What happened between two looks at the clock."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    why: str | None = None
    """Why it is not counted; None when it is."""


@dataclass(frozen=True)
class LoadResult:
    """What was counted. `latencies` in seconds, ascending; `discarded` is the share of the windows' time left out.

    Where every window was disturbed all are counted, `disturbed` is the reason then.
    """

    latencies: Array
    seconds: float
    failures: Counter[str]
    discarded: float
    client_share: float
    """Of one core, that the generator itself has used."""
    disturbed: str = ""

    @property
    def requests(self) -> int:
        """Answered well."""
        return len(self.latencies)

    @property
    def failed(self) -> int:
        """Answered with an error, or not at all."""
        return sum(self.failures.values())

    @property
    def per_second(self) -> float:
        """Requests answered well, per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def quantile(self, percent: float) -> float:
        """Seconds that at least so many percent of the requests did not exceed (nearest rank); 0 of none."""
        if not self.requests:
            return 0.0
        rank = int(np.ceil(percent / 100 * self.requests))
        return float(self.latencies[max(rank, 1) - 1])

    def quantile_interval(self, percent: float) -> tuple[float, float]:
        """The 95 % interval of a quantile, from the ranks that a binomial count leaves open (normal approximation)."""
        share, count = percent / 100, self.requests
        if not count:
            return 0.0, 0.0
        spread = 1.96 * np.sqrt(count * share * (1 - share))
        low, high = np.clip([np.floor(count * share - spread), np.ceil(count * share + spread)], 0, count - 1)
        return float(self.latencies[int(low)]), float(self.latencies[int(high)])


def run_load(port: int, messages: Sequence[bytes], plan: LoadPlan, foreign: Foreign | None = None) -> LoadResult:
    """Drive the server on this loopback port with the messages in turn; raises OSError when it cannot be reached."""
    loop = _Loop(port, messages, plan.concurrency)
    try:
        loop.run(plan.warm_up)
        if foreign:
            foreign()
        return _measure(loop, plan, foreign)
    finally:
        loop.close()


def _measure(loop: "_Loop", plan: LoadPlan, foreign: Foreign | None) -> LoadResult:
    windows: list[Window] = []
    start, used = time.monotonic(), time.process_time()
    while True:
        window = loop.run(plan.window)
        window.why = foreign() if foreign else None
        windows.append(window)
        counted = sum(len(item.latencies) for item in windows if item.why is None)
        elapsed = time.monotonic() - start
        if sum(window.failures.values()) and not window.latencies:
            break
        if counted >= plan.requests and elapsed >= plan.least_seconds:
            break
        enough = counted >= plan.fewest or sum(len(item.latencies) for item in windows) >= plan.requests
        if elapsed >= 2 * plan.seconds or (elapsed >= plan.seconds and enough):
            break
    share = (time.process_time() - used) / max(1e-9, time.monotonic() - start)
    return _result(windows, share, plan.fewest)


def _result(windows: Sequence[Window], client_share: float, fewest: int) -> LoadResult:
    kept = [window for window in windows if window.why is None]
    whole = sum(window.seconds for window in windows)
    disturbed = ""
    if sum(len(window.latencies) for window in kept) < fewest and len(kept) < len(windows):
        disturbed = next(window.why for window in windows if window.why) or ""
        kept = list(windows)
    failures: Counter[str] = Counter()
    for window in windows:
        failures.update(window.failures)
    dropped = sum(window.seconds for window in windows if window.why is not None)
    return LoadResult(
        latencies=np.sort(np.array([value for window in kept for value in window.latencies])),
        seconds=sum(window.seconds for window in kept),
        failures=failures,
        discarded=dropped / whole if whole else 0.0,
        client_share=client_share,
        disturbed=disturbed,
    )


class _Connection:
    """One connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.received = bytearray()
        self.rest = memoryview(b"")
        self.sent_at = 0.0
        self.writing = False


class _Loop:
    """All connections, kept busy while it runs; between two runs requests under way just stay so."""

    def __init__(self, port: int, messages: Sequence[bytes], concurrency: int) -> None:
        self._port, self._messages, self._next = port, messages, 0
        self._selector = selectors.DefaultSelector()
        self._wanted = concurrency
        self._idle: list[_Connection] = []
        self._open = 0

    def run(self, seconds: float) -> Window:
        """Keep going for so long; raises OSError when the server cannot be reached any more."""
        window = Window(seconds)
        start = time.perf_counter()
        while (left := seconds - (time.perf_counter() - start)) > 0:
            self._start(window)
            for key, events in self._selector.select(left):
                self._serve(key.data, events, window)
        window.seconds = time.perf_counter() - start
        for key in list(self._selector.get_map().values()):
            if time.perf_counter() - key.data.sent_at > _PATIENCE:
                self._drop(key.data, window, f"no answer within {_PATIENCE:g} s")
        return window

    def close(self) -> None:
        """Close every connection: Triton waits for open ones when it is told to end."""
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def _start(self, window: Window) -> None:
        while self._open < self._wanted:
            connection = _Connection(self._port)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._open += 1
            self._idle.append(connection)
        while self._idle:
            self._send(self._idle.pop(), window)

    def _serve(self, connection: _Connection, events: int, window: Window) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(connection)
            if events & selectors.EVENT_READ:
                self._receive(connection, window)
        except (OSError, ValueError, EOFError) as error:
            self._drop(connection, window, f"{type(error).__name__}: {error}")

    def _receive(self, connection: _Connection, window: Window) -> None:
        piece = connection.socket.recv(_RECEIVE)
        now = time.perf_counter()
        if not piece:
            raise EOFError("the server closed the connection")
        connection.received += piece
        answer = take_answer(connection.received)
        if answer is None:
            return
        if answer.status == 200:
            window.latencies.append(now - connection.sent_at)
        else:
            window.failures[answer.error()[:200]] += 1
        self._send(connection, window)

    def _send(self, connection: _Connection, window: Window) -> None:
        connection.rest = memoryview(self._messages[self._next % len(self._messages)])
        self._next += 1
        connection.sent_at = time.perf_counter()
        try:
            self._flush(connection)
        except OSError as error:
            self._drop(connection, window, f"{type(error).__name__}: {error}")

    def _flush(self, connection: _Connection) -> None:
        with suppress(BlockingIOError):
            while connection.rest:
                connection.rest = connection.rest[connection.socket.send(connection.rest) :]
        if bool(connection.rest) != connection.writing:
            connection.writing = bool(connection.rest)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.writing else 0)
            self._selector.modify(connection.socket, events, connection)

    def _drop(self, connection: _Connection, window: Window, why: str) -> None:
        """Give up a broken connection; another is opened in its place."""
        window.failures[why[:200]] += 1
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open -= 1
        if sum(window.failures.values()) > _MOST_BROKEN * self._wanted:
            raise OSError(f"the server keeps breaking connections: {why}")
