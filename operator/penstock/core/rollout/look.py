"""One pass over a candidate: where it is, what is asked of it there, and what has been seen of it by now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.api.units import duration_seconds
from penstock.core.analysis import Judgement

from .commands import Commands, read_commands
from .position import TRAFFIC, Position, find_position, itinerary
from .progress import Progress, gather, judge_progress, recall
from .route import Route, find_route
from .situation import Situation

__all__ = ["Look", "look_at"]


@dataclass(frozen=True)
class Look:
    """All that one pass decides by."""

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

    @property
    def start_deadline(self) -> datetime | None:
        """When the candidate has had stable's room for as long as a verdict may take."""
        s = self.situation
        since = s.told.replacing_since if s.told and self.here.stage == "Replacing" else None
        return _after(since, duration_seconds(s.analysis.deadline)) if since else None

    @property
    def deadline(self) -> datetime | None:
        """When a verdict is late; a course that takes longer puts it off."""
        since, s = self.progress.judged_since, self.situation
        return _after(since, max(duration_seconds(s.analysis.deadline), s.course.seconds)) if since else None


def _after(since: str, seconds: float) -> datetime:
    return datetime.fromisoformat(since) + timedelta(seconds=seconds)


def look_at(s: Situation) -> Look:
    """The situation with what follows from it."""
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
    return Look(s, way, here, commands, before, progress, judge_progress(progress, alone=s.course.alone))
