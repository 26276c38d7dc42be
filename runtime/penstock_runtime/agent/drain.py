"""The end of a router pod: serve what comes until nobody comes any more."""

import asyncio
import ipaddress
import logging

from .clocks import Clocks
from .envoy import UNREACHABLE, Envoy

__all__ = ["Drain", "is_allowed"]

log = logging.getLogger("penstock.agent.drain")

_AT_LEAST = 5.0
"""Seconds for which new connections still come: other nodes learn late that the pod goes."""
_LOOK = 0.25


def is_allowed(peer: str, node: frozenset[str]) -> bool:
    """Whether a request to drain comes from the pod itself or its node's kubelet; anybody else could take pods out."""
    address = ipaddress.ip_address(peer)
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or str(mapped or address) in node or bool(mapped and mapped.is_loopback)


class Drain:
    """Started once; asked again it waits for the same end.

    Envoy fails its readiness and asks clients to leave: `connection: close`, GOAWAY; it accepts connections until the
    process ends. The drain is over when no request is active, after 5 s at least, and after `seconds` anyway; an Envoy
    that is too busy to say has requests.
    """

    def __init__(self, envoy: Envoy, seconds: float, clocks: Clocks) -> None:
        self._envoy, self._seconds, self._clocks = envoy, seconds, clocks
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the pod is going."""
        return self._task is not None

    async def wait(self) -> None:
        """Start it if it has not been, and return at its end."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        begun = self._clocks.monotonic()
        try:
            while not await self._is_told() and self._clocks.monotonic() < begun + self._seconds:  # noqa: ASYNC110 - Envoy only answers
                await asyncio.sleep(_LOOK)
        except UNREACHABLE as error:
            log.warning("drain: Envoy does not answer: %s", error)
            return
        await asyncio.sleep(min(_AT_LEAST, self._seconds))
        while self._clocks.monotonic() < begun + self._seconds and await self._is_busy():  # noqa: ASYNC110 - Envoy only answers
            await asyncio.sleep(_LOOK)
        log.info("drained after %.1f s", self._clocks.monotonic() - begun)

    async def _is_told(self) -> bool:
        """Whether Envoy has heard of it; asked twice it does the same, and a slow answer may have been to one half."""
        try:
            await self._envoy.start_drain()
        except TimeoutError:
            log.warning("drain: Envoy is slow to answer, and asked again")
            return False
        return True

    async def _is_busy(self) -> bool:
        try:
            return await self._envoy.active_requests() > 0
        except TimeoutError:
            return True
        except UNREACHABLE:
            return False
