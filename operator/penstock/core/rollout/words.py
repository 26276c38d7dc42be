"""What status says about a rollout under way, in numbers that status itself holds."""

from datetime import datetime
from math import ceil

from penstock.api.reasons import Reason

from .course import Course, percent
from .position import TRAFFIC, Position
from .progress import Progress, judge_progress
from .situation import Decision

__all__ = ["describe_decision"]

_FEELINGS = {
    "Pass": "its error rate is proven",
    "Fail": "the evidence is against it",
    "Undecided": "no evidence against it",
    "Inconclusive": "stable itself fails too often to tell",
    "NoEvidence": "no evidence yet",
}


def describe_decision(candidate: str, decision: Decision) -> str:
    """`digits-7c9f41d2 at 10 % (step 1 of 2), 412 requests, no evidence against it`, and what it waits for."""
    place, progress = decision.position, decision.progress
    parts = [f"{candidate}{_where(place, decision.course)}"]
    if place.stage in TRAFFIC and progress.analysis:
        noun = "copies" if place.stage == "Shadowing" else "requests"
        count = progress.step_requests if place.stage == "Shadowing" else progress.requests
        parts.append(f"{count} {noun}")
        parts.append(_FEELINGS[progress.verdict or "NoEvidence"])
    if decision.lost:
        parts.append("supervision was lost and the routers went to stable; it is warmed again")
    elif decision.wait.outlook:
        parts.append(_outlook(candidate, decision))
    elif decision.wait.message:
        parts.append(decision.wait.message)
    start = parts[0] + (": " if place.stage in ("Starting", "Previewing") else ", ")
    return (start + ", ".join(parts[1:])).rstrip(" ,:")


def _where(place: Position, course: Course) -> str:
    if place.stage == "Warming":
        return " at 0 %" + (f" before step {place.step} of {len(course.steps)}" if place.step else "")
    if place.stage == "Replacing":
        share = percent(course.share_between(place.step))
        return f" at {share} %, making room for step {place.step} of {len(course.steps)}"
    if place.stage == "Shadowing" and course.shadow:
        return f" shadows {course.shadow.weight} %"
    if place.stage == "Stepping":
        return f" at {percent(course.weight(place.step))} % (step {place.step} of {len(course.steps)})"
    return " at 100 %" if place.stage == "Promoting" else ""


def _outlook(candidate: str, decision: Decision) -> str:
    """How long a verdict would still take at this rate, by what status holds; past the deadline, what people can do."""
    found, rate = judge_progress(decision.progress, alone=decision.course.alone), _rate(decision.progress)
    needed = found.requests_needed if found else None
    missing = "at this rate none is in sight"
    if needed is not None and rate:
        missing = f"about {needed} more requests, {ceil(needed / rate / 60)} minutes at this rate"
    if decision.wait.reason is not Reason.DEADLINE_EXCEEDED:
        return f"a verdict takes {missing}" if needed is not None and rate else decision.wait.message
    return f"no verdict by the deadline: {missing}; set spec.rollout.promote or abort: {candidate}"


def _rate(progress: Progress) -> float:
    """Requests a second that the candidate has had since it was first given any."""
    if progress.judged_since is None:
        return 0.0
    seconds = progress.as_of - datetime.fromisoformat(progress.judged_since).timestamp()
    return progress.requests / seconds if seconds > 0 else 0.0
