"""Asks the servers of a revision that was taken back what they have counted: once, beside all else, and within seconds.

The plan says whom to ask for as long as that is of use, and nothing waits for the answer: it comes as one more pass.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.core.servercounts import Examination, Findings, ServerCounts
from penstock.kube.cache import DeploymentKey

__all__ = ["CountsReader", "Examiner"]

log = logging.getLogger(__name__)
_TRIES = 2
"""The first may meet a server that is just started again."""
_PAUSE_SECONDS = 1.0


class CountsReader(Protocol):
    """What asks one serving pod, in bounded time; see probes.triton."""

    async def count(self, address: str) -> ServerCounts | None:
        """Its answer, or None."""


@dataclass
class _Case:
    about: tuple[str, str]
    task: asyncio.Task[None]
    findings: Findings | None = None


class Examiner:
    """One task for each revision that was taken back just now; none otherwise. Belongs to one event loop."""

    def __init__(
        self,
        reader: CountsReader,
        wake: Callable[[DeploymentKey], None],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader, self._wake, self._pause = reader, wake, pause
        self._cases: dict[DeploymentKey, _Case] = {}

    def follow(self, key: DeploymentKey, wanted: Examination | None) -> None:
        """Ask, unless that is done or under way for the same ending; with None forget what was found."""
        known = self._cases.get(key)
        if known and (wanted is None or wanted.about != known.about):
            known.task.cancel()
            del self._cases[key]
        if wanted and key not in self._cases:
            task = asyncio.create_task(self._examine(key, wanted), name=f"examine {key[0]}/{key[1]}")
            self._cases[key] = _Case(wanted.about, task)

    def findings(self, key: DeploymentKey) -> Findings | None:
        """What was found, until it is no longer wanted."""
        case = self._cases.get(key)
        return case.findings if case else None

    async def close(self) -> None:
        """End all asking."""
        tasks = [case.task for case in self._cases.values()]
        self._cases.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _examine(self, key: DeploymentKey, wanted: Examination) -> None:
        """Pods that are not there or do not answer are no reason to ask for long."""
        try:
            candidate = await self._ask(wanted.candidate)
            for _ in range(_TRIES - 1):
                if candidate or not wanted.candidate:
                    break
                await self._pause(_PAUSE_SECONDS)
                candidate = await self._ask(wanted.candidate)
            stable = await self._ask(wanted.stable) if candidate else ()
        except Exception:
            log.exception("%s/%s: unexpected; the message says nothing of its servers", *key)
            return
        self._cases[key].findings = Findings(wanted.about, len(wanted.candidate), candidate, stable)
        self._wake(key)

    async def _ask(self, addresses: tuple[str, ...]) -> tuple[ServerCounts, ...]:
        answers = await asyncio.gather(*map(self._reader.count, addresses))
        return tuple(answer for answer in answers if answer is not None)
