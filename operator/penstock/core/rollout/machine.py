"""The state machine of a rollout: from what is remembered and what is seen to the next position, or to the end.

Each call makes at most one move. Capacity first: a position is entered only when the candidate has ready pods for its
share, in the Deployment's count and in every router pod's. What takes the candidate back needs nothing but its cause.
Missing evidence holds: it is never a success and never a failure.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.units import duration_seconds
from penstock.core.analysis import Judgement

from .commands import Commands, read_commands
from .position import COUNTED, JUDGED, TRAFFIC, Position, find_position, itinerary
from .progress import Progress, begin_progress, gather, judge_progress, recall
from .route import Route, find_route
from .situation import Decision, Outcome, Situation, Wait

__all__ = ["ENOUGH_REQUESTS", "decide"]

ENOUGH_REQUESTS = 30
"""Requests that a candidate must have answered in a step before the next one begins."""
_PROGRESS_EVERY = 10
"""Seconds of counters between two writes of status that tell of nothing but progress."""
_FOLLOWING = "waiting for the routers to follow"
_BLIND = Wait("no counters from every router pod", Reason.NO_EVIDENCE)
_HELD = Wait("spec.rollout.paused holds it here", Reason.PAUSED)


@dataclass(frozen=True)
class _Look:
    """One pass: the situation with what follows from it."""

    situation: Situation
    way: tuple[Position, ...]
    here: Position
    commands: Commands
    before: Progress
    progress: Progress
    judgement: Judgement | None

    @property
    def asked(self) -> Route:
        """The route of the present position."""
        return self.route(self.here)

    def route(self, place: Position) -> Route:
        """The route of any position."""
        s = self.situation
        return find_route(s.stable, s.candidate, place, s.course)

    @property
    def exchanges(self) -> bool:
        """Whether pods change hands, as there is no room for both."""
        s = self.situation
        return s.course.replaced > 0 and s.routed and s.stable is not None

    def kept(self, place: Position) -> int | None:
        """Pods of stable: it gives one up when the routers follow a route that does not need it, and not before."""
        s, total = self.situation, self.situation.course.replaced
        if not self.exchanges:
            return None
        left = total - s.course.handed(place.step)
        if place.stage != "Replacing" or s.home <= left or s.in_force(self.route(place)):
            return left
        return total - s.course.handed(place.step - 1)

    def pods(self, place: Position) -> int:
        """Pods needed to be at a position; those that start are made for the first one with traffic."""
        s = self.situation
        if self.exchanges:
            return s.course.handed(place.step)
        if not s.routed or s.stable is None or place.stage == "Promoting":
            return s.size
        share = self.route(place).share(s.candidate)
        if not share:
            following = next((p for p in self.way if p.stage in TRAFFIC), place)
            share = self.route(following).share(s.candidate)
        return s.course.pods(s.size, share)


def decide(situation: Situation) -> Decision:
    """One move, or none."""
    look = _look(situation)
    outcome = _ending(look)
    if outcome:
        return _decision(look, look.here, outcome=outcome)
    if (situation.lost or situation.displaced) and look.here.stage in TRAFFIC and situation.stable:
        return _decision(look, _way_back(look), lost=situation.lost)
    if look.exchanges and situation.gone and look.here.stage in ("Stepping", "Promoting"):
        return _decision(look, Position("Replacing", look.here.step))
    if _is_behind(look) and not situation.informed(look.progress.as_of):
        return _decision(look, look.here, wait=_BLIND, held=True)
    hindrance = _leaving(look)
    if hindrance:
        return _decision(look, look.here, wait=hindrance)
    following = _following(look)
    if following is None:
        return _last_move(look)
    hindrance = _entering(look, following)
    if hindrance:
        return _decision(look, look.here, wait=hindrance, pods=0 if look.exchanges else look.pods(following))
    return _decision(look, following)


def _way_back(look: _Look) -> Position:
    """Where a candidate is without requests; at a router that is left stable has all of them and needs all its pods."""
    if not look.exchanges:
        return Position("Warming", look.here.step)
    return Position("Starting") if look.situation.displaced else Position("Replacing", look.here.step)


def _last_move(look: _Look) -> Decision:
    """The end of the way; behind a Service that is the moment in which the candidate gets its requests."""
    if look.commands.paused and look.situation.stable and not look.situation.routed:
        return _decision(look, look.here, wait=_HELD)
    return _decision(look, look.here, outcome=Outcome("Promoted", *_merit(look)))


def _look(s: Situation) -> _Look:
    preview = s.gated or (s.told is not None and s.told.stage == "Previewing")
    way = itinerary(s.course, routed=s.routed, first=s.stable is None, preview=preview)
    here, before = find_position(s.told, way), recall(s.told if s.routed else None)
    judged = here
    if here.stage == "Promoting" and here.step:
        judged = Position("Stepping", here.step)
    progress = before
    asked = find_route(s.stable, s.candidate, judged, s.course)
    if judged.stage in TRAFFIC and s.stable and s.fleet and asked.share(s.candidate):
        progress = gather(before, s.fleet.rows, asked, s.candidate, alone=s.course.alone)
    commands = read_commands(s.rollout, s.candidate)
    return _Look(s, way, here, commands, before, progress, judge_progress(progress, alone=s.course.alone))


def _ending(look: _Look) -> Outcome | None:
    """What takes the candidate back: a person, the evidence, or that nobody has ever asked it anything.

    One that is warmed again carries its evidence along, and gets nothing more when that is against it.
    """
    s, judgement = look.situation, look.judgement
    if look.commands.abort:
        return Outcome("Aborted", Reason.ABORTED, f"spec.rollout.abort names {s.candidate}")
    if s.size == 0 and s.exists and (s.stable or not s.routed) and not _waits_for_a_person(look):
        return Outcome("Promoted", Reason.SKIPPED if s.stable else Reason.REVISION_PROMOTED)
    replacing = look.here.stage == "Replacing" and s.size > 0
    if replacing and s.ready < look.pods(look.here) and s.past(_start_deadline(look)):
        sentence = f"{s.ready} of {look.pods(look.here)} replicas ready after {s.analysis.deadline}; stable gets its"
        return Outcome("RolledBack", Reason.START_DEADLINE_EXCEEDED, f"{sentence} pod back")
    if look.here.stage not in (*TRAFFIC, "Warming") or not s.enforced or not s.refuge:
        return None
    if judgement and judgement.verdict == "Fail":
        return Outcome("RolledBack", Reason(judgement.reason), judgement.message)
    untouched = s.analysis.on_no_traffic == "Rollback" and not look.progress.requests and s.past(_deadline(look))
    if untouched and look.here.stage in TRAFFIC and s.counts(look.progress.as_of):
        sentence = f"no request has reached it within {s.analysis.deadline}, and onNoTraffic is Rollback"
        return Outcome("RolledBack", Reason.NO_TRAFFIC, sentence)
    return None


def _waits_for_a_person(look: _Look) -> bool:
    """Whether somebody has the last word on it, which a size of 0 does not overrule."""
    return look.commands.paused or (look.here.stage not in TRAFFIC and _previewing(look) is not None)


def _start_deadline(look: _Look) -> datetime | None:
    """When the candidate has had stable's room for as long as a verdict may take."""
    s = look.situation
    since = s.told.replacing_since if s.told and look.here.stage == "Replacing" else None
    return datetime.fromisoformat(since) + timedelta(seconds=duration_seconds(s.analysis.deadline)) if since else None


def _is_behind(look: _Look) -> bool:
    """Whether the split gives the candidate less than status says.

    Somebody has edited it; or the operator died between taking back and saying so, and must not give again before it
    has seen what it saw then.
    """
    s = look.situation
    given = s.live.share(s.candidate) if s.live else 0
    return look.here.stage in TRAFFIC and s.stable is not None and given < look.asked.share(s.candidate)


def _merit(look: _Look) -> tuple[Reason, str, str | None]:
    by = "spec.rollout.promote" if look.commands.promote or look.commands.end_step else None
    return Reason.REVISION_PROMOTED, "", by


def _deadline(look: _Look) -> datetime | None:
    """When a verdict is late; a course that takes longer puts it off."""
    since, s = look.progress.judged_since, look.situation
    if since is None:
        return None
    patience = max(duration_seconds(s.analysis.deadline), s.course.seconds)
    return datetime.fromisoformat(since) + timedelta(seconds=patience)


def _leaving(look: _Look) -> Wait | None:
    """What is still to be done at the present position."""
    s, stage = look.situation, look.here.stage
    if stage == "Starting" and look.exchanges:
        return None if s.exists and s.reachable else Wait("waiting until clients' requests come through the routers")
    if stage == "Replacing":
        return _exchanging(look, look.here) if s.ready < look.pods(look.here) else None
    if stage == "Starting":
        needed = look.pods(look.here)
        return Wait(f"{s.ready} of {needed} replicas ready") if s.ready < needed or not s.exists else None
    if stage == "Warming":
        return _warming(look)
    if stage == "Previewing":
        return _previewing(look)
    if stage == "Promoting":
        return _promoting(look)
    if look.commands.promote and not look.situation.gated:
        return None
    return _judging(look)


def _exchanging(look: _Look, place: Position) -> Wait:
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


def _warming(look: _Look) -> Wait | None:
    s = look.situation
    if not s.reachable:
        return Wait("waiting until clients' requests come through the routers; " + _unattested(look))
    if not s.in_force(look.asked):
        return Wait(_unattested(look))
    return _cold(look, look.pods(look.here))


def _promoting(look: _Look) -> Wait | None:
    """All requests on their way to it; a first revision is live only when they arrive, which no step has shown."""
    if not look.situation.in_force(look.asked):
        return Wait(_unattested(look))
    return _cold(look, look.pods(look.here)) if look.situation.stable is None else None


def _cold(look: _Look, needed: int) -> Wait | None:
    s = look.situation
    warm = s.fleet.warm(s.candidate) if s.fleet else 0
    return Wait(f"the routers reach {warm} of {needed} pods", cold=True) if warm < needed else None


def _unattested(look: _Look) -> str:
    """What keeps the present split from being in force; TrafficSynced names pods that take long."""
    s = look.situation
    if s.fleet is not None and not s.pods:
        return "no router pod is Ready"
    refused = [f"{pod.name} refuses it: {pod.rejected}" for pod in s.pods if pod.rejected]
    return "; ".join(refused) or _FOLLOWING


def _previewing(look: _Look) -> Wait | None:
    if not look.situation.gated or look.commands.promote or look.commands.end_step is not None:
        return None
    name = look.situation.candidate
    return Wait(f"ready at the preview Service; set spec.rollout.promote: {name} to go on", Reason.PAUSED)


def _judging(look: _Look) -> Wait | None:
    """What a shadow stage or a step still lacks."""
    s, progress, here = look.situation, look.progress, look.here
    if here.step and look.commands.end_step == here.step:
        return None
    if s.enforced and progress.verdict == "Fail":
        return Wait("stable has no pod that could take the requests back")
    seconds = s.course.hold(here.step)
    if progress.observed_seconds >= seconds and _is_proven(look):
        return None
    if s.enforced and s.past(_deadline(look)) and progress.verdict != "Pass":
        return Wait("", Reason.DEADLINE_EXCEEDED, outlook=True)
    if not s.counts(progress.as_of):
        return _BLIND
    return _lacking(progress, seconds)


def _lacking(progress: Progress, seconds: int) -> Wait:
    """What has to come by itself: time, then requests."""
    if progress.observed_seconds < seconds:
        return Wait()
    if not progress.step_requests:
        return Wait("no request has reached it in this step", Reason.NO_EVIDENCE)
    if progress.step_requests < ENOUGH_REQUESTS:
        return Wait(f"waiting for {ENOUGH_REQUESTS} requests in this step")
    return Wait("waiting for more requests", outlook=True)


def _is_proven(look: _Look) -> bool:
    """Enough to go on from here; only the last step needs proof that the candidate is good."""
    s, progress, here = look.situation, look.progress, look.here
    if here.stage == "Shadowing" or not s.enforced:
        return True
    untouched = s.analysis.on_no_traffic == "Promote" and not progress.step_requests
    if here.step == len(s.course.steps):
        return progress.verdict == "Pass" or (untouched and not progress.requests)
    return untouched or progress.step_requests >= ENOUGH_REQUESTS


def _following(look: _Look) -> Position | None:
    """The position after this one; a candidate that was warmed again goes back to where it was."""
    here, way = look.here, look.way
    if here.stage == "Promoting":
        return None
    promoting = Position("Promoting", here.step)
    hurried = look.commands.promote and not look.situation.gated and not look.exchanges
    if hurried and here.stage != "Starting":
        return promoting if promoting.stage in {place.stage for place in way} else None
    if here.stage == "Warming" and look.before.judged_since:
        resumed = Position("Stepping", here.step) if here.step else Position("Shadowing")
        if resumed in way:
            return resumed
    places = [place.stage if place.stage not in COUNTED else place for place in way]
    at = places.index(here if here.stage in COUNTED else here.stage)
    if at + 1 == len(way):
        return None
    following = way[at + 1]
    return promoting if following.stage == "Promoting" else following


def _entering(look: _Look, place: Position) -> Wait | None:
    """Capacity and consent before traffic."""
    s = look.situation
    if place.stage not in TRAFFIC or s.stable is None:
        return None
    if look.commands.paused and look.here.stage != "Replacing":
        return _HELD
    needed = look.pods(look.here if place.stage == "Replacing" else place)
    if s.ready < needed:
        return Wait(f"waiting for {needed} replicas, {s.ready} ready")
    if not s.watched:
        return Wait(_unattested(look))
    return _cold(look, needed) if s.informed(look.progress.as_of) else _BLIND


def _decision(
    look: _Look,
    place: Position,
    *,
    wait: Wait | None = None,
    outcome: Outcome | None = None,
    pods: int = 0,
    lost: bool = False,
    held: bool = False,
) -> Decision:
    s = look.situation
    moved = place != look.here
    progress = look.progress
    if moved and place.stage in TRAFFIC:
        progress = _arrive(look, place)
    elif not (moved or outcome) and progress.as_of - look.before.as_of < _PROGRESS_EVERY:
        progress = look.before
    paused = look.commands.paused and place.stage in JUDGED and outcome is None
    if paused and (wait is None or wait.reason is Reason.ROLLOUT_IN_PROGRESS):
        wait = _HELD
    if moved and wait is None and outcome is None and s.routed and place.stage in ("Warming", "Promoting") and not lost:
        wait = Wait(_FOLLOWING)
    if moved and wait is None and outcome is None and place.stage == "Replacing":
        wait = _exchanging(look, place)
    moments = (_deadline(look), _start_deadline(look))
    return Decision(
        position=place,
        course=s.course,
        pods=max(pods, look.pods(place)),
        progress=progress,
        wait=wait or Wait(),
        outcome=outcome,
        lost=lost,
        held=held,
        renew=s.counts(look.progress.as_of)
        and not (look.judgement and look.judgement.verdict == "Fail" and s.enforced),
        observe=_attention(look, place, wait),
        kept=look.kept(place),
        replacing_since=_replacing_since(look, place),
        wake=min(filter(None, (_later(moment, s.now) for moment in moments)), default=None),
    )


def _replacing_since(look: _Look, place: Position) -> datetime | None:
    if place.stage != "Replacing":
        return None
    told = look.situation.told
    since = told.replacing_since if told and place == look.here else None
    return datetime.fromisoformat(since) if since else look.situation.now


def _arrive(look: _Look, place: Position) -> Progress:
    """The counts of a stage begin with it, those of a resumed one go on; the evidence is of the whole rollout."""
    s, progress = look.situation, look.progress
    resumed = look.here.stage == "Warming" and progress.judged_since is not None
    if s.stable and progress.analysis is None and s.course.strategy != "Immediate":
        rows = s.fleet.rows if s.fleet else ()
        progress = begin_progress(s.analysis, s.stickiness, rows, s.stable, s.now)
    return progress if resumed or place.stage == "Promoting" else progress.restarted()


def _attention(look: _Look, place: Position, wait: Wait | None) -> Literal["", "slow", "fast"]:
    """How closely the routers have to be watched."""
    s = look.situation
    started = place.stage != "Starting" or look.exchanges
    if not (s.routed and started) or (place.stage == "Previewing" and _previewing(look)):
        return ""
    eager = place != look.here or place.stage in ("Warming", "Promoting") or not s.in_force(look.asked)
    cold = wait is not None and wait.cold
    return "fast" if (eager or cold) and (s.fleet is None or s.watched) else "slow"


def _later(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment > now else None
