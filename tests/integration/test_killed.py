"""Killed after the n-th write, or deprived of its answer: whatever n is, the end is the same.

The real operator runs against the real API server with its controllers. The faults are exact: the API server has
carried the write out, and the operator never hears of it.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from .fakecluster import V1
from .stage import STORIES, Stage, says_nothing_more, undisturbed
from .stories import Telling

AT_ONCE = 10
"""Tellings side by side: most of the time each of them waits."""
FAULTS: dict[str, Callable[[Telling, int], None]] = {"killed": Telling.kill_after, "deaf": Telling.lose_answer}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("title", STORIES)
async def test_a_fault_after_any_write_changes_nothing_in_the_end(stage: Stage, title: str, fault: str) -> None:
    story, expected = STORIES[title], await undisturbed(stage, title)

    async def tell(number: int) -> None:
        async with stage.telling(f"{title}-{fault}-{number}") as told:
            FAULTS[fault](told, expected.first + number)
            await told.start()
            async with told.kept_alive():
                for step in (*story.before, *story.then):
                    await step(told)
                await stage.ends_as(told, expected)
                assert told.starts == 1 + (told.faulted.is_set() and fault == "killed")

    await for_each(tell, expected.last - expected.first)


@pytest.mark.parametrize("fault", FAULTS)
async def test_deleted_after_any_write_nothing_is_left(stage: Stage, fault: str) -> None:
    expected = await undisturbed(stage, "create")

    async def tell(number: int) -> None:
        async with stage.telling(f"delete-{fault}-{number}") as told:
            FAULTS[fault](told, number)
            await told.start()
            await told.create(V1)
            await told.until(told.has_faulted, f"write {number}")
            await told.delete()
            if fault == "killed":
                await told.start()
            await told.gone()
            await says_nothing_more(told)

    await for_each(tell, expected.last)


async def for_each(tell: Callable[[int], Awaitable[None]], last: int) -> None:
    """Tell it with a fault after write 1 to `last`, several side by side; complain about all that went wrong."""
    room = asyncio.Semaphore(AT_ONCE)

    async def guarded(number: int) -> str:
        async with room:
            try:
                await tell(number)
            except Exception as error:  # noqa: BLE001 - one telling must not take the others with it
                return f"n = {number} of {last}: {type(error).__name__}: {error}"
        return ""

    problems = [problem for problem in await asyncio.gather(*map(guarded, range(1, last + 1))) if problem]
    assert not problems, "\n\n".join(problems)
