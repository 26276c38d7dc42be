"""The servers of a revision that was taken back are asked once, beside all else, and never for long."""

import asyncio
from typing import Any

import pytest

from penstock.controller.examiner import Examiner
from penstock.core.servercounts import Examination, Findings, ModelCounts, ServerCounts

KEY = ("vision", "digits")
COUNTS: ServerCounts = {"digits": ModelCounts(3)}
WANTED = Examination("digits-2", "12:00", ("10.0.0.1", "10.0.0.2"), ("10.0.0.9",))


class Servers:
    """`silent` is how many of the first requests get no answer."""

    def __init__(self, silent: int = 0) -> None:
        self.asked: list[str] = []
        self.silent = silent
        self.gate = asyncio.Event()
        self.gate.set()

    async def count(self, address: str) -> ServerCounts | None:
        self.asked.append(address)
        silent = len(self.asked) <= self.silent
        await self.gate.wait()
        return None if silent else COUNTS


class Scene:
    def __init__(self, servers: Any) -> None:
        self.servers, self.woken, self.pauses = servers, asyncio.Event(), list[float]()
        self.wakes = 0
        self.examiner = Examiner(servers, self._wake, pause=self._pause)

    def _wake(self, key: tuple[str, str]) -> None:
        assert key == KEY
        self.wakes += 1
        self.woken.set()

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_however_often_it_is_wanted_it_is_asked_once() -> None:
    scene = Scene(Servers())
    for _ in range(5):
        scene.examiner.follow(KEY, WANTED)
    assert scene.examiner.findings(KEY) is None
    await scene.woken.wait()
    scene.examiner.follow(KEY, WANTED)
    scene.examiner.follow(KEY, Examination("digits-2", "12:00", ("10.0.0.2",)))
    assert scene.examiner.findings(KEY) == Findings(WANTED.about, 2, (COUNTS, COUNTS), (COUNTS,))
    assert scene.servers.asked == ["10.0.0.1", "10.0.0.2", "10.0.0.9"]
    assert (scene.wakes, scene.pauses) == (1, [])
    scene.examiner.follow(KEY, None)
    assert scene.examiner.findings(KEY) is None
    await scene.examiner.close()


@pytest.mark.parametrize(
    ("silent", "asked", "answered"), [(1, 3, 1), (2, 5, 2), (3, 5, 1), (4, 4, 0), (99, 4, 0)], ids=str
)
async def test_silence_is_asked_once_more_and_then_left_alone(silent: int, asked: int, answered: int) -> None:
    scene = Scene(Servers(silent))
    scene.examiner.follow(KEY, WANTED)
    await scene.woken.wait()
    found = scene.examiner.findings(KEY)
    assert found is not None
    assert (len(scene.servers.asked), len(found.candidate)) == (asked, answered)
    assert len(scene.pauses) == (1 if silent > 1 else 0)


async def test_pods_without_an_address_are_no_reason_to_wait() -> None:
    scene = Scene(Servers())
    scene.examiner.follow(KEY, Examination("digits-2", "12:00", (), ("10.0.0.9",)))
    await scene.woken.wait()
    assert scene.examiner.findings(KEY) == Findings(("digits-2", "12:00"))
    assert scene.servers.asked == []


async def test_another_ending_is_another_case() -> None:
    scene = Scene(Servers())
    scene.servers.gate.clear()
    scene.examiner.follow(KEY, WANTED)
    await asyncio.sleep(0)
    later = Examination("digits-2", "12:30", ("10.0.0.3",))
    scene.examiner.follow(KEY, later)
    scene.servers.gate.set()
    await scene.woken.wait()
    found = scene.examiner.findings(KEY)
    assert found is not None
    assert found.about == later.about
    assert scene.wakes == 1


async def test_an_unexpected_error_says_nothing_and_is_not_repeated() -> None:
    class Broken(Servers):
        async def count(self, address: str) -> ServerCounts | None:
            await super().count(address)
            raise RuntimeError

    scene = Scene(Broken())
    scene.examiner.follow(KEY, WANTED)
    for _ in range(5):
        await asyncio.sleep(0)
    scene.examiner.follow(KEY, WANTED)
    assert scene.examiner.findings(KEY) is None
    assert len(scene.servers.asked) == 2
    assert scene.wakes == 0


async def test_closing_ends_what_is_under_way() -> None:
    scene = Scene(Servers())
    scene.servers.gate.clear()
    scene.examiner.follow(KEY, WANTED)
    await asyncio.sleep(0)
    await scene.examiner.close()
    assert scene.examiner.findings(KEY) is None
    assert scene.wakes == 0
