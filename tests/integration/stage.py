"""Where stories are told: one control plane, one nursery, and how a life goes when nothing disturbs it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.kube.client import KubeClient

from .fakecluster import BROKEN, MISSING, V1, V2
from .fakerouters import FakeRouters
from .operators import Nursery
from .portrait import differences, portray
from .stories import Telling, telling

__all__ = ["ACTS", "Act", "Stage", "says_nothing_more", "undisturbed"]


@dataclass(frozen=True)
class Act:
    """What the user does, and how that ends: a phase, and the URI that serves."""

    name: str
    begin: Callable[[Telling], Awaitable[None]]
    phase: str
    serves: str

    async def play(self, told: Telling) -> None:
        """Do it, and wait for the end."""
        await self.begin(told)
        await told.settled(self.phase, self.serves)


def _create(told: Telling) -> Awaitable[None]:
    return told.create(V1)


def _point_to(uri: str) -> Callable[[Telling], Awaitable[None]]:
    return lambda told: told.edit({"model": {"uri": uri}})


ACTS = (
    Act("create", _create, "Available", V1),
    Act("update", _point_to(V2), "Available", V2),
    Act("failing update", _point_to(BROKEN), "Failed", V2),
    Act("refused update", _point_to(MISSING), "Failed", V2),
)
"""One life, act by act."""


@dataclass(frozen=True)
class Undisturbed:
    """How an act goes when nothing happens: its writes, and what the namespace looks like then."""

    writes: int
    portrait: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """What every telling needs."""

    client: KubeClient
    server: Path
    nursery: Nursery
    folder: Path
    routers: FakeRouters

    @asynccontextmanager
    async def telling(self, title: str) -> AsyncIterator[Telling]:
        """A namespace of its own."""
        async with telling(self.client, self.server, self.nursery, self.folder, title) as told:
            yield told

    async def ends_as(self, told: Telling, expected: Undisturbed) -> None:
        """Its namespace looks as it does undisturbed, and one more pass writes nothing."""

        async def looks_the_same() -> bool:
            return not differences(await portray(self.client, told.namespace), expected.portrait)

        try:
            await told.until(looks_the_same, "the end of an undisturbed life")
        except AssertionError as error:
            found = differences(await portray(self.client, told.namespace), expected.portrait)
            raise AssertionError("\n".join((str(error), *found, *told.writes()))) from None
        await says_nothing_more(told)


_UNDISTURBED: list[Undisturbed] = []


async def undisturbed(stage: Stage) -> list[Undisturbed]:
    """All acts; played once for all tests of a run."""
    if not _UNDISTURBED:
        found = []
        async with stage.telling("quiet") as told:
            await told.start()
            for act in ACTS:
                before = len(told.proxy.written)
                await act.play(told)
                made = len(told.proxy.written) - before
                found.append(Undisturbed(made, await portray(stage.client, told.namespace)))
                await says_nothing_more(told)
        _UNDISTURBED[:] = found
    return _UNDISTURBED


async def says_nothing_more(told: Telling) -> None:
    """One more pass over a settled world writes nothing."""
    before = len(told.proxy.written)
    await told.nudge()
    await asyncio.sleep(1.0)
    assert len(told.proxy.written) == before, "\n".join((f"writes after number {before}:", *told.writes()))
