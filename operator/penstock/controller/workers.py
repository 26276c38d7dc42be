"""Workers: take a key from a queue, have it reconciled, put it back when that has failed or wants to go on later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from penstock.kube.errors import ApiError, Fenced, Forbidden
from penstock.kube.queue import KeyedQueue, QueueClosed
from penstock.telemetry import Outcome

__all__ = ["Key", "Workers"]

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""(namespace, name)."""


class Workers:
    """Some tasks over one queue. `reconcile` returns the seconds after which it wants to be called again, or None."""

    def __init__(
        self,
        kind: str,
        queue: KeyedQueue[Key],
        reconcile: Callable[[Key], Awaitable[float | None]],
        measure: Callable[[str, Key], AbstractContextManager[Outcome]],
        ended: Callable[[Key], None] = lambda _: None,
    ) -> None:
        """`measure` is entered around each pass; `ended` is told of each that ended well."""
        self._kind, self._queue, self._reconcile = kind, queue, reconcile
        self._measure, self._ended = measure, ended

    def start(self, count: int, ready: asyncio.Event) -> list[asyncio.Task[None]]:
        """Tasks that begin once `ready` is set, and end when the queue is closed."""
        return [asyncio.create_task(self._work(ready), name=f"{self._kind} worker {n}") for n in range(count)]

    async def _work(self, ready: asyncio.Event) -> None:
        await ready.wait()
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._pass(key)
            finally:
                self._queue.done(key)

    async def _pass(self, key: Key) -> None:
        with self._measure(self._kind, key) as outcome:
            try:
                again = await self._reconcile(key)
            except Fenced:
                # a renewal that was on its way may open the fence again; else the process ends, and the queue with it
                outcome.result = "fenced"
                self._queue.add_rate_limited(key)
                return
            except ApiError as error:
                outcome.result = "error"
                if not (isinstance(error, Forbidden) and error.terminating):
                    pause = self._queue.add_rate_limited(key)
                    log.warning("%s %s/%s: %s; again in %.1f s", self._kind, *key, error, pause)
                return
            except Exception:
                outcome.result = "bug"
                pause = self._queue.add_rate_limited(key)
                log.exception("%s %s/%s: unexpected; again in %.1f s", self._kind, *key, pause)
                return
        self._queue.forget(key)
        self._ended(key)
        if again is not None:
            self._queue.add_after(key, again)
