"""The course of one rollout: strategy, shadow and steps, pinned in status when the rollout begins.

Whatever is edited in spec.rollout afterwards counts for the next one (PD-04); only gates and commands, which are there
to be changed on the way, are always read from spec.
"""

from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Literal

from penstock.api.rollout import BlueGreenSpec, CanarySpec, ReplaceSpec, RolloutSpec, Step
from penstock.api.router import WHOLE
from penstock.api.status import CandidateStatus, PlannedStep
from penstock.api.units import duration_seconds

from .exchange import count_steps, handed_over, share_between

__all__ = ["Course", "chart", "find_course", "percent", "permille"]

Strategy = Literal["Canary", "BlueGreen", "Immediate"]
_DEFAULT_CANARY = CanarySpec(steps=(Step(weight="10", hold="1m"), Step(weight="50", hold="1m")))
_SWITCH = "95"
"""Percent after a blue/green switch: the previous revision keeps the rest, so that both can be compared."""


def permille(percents: str) -> int:
    """A weight in percent as Penstock counts it, in 0.1 %."""
    return int(Decimal(percents) * 10)


def percent(weight: int) -> str:
    """A weight in 0.1 % as people read it: `10`, `0.5`."""
    return f"{Decimal(weight) / 10:f}".removesuffix(".0")


@dataclass(frozen=True)
class Course:
    """What was pinned."""

    strategy: Strategy
    steps: tuple[PlannedStep, ...] = ()
    shadow: PlannedStep | None = None
    replaced: int = 0
    """Pods that change hands because there is no room for both; 0 where the candidate has its own beside stable's."""

    def weight(self, step: int) -> int:
        """Of a step counted from 1, in 0.1 %."""
        return permille(self.steps[step - 1].weight)

    def hold(self, step: int) -> int:
        """Seconds that a step, or the shadow stage as step 0, is observed at least."""
        if step == 0:
            return self.shadow.hold_seconds if self.shadow else 0
        return self.steps[step - 1].hold_seconds

    @property
    def seconds(self) -> int:
        """The shortest time that the whole course takes."""
        return sum(self.hold(step) for step in range(len(self.steps) + 1))

    @property
    def alone(self) -> bool:
        """Whether stable has no pod left while the candidate is judged."""
        return self.replaced == 1

    def handed(self, step: int) -> int:
        """Pods that stable has given to the candidate at a step."""
        return handed_over(self.replaced, step)

    def share_between(self, step: int) -> int:
        """In 0.1 %, while the pods of a step change hands."""
        return share_between(self.replaced, step)

    def pods(self, size: int, share: int) -> int:
        """Pods that a candidate must have ready before it gets a share in 0.1 %, where `size` take all requests."""
        if self.strategy != "Canary":
            return size
        return min(size, max(1, ceil(size * share / WHOLE)))


def chart(rollout: RolloutSpec, *, routed: bool, size: int = 0) -> Course:
    """The course that spec asks for now; a Service has neither weights nor copies.

    `size` are the pods of stable that can change hands.
    """
    strategy: Strategy = rollout.strategy or ("Canary" if routed else "Immediate")
    if not routed or strategy == "Immediate":
        return Course(strategy)
    if strategy == "Canary" and rollout.capacity == "Replace" and size:
        return _exchange(rollout, size)
    shadow = rollout.shadow
    copied = PlannedStep(weight=shadow.percent, hold_seconds=_seconds(shadow.duration)) if shadow else None
    if strategy == "BlueGreen":
        switch = PlannedStep(weight=_SWITCH, hold_seconds=_seconds((rollout.blue_green or BlueGreenSpec()).hold))
        return Course(strategy, (switch,), copied)
    steps = (rollout.canary or _DEFAULT_CANARY).steps
    return Course(
        strategy, tuple(PlannedStep(weight=step.weight, hold_seconds=_seconds(step.hold)) for step in steps), copied
    )


def find_course(told: CandidateStatus | None, rollout: RolloutSpec, *, routed: bool, size: int = 0) -> Course:
    """The pinned course, or a new one; without a router there are no weights to pin, so with the next one it is new."""
    if told is None or told.strategy is None or not routed:
        return chart(rollout, routed=routed, size=size)
    return Course(told.strategy, told.plan or (), told.shadow, told.replaced or 0)


def _exchange(rollout: RolloutSpec, size: int) -> Course:
    """One step for each pod that changes hands, its weight the share of the pods."""
    hold = _seconds((rollout.replace or ReplaceSpec()).hold)
    shares = [handed_over(size, step + 1) * WHOLE / size for step in range(count_steps(size))]
    steps = tuple(PlannedStep(weight=percent(round(share)), hold_seconds=hold) for share in shares)
    return Course("Canary", steps, replaced=size)


def _seconds(duration: str) -> int:
    return ceil(duration_seconds(duration))
