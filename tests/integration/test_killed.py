"""Killed after the n-th write, or deprived of its answer: whatever n is, the end is the same.

The real operator runs against the real API server with its controllers. The faults are exact: the API server has
carried the write out, and the operator never hears of it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hack.cluster.controlplane import ControlPlane

from penstock.kube.client import KubeClient

from .apiserver import connected
from .fakecluster import BROKEN, MISSING, V1, V2, install_crd, pretending_kubelet
from .operators import Nursery
from .portrait import differences, portray
from .stories import Telling, telling

AT_ONCE = 6
Step = Callable[[Telling], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """`before` happens undisturbed; the faults come during `then`, which ends settled."""

    before: tuple[Step, ...]
    then: tuple[Step, ...]


async def create(told: Telling) -> None:
    await told.create(V1)


async def settle_first(told: Telling) -> None:
    await told.settled("Available", V1)


async def update(told: Telling) -> None:
    await told.edit({"model": {"uri": V2}})


async def settle_second(told: Telling) -> None:
    await told.settled("Available", V2)


async def break_it(told: Telling) -> None:
    await told.edit({"model": {"uri": BROKEN}})


async def misname_it(told: Telling) -> None:
    await told.edit({"model": {"uri": MISSING}})


async def settle_failed(told: Telling) -> None:
    await told.settled("Failed", V1)


STORIES = {
    "create": Story((), (create, settle_first)),
    "update": Story((create, settle_first), (update, settle_second)),
    "failing-update": Story((create, settle_first), (break_it, settle_failed)),
    "refused-update": Story((create, settle_first), (misname_it, settle_failed)),
}
FAULTS: dict[str, Callable[[Telling, int], None]] = {"killed": Telling.kill_after, "deaf": Telling.lose_answer}


@dataclass(frozen=True)
class Stage:
    """Where stories are told."""

    client: KubeClient
    server: Path
    nursery: Nursery
    folder: Path

    @asynccontextmanager
    async def telling(self, title: str) -> AsyncIterator[Telling]:
        async with telling(self.client, self.server, self.nursery, self.folder, title) as told:
            yield told


@dataclass(frozen=True)
class Undisturbed:
    """How a story goes when nothing happens."""

    first: int
    """Writes before its faulty part."""
    last: int
    portrait: dict[str, Any]


_UNDISTURBED: dict[str, Undisturbed] = {}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("killed"), controllers=True) as started:
        asyncio.run(_install(started))
        yield started


async def _install(cluster: ControlPlane) -> None:
    async with connected(cluster.kubeconfig) as client:
        await install_crd(client)


@pytest_asyncio.fixture
async def stage(cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        connected(cluster.kubeconfig) as client,
        pretending_kubelet(cluster.kubeconfig),
        Nursery() as nursery,
    ):
        yield Stage(client, cluster.kubeconfig, nursery, tmp_path)


async def undisturbed(stage: Stage, title: str) -> Undisturbed:
    if title not in _UNDISTURBED:
        story = STORIES[title]
        async with stage.telling(f"{title}-quiet") as told:
            await told.start()
            for step in story.before:
                await step(told)
            first = len(told.proxy.written)
            for step in story.then:
                await step(told)
            last = len(told.proxy.written)
            _UNDISTURBED[title] = Undisturbed(first, last, await portray(stage.client, told.namespace))
            await says_nothing_more(told)
    return _UNDISTURBED[title]


async def says_nothing_more(told: Telling) -> None:
    """One more pass over a settled world writes nothing."""
    before = list(told.proxy.written)
    await told.nudge()
    await asyncio.sleep(1.0)
    assert told.proxy.written == before, told.proxy.written[len(before) :]


async def at_once(number: int, one: Callable[[int], Awaitable[list[str]]], numbers: range) -> list[str]:
    """Run them side by side, so many at once; all their complaints."""
    room = asyncio.Semaphore(number)

    async def guarded(which: int) -> list[str]:
        async with room:
            try:
                return await one(which)
            except Exception as error:  # noqa: BLE001 - one telling must not take the others with it
                return [f"n = {which}: {error!r}"]

    return [line for lines in await asyncio.gather(*map(guarded, numbers)) for line in lines]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("title", STORIES)
async def test_a_fault_after_any_write_changes_nothing_in_the_end(stage: Stage, title: str, fault: str) -> None:
    story, expected = STORIES[title], await undisturbed(stage, title)

    async def tell(number: int) -> list[str]:
        async with stage.telling(f"{title}-{fault}-{number}") as told:
            FAULTS[fault](told, expected.first + number)
            await told.start()
            async with told.kept_alive():
                for step in (*story.before, *story.then):
                    await step(told)
                found = differences(await portray(stage.client, told.namespace), expected.portrait)
                assert not found, "\n".join(found)
                assert told.starts == 1 + (told.died.is_set() and fault == "killed")
                await says_nothing_more(told)
        return []

    problems = await at_once(AT_ONCE, tell, range(1, expected.last - expected.first + 1))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("fault", FAULTS)
async def test_deleted_after_any_write_nothing_is_left(stage: Stage, fault: str) -> None:
    expected = await undisturbed(stage, "create")

    async def tell(number: int) -> list[str]:
        async with stage.telling(f"delete-{fault}-{number}") as told:
            FAULTS[fault](told, number)
            await told.start()
            await told.create(V1)
            await told.died.wait()
            await told.delete()
            if fault == "killed":
                await told.start()
            await told.gone()
            await asyncio.sleep(1.0)
            assert told.proxy.quiet_for > 1.0, f"still writing: {told.proxy.written[-3:]}"
        return []

    problems = await at_once(AT_ONCE, tell, range(1, expected.last + 1))
    assert not problems, "\n".join(problems)
