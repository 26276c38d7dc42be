"""Timing on a machine that others use too: what is measured is the model, or the result says that it is not sure."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_runtime.optimize.timing import Budget, Clocks, Ratio, Timing, compare, measure, repeat


class Desk:
    """A machine whose clocks go only when something runs; `neighbour` is wall time that somebody else takes."""

    def __init__(self, neighbour: float = 0.0, share: float = 0.0, jitter: float = 0.0) -> None:
        self.wall = self.cpu = 100.0
        self._neighbour, self._share, self._jitter = neighbour, share, jitter
        self._random = random.Random(3)
        self.clocks = Clocks(lambda: self.wall, lambda: self.cpu)

    def work(self, seconds: float):
        def run() -> None:
            spent = seconds * (1 + self._jitter * self._random.random())
            self.cpu += spent
            self.wall += spent
            if self._random.random() < self._share:
                self.wall += self._neighbour

        return run

    def measure(self, seconds: float = 5.0, **variants: float) -> dict[str, Timing]:
        runs = {name: repeat(self.work(each), self.clocks) for name, each in variants.items()}
        return measure(runs, Budget(seconds, self.clocks.wall))


def test_the_faster_one_by_how_much() -> None:
    found = Desk(jitter=0.1).measure(base=4e-3, fast=2e-3)
    ratio = compare(found["base"], found["fast"])
    assert ratio.value == pytest.approx(2, rel=0.03)
    assert ratio.low <= ratio.value <= ratio.high
    assert (found["base"].clock, found["base"].discarded) == ("wall", 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_windows_with_a_neighbour_do_not_count(share: float) -> None:
    found = Desk(neighbour=30e-3, share=share, jitter=0.05).measure(base=3e-3, fast=2e-3)
    assert compare(found["base"], found["fast"]).value == pytest.approx(1.5, rel=0.04)
    assert found["base"].clock == "wall"
    assert found["base"].discarded == pytest.approx(share, abs=0.2)


def test_where_the_neighbour_never_rests_cpu_time_is_taken_and_said() -> None:
    found = Desk(neighbour=5e-3, share=1.0).measure(base=3e-3, fast=2e-3)
    assert compare(found["base"], found["fast"]).value == pytest.approx(1.5)
    assert {timing.clock for timing in found.values()} == {"cpu"}
    assert found["fast"].discarded == 1.0


def test_both_sides_of_a_ratio_are_by_the_same_clock() -> None:
    desk = Desk()
    disturbed, calm = desk.work(2e-3), desk.work(2e-3)

    def neighboured() -> None:
        disturbed()
        desk.wall += 2e-3

    runs = {"base": repeat(calm, desk.clocks), "other": repeat(neighboured, desk.clocks)}
    found = measure(runs, Budget(2.0, desk.clocks.wall))
    assert {timing.clock for timing in found.values()} == {"cpu"}
    assert compare(found["base"], found["other"]).value == pytest.approx(1)


def test_short_runs_share_a_window_and_long_ones_have_their_own() -> None:
    found = Desk().measure(tiny=1e-5, huge=0.3)
    assert found["tiny"].runs / found["tiny"].windows == 256
    assert found["huge"].runs == found["huge"].windows


def test_moments_in_which_the_cpu_s_clock_stands_still_do_not_count() -> None:
    desk = Desk()

    def halting(times: int) -> tuple[float, float]:
        wall, cpu = repeat(desk.work(4e-3), desk.clocks)(times)
        return wall, 0.0 if desk._random.random() < 0.3 else cpu

    found = measure({"base": halting, "fast": repeat(desk.work(2e-3), desk.clocks)}, Budget(5.0, desk.clocks.wall))
    assert compare(found["base"], found["fast"]).value == pytest.approx(2)


def test_a_clock_that_never_moves_is_an_error() -> None:
    with pytest.raises(ArithmeticError, match="does not move while base runs"):
        measure({"base": lambda times: (1e-3 * times, 0.0)}, Budget(0.01, iter(range(10**6)).__next__))


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_the_budget_holds_up_to_one_round(seconds: float) -> None:
    desk = Desk(neighbour=0.2, share=1.0)
    began = desk.wall
    desk.measure(seconds, base=0.3, fast=0.2)
    assert desk.wall - began <= seconds + 2 * (0.3 + 0.2 + 0.4)


def test_a_steady_machine_needs_only_part_of_the_budget() -> None:
    desk = Desk(jitter=0.01)
    began = desk.wall
    desk.measure(60.0, base=4e-3, fast=2e-3)
    assert desk.wall - began < 2


@settings(max_examples=40, deadline=None)
@given(base=st.floats(1e-4, 0.2), factor=st.floats(0.2, 5), share=st.floats(0, 1), jitter=st.floats(0, 0.5))
def test_the_true_ratio_is_within_a_tenth_of_the_bounds(base, factor, share, jitter) -> None:
    found = Desk(neighbour=base, share=share, jitter=jitter).measure(60.0, base=base, other=base / factor)
    assert min(timing.windows for timing in found.values()) >= 12
    ratio = compare(found["base"], found["other"])
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.low / 1.1 <= factor <= ratio.high * 1.1


def test_a_ratio_is_as_sure_as_both_of_its_sides() -> None:
    def timing(low: float, seconds: float, high: float) -> Timing:
        return Timing(seconds, low, high, 20, 20, 0.0, "wall")

    assert compare(timing(3.8, 4, 4.4), timing(1.9, 2, 2.2)) == Ratio(2.0, 3.8 / 2.2, 4.4 / 1.9)
