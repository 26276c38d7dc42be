"""Where stories are told: one control plane, one nursery, and how each story goes when nothing disturbs it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.kube.client import KubeClient

from .fakecluster import BROKEN, MISSING, V1, V2
from .operators import Nursery
from .portrait import differences, portray
from .stories import Telling, telling

__all__ = ["STORIES", "Stage", "Story", "Undisturbed", "says_nothing_more", "undisturbed"]

Step = Callable[[Telling], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """`before` happens undisturbed; the faults come during `then`, which ends settled."""

    before: tuple[Step, ...]
    then: tuple[Step, ...]


async def _create(told: Telling) -> None:
    await told.create(V1)
    await told.settled("Available", V1)


def _point_to(uri: str, phase: str, stable: str) -> Step:
    async def step(told: Telling) -> None:
        await told.edit({"model": {"uri": uri}})
        await told.settled(phase, stable)

    return step


STORIES = {
    "create": Story((), (_create,)),
    "update": Story((_create,), (_point_to(V2, "Available", V2),)),
    "failing-update": Story((_create,), (_point_to(BROKEN, "Failed", V1),)),
    "refused-update": Story((_create,), (_point_to(MISSING, "Failed", V1),)),
}


@dataclass(frozen=True)
class Stage:
    """What every telling needs."""

    client: KubeClient
    server: Path
    nursery: Nursery
    folder: Path

    @asynccontextmanager
    async def telling(self, title: str) -> AsyncIterator[Telling]:
        """A namespace of its own."""
        async with telling(self.client, self.server, self.nursery, self.folder, title) as told:
            yield told

    async def portray(self, told: Telling) -> dict[str, Any]:
        """What its namespace looks like."""
        return await portray(self.client, told.namespace)

    async def ends_as(self, told: Telling, expected: "Undisturbed") -> None:
        """Its namespace looks as it does undisturbed, pods once the cluster's controllers have caught up."""
        found: list[str] = []

        async def condition() -> bool:
            found[:] = differences(await self.portray(told), expected.portrait)
            return not found or not all(line.startswith("/Pods") for line in found)

        await told.until(condition, "the pods of the undisturbed end")
        assert not found, "\n".join((*found, *told.writes()))
        await says_nothing_more(told)


@dataclass(frozen=True)
class Undisturbed:
    """How a story goes when nothing happens: the writes made before its faulty part, those at its end, the end."""

    first: int
    last: int
    portrait: dict[str, Any]


_UNDISTURBED: dict[str, Undisturbed] = {}


async def undisturbed(stage: Stage, title: str) -> Undisturbed:
    """Told once for all tests of a run."""
    if title not in _UNDISTURBED:
        story = STORIES[title]
        async with stage.telling(f"{title}-quiet") as told:
            await told.start()
            for step in story.before:
                await step(told)
            first = len(told.proxy.written)
            for step in story.then:
                await step(told)
            await says_nothing_more(told)
            _UNDISTURBED[title] = Undisturbed(first, len(told.proxy.written), await stage.portray(told))
    return _UNDISTURBED[title]


async def says_nothing_more(told: Telling) -> None:
    """One more pass over a settled world writes nothing."""
    before = list(told.proxy.written)
    await told.nudge()
    await asyncio.sleep(1.0)
    assert told.proxy.written == before, told.proxy.written[len(before) :]
