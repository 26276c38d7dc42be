"""Leadership by a Lease, with the clock and the API server in our hands."""

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.kube.errors import Conflict, NotFound, Unavailable
from penstock.kube.lease import LeaderLease, LeaseLost, LeaseTimes


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """The one Lease, with optimistic locking; `away` stands for an API server that does not answer."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False
        self.writes = 0

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("no answer")

    def _save(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.writes += 1
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        self._reach()
        if self.lease is None:
            raise NotFound("none")
        return copy.deepcopy(self.lease)

    async def post(self, lease: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if self.lease is not None:
            raise Conflict("exists")
        return self._save(lease)

    async def replace(self, lease: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if lease["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict("newer")
        return self._save(lease)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


def contender(store: Store, clock: Clock, identity: str, **more: Any) -> LeaderLease:
    return LeaderLease(
        store,  # type: ignore[arg-type]
        namespace="penstock-system",
        name="penstock",
        identity=identity,
        clock=clock,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        **more,
    )


async def test_the_first_takes_it_and_the_second_waits(store: Store, clock: Clock) -> None:
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    assert await first.attempt()
    assert not await second.attempt()
    assert first.held
    assert not second.held
    assert second.holder == "a"
    assert store.lease["spec"] == {  # type: ignore[index]
        "holderIdentity": "a",
        "leaseDurationSeconds": 60,
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }


async def test_a_renewed_lease_is_never_taken(store: Store, clock: Clock) -> None:
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    for _ in range(30):
        assert await first.attempt()
        assert not await second.attempt()
        clock.now += 5


async def test_a_dead_holders_lease_is_taken_after_its_duration_was_watched(store: Store, clock: Clock) -> None:
    first = contender(store, clock, "a")
    await first.attempt()
    clock.now += 500
    second = contender(store, clock, "b")
    waited = 0
    while not await second.attempt():
        waited += 5
        clock.now += 5
    assert waited == 60
    assert store.lease["spec"]["leaseTransitions"] == 1  # type: ignore[index]
    assert not first.held


async def test_the_fence_closes_before_anybody_can_take_over(store: Store, clock: Clock) -> None:
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    await first.attempt()
    await second.attempt()
    store.away = True
    for _ in range(7):
        clock.now += 5
        assert await first.attempt(), "one failed renewal costs nothing"
    clock.now += 5
    assert not first.held
    assert not await first.attempt()
    store.away = False
    assert not await second.attempt(), "20 s are left between"


async def test_a_restarted_container_takes_its_own_lease_at_once(store: Store, clock: Clock) -> None:
    await contender(store, clock, "pod-uid").attempt()
    again = contender(store, clock, "pod-uid")
    assert await again.attempt()
    assert store.lease["spec"]["leaseTransitions"] == 0  # type: ignore[index]


async def test_a_released_lease_is_free_at_once(store: Store, clock: Clock) -> None:
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    await first.attempt()
    await second.attempt()
    await first.release()
    assert not first.held
    assert store.lease["spec"]["holderIdentity"] == ""  # type: ignore[index]
    assert await second.attempt()
    assert store.lease["spec"]["holderIdentity"] == "b"  # type: ignore[index]


async def test_only_the_holder_releases(store: Store, clock: Clock) -> None:
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    await second.release()
    await first.attempt()
    await second.attempt()
    await second.release()
    assert store.lease["spec"]["holderIdentity"] == "a"  # type: ignore[index]


async def test_a_release_that_fails_still_closes_the_fence(store: Store, clock: Clock) -> None:
    first = contender(store, clock, "a")
    await first.attempt()
    store.away = True
    await first.release()
    assert not first.held


async def test_of_two_that_take_at_once_one_wins(store: Store, clock: Clock) -> None:
    contenders = [contender(store, clock, name) for name in "abc"]
    results = await asyncio.gather(*(one.attempt() for one in contenders))
    assert sum(results) == 1


async def test_a_lease_edited_by_others_is_read_again(store: Store, clock: Clock) -> None:
    first = contender(store, clock, "a")
    await first.attempt()
    store._save(store.lease or {})
    assert await first.attempt(), "still within its deadline"
    assert await first.attempt(), "and renewed after a look"
    clock.now += 39
    assert first.held


async def test_a_lease_that_was_taken_is_lost_at_once(store: Store, clock: Clock) -> None:
    changes: list[bool] = []
    first = contender(store, clock, "a", on_change=changes.append, times=LeaseTimes(retry=0.001, request=0.5))
    running = asyncio.create_task(first.run(asyncio.Event()))
    await asyncio.wait_for(first.acquired.wait(), 2)
    lease = copy.deepcopy(store.lease or {})
    lease["spec"]["holderIdentity"] = "b"
    store._save(lease)
    with pytest.raises(LeaseLost, match="now 'b'"):
        await asyncio.wait_for(running, 2)
    assert changes == [True, False]


async def test_stopping_releases(store: Store, clock: Clock) -> None:
    stop, changes = asyncio.Event(), list[bool]()
    first = contender(store, clock, "a", on_change=changes.append)
    running = asyncio.create_task(first.run(stop))
    await asyncio.wait_for(first.acquired.wait(), 2)
    stop.set()
    await asyncio.wait_for(running, 2)
    assert store.lease["spec"]["holderIdentity"] == ""  # type: ignore[index]
    assert changes == [True, False]


async def test_renewing_costs_one_write_and_no_read(store: Store, clock: Clock) -> None:
    first = contender(store, clock, "a")
    await first.attempt()
    store.get = None  # type: ignore[assignment, method-assign]
    for _ in range(3):
        await first.attempt()
    assert store.writes == 4


@pytest.mark.parametrize("times", [(40, 40, 5, 10), (60, 10, 5, 10), (60, 40, 35, 10)])
def test_unsafe_times_are_refused(times: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="unsafe"):
        LeaseTimes(*times)
