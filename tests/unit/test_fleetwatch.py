"""Reading fleets: only where something is judged, as closely as asked, and nothing twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.controller.fleetwatch import HISTORY_SECONDS, FleetWatch, Interest, Pace
from penstock.core.fleet import RevisionCounts
from penstock.core.names import key_of
from penstock.kube.cache import Cache, DeploymentKey
from penstock.probes.answers import PodAnswer, PodRow, PodSplit, RouteState

NOW = 10_000
QUICK = Pace(slow=0.02, fast=0.01, lag=0.0)
STATE = RouteState(1, {"a": 1000})
KEY = ("ns", "digits")


def router_pod(name: str, *, ready: bool = True, version: int = 1, router: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"penstock.dev/router": router, "app.kubernetes.io/component": "router"},
        },
        "status": {
            "podIP": name,
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


@dataclass
class Routers:
    """Pods that answer what `now` says; those in `mute` do not."""

    now: float = NOW
    mute: set[str] = field(default_factory=set)
    asked: list[tuple[str, tuple[str, ...], int | None]] = field(default_factory=list)
    generation: int = 7
    unknown: set[str] = field(default_factory=set)

    async def observe(self, address: str, uids: list[str], since: int | None) -> PodAnswer | None:
        self.asked.append((address, tuple(uids), since))
        if address in self.mute:
            return None
        return PodAnswer(self.now, {uid: self.split(since) for uid in uids if uid not in self.unknown})

    def split(self, since: int | None) -> PodSplit:
        last = int(self.now)
        seconds = range(max((since or 0) + 1, last - 1000), last + 1) if since is not None else range(0)
        counts = {"a": RevisionCounts(1, 0, 0, 0, ())}
        rows = tuple(PodRow(second, STATE, counts) for second in seconds)
        return PodSplit(generation=self.generation, warm={"a": 2}, first=last - 1000, rows=rows)


@dataclass
class Running:
    watch: FleetWatch
    routers: Routers
    cache: Cache
    woken: list[DeploymentKey]
    round: asyncio.Event

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.round.clear()
            await asyncio.wait_for(self.round.wait(), 5.0)


@asynccontextmanager
async def watching(*pods: str, pace: Pace = QUICK, clock: Callable[[], float] | None = None) -> AsyncIterator[Running]:
    cache, routers, woken, ended = Cache(), Routers(), list[DeploymentKey](), asyncio.Event()

    def wake(key: DeploymentKey) -> None:
        woken.append(key)
        ended.set()

    for name in pods:
        cache.put(router_pod(name))
    loop = asyncio.get_running_loop()
    start = loop.time()
    watch = FleetWatch(cache, routers, wake, pace=pace, clock=clock or (lambda: NOW + loop.time() - start))
    try:
        yield Running(watch, routers, cache, woken, ended)
    finally:
        await watch.close()


def interest(used: int | None = 0, mode: Any = "slow", uid: str = "u1", router: str = "default") -> Interest:
    return Interest(uid, router, mode, used)


async def test_nothing_is_read_while_nothing_is_judged() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, None)
        await asyncio.sleep(0.05)
        assert running.routers.asked == []
        assert running.watch.view(KEY) is None
        running.watch.follow(KEY, interest())
        await running.rounds()
        running.watch.follow(KEY, None)
        await asyncio.sleep(0.05)
        before = len(running.routers.asked)
        await asyncio.sleep(0.1)
        assert len(running.routers.asked) == before
        assert running.watch._tasks == {}


async def test_the_first_round_fetches_the_history_and_the_next_only_what_is_new() -> None:
    async with watching("p1", "p2") as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        assert {(address, since) for address, _, since in running.routers.asked} == {
            ("p1", NOW - HISTORY_SECONDS),
            ("p2", NOW - HISTORY_SECONDS),
        }
        view = running.watch.view(KEY)
        assert view is not None
        assert [row.second for row in view.rows] == list(range(NOW - HISTORY_SECONDS + 1, NOW + 1))
        assert view.rows[0].counts["a"].requests == 2
        assert view.attests(7)
        assert view.warm("a") == 2
        running.routers.asked.clear()
        running.routers.now = NOW + 1
        await running.rounds()
        assert {since for _, _, since in running.routers.asked} == {NOW}
        view = running.watch.view(KEY)
        assert view is not None
        assert view.rows[-1].second == NOW + 1


async def test_what_status_has_used_is_never_shown_again() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        running.watch.follow(KEY, interest(used=NOW - 2))
        view = running.watch.view(KEY)
        assert view is not None
        assert [row.second for row in view.rows] == [NOW - 1, NOW]


async def test_a_new_rollout_begins_with_a_whole_history() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest(used=NOW - 2))
        await running.rounds()
        running.watch.follow(KEY, interest(used=0))
        await running.rounds()
        view = running.watch.view(KEY)
        assert view is not None
        assert len(view.rows) == HISTORY_SECONDS


async def test_after_a_restart_only_what_status_has_not_used_is_fetched() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest(used=NOW - 120))
        await running.rounds()
        assert running.routers.asked[0][2] == NOW - 120


async def test_without_a_candidate_no_counters_are_asked_for() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest(used=None, mode="fast"))
        await running.rounds(3)
        assert {since for _, _, since in running.routers.asked} == {None}
        view = running.watch.view(KEY)
        assert view is not None
        assert view.attests(7)
        assert view.rows == ()


async def test_many_models_share_a_request_and_long_histories_do_not() -> None:
    async with watching("p1") as running:
        for number in range(60):
            running.watch.follow(("ns", f"m{number}"), interest(used=NOW - 1, uid=f"u{number}"))
        running.watch.follow(("ns", "new"), interest(uid="new"))
        await running.rounds()
        asked = [(len(uids), since) for _, uids, since in running.routers.asked]
        assert asked == [(1, NOW - HISTORY_SECONDS), (50, NOW - 1), (10, NOW - 1)]
        assert len(running.woken) == 61


async def test_a_mute_pod_holds_the_counters_and_has_not_answered() -> None:
    async with watching("p1", "p2") as running:
        running.routers.mute = {"p2"}
        running.watch.follow(KEY, interest())
        await running.rounds()
        view = running.watch.view(KEY)
        assert view is not None
        assert {pod.name: pod.answered for pod in view.pods} == {"p1": True, "p2": False}
        assert view.rows == ()
        assert not view.attests(7)
        running.cache.put(router_pod("p2", ready=False, version=2))
        view = running.watch.view(KEY)
        assert view is not None
        assert [pod.name for pod in view.pods] == ["p1"]
        assert len(view.rows) == HISTORY_SECONDS


async def test_a_mute_pod_is_not_waited_for_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.controller.fleetwatch._PATIENCE", 0.4)
    async with watching("p1", "p2") as running:
        answers = running.routers.observe

        async def observe(address: str, uids: list[str], since: int | None) -> PodAnswer | None:
            mute = address in running.routers.mute
            await asyncio.sleep(0.45 if mute else 0)
            return await answers(address, uids, since)

        monkeypatch.setattr(running.routers, "observe", observe)
        running.routers.mute = {"p2"}
        for number in range(10):
            running.watch.follow(("ns", f"m{number}"), interest(uid=f"u{number}"))
        await running.rounds()
        asked = [address for address, *_ in running.routers.asked]
        assert (asked.count("p1"), asked.count("p2")) == (10, 1)


async def test_a_model_that_a_pod_is_slow_to_tell_of_starves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.controller.fleetwatch._PATIENCE", 0.2)
    async with watching("p1") as running:
        answers = running.routers.observe

        async def observe(address: str, uids: list[str], since: int | None) -> PodAnswer | None:
            answer = await answers(address, uids, since)
            if "slow" not in uids:
                return answer
            await asyncio.sleep(0.25)
            return None

        monkeypatch.setattr(running.routers, "observe", observe)
        for name in ("slow", "quick"):
            running.watch.follow(("ns", name), interest(uid=name))
        for _ in range(4):
            await running.rounds()
        assert sum(uids == ("quick",) for _, uids, _ in running.routers.asked) >= 2


async def test_a_pod_without_the_model_does_not_attest() -> None:
    async with watching("p1") as running:
        running.routers.unknown = {"u1"}
        running.watch.follow(KEY, interest(mode="fast"))
        await running.rounds()
        view = running.watch.view(KEY)
        assert view is not None
        assert view.pods[0].answered
        assert not view.attests(7)


async def test_a_fleet_without_pods_attests_nothing() -> None:
    async with watching() as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        view = running.watch.view(KEY)
        assert view is not None
        assert view.pods == ()
        assert not view.attests(0)


async def test_a_view_grows_old() -> None:
    now = float(NOW)
    async with watching("p1", clock=lambda: now, pace=Pace(slow=60, fast=60, lag=0)) as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        assert running.watch.view(KEY) is not None
        now += 5.1
        assert running.watch.view(KEY) is None


async def test_routers_that_come_and_go_wake_the_models_read_there() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest())
        running.watch.follow(("ns", "other"), interest(uid="u2", router="own"))
        running.woken.clear()
        running.watch.wake(("ns", "default"))
        assert running.woken == [KEY]


async def test_a_model_made_anew_under_its_name_is_another_one() -> None:
    async with watching("p1") as running:
        running.watch.follow(KEY, interest(used=NOW - 1))
        await running.rounds()
        running.watch.follow(KEY, interest(used=NOW - 1, uid="u2"))
        assert running.watch.view(KEY) is None
        await running.rounds()
        assert running.routers.asked[-1][1] == ("u2",)


async def test_one_that_is_in_a_hurry_does_not_wait_for_the_others() -> None:
    async with watching("p1", pace=Pace(slow=60, fast=0.01, lag=0)) as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        running.watch.follow(("ns", "hurried"), interest(uid="u2", mode="fast"))
        await running.rounds(3)
        assert [uids for _, uids, _ in running.routers.asked].count(("u1",)) == 1
        running.watch.follow(KEY, interest(mode="fast"))
        await running.rounds(3)
        assert sum("u1" in uids for _, uids, _ in running.routers.asked) > 1


async def test_a_reader_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with watching("p1") as running:
        observe, failures = running.routers.observe, iter([True])

        async def once(address: str, uids: list[str], since: int | None) -> PodAnswer | None:
            if next(failures, False):
                raise RuntimeError("a bug")
            return await observe(address, uids, since)

        running.routers.observe = once  # type: ignore[method-assign]
        running.watch.follow(KEY, interest(mode="fast"))
        await running.rounds()
        assert running.watch.view(KEY) is not None
        assert "a bug" in caplog.text


async def test_slow_rounds_begin_just_after_the_second() -> None:
    now = NOW + 0.5
    async with watching("p1", clock=lambda: now, pace=Pace()) as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        model = running.watch._models[KEY]
        assert running.watch._due(model) == pytest.approx(NOW + 1.15)
        model.asked = NOW + 1.16
        assert running.watch._due(model) == pytest.approx(NOW + 2.15)
        model.asked = NOW + 1.14
        assert running.watch._due(model) == pytest.approx(NOW + 1.15)


def test_objects_of_a_fleet_are_found_by_their_label() -> None:
    cache = Cache()
    cache.put(router_pod("p1"))
    cache.put(router_pod("p2", router="own"))
    assert [key.name for key in cache.fleet(("ns", "default"))] == ["p1"]
    cache.put(router_pod("p1", router="own", version=2))
    assert [key.name for key in cache.fleet(("ns", "own"))] == ["p1", "p2"]
    cache.drop(router_pod("p1", router="own", version=3))
    assert [key.name for key in cache.fleet(("ns", "own"))] == ["p2"]
    assert key_of(router_pod("p2")) in cache.fleet(("ns", "own"))


async def test_a_clock_that_is_set_back_stops_no_reading_and_makes_nothing_fresh() -> None:
    behind = 0.0
    start = asyncio.get_running_loop().time()
    clock = lambda: NOW - behind + asyncio.get_running_loop().time() - start  # noqa: E731
    async with watching("p1", clock=clock) as running:
        running.watch.follow(KEY, interest())
        await running.rounds()
        behind = 3600.0
        assert running.watch.view(KEY) is None
        await running.rounds(2)
        view = running.watch.view(KEY)
        assert view is not None
        assert [pod.answered for pod in view.pods] == [True]
