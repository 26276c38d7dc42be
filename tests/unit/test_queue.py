"""The queue's promises: one worker a key, nothing lost, nothing twice, delays kept."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.kube.queue import Backoff, KeyedQueue, QueueClosed

KEYS = st.sampled_from("abcd")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Seen:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def added(self, depth: int) -> None:
        self.calls.append(("added", depth))

    def taken(self, depth: int, waited: float) -> None:
        self.calls.append(("taken", depth, waited))

    def finished(self, worked: float) -> None:
        self.calls.append(("finished", worked))

    def retried(self) -> None:
        self.calls.append(("retried",))


class QueueMachine(RuleBasedStateMachine):
    """Against a model that is as dumb as possible: what is owed to each key, and since when it may run."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.queue: KeyedQueue[str] = KeyedQueue(clock=self.clock)
        self.ready: list[str] = []
        self.rerun: set[str] = set()
        self.running: set[str] = set()
        self.due: dict[str, float] = {}

    def model_add(self, key: str) -> None:
        if key in self.running:
            self.rerun.add(key)
        elif key not in self.ready:
            self.ready.append(key)

    def model_promote(self) -> None:
        for key, _ in sorted(((k, d) for k, d in self.due.items() if d <= self.clock.now), key=lambda item: item[1]):
            del self.due[key]
            self.model_add(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.model_add(key)

    @rule(key=KEYS, tenths=st.integers(0, 50))
    def add_after(self, key: str, tenths: int) -> None:
        # distinct due times: for equal ones the order of arrival counts, which the model does not keep
        seconds = tenths / 10 + ord(key) / 1e6 if tenths else 0.0
        self.queue.add_after(key, seconds)
        if seconds == 0:
            self.model_add(key)
        else:
            self.due[key] = min(self.due.get(key, float("inf")), self.clock.now + seconds)

    @rule(tenths=st.integers(1, 40))
    def pass_time(self, tenths: int) -> None:
        self.clock.now += tenths / 10

    @rule()
    def take(self) -> None:
        self.model_promote()
        expected = self.ready.pop(0) if self.ready else None
        assert self.queue.take() == expected
        if expected is not None:
            assert expected not in self.running
            self.running.add(expected)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(key)
        self.running.discard(key)
        if key in self.rerun:
            self.rerun.discard(key)
            self.ready.append(key)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.active == len(self.running)
            assert len(self.queue) == len(self.ready)
            assert self.queue.delayed == len(self.due)

    def teardown(self) -> None:
        """Nothing is lost: given time and workers, everything owed is handed out, and then nothing more."""
        self.clock.now += 1000
        self.model_promote()
        owed = {*self.ready, *self.rerun}
        for key in sorted(self.running):
            self.queue.done(key)
        handed = []
        while (key := self.queue.take()) is not None:
            handed.append(key)
            self.queue.done(key)
        assert sorted(handed) == sorted(owed)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase


async def test_get_waits_for_an_add() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add("a")
    assert await waiting == "a"


async def test_get_wakes_when_a_delayed_key_is_due() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    queue.add_after("late", 3600)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add_after("soon", 0.005)
    assert await asyncio.wait_for(waiting, 2) == "soon"


async def test_a_key_is_worked_on_by_one_worker_and_runs_once_more_when_added_meanwhile() -> None:
    queue: KeyedQueue[int] = KeyedQueue()
    busy: set[int] = set()
    runs: dict[int, int] = dict.fromkeys(range(5), 0)

    async def work() -> None:
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            assert key not in busy
            busy.add(key)
            runs[key] += 1
            if runs[key] < 20:
                queue.add(key)
            await asyncio.sleep(0)
            busy.discard(key)
            queue.done(key)
            if all(count == 20 for count in runs.values()) and not len(queue):
                queue.close()

    for key in runs:
        queue.add(key)
    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(3))), 5)
    assert set(runs.values()) == {20}


async def test_closing_wakes_every_worker_and_hands_out_nothing_more() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    queue.add("a")
    queue.add_after("b", 0.001)
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert all(isinstance(result, QueueClosed) for result in results)
    with pytest.raises(QueueClosed):
        await queue.get()


def test_a_key_in_work_may_finish_after_closing() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.close()
    queue.done("a")
    assert queue.take() is None


def test_backoff_doubles_to_its_cap_and_starts_over_when_forgotten() -> None:
    backoff: Backoff[str] = Backoff(base=0.005, cap=0.03)
    assert [backoff.next("a") for _ in range(5)] == [0.005, 0.01, 0.02, 0.03, 0.03]
    assert backoff.next("b") == 0.005
    backoff.forget("a")
    assert backoff.failures("a") == 0
    assert backoff.next("a") == 0.005


def test_backoff_stays_a_number_after_very_many_failures() -> None:
    backoff: Backoff[str] = Backoff(cap=300)
    for _ in range(5000):
        backoff.next("a")
    assert backoff.next("a") == 300


def test_a_failed_key_comes_back_after_its_pause() -> None:
    clock = Clock()
    queue: KeyedQueue[str] = KeyedQueue(clock=clock, backoff=Backoff(base=2.0, cap=60.0))
    assert queue.add_rate_limited("a") == 2.0
    assert queue.take() is None
    clock.now += 2.0
    assert queue.take() == "a"
    assert queue.failures("a") == 1
    queue.forget("a")
    assert queue.failures("a") == 0


def test_the_age_of_the_oldest_key_counts_waiting_and_work() -> None:
    clock = Clock()
    queue: KeyedQueue[str] = KeyedQueue(clock=clock)
    assert queue.oldest_age() == 0.0
    queue.add("a")
    clock.now += 5
    assert queue.oldest_age() == 5.0
    queue.take()
    clock.now += 2
    assert queue.oldest_age() == 2.0
    queue.done("a")
    assert queue.oldest_age() == 0.0


def test_the_observer_hears_depth_waits_and_work() -> None:
    clock, seen = Clock(), Seen()
    queue: KeyedQueue[str] = KeyedQueue(clock=clock, observer=seen)
    queue.add("a")
    queue.add("a")
    clock.now += 3
    queue.take()
    clock.now += 1
    queue.done("a")
    queue.add_rate_limited("a")
    assert seen.calls == [("added", 1), ("taken", 0, 3.0), ("finished", 1.0), ("retried",)]
