"""Merging what pods tell: against a model that knows every second of every pod, whatever is asked when."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.fleet import RevisionCounts, Row
from penstock.probes.answers import PodRow, PodSplit, RouteState
from penstock.probes.history import History

STATES = (RouteState(1, {"a": 1000}), RouteState(2, {"a": 900, "b": 100}), None)


@dataclass
class Pod:
    """One pod as it is: a state and counts for each second from `first` on."""

    first: int
    rows: list[tuple[int, int]]
    """(index of the state, requests), one each second"""
    asked: list[int] = field(default_factory=list)

    def row(self, second: int) -> PodRow:
        state, requests = self.rows[second - self.first]
        counts = {"a": RevisionCounts(requests, 1, 0, 0, (requests, 0))} if requests else {}
        return PodRow(second, STATES[state], counts)

    def answer(self, since: int, now: int) -> PodSplit:
        """Everything after `since` that has ended at `now`, as the agent's contract has it."""
        last = min(now, self.first + len(self.rows) - 1)
        return PodSplit(first=self.first, rows=tuple(self.row(t) for t in range(max(since + 1, self.first), last + 1)))


pods = st.lists(
    st.builds(
        Pod,
        st.integers(1, 12),
        st.lists(st.tuples(st.sampled_from((0, 0, 0, 1, 2)), st.integers(0, 9)), min_size=0, max_size=20),
    ),
    min_size=1,
    max_size=3,
)
LAST = 40


def poll(history: History, pod: Pod, name: str, now: int, overlap: int = 0) -> None:
    since = max(0, history.since(name) - overlap)
    history.take(name, pod.answer(since, now), now, since)


def expected(pods: dict[str, Pod], told: dict[str, int], ready: set[str], after: int) -> list[int]:
    """Seconds that count, by the words of the contract."""
    found = []
    for second in range(after + 1, LAST):
        if any(told.get(name, after) < second for name in ready):
            break
        parts = [p.row(second) for name, p in pods.items() if p.first <= second <= told.get(name, 0)]
        states = [part.state for part in parts]
        if parts and states[0] is not None and all(state == states[0] for state in states):
            found.append(second)
    return found


@given(pods, st.data())
def test_a_second_counts_when_every_ready_pod_agrees(found: list[Pod], data: st.DataObject) -> None:
    named = {f"p{index}": pod for index, pod in enumerate(found)}
    after = data.draw(st.integers(0, 5))
    history = History(after)
    told: dict[str, int] = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(named)), max_size=8)):
        now = data.draw(st.integers(after, 30))
        poll(history, named[name], name, now, overlap=data.draw(st.integers(0, 3)))
        pod = named[name]
        covered = min(now, pod.first + len(pod.rows) - 1)
        told[name] = max(told.get(name, after), covered, pod.first - 1)
    ready = set(data.draw(st.sets(st.sampled_from(sorted(named)))))
    rows = history.rows(ready)
    assert [row.second for row in rows] == expected(named, told, ready, after)
    for row in rows:
        parts = [p.row(row.second) for n, p in named.items() if p.first <= row.second <= told.get(n, 0)]
        total = sum(part.counts["a"].requests for part in parts if part.counts)
        assert sum(item.requests for item in row.counts.values()) == total
        assert sum(sum(item.latency) for item in row.counts.values()) == total


@given(pods, st.lists(st.integers(1, 30), max_size=6), st.integers(0, 3))
def test_polled_often_or_once_used_early_or_late_the_sum_is_the_same(
    found: list[Pod], moments: list[int], overlap: int
) -> None:
    named = {f"p{index}": pod for index, pod in enumerate(found)}
    once, often, used = History(0), History(0), list[Row]()
    for now in [*sorted(moments), 30]:
        for name, pod in named.items():
            poll(often, pod, name, now, overlap)
        taken = often.rows(named)
        used += taken
        if taken:
            often.use(taken[-1].second)
    for name, pod in named.items():
        poll(once, pod, name, 30)
    assert tuple(used) == once.rows(named)
    seconds = [row.second for row in used]
    assert seconds == sorted(set(seconds))


def steady(*requests: int, state: int = 0, first: int = 1) -> Pod:
    return Pod(first, [(state, count) for count in requests])


def seconds(history: History, *ready: str) -> list[int]:
    return [row.second for row in history.rows(ready)]


def test_a_ready_pod_that_has_not_answered_holds_everything() -> None:
    history = History(0)
    poll(history, steady(1, 1, 1), "p", 3)
    assert seconds(history, "p") == [1, 2, 3]
    assert seconds(history, "p", "mute") == []


def test_a_pod_that_is_gone_keeps_what_it_told_and_holds_nothing_back() -> None:
    history = History(0)
    poll(history, steady(1, 1, 1, 1), "stays", 4)
    poll(history, steady(5, 5), "gone", 2)
    assert seconds(history, "stays", "gone") == [1, 2]
    assert [row.counts["a"].requests for row in history.rows({"stays"})] == [6, 6, 1, 1]


def test_a_pod_without_the_model_has_nothing_to_tell() -> None:
    history = History(0)
    poll(history, steady(1, 1, 1), "p", 3)
    history.take("new", None, 2.9, 0)
    assert seconds(history, "p", "new") == [1, 2]


def test_a_new_pod_counts_from_where_its_ring_begins() -> None:
    history = History(0)
    poll(history, steady(1, 1, 1, 1), "old", 4)
    poll(history, steady(1, 1, first=3), "new", 4)
    assert [row.counts["a"].requests for row in history.rows({"old", "new"})] == [1, 1, 2, 2]


def test_a_hole_in_an_answer_is_a_second_that_does_not_count() -> None:
    history = History(0)
    whole = steady(1, 1, 1).answer(0, 3)
    history.take("p", PodSplit(first=1, rows=(whole.rows[0], whole.rows[2])), 3, 0)
    assert seconds(history, "p") == [1, 3]


@pytest.mark.parametrize("ahead", [100, 3600])
def test_a_pod_whose_clock_is_set_back_is_counted_from_then_on(ahead: int) -> None:
    history = History(0)
    right, wrong = steady(*[1] * 30), Pod(ahead + 1, [(0, 1)] * 20)
    poll(history, right, "right", 20)
    poll(history, wrong, "wrong", ahead + 20)
    history.use(20)
    wrong = Pod(21, [(0, 10)] * 10)
    for now in (29, 30):
        poll(history, right, "right", now)
        poll(history, wrong, "wrong", now)
    rows = history.rows({"right", "wrong"})
    assert [(row.second, row.counts["a"].requests) for row in rows] == [(second, 11) for second in range(21, 31)]


def test_used_seconds_never_come_back() -> None:
    history = History(0)
    poll(history, steady(1, 1, 1), "p", 3)
    history.use(2)
    history.take("late", steady(1, 1, 1).answer(0, 3), 3, 0)
    assert seconds(history, "p", "late") == [3]


@pytest.mark.parametrize("reach", [1800, 5000])
def test_what_is_kept_is_bounded(reach: int) -> None:
    history = History(0)
    poll(history, steady(*[1] * reach), "p", reach)
    assert len(seconds(history, "p")) == 1800
