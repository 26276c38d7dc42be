"""What keeps a candidate at a position, or out of the next one: capacity, routers, counters, evidence, people."""

from penstock.api.reasons import Reason

from .look import Look
from .position import TRAFFIC, Position
from .progress import Progress
from .situation import Wait

__all__ = ["BLIND", "FOLLOWING", "HELD", "wait_for_a_person", "wait_for_pods", "wait_to_enter", "wait_to_leave"]

FOLLOWING = "waiting for the routers to follow"
BLIND = Wait("no counters from every router pod", Reason.NO_EVIDENCE)
HELD = Wait("spec.rollout.paused holds it here", Reason.PAUSED)
_ENOUGH_REQUESTS = 30
"""Requests that a candidate must have answered in a step before the next one begins."""


def wait_to_leave(look: Look) -> Wait | None:
    """What is still to be done at the present position."""
    s, stage = look.situation, look.here.stage
    if stage == "Starting" and look.exchanges:
        return None if s.exists and s.reachable else Wait("waiting until clients' requests come through the routers")
    if stage == "Replacing":
        return wait_for_pods(look, look.here) if s.ready < look.pods(look.here) else None
    if stage == "Starting":
        needed = look.pods(look.here)
        return Wait(f"{s.ready} of {needed} replicas ready") if s.ready < needed or not s.exists else None
    if stage == "Warming":
        return _warming(look)
    if stage == "Previewing":
        return wait_for_a_person(look)
    if stage == "Promoting":
        return _promoting(look)
    if look.commands.promote and not look.situation.gated:
        return None
    return _judging(look)


def wait_for_pods(look: Look, place: Position) -> Wait:
    """What an exchange of pods waits for; with the only pod on its way that is an outage, and is said so."""
    s, course = look.situation, look.situation.course
    ready = f"{s.ready} of {look.pods(place)} replicas ready"
    if course.alone:
        declared = (
            f"a declared outage (capacity: Replace, 1 replica): {s.stable} gives up its only pod, requests get 503 with"
            f" Retry-After until this one is ready: {ready}"
        )
        return Wait(declared, Reason.OUTAGE_DECLARED)
    gone = course.handed(place.step)
    return Wait(f"{s.stable} gives up {gone} of {course.replaced} pods, no room for both: {ready}")


def _warming(look: Look) -> Wait | None:
    s = look.situation
    if not s.reachable:
        return Wait("waiting until clients' requests come through the routers; " + _unattested(look))
    if not s.in_force(look.asked):
        return Wait(_unattested(look))
    return _cold(look, look.pods(look.here))


def _promoting(look: Look) -> Wait | None:
    """All requests on their way to it; a first revision is live only when they arrive, which no step has shown."""
    if not look.situation.in_force(look.asked):
        return Wait(_unattested(look))
    return _cold(look, look.pods(look.here)) if look.situation.stable is None else None


def _cold(look: Look, needed: int) -> Wait | None:
    s = look.situation
    warm = s.fleet.warm(s.candidate) if s.fleet else 0
    return Wait(f"the routers reach {warm} of {needed} pods", cold=True) if warm < needed else None


def _unattested(look: Look) -> str:
    """What keeps the present split from being in force; TrafficSynced names pods that take long."""
    s = look.situation
    if s.fleet is not None and not s.pods:
        return "no router pod is Ready"
    return "; ".join(filter(None, (pod.refusal for pod in s.pods))) or FOLLOWING


def wait_for_a_person(look: Look) -> Wait | None:
    """A preview that nobody has opened the way out of yet."""
    if not look.situation.gated or look.commands.promote or look.commands.end_step is not None:
        return None
    name = look.situation.candidate
    return Wait(f"ready at the preview Service; set spec.rollout.promote: {name} to go on", Reason.PAUSED)


def _judging(look: Look) -> Wait | None:
    """What a shadow stage or a step still lacks."""
    s, progress, here = look.situation, look.progress, look.here
    if here.step and look.commands.end_step == here.step:
        return None
    if s.enforced and progress.verdict == "Fail":
        return Wait("stable has no pod that could take the requests back")
    seconds = s.course.hold(here.step)
    if progress.observed_seconds >= seconds and _is_proven(look):
        return None
    if s.enforced and s.past(look.deadline) and progress.verdict != "Pass":
        return Wait("", Reason.DEADLINE_EXCEEDED, outlook=True)
    if not s.counts(progress.as_of):
        return BLIND
    return _lacking(progress, seconds)


def _lacking(progress: Progress, seconds: int) -> Wait:
    """What has to come by itself: time, then requests."""
    if progress.observed_seconds < seconds:
        return Wait()
    if not progress.step_requests:
        return Wait("no request has reached it in this step", Reason.NO_EVIDENCE)
    if progress.step_requests < _ENOUGH_REQUESTS:
        return Wait(f"waiting for {_ENOUGH_REQUESTS} requests in this step")
    return Wait("waiting for more requests", outlook=True)


def _is_proven(look: Look) -> bool:
    """Enough to go on from here; only the last step needs proof that the candidate is good."""
    s, progress, here = look.situation, look.progress, look.here
    if here.stage == "Shadowing" or not s.enforced:
        return True
    untouched = s.analysis.on_no_traffic == "Promote" and not progress.step_requests
    if here.step == len(s.course.steps):
        return progress.verdict == "Pass" or (untouched and not progress.requests)
    return untouched or progress.step_requests >= _ENOUGH_REQUESTS


def wait_to_enter(look: Look, place: Position) -> Wait | None:
    """Capacity and consent before traffic."""
    s = look.situation
    if place.stage not in TRAFFIC or s.stable is None:
        return None
    if look.commands.paused and look.here.stage != "Replacing":
        return HELD
    needed = look.pods(look.here if place.stage == "Replacing" else place)
    if s.ready < needed:
        return Wait(f"waiting for {needed} replicas, {s.ready} ready")
    if not s.watched:
        return Wait(_unattested(look))
    return _cold(look, needed) if s.informed(look.progress.as_of) else BLIND
