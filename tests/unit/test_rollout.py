"""The parts of the state machine by themselves: courses, commands, routes, what is counted, what is said."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.rollout import AnalysisSpec, RolloutSpec
from penstock.api.router import WHOLE
from penstock.api.status import CandidateStatus
from penstock.core.fleet import RevisionCounts, Row
from penstock.core.rollout import Position, Route, find_course, find_route, percent, permille
from penstock.core.rollout.commands import Commands, read_commands
from penstock.core.rollout.course import Course, chart
from penstock.core.rollout.position import find_position, itinerary
from penstock.core.rollout.progress import Progress, begin_progress, gather

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
BEGAN = int(NOW.timestamp())
CANARY = chart(RolloutSpec(), routed=True)


def rollout(**spec: Any) -> RolloutSpec:
    return RolloutSpec.model_validate(spec)


@given(st.integers(1, WHOLE))
def test_a_weight_is_read_back_as_it_was_written(weight):
    assert permille(percent(weight)) == weight


@pytest.mark.parametrize(("weight", "text"), [(100, "10"), (5, "0.5"), (1000, "100"), (0, "0"), (999, "99.9")])
def test_weights_are_told_in_percent(weight, text):
    assert percent(weight) == text


@pytest.mark.parametrize(
    ("spec", "routed", "strategy", "weights", "shadow"),
    [
        ({}, True, "Canary", [100, 500], False),
        ({}, False, "Immediate", [], False),
        ({"strategy": "Immediate"}, True, "Immediate", [], False),
        ({"strategy": "BlueGreen"}, True, "BlueGreen", [950], False),
        ({"strategy": "BlueGreen", "blueGreen": {"autoPromote": False}}, False, "BlueGreen", [], False),
        ({"canary": {"steps": [{"weight": "0.5"}]}, "shadow": {"percent": 10}}, True, "Canary", [5], True),
    ],
)
def test_the_course_that_a_spec_asks_for(spec, routed, strategy, weights, shadow):
    course = chart(rollout(**spec), routed=routed)
    assert course.strategy == strategy
    assert [course.weight(step + 1) for step in range(len(course.steps))] == weights
    assert (course.shadow is not None) is shadow


def test_a_pinned_course_outlives_the_spec_but_not_its_router():
    told = CandidateStatus(revision="r", strategy=CANARY.strategy, plan=CANARY.steps)
    spec = rollout(strategy="Immediate")
    assert find_course(told, spec, routed=True) == CANARY
    assert find_course(told, spec, routed=False) == Course("Immediate")
    assert find_course(None, spec, routed=True) == Course("Immediate")


@pytest.mark.parametrize(
    ("size", "share", "pods"), [(1, 100, 1), (10, 100, 1), (10, 101, 2), (10, 500, 5), (3, 1000, 3), (0, 100, 0)]
)
def test_a_candidate_has_pods_for_its_share(size, share, pods):
    assert CANARY.pods(size, share) == pods
    assert Course("BlueGreen").pods(size, share) == size


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({}, Commands()),
        ({"promote": "digits-00000001"}, Commands(promote=True)),
        ({"promote": "digits-00000001/2"}, Commands(end_step=2)),
        ({"promote": "digits-00000002"}, Commands()),
        ({"paused": True, "promote": "digits-00000001"}, Commands(paused=True, promote=True)),
        ({"abort": "digits-00000001", "paused": True, "promote": "digits-00000001"}, Commands(abort=True)),
        ({"abort": "digits-00000002", "promote": ""}, Commands()),
    ],
)
def test_commands_are_for_the_revision_they_name(spec, found):
    assert read_commands(rollout(**spec), "digits-00000001") == found


def test_the_way_of_each_kind_of_rollout():
    stages = lambda way: [place.stage for place in way]  # noqa: E731
    shadowed = chart(rollout(shadow={"percent": 1}), routed=True)
    assert stages(itinerary(shadowed, routed=True, first=False, preview=False)) == [
        "Starting", "Warming", "Shadowing", "Stepping", "Stepping", "Promoting"
    ]  # fmt: skip
    assert stages(itinerary(CANARY, routed=True, first=True, preview=False)) == ["Starting", "Promoting"]
    switch = chart(rollout(strategy="BlueGreen"), routed=True)
    assert stages(itinerary(switch, routed=True, first=False, preview=True)) == [
        "Starting", "Warming", "Previewing", "Stepping", "Promoting"
    ]  # fmt: skip
    assert stages(itinerary(Course("BlueGreen"), routed=False, first=False, preview=True)) == ["Starting", "Previewing"]


@pytest.mark.parametrize(
    ("stage", "step", "found"),
    [
        (None, 0, Position("Starting")),
        ("Stepping", 2, Position("Stepping", 2)),
        ("Stepping", 7, Position("Starting")),
        ("Shadowing", 0, Position("Starting")),
        ("Warming", 2, Position("Warming", 2)),
    ],
)
def test_a_place_that_the_way_does_not_have_is_its_beginning(stage, step, found):
    way = itinerary(CANARY, routed=True, first=False, preview=False)
    assert find_position(CandidateStatus(revision="r", stage=stage, step=step), way) == found


@given(st.integers(1, 2), st.sampled_from(["Starting", "Warming", "Previewing", "Shadowing", "Stepping", "Promoting"]))
def test_every_route_gives_away_everything_once(step, stage):
    course = chart(rollout(shadow={"percent": 20}), routed=True)
    route = find_route("s", "c", Position(stage, step), course)
    assert sum(route.weights.values()) == WHOLE
    assert route.stable == "s"
    assert route.share("c") == {"Shadowing": 200, "Stepping": course.weight(step), "Promoting": 1000}.get(stage, 0)
    assert find_route(None, "c", Position(stage, step), course).weights == ({"c": 1000} if stage == "Promoting" else {})


def row(second: int, candidate: int = 100, requests: int = 10, shadow: tuple[str, int] | None = None) -> Row:
    latency = (requests, 0)
    weights = {"s": WHOLE - candidate, "c": candidate} if candidate else {"s": WHOLE}
    counts = {"s": RevisionCounts(90, latency=(90, 0)), "c": RevisionCounts(requests, latency=latency)}
    return Row(BEGAN + second, 1, weights, counts, (100,), shadow)


def begun(seconds: int = 60) -> Progress:
    history = [row(-second, candidate=0) for second in range(seconds, 0, -1)]
    return begin_progress(AnalysisSpec(), None, history, "s", NOW)


STEP = Route("s", {"s": 900, "c": 100})


def test_only_seconds_with_exactly_this_route_are_counted():
    rows = (row(1), row(2, candidate=0), row(3, candidate=500), row(4, shadow=("c", 100)), row(5))
    found = gather(begun(), rows, STEP, "c")
    assert (found.observed_seconds, found.step_requests, found.requests) == (2, 20, 20)
    assert found.as_of == BEGAN + 5


def test_a_second_is_counted_once_however_often_it_is_seen():
    rows = tuple(row(second) for second in range(1, 11))
    once = gather(begun(), rows, STEP, "c")
    assert gather(once, rows, STEP, "c") == once
    in_parts = gather(gather(begun(), rows[:4], STEP, "c"), rows, STEP, "c")
    assert in_parts == once


def test_an_earlier_attempt_of_the_same_revision_is_not_counted_again():
    history = [row(second, candidate=0 if second < -10 else 100) for second in range(-60, 1)]
    told = begin_progress(AnalysisSpec(), None, history[:-1], "s", NOW)
    found = gather(told, (*history, row(2)), STEP, "c")
    assert (found.observed_seconds, found.step_requests, found.requests) == (1, 10, 10)


@pytest.mark.parametrize(("late", "first"), [(0, 1), (1, 1), (3, 0), (8, -5), (-4, 5)])
def test_evidence_begins_behind_what_may_be_on_its_way_by_the_routers_own_clock(late, first):
    told = begin_progress(AnalysisSpec(), None, [row(-late, candidate=0)], "s", NOW)
    assert told.as_of == BEGAN + first - 1


def test_copies_are_no_requests():
    shadowed = Route("s", {"s": WHOLE, "c": 0}, ("c", 100))
    found = gather(begun(), (row(1, candidate=0, shadow=("c", 100)),), shadowed, "c")
    assert (found.observed_seconds, found.step_requests, found.requests) == (1, 10, 0)


def test_evidence_that_another_release_wrote_begins_again():
    told = begun()
    assert told.analysis is not None
    foreign = Progress(analysis=told.analysis.model_copy(update={"sums": "9:?"}), judged_since=told.judged_since)
    found = gather(foreign, (row(1),), STEP, "c")
    assert (found.observed_seconds, found.verdict) == (1, "Undecided")


def test_without_history_the_bound_for_slow_is_found_on_the_way():
    told = begin_progress(AnalysisSpec(), None, (), "s", NOW)
    assert told.analysis is not None
    assert told.analysis.slow_above_milliseconds is None
    assert told.as_of == BEGAN
    found = gather(told, tuple(row(second) for second in range(1, 4)), STEP, "c")
    assert found.analysis is not None
    assert found.analysis.slow_above_milliseconds == 100
