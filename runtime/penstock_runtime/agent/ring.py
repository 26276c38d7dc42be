"""The last half hour of every model, second by second.

Made for many models that are mostly idle and answers that are long: a row's counts are kept as the JSON text they will
be told in, a minute at a time and compressed when it is over; an idle second and an unchanged route cost nothing. A
model with traffic in two revisions in every second of the half hour takes about 60 KiB (tests/bench/fleet.py).
"""

import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["KEPT", "Rings", "Row"]

KEPT = 1800
"""Seconds."""
_MINUTE = 60
_IDLE = "{}"


@dataclass(frozen=True, slots=True)
class Row:
    """One second: `state` is the JSON text of the route in force for all of it, None where there was no such route."""

    second: int
    state: str | None
    counts: str


class _Ring:
    """One model: minutes with traffic, and the seconds in which its route became another."""

    __slots__ = ("_closed", "_open", "born", "routes", "turn")

    def __init__(self, born: int, turn: int) -> None:
        self.born = born
        self.turn = turn
        self.routes: deque[tuple[int, str | None]] = deque()
        self._open: dict[int, dict[int, str]] = {}
        self._closed: dict[int, bytes] = {}

    def write(self, second: int, state: str | None, counts: str) -> None:
        if not self.routes or self.routes[-1][1] != state:
            self.routes.append((second, state))
        if counts != _IDLE:
            self._open.setdefault(second // _MINUTE, {})[second % _MINUTE] = counts

    def tidy(self, last: int) -> None:
        """Compress minutes that are over, forget what is too old."""
        for minute in [minute for minute in self._open if minute < last // _MINUTE - 1]:
            rows = self._open.pop(minute)
            text = "\n".join(rows.get(second, "") for second in range(_MINUTE))
            self._closed[minute] = zlib.compress(text.encode(), 6)
        oldest = last - KEPT + 1
        for minute in [minute for minute in self._closed if (minute + 1) * _MINUTE <= oldest]:
            del self._closed[minute]
        while len(self.routes) > 1 and self.routes[1][0] <= oldest:
            self.routes.popleft()

    def counts(self, minute: int) -> dict[int, str]:
        """Rows of a minute with traffic, by second of the minute."""
        if (found := self._open.get(minute)) is not None:
            return found
        if (packed := self._closed.get(minute)) is None:
            return {}
        lines = zlib.decompress(packed).decode().split("\n")
        return {second: line for second, line in enumerate(lines) if line}


class Rings:
    """All models. Every second is written once, in order, also those that nobody can judge.

    `first` and `last` are the first and the last second that were written, 0 before.
    """

    def __init__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._rings)

    def clear(self) -> None:
        """Forget everything, as when the clock was set back and seconds come again."""
        self._rings: dict[str, _Ring] = {}
        self._unjudged: deque[int] = deque()
        self.first = 0
        self.last = 0

    def open(self, second: int, *, judged: bool = True) -> None:
        """Begin a second; those left out since the last one, and it itself unless `judged`, say nothing of any route.

        Raises ValueError for a second that was written before.
        """
        if self.last and second <= self.last:
            raise ValueError(f"second {second} comes after {self.last}: clear() before time starts again")
        self._unjudged.extend(range(max(self.last + 1, second - KEPT) if self.last else second, second))
        if not judged:
            self._unjudged.append(second)
        self.first = self.first or second
        self.last = second
        while self._unjudged and self._unjudged[0] <= second - KEPT:
            self._unjudged.popleft()

    def write(self, uid: str, state: str | None, counts: str = _IDLE) -> None:
        """One model in the second that was opened last; `counts` is the JSON object of the contract."""
        ring = self._rings.get(uid)
        if ring is None:
            ring = self._rings[uid] = _Ring(self.last, zlib.crc32(uid.encode()) % _MINUTE)
        ring.write(self.last, state, counts)

    def tidy(self, keep: frozenset[str]) -> None:
        """Forget models but those to keep; compress what is over, each model in a second of its own.

        To be called once in every second.
        """
        if self._rings.keys() - keep:
            self._rings = {uid: ring for uid, ring in self._rings.items() if uid in keep}
        for ring in self._rings.values():
            if ring.turn == self.last % _MINUTE:
                ring.tidy(self.last)

    def reach(self, uid: str) -> int:
        """The first second of a model that rows() can answer for."""
        ring = self._rings.get(uid)
        born = ring.born if ring else self.last + 1
        return max(self.first, born, self.last - KEPT + 1)

    def rows(self, uid: str, after: int) -> Iterator[Row]:
        """Every second of a model later than `after`, as far back as `reach`."""
        ring = self._rings.get(uid)
        if ring is None:
            return
        start = max(after + 1, self.reach(uid))
        unjudged = {second for second in self._unjudged if second >= start}
        routes = deque(ring.routes)
        minute, counts = -1, dict[int, str]()
        state: str | None = None
        for second in range(start, self.last + 1):
            while routes and routes[0][0] <= second:
                state = routes.popleft()[1]
            if second // _MINUTE != minute:
                minute = second // _MINUTE
                counts = ring.counts(minute)
            yield Row(second, None if second in unjudged else state, counts.get(second % _MINUTE, _IDLE))
