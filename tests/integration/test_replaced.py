"""`capacity: Replace` through a router: the real operator, API server and controllers; router pods as agents answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from .fakecluster import FAILING, V1, V2
from .stage import Stage, says_nothing_more
from .stories import Telling
from .test_rollouts import revisions, settled

REPLACE = {"capacity": "Replace", "replace": {"hold": "3s"}, "supervision": {"onLoss": "Keep"}}
REPLACED = {"traffic": {"timeout": "1s"}, "rollout": REPLACE}


async def begin(told: Telling) -> None:
    await told.start()
    await told.create(V1, **REPLACED)
    await settled(told, "Available", V1)


@contextlib.asynccontextmanager
async def counted(told: Telling, room: int) -> AsyncIterator[None]:
    """Never more serving pods than there is room for, as far as somebody sees who looks all the time."""
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, await told.count("Pod"))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(count())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert most <= room


async def test_the_only_pod_changes_hands(stage: Stage) -> None:
    async with stage.telling("replaced") as told:
        await begin(told)
        async with counted(told, 1):
            await told.edit({"model": {"uri": V2}})
            await settled(told, "Available", V2)
        old, new = (await revisions(told))[V1], (await revisions(told))[V2]
        assert stage.routers.weights(told.namespace) == [{old: 1000}, {}, {new: 1000}]
        await says_nothing_more(told)


async def test_the_only_pod_that_fails_comes_back(stage: Stage) -> None:
    async with stage.telling("replaced-back") as told:
        await begin(told)
        async with counted(told, 1):
            await told.edit({"model": {"uri": FAILING}})
            await settled(told, "RolledBack", V1)
        old, new = (await revisions(told))[V1], (await revisions(told))[FAILING]
        assert stage.routers.weights(told.namespace) == [{old: 1000}, {}, {new: 1000}, {}, {old: 1000}]
        status = await told.status()
        assert status["failedRevision"]["reason"] == "ErrorRateAboveMaximum"
        await says_nothing_more(told)


@pytest.mark.timeout(300)
async def test_killed_in_the_middle_of_the_outage_it_ends_the_same(stage: Stage) -> None:
    async with stage.telling("replaced-killed") as told:
        await begin(told)
        async with told.kept_alive(), counted(told, 1):
            for number in (12, 18):
                told.kill_after(number)
                await told.edit({"model": {"uri": V2 if number == 12 else V1}})
                await settled(told, "Available", V2 if number == 12 else V1)
        routes = stage.routers.weights(told.namespace)
        assert [len(route) for route in routes] == [1, 0, 1, 0, 1], routes
        await says_nothing_more(told)
