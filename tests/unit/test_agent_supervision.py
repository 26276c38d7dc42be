"""The timer of an unsupervised candidate, over any sequence of splits, restarts and pauses."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.agent.split import Split, Supervision
from penstock_runtime.agent.supervision import Timer, observe, restored, spend

from .test_agent_render import spec

TIMEOUT = 60.0
SPLIT = Split.parse("digits", spec())


def supervised(generation: int, renewed: float, *, keep: bool = False) -> Split:
    return replace(SPLIT, generation=generation, supervision=Supervision(TIMEOUT, f"t{renewed}", renewed, keep))


def seen(known: Timer | None, split: Split, at: float, wall: float | None = None, boot: str = "one") -> Timer:
    return observe(known, split, monotonic=at, wall=1000.0 + at if wall is None else wall, boot=boot)


def test_the_timeout_runs_from_the_moment_a_renewal_is_first_seen() -> None:
    timer = seen(seen(None, supervised(1, 1000.0), 0.0), supervised(1, 1015.0), 20.0)
    assert timer.deadline == 80.0
    assert seen(timer, supervised(1, 1015.0), 50.0).deadline == 80.0
    assert not timer.due(79.9)
    assert timer.due(80.0)


def test_who_has_no_memory_takes_the_age_from_the_wall_clock() -> None:
    assert seen(None, supervised(1, 960.0), 0.0).deadline == 20.0
    assert seen(None, supervised(1, 900.0), 0.0).due(0.0)
    assert seen(None, supervised(1, 2000.0), 0.0).deadline == TIMEOUT, "a clock that is behind shortens nothing"


def test_a_deadline_of_another_boot_is_none() -> None:
    timer = seen(None, supervised(1, 1000.0), 0.0)
    again = seen(timer, supervised(1, 1000.0), 5.0, wall=1030.0, boot="two")
    assert again.deadline == 35.0


def test_what_is_spent_comes_back_with_a_higher_generation_only() -> None:
    spent = spend(seen(None, supervised(3, 1000.0), 0.0), applied=True)
    renewed = seen(spent, supervised(3, 1070.0), 70.0)
    assert (renewed.expired, renewed.applied, renewed.due(70.0)) == (True, True, True)
    lower = seen(renewed, supervised(2, 1071.0), 71.0)
    assert lower.expired
    higher = seen(renewed, supervised(4, 1072.0), 72.0)
    assert (higher.expired, higher.applied, higher.deadline) == (False, False, 132.0)


def test_another_deployment_of_the_name_starts_anew() -> None:
    spent = spend(seen(None, supervised(3, 1000.0), 0.0), applied=True)
    other = replace(supervised(1, 1070.0), uid="0" * 8)
    assert not seen(spent, other, 70.0).expired


def test_without_supervision_or_with_keep_nothing_ever_expires() -> None:
    for split in (SPLIT, supervised(1, 0.0, keep=True)):
        assert not seen(None, split, 1e9).due(1e12)


def test_a_promoted_split_has_no_expiry_even_if_it_is_older() -> None:
    timer = seen(seen(None, supervised(1, 1000.0), 0.0), replace(SPLIT, generation=2), 10.0)
    assert timer.deadline is None


def test_stored_timers_come_back_as_they_were_and_damage_is_none() -> None:
    timer = spend(seen(None, supervised(3, 1000.0), 0.0), applied=False)
    assert restored(timer.store()) == timer
    for broken in (None, {}, [], {**timer.store(), "generation": "x"}):
        assert restored(broken) is None


steps = st.lists(
    st.tuples(
        st.sampled_from(["renew", "raise", "look", "tick", "restart"]),
        st.floats(0.0, 100.0, allow_nan=False),
    ),
    max_size=40,
)


@given(steps)
def test_no_candidate_outlives_the_timeout_and_none_returns_by_itself(script: list[tuple[str, float]]) -> None:
    """After any script: expired exactly if a look came more than the timeout after the last change it had seen."""
    at, generation, renewals = 0.0, 1, 0
    timer: Any = seen(None, supervised(1, 1000.0), 0.0)
    last_change, spent = 0.0, False
    for what, pause in script:
        at += pause
        if what == "restart":
            timer = restored(timer.store())
            continue
        if what == "tick":
            if timer.due(at):
                timer = spend(timer, applied=True)
            spent = spent or at >= last_change + TIMEOUT
            assert timer.expired == spent
            continue
        renewals += what == "renew"
        generation += what == "raise"
        timer = seen(timer, supervised(generation, 1000.0 + renewals), at)
        if what == "raise":
            last_change, spent = at, False
        elif what == "renew":
            last_change = at
        assert timer.expired == spent
