"""A queue of keys with the guarantees of client-go's work queue, for asyncio.

A key is handed to one worker at a time; added again meanwhile, it runs once more afterwards; added many times, it
runs once. Nothing is lost between `add` and `done`. All methods but `get` are synchronous and never wait.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

__all__ = ["Backoff", "KeyedQueue", "QueueClosed", "QueueObserver"]

K = TypeVar("K", bound=Hashable)


class QueueClosed(Exception):
    """Raised by `get` once the queue is closed: workers end."""


class QueueObserver(Protocol):
    """What the queue tells to metrics."""

    def added(self, depth: int) -> None:
        """A key became ready; `depth` keys are waiting now."""

    def taken(self, depth: int, waited: float) -> None:
        """A worker took a key that was ready for `waited` seconds."""

    def finished(self, worked: float) -> None:
        """A worker gave a key back after `worked` seconds."""

    def retried(self) -> None:
        """A key was put back because of a failure."""


class _Silent:
    def added(self, depth: int) -> None: ...
    def taken(self, depth: int, waited: float) -> None: ...
    def finished(self, worked: float) -> None: ...
    def retried(self) -> None: ...


class Backoff(Generic[K]):
    """Per-key exponential delays: `base` seconds, doubled with each failure in a row, never above `cap`."""

    def __init__(self, base: float = 0.005, cap: float = 300.0) -> None:
        self._base = base
        self._cap = cap
        self._failures: dict[K, int] = {}

    def next(self, key: K) -> float:
        """Count one more failure of `key` and return the pause before the next try."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return min(self._cap, self._base * 2.0 ** min(failures, 64))

    def failures(self, key: K) -> int:
        """Failures of `key` since it was last forgotten."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """Start over with `key`: it succeeded, or it is gone."""
        self._failures.pop(key, None)


class KeyedQueue(Generic[K]):
    """First in, first out over distinct keys, urgent ones before all others; delayed keys join when due.

    Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff[K] | None = None,
        observer: QueueObserver | None = None,
    ) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._observer: QueueObserver = _Silent() if observer is None else observer
        self._urgent: deque[K] = deque()
        self._pressing: set[K] = set()
        self._order: deque[K] = deque()
        self._dirty: dict[K, float] = {}
        self._processing: dict[K, float] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys ready and not yet taken."""
        return len(self._urgent) + len(self._order)

    @property
    def delayed(self) -> int:
        """Keys waiting for their time."""
        return len(self._due)

    @property
    def active(self) -> int:
        """Keys being worked on."""
        return len(self._processing)

    def oldest_age(self) -> float:
        """Seconds the longest waiting key has been ready, or the longest running one worked on; 0 without any."""
        since = [self._dirty[keys[0]] for keys in (self._urgent, self._order) if keys]
        since += self._processing.values()
        return max(0.0, self._clock() - min(since)) if since else 0.0

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Make `key` ready now; while it is being worked on, once that is done. An `urgent` one is taken first."""
        if self._closed:
            return
        if urgent:
            self._pressing.add(key)
        if key in self._dirty:
            if urgent and key in self._order:
                self._order.remove(key)
                self._urgent.append(key)
            return
        self._dirty[key] = self._clock()
        if key not in self._processing:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Make `key` ready in `seconds`; of several such calls for one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock() + seconds
        if self._closed or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._changed.set()

    def add_rate_limited(self, key: K) -> float:
        """Make `key` ready after its next backoff pause, which is returned in seconds."""
        pause = self._backoff.next(key)
        self._observer.retried()
        self.add_after(key, pause)
        return pause

    def forget(self, key: K) -> None:
        """Reset the backoff of `key` after a success."""
        self._backoff.forget(key)

    def failures(self, key: K) -> int:
        """Failures in a row of `key`."""
        return self._backoff.failures(key)

    def take(self) -> K | None:
        """Hand out the next ready key, if there is one; the caller owes a `done`."""
        self._promote()
        if not len(self):
            return None
        key = (self._urgent or self._order).popleft()
        self._pressing.discard(key)
        now = self._clock()
        waited = now - self._dirty.pop(key)
        self._processing[key] = now
        self._observer.taken(len(self), waited)
        return key

    async def get(self) -> K:
        """Wait for the next ready key; raises QueueClosed when the queue is closed. The caller owes a `done`."""
        while not self._closed:
            self._changed.clear()
            key = self.take()
            if key is not None:
                if len(self):
                    self._changed.set()
                return key
            with suppress(TimeoutError):
                async with asyncio.timeout(self._until_due()):
                    await self._changed.wait()
        raise QueueClosed

    def done(self, key: K) -> None:
        """The worker has finished with `key`; added meanwhile, it becomes ready again."""
        started = self._processing.pop(key)
        self._observer.finished(self._clock() - started)
        if key in self._dirty and not self._closed:
            self._enqueue(key)

    def close(self) -> None:
        """Hand out nothing more and wake all waiting workers; what is being worked on may finish."""
        self._closed = True
        self._urgent.clear()
        self._pressing.clear()
        self._order.clear()
        self._dirty.clear()
        self._due.clear()
        self._heap.clear()
        self._changed.set()

    def _enqueue(self, key: K) -> None:
        (self._urgent if key in self._pressing else self._order).append(key)
        self._observer.added(len(self))
        self._changed.set()

    def _promote(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    def _until_due(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
