"""Where a candidate stands on its way, and what comes next."""

from dataclasses import dataclass
from typing import Literal

from penstock.api.status import CandidateStatus

from .course import Course

__all__ = ["COUNTED", "JUDGED", "TRAFFIC", "Position", "Stage", "find_position", "itinerary"]

Stage = Literal["Starting", "Warming", "Previewing", "Shadowing", "Replacing", "Stepping", "Promoting"]
JUDGED: tuple[Stage, ...] = ("Shadowing", "Stepping")
"""Stages that end when the candidate's own requests allow it, or when a person does."""
TRAFFIC: tuple[Stage, ...] = (*JUDGED, "Promoting", "Replacing")
"""Stages in which the candidate gets requests or copies of them, or stable makes room for it."""
COUNTED: tuple[Stage, ...] = ("Replacing", "Stepping")
"""Stages that come once for each step."""


@dataclass(frozen=True)
class Position:
    """A stage; `step` is the last one begun, counted from 1."""

    stage: Stage
    step: int = 0


def itinerary(course: Course, *, routed: bool, first: bool, preview: bool) -> tuple[Position, ...]:
    """All positions in order; behind the last one the candidate is the stable revision.

    The first revision of all goes straight to live: nobody is served worse by it than before.
    """
    gate = (Position("Previewing"),) if preview and not first else ()
    if not routed:
        return (Position("Starting"), *gate)
    if first:
        return (Position("Starting"), Position("Promoting"))
    if course.replaced:
        pairs = [Position(stage, number + 1) for number in range(len(course.steps)) for stage in COUNTED]
        return (Position("Starting"), *pairs, Position("Promoting"))
    shadow = (Position("Shadowing"),) if course.shadow else ()
    steps = tuple(Position("Stepping", number) for number in range(1, len(course.steps) + 1))
    return (Position("Starting"), Position("Warming"), *gate, *shadow, *steps, Position("Promoting"))


def find_position(told: CandidateStatus | None, way: tuple[Position, ...]) -> Position:
    """What status remembers; a place that this way does not have (the provider was changed) is its beginning."""
    if told is None or told.stage is None:
        return way[0]
    here = Position(told.stage, told.step)
    known = {place.stage for place in way}
    in_steps = told.stage not in COUNTED or here in way
    return here if told.stage in known and in_steps else way[0]
