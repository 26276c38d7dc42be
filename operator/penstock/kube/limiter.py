"""A token bucket: how fast this program may ask the API server."""

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["TokenBucket"]


class TokenBucket:
    """At most `burst` requests at once and `rate` a second over time; waiting requests go in order of arrival."""

    def __init__(
        self,
        rate: float = 20.0,
        burst: int = 30,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._updated = clock()

    async def acquire(self) -> None:
        """Take one token; a token borrowed from the future is waited for."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate) - 1.0
        self._updated = now
        if self._tokens < 0:
            await self._sleep(-self._tokens / self._rate)
