"""Killed after the n-th write, or deprived of its answer: whatever n is, the end is the same.

The real operator runs against the real API server with its controllers. The faults are exact: the API server has
carried the write out, and the operator never hears of it.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from .fakecluster import V1
from .stage import ACTS, Stage, says_nothing_more, undisturbed
from .stories import Telling

AT_ONCE = 10
"""Tellings side by side: most of the time each of them waits."""
FAULTS: dict[str, Callable[[Telling, int], None]] = {"killed": Telling.kill_after, "deaf": Telling.lose_answer}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_after_any_write_changes_nothing_in_the_end(stage: Stage, fault: str) -> None:
    """Life n meets the fault at the n-th write of each act that has so many."""
    expected = await undisturbed(stage)

    async def live(number: int) -> None:
        async with stage.telling(f"{fault}-{number}") as told:
            await told.start()
            async with told.kept_alive():
                for act, end in zip(ACTS, expected, strict=True):
                    if number <= end.writes:
                        FAULTS[fault](told, number)
                    await act.play(told)
                    try:
                        await stage.ends_as(told, end)
                    except AssertionError as error:
                        raise AssertionError(f"{act.name}: {error}") from None
                assert told.starts == 1 or fault == "killed"

    await for_each(live, max(end.writes for end in expected))


@pytest.mark.parametrize("fault", FAULTS)
async def test_deleted_after_any_write_nothing_is_left(stage: Stage, fault: str) -> None:
    expected = (await undisturbed(stage))[0]

    async def live(number: int) -> None:
        async with stage.telling(f"deleted-{fault}-{number}") as told:
            FAULTS[fault](told, number)
            await told.start()
            await told.create(V1)
            await told.until(told.has_faulted, f"write {number}")
            await told.delete()
            if fault == "killed" and told.faulted.is_set():
                await told.start()
            await told.gone()
            await says_nothing_more(told)

    await for_each(live, expected.writes)


async def for_each(live: Callable[[int], Awaitable[None]], last: int, stride: int = 1, at_once: int = AT_ONCE) -> None:
    """One life for each number from 1 to `last`, several side by side; complain about all that went wrong."""
    room = asyncio.Semaphore(at_once)

    async def guarded(number: int) -> str:
        async with room:
            try:
                await live(number)
            except Exception as error:  # noqa: BLE001 - one life must not take the others with it
                return f"n = {number} of {last}: {type(error).__name__}: {error}"
        return ""

    problems = [problem for problem in await asyncio.gather(*map(guarded, range(1, last + 1, stride))) if problem]
    assert not problems, "\n\n".join(problems)
