"""Which of several ways to run a model is faster: interleaved, on one thread, with disturbed windows thrown away.

A shared machine lies about single measurements. So every round runs all variants in a new random order, each in a
window of about two milliseconds; a window in which the clock on the wall went more than a tenth faster than the
process's own CPU time was disturbed by somebody else and does not count. Where hardly any window is undisturbed, CPU
time is taken instead, and the result says so. A variant's time is the lower quartile of its windows: disturbance only
ever adds time, also that of a busy sibling on the same core, which CPU time cannot tell.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Budget", "Clocks", "Ratio", "Timing", "Window", "compare", "measure", "repeat"]

Window: TypeAlias = Callable[[int], tuple[float, float]]
"""Runs a variant so many times; seconds by the wall and of the CPU time of the process that runs it."""
_WINDOW = 2e-3
_MOST_INNER = 1024
_DISTURBED = 1.1
_LEAST_UNDISTURBED = 0.1
"""Share of the windows below which CPU time is taken instead of wall time."""
_QUANTILE = 0.25
_CONFIDENCE = 1.96
_LEAST, _MOST = 12, 400
"""Windows of a variant: what an answer needs at least, and what makes none better."""
_PRECISE = 0.03
"""A comparison stops when the bounds of every ratio are this close to it."""
_SEED = 20240229


@dataclass(frozen=True)
class Clocks:
    """Seconds by the wall and of this process's CPU time; other ones in tests."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Budget:
    """Seconds of wall time for all variants together; the first round is always whole."""

    seconds: float
    wall: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Timing:
    """How long one run takes: lower quartile with its 95 % bounds, in seconds, of `windows` windows.

    Of fewer than 12 windows the bounds are the least and about the most that was seen, which is less sure. `runs` are
    single runs in them; `discarded` is the share of windows that were disturbed; `clock` is `wall`, or `cpu` where too
    few were undisturbed.
    """

    seconds: float
    low: float
    high: float
    windows: int
    runs: int
    discarded: float
    clock: str


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the quotient of two timings, and conservative bounds from those of both."""

    value: float
    low: float
    high: float


def repeat(run: Callable[[], object], clocks: Clocks | None = None) -> Window:
    """A variant that runs in this process."""
    by = clocks or Clocks()

    def window(times: int) -> tuple[float, float]:
        wall, cpu = by.wall(), by.cpu()
        for _ in range(times):
            run()
        return by.wall() - wall, by.cpu() - cpu

    return window


@dataclass
class _Windows:
    window: Window
    inner: int = 1
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Run once for what only the first run does, then find out how often a window runs."""
        self.window(1)
        while self.inner < _MOST_INNER:
            _, cpu = self.window(self.inner)
            if cpu >= _WINDOW:
                break
            self.inner = min(_MOST_INNER, self.inner * 2)

    def add(self) -> None:
        """One window more; none where the CPU's clock stood still, as those of virtual machines do for moments."""
        wall, cpu = self.window(self.inner)
        if cpu > 0:
            self.walls.append(wall / self.inner)
            self.cpus.append(cpu / self.inner)

    def undisturbed(self) -> list[float]:
        return [wall for wall, cpu in zip(self.walls, self.cpus, strict=True) if wall <= _DISTURBED * cpu]

    def timing(self, clock: str) -> Timing:
        kept = self.undisturbed()
        times = sorted(kept if clock == "wall" else self.cpus)
        low, high = _bounds(len(times))
        return Timing(
            seconds=times[_rank(len(times))], low=times[low], high=times[high], windows=len(times),
            runs=len(times) * self.inner, discarded=1 - len(kept) / len(self.walls), clock=clock,
        )  # fmt: skip


def measure(variants: Mapping[str, Window], budget: Budget) -> dict[str, Timing]:
    """The timing of every variant, from one interleaved run within the budget; all by the same clock.

    Raises ArithmeticError where a variant takes no CPU time at all, so that nothing can be told.
    """
    deadline = budget.wall() + budget.seconds
    order = random.Random(_SEED)  # noqa: S311 - a shuffle, not a secret
    windows = {name: _Windows(window) for name, window in variants.items()}
    for item in windows.values():
        item.warm_up()
    names = list(windows)
    for _ in range(_MOST):
        order.shuffle(names)
        for name in names:
            windows[name].add()
        seen = all(item.walls for item in windows.values())
        if seen and (budget.wall() >= deadline or _is_precise(windows)):
            break
    idle = [name for name, item in windows.items() if not item.walls]
    if idle:
        raise ArithmeticError(f"the CPU's clock does not move while {idle[0] or 'the model'} runs")
    clock = _clock(windows)
    return {name: item.timing(clock) for name, item in windows.items()}


def compare(baseline: Timing, other: Timing) -> Ratio:
    """How many times faster than the baseline the other is."""
    return Ratio(baseline.seconds / other.seconds, baseline.low / other.high, baseline.high / other.low)


def _clock(windows: Mapping[str, _Windows]) -> str:
    for item in windows.values():
        kept = len(item.undisturbed())
        if kept < min(_LEAST, len(item.walls)) or kept < _LEAST_UNDISTURBED * len(item.walls):
            return "cpu"
    return "wall"


def _is_precise(windows: Mapping[str, _Windows]) -> bool:
    """Whether enough is known: by wall time, since CPU time of a disturbed machine gets better with patience."""
    if _clock(windows) == "cpu":
        return False
    timings = [item.timing("wall") for item in windows.values()]
    if min(timing.windows for timing in timings) < _LEAST:
        return False
    return all(timing.high - timing.low <= _PRECISE * timing.seconds for timing in timings)


def _rank(count: int) -> int:
    return int(_QUANTILE * (count - 1))


def _bounds(count: int) -> tuple[int, int]:
    """Ranks between which the quantile lies with 95 % confidence, by the normal approximation of the binomial."""
    spread = _CONFIDENCE * math.sqrt(count * _QUANTILE * (1 - _QUANTILE))
    middle = _QUANTILE * (count - 1)
    return max(0, math.floor(middle - spread)), min(count - 1, math.ceil(middle + spread))
