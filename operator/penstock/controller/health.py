"""`/healthz`, `/readyz` and `/metrics`, served by every replica, leading or not.

Health is about this process being alive: the loop turns, no key waits or runs for ever, the watch streams speak. An
API server that is away makes no replica unhealthy by itself, because restarting would not bring it back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from penstock.telemetry import METRICS_CONTENT_TYPE

__all__ = ["Check", "Health", "HealthServer", "LoopTick"]


@dataclass(frozen=True)
class Check:
    """One thing that must not be older than `limit` seconds; `age` tells how old it is."""

    name: str
    age: Callable[[], float]
    limit: float

    def problem(self) -> str | None:
        """A sentence when it is too old."""
        age = self.age()
        return None if age <= self.limit else f"{self.name}: {age:.0f} s, at most {self.limit:.0f} s are expected"


class LoopTick:
    """The age of the event loop's last turn, as a check that also notices a loop that was blocked."""

    def __init__(self, period: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period
        self._clock = clock
        self._last = clock()
        self.longest = 0.0
        """The longest pause between two turns so far, in seconds beyond the period."""

    def age(self) -> float:
        """Seconds since the last turn."""
        return self._clock() - self._last

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            now = self._clock()
            self.longest = max(self.longest, now - self._last - self._period)
            self._last = now


@dataclass(frozen=True)
class Health:
    """What the probes ask: `checks` for liveness, `readiness` by name for readiness."""

    checks: tuple[Check, ...] = ()
    readiness: Mapping[str, Callable[[], bool]] | None = None

    def problems(self) -> list[str]:
        """Why this process should be restarted."""
        return [problem for check in self.checks if (problem := check.problem())]

    def missing(self) -> list[str]:
        """What this process still waits for."""
        return [name for name, ready in (self.readiness or {}).items() if not ready()]


class HealthServer:
    """Serves the probes and metrics on one port; an async context manager."""

    def __init__(self, health: Health, metrics: Callable[[], bytes], *, host: str = "", port: int = 8080) -> None:
        self._health = health
        self._metrics = metrics
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; of use where 0 was asked for."""
        addresses = self._runner.addresses if self._runner else []
        return int(addresses[0][1]) if addresses else self._port

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._exposition),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host or None, self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            with suppress(asyncio.CancelledError):
                await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._health.problems())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer([f"waiting for {name}" for name in self._health.missing()])

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": METRICS_CONTENT_TYPE})


def _answer(problems: list[str]) -> web.Response:
    return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)
