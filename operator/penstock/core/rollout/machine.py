"""The state machine of a rollout: from what is remembered and what is seen to the next position, or to the end.

Each call makes at most one move. Capacity first: a position is entered only when the candidate has ready pods for its
share, in the Deployment's count and in every router pod's. What takes the candidate back needs nothing but its cause.
Missing evidence holds: it is never a success and never a failure.
"""

from datetime import datetime
from typing import Literal

from penstock.api.reasons import Reason

from .look import Look, look_at
from .position import COUNTED, JUDGED, TRAFFIC, Position
from .progress import Progress, begin_progress
from .situation import Decision, Outcome, Situation, Wait
from .waits import BLIND, FOLLOWING, HELD, wait_for_a_person, wait_for_pods, wait_to_enter, wait_to_leave

__all__ = ["decide"]

_PROGRESS_EVERY = 10
"""Seconds of counters between two writes of status that tell of nothing but progress."""


def decide(situation: Situation) -> Decision:
    """One move, or none."""
    look = look_at(situation)
    outcome = _ending(look)
    if outcome:
        return _decision(look, look.here, outcome=outcome)
    if (situation.lost or situation.displaced) and look.here.stage in TRAFFIC and situation.stable:
        return _decision(look, _way_back(look), lost=situation.lost)
    if look.exchanges and situation.gone and look.here.stage in ("Stepping", "Promoting"):
        return _decision(look, Position("Replacing", look.here.step))
    if _is_behind(look) and not situation.informed(look.progress.as_of):
        return _decision(look, look.here, wait=BLIND, held=True)
    hindrance = wait_to_leave(look)
    if hindrance:
        return _decision(look, look.here, wait=hindrance)
    following = _following(look)
    if following is None:
        return _last_move(look)
    hindrance = wait_to_enter(look, following)
    if hindrance:
        return _decision(look, look.here, wait=hindrance, pods=0 if look.exchanges else look.pods(following))
    return _decision(look, following)


def _way_back(look: Look) -> Position:
    """Where a candidate is without requests; at a router that is left stable has all of them and needs all its pods."""
    if not look.exchanges:
        return Position("Warming", look.here.step)
    return Position("Starting") if look.situation.displaced else Position("Replacing", look.here.step)


def _last_move(look: Look) -> Decision:
    """The end of the way; behind a Service that is the moment in which the candidate gets its requests."""
    if look.commands.paused and look.situation.stable and not look.situation.routed:
        return _decision(look, look.here, wait=HELD)
    by = "spec.rollout.promote" if look.commands.promote or look.commands.end_step else None
    return _decision(look, look.here, outcome=Outcome("Promoted", Reason.REVISION_PROMOTED, by=by))


def _ending(look: Look) -> Outcome | None:
    """What ends it before its way does: a person, that no pod is asked for, stable's need of its room, the evidence."""
    s = look.situation
    if look.commands.abort:
        return Outcome("Aborted", Reason.ABORTED, f"spec.rollout.abort names {s.candidate}")
    if s.size == 0 and s.exists and (s.stable or not s.routed) and not _waits_for_a_person(look):
        return Outcome("Promoted", Reason.SKIPPED if s.stable else Reason.REVISION_PROMOTED)
    replacing = look.here.stage == "Replacing" and s.size > 0
    if replacing and s.ready < look.pods(look.here) and s.past(look.start_deadline):
        sentence = f"{s.ready} of {look.pods(look.here)} replicas ready after {s.analysis.deadline}; stable gets its"
        return Outcome("RolledBack", Reason.START_DEADLINE_EXCEEDED, f"{sentence} pod back")
    return _accusation(look)


def _accusation(look: Look) -> Outcome | None:
    """What the routers' counters say against it, also that nobody has ever asked it anything.

    One that is warmed again carries its evidence along, and gets nothing more when that is against it.
    """
    s, judgement = look.situation, look.judgement
    if look.here.stage not in (*TRAFFIC, "Warming") or not s.enforced or not s.refuge:
        return None
    if judgement and judgement.verdict == "Fail":
        return Outcome("RolledBack", Reason(judgement.reason), judgement.message)
    untouched = s.analysis.on_no_traffic == "Rollback" and not look.progress.requests and s.past(look.deadline)
    if untouched and look.here.stage in TRAFFIC and s.counts(look.progress.as_of):
        sentence = f"no request has reached it within {s.analysis.deadline}, and onNoTraffic is Rollback"
        return Outcome("RolledBack", Reason.NO_TRAFFIC, sentence)
    return None


def _waits_for_a_person(look: Look) -> bool:
    """Whether somebody has the last word on it, which a size of 0 does not overrule."""
    return look.commands.paused or (look.here.stage not in TRAFFIC and wait_for_a_person(look) is not None)


def _is_behind(look: Look) -> bool:
    """Whether the split gives the candidate less than status says.

    Somebody has edited it; or the operator died between taking back and saying so, and must not give again before it
    has seen what it saw then.
    """
    s = look.situation
    given = s.live.share(s.candidate) if s.live else 0
    return look.here.stage in TRAFFIC and s.stable is not None and given < look.asked.share(s.candidate)


def _following(look: Look) -> Position | None:
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


def _decision(
    look: Look,
    place: Position,
    *,
    wait: Wait | None = None,
    outcome: Outcome | None = None,
    pods: int = 0,
    lost: bool = False,
    held: bool = False,
) -> Decision:
    s, moved = look.situation, place != look.here
    if outcome is None:
        wait = _told_wait(look, place, wait, lost=lost)
    moments = (look.deadline, look.start_deadline)
    return Decision(
        position=place,
        course=s.course,
        pods=max(pods, look.pods(place)),
        progress=_told_progress(look, place, ends=moved or outcome is not None),
        wait=wait or Wait(),
        outcome=outcome,
        lost=lost,
        held=held,
        renew=s.counts(look.progress.as_of)
        and not (look.judgement and look.judgement.verdict == "Fail" and s.enforced),
        observe=_attention(look, place, wait),
        kept=look.kept(place),
        replacing_since=_replacing_since(look, place),
        wake=min((moment for moment in moments if moment and moment > s.now), default=None),
    )


def _told_wait(look: Look, place: Position, wait: Wait | None, *, lost: bool) -> Wait | None:
    """What status says that it waits for; one that has just moved waits for the routers, or for pods."""
    paused = look.commands.paused and place.stage in JUDGED
    if paused and (wait is None or wait.reason is Reason.ROLLOUT_IN_PROGRESS):
        return HELD
    if wait or place == look.here:
        return wait
    if look.situation.routed and place.stage in ("Warming", "Promoting") and not lost:
        return Wait(FOLLOWING)
    return wait_for_pods(look, place) if place.stage == "Replacing" else None


def _told_progress(look: Look, place: Position, *, ends: bool) -> Progress:
    """What status remembers; nothing new while only numbers of a few seconds are."""
    if place != look.here and place.stage in TRAFFIC:
        return _arrive(look, place)
    fresh = look.progress.as_of - look.before.as_of >= _PROGRESS_EVERY
    return look.progress if ends or fresh else look.before


def _replacing_since(look: Look, place: Position) -> datetime | None:
    if place.stage != "Replacing":
        return None
    told = look.situation.told
    since = told.replacing_since if told and place == look.here else None
    return datetime.fromisoformat(since) if since else look.situation.now


def _arrive(look: Look, place: Position) -> Progress:
    """The counts of a stage begin with it, those of a resumed one go on; the evidence is of the whole rollout."""
    s, progress = look.situation, look.progress
    resumed = look.here.stage == "Warming" and progress.judged_since is not None
    if s.stable and progress.analysis is None and s.course.strategy != "Immediate":
        rows = s.fleet.rows if s.fleet else ()
        progress = begin_progress(s.analysis, s.stickiness, rows, s.stable, s.now)
    return progress if resumed or place.stage == "Promoting" else progress.restarted()


def _attention(look: Look, place: Position, wait: Wait | None) -> Literal["", "slow", "fast"]:
    """How closely the routers have to be watched."""
    s = look.situation
    started = place.stage != "Starting" or look.exchanges
    if not (s.routed and started) or (place.stage == "Previewing" and wait_for_a_person(look)):
        return ""
    eager = place != look.here or place.stage in ("Warming", "Promoting") or not s.in_force(look.asked)
    cold = wait is not None and wait.cold
    return "fast" if (eager or cold) and (s.fleet is None or s.watched) else "slow"
