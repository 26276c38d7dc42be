"""What a decision about a candidate may look at, and what it says: the two ends of the state machine."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.rollout import AnalysisSpec, BlueGreenSpec, RolloutSpec
from penstock.api.status import CandidateStatus
from penstock.api.traffic import StickinessSpec
from penstock.core.fleet import FleetView, RouterPodView

from .course import Course
from .position import Position
from .progress import Progress
from .route import Route

__all__ = ["Decision", "Outcome", "Situation", "Wait"]

_PATIENCE_FOR_COUNTERS = 10
"""Seconds without counters after which status says so."""


@dataclass(frozen=True)
class Situation:
    """All that a decision about one candidate may look at."""

    candidate: str
    stable: str | None
    told: CandidateStatus | None
    """What status remembers of this candidate; None when it has just appeared."""
    course: Course
    rollout: RolloutSpec
    now: datetime
    routed: bool = True
    """Requests come through a router; else through a Service that knows no shares."""
    reachable: bool = True
    """Clients' requests do go through it by now."""
    displaced: bool = False
    """The split stands at a router that the spec no longer names."""
    size: int = 1
    """Pods that take all requests."""
    exists: bool = True
    """The candidate's Deployment has been made."""
    ready: int = 0
    """The candidate's pods that are ready and as asked."""
    gone: bool = False
    """None of the candidate's pods is ready, whatever was asked for last."""
    home: int = 0
    """Pods that stable's Deployment asks for."""
    live: Route | None = None
    """The route that stands in the split."""
    generation: int = 0
    supervised: bool = False
    """The split says that supervision may be lost."""
    fleet: FleetView | None = None
    stickiness: StickinessSpec | None = None

    @cached_property
    def analysis(self) -> AnalysisSpec:
        """What spec says now about handling evidence; what is compared was pinned at the start."""
        return self.rollout.analysis or AnalysisSpec()

    @property
    def enforced(self) -> bool:
        """Whether evidence decides anything."""
        return self.analysis.mode == "Enforce"

    @property
    def gated(self) -> bool:
        """Whether a person opens the way out of the preview; the switch itself is judged all the same."""
        manual = self.rollout.blue_green or BlueGreenSpec()
        return self.course.strategy == "BlueGreen" and not manual.auto_promote

    @property
    def pods(self) -> tuple[RouterPodView, ...]:
        """The Ready router pods, as far as they are known."""
        return self.fleet.pods if self.fleet else ()

    @property
    def watched(self) -> bool:
        """Whether every Ready router pod has answered within the last seconds."""
        return bool(self.pods) and all(pod.answered for pod in self.pods)

    def informed(self, as_of: int) -> bool:
        """Whether what speaks against the candidate would be known by now, where anything is looked at."""
        return self.watched if self.course.strategy == "Immediate" else self.counts(as_of)

    def in_force(self, asked: Route) -> bool:
        """Whether every Ready router pod attests the split, and the split is what was asked for."""
        return bool(self.live and self.live.serves(asked) and self.fleet and self.fleet.attests(self.generation))

    def counts(self, as_of: int) -> bool:
        """Whether counters of the last seconds are there; a blind operator raises nothing and renews nothing.

        A second that is still to come proves no more than an old one: a clock was set back, and nothing newer counts.
        """
        rows = self.fleet.rows if self.fleet else ()
        newest = max(as_of, rows[-1].second if rows else 0)
        return self.watched and abs(self.now.timestamp() - newest) <= _PATIENCE_FOR_COUNTERS

    def past(self, moment: datetime | None) -> bool:
        """Whether a moment has come, where there is one."""
        return moment is not None and self.now >= moment

    @property
    def lost(self) -> bool:
        """Whether a router pod has sent everything to stable because nobody renewed the present split."""
        return self.supervised and any(pod.expired and pod.generation in (0, self.generation) for pod in self.pods)

    @property
    def refuge(self) -> bool:
        """Whether stable can take the requests back, as far as the routers have told; or has no pod by intention."""
        return (
            self.stable is None
            or self.course.alone
            or not self.watched
            or any(pod.warm.get(self.stable) for pod in self.pods)
        )


@dataclass(frozen=True)
class Wait:
    """What keeps a candidate where it is."""

    message: str = ""
    reason: Reason = Reason.ROLLOUT_IN_PROGRESS
    outlook: bool = False
    """Evidence is what is missing: say how much."""
    cold: bool = False
    """Routers have yet to reach the candidate's pods."""


@dataclass(frozen=True)
class Outcome:
    """How a rollout ends."""

    kind: Literal["Promoted", "RolledBack", "Aborted"]
    reason: Reason
    message: str = ""
    by: str | None = None


@dataclass(frozen=True)
class Decision:
    """Where the candidate stands after this pass."""

    position: Position
    course: Course
    pods: int
    """How many of its pods to ask for."""
    progress: Progress
    """What status is to remember; older than what is known while nothing but numbers has changed."""
    wait: Wait = Wait()
    outcome: Outcome | None = None
    lost: bool = False
    """Supervision was lost: the routers have gone to stable by themselves."""
    held: bool = False
    """The split stays as it is until counters are read."""
    renew: bool = False
    """Supervision may be renewed: all counters are seen, and nothing speaks against the candidate."""
    observe: Literal["", "slow", "fast"] = ""
    kept: int | None = None
    """Pods that stable keeps while they change hands; None: all of them."""
    replacing_since: datetime | None = None
    """Since when stable makes room for the present step."""
    wake: datetime | None = None
