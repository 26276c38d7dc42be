"""Who gets which share of the requests: a pure function of status, rendered anew in every pass (PD-20, PD-26)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.api.router import WHOLE, TrafficSplitSpec

from .course import Course, permille
from .position import Position

__all__ = ["Route", "find_route", "read_route", "spare"]


@dataclass(frozen=True)
class Route:
    """Weights in 0.1 % by revision; those with weight 0 are listed to be kept warm."""

    stable: str | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    shadow: tuple[str, int] | None = None

    def share(self, revision: str) -> int:
        """What a revision gets, copies included."""
        copies = self.shadow[1] if self.shadow and self.shadow[0] == revision else 0
        return max(self.weights.get(revision, 0), copies)

    @property
    def taken(self) -> dict[str, int]:
        """The weights of those that get requests."""
        return {name: weight for name, weight in self.weights.items() if weight}

    def serves(self, asked: "Route") -> bool:
        """Whether this route does all that `asked` does; it may keep more revisions warm."""
        mine = (self.stable, self.taken, self.shadow)
        return mine == (asked.stable, asked.taken, asked.shadow) and asked.weights.keys() <= self.weights.keys()

    def is_between(self, stable: str | None, candidate: str) -> bool:
        """Whether these two have all requests, and what is lost goes to stable."""
        return self.stable == stable and self.taken.keys() <= {stable, candidate} and sum(self.taken.values()) == WHOLE

    def only(self, revision: str | None) -> bool:
        """Whether nobody but this revision gets anything."""
        return self.shadow is None and self.taken.keys() <= {revision}


def read_route(spec: TrafficSplitSpec) -> Route:
    """The route of a split as it stands."""
    shadow = (spec.shadow.name, spec.shadow.share) if spec.shadow else None
    return Route(spec.stable, {item.name: item.weight for item in spec.revisions}, shadow)


def find_route(stable: str | None, candidate: str, position: Position, course: Course) -> Route:
    """The route while a candidate is at a position of its course."""
    stage = position.stage
    if stable is None:
        return Route(candidate, {candidate: WHOLE}) if stage == "Promoting" else Route()
    if stage == "Starting":
        return Route(stable, {stable: WHOLE})
    if stage == "Replacing":
        return _while_replacing(stable, candidate, position.step, course)
    if stage == "Stepping":
        weight = course.weight(position.step)
        return Route(stable, {stable: WHOLE - weight, candidate: weight})
    if stage == "Promoting":
        return Route(stable, {stable: 0, candidate: WHOLE})
    copies = (candidate, permille(course.shadow.weight)) if stage == "Shadowing" and course.shadow else None
    return Route(stable, {stable: WHOLE, candidate: 0}, copies)


def _while_replacing(stable: str, candidate: str, step: int, course: Course) -> Route:
    """The share of the pods that serve meanwhile; with the only pod on its way nobody has anything: 503."""
    if course.alone:
        return Route(stable, {stable: 0, candidate: 0})
    share = course.share_between(step)
    return Route(stable, {stable: WHOLE - share, candidate: share})


def spare(route: Route, candidate: str | None, *, home: bool, away: bool) -> Route:
    """The route without those that have no ready pod; `home` and `away` say whether stable and candidate have one.

    A candidate that was given a share already takes stable's; one that was not gets nothing by this.
    """
    share = route.weights.get(candidate, 0) if candidate else 0
    if home and (away or not share):
        return route
    weights = dict.fromkeys(route.weights, 0)
    if home and route.stable:
        weights[route.stable] = WHOLE
    elif away and share and candidate:
        weights[candidate] = WHOLE
    return Route(route.stable, weights)
