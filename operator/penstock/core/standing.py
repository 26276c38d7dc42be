"""Which revision serves, which is on its way and how far it is, which still drain: the roles after a pass.

How a candidate comes to take stable's place is decided in `rollout`; here that decision meets the pods and the history,
and the roles change hands when the candidate has come to its end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from penstock.api.facts import Tensor
from penstock.api.reasons import Reason
from penstock.api.rollout import AnalysisSpec, RolloutSpec
from penstock.api.status import CandidateStatus, FailedRevision, HistoryEntry
from penstock.api.traffic import TrafficSpec

from .conditions import MESSAGE, timestamp
from .history import Ending, find_endings, remember
from .observed import Observed
from .revision import RevisionRecord
from .roles import Roles, cast_roles, full_size, ready_pods
from .rollout import (
    TRAFFIC,
    Decision,
    Outcome,
    Position,
    Route,
    Situation,
    decide,
    find_course,
    find_route,
    spare,
)
from .room import Wish, allot, find_releases, is_returning
from .routing import Traffic, look_at_traffic, renewal_due, whole_route
from .server import Failure, serving_failure
from .target import Target

__all__ = ["Standing", "stand"]


@dataclass(frozen=True)
class Standing:
    """Revisions by role; `failure` belongs to the candidate, or to the stable revision when there is no candidate."""

    stable: RevisionRecord | None
    stable_since: str | None
    candidate: RevisionRecord | None
    candidate_since: str | None
    candidate_replicas: int
    """Pods to ask for."""
    stable_replicas: int
    """Pods to ask for, where no autoscaler does."""
    released: tuple[str, ...]
    """Those of `draining` whose pods make room for others by now."""
    draining: tuple[str, ...]
    """Revisions without traffic that keep their pods for now."""
    failure: Failure | None
    failed: FailedRevision | None
    """The revision that the spec asks for and that is not tried again."""
    history: tuple[HistoryEntry, ...]
    wake: datetime | None
    serving: str | None
    """The revision that has the traffic: stable's name, also while stable's record cannot be read."""
    size: int = 0
    """Pods that take all requests."""
    decision: Decision | None = None
    """About the candidate, or the one that ended it in this pass."""
    told: CandidateStatus | None = None
    """What status remembered of the candidate."""
    traffic: Traffic = field(default_factory=Traffic)
    route: Route = field(default_factory=Route)
    """Where requests are to go."""
    retry_token: str | None = None
    returning: bool = False
    """Nobody has the requests until stable has a pod again."""


@dataclass(frozen=True)
class _Scene:
    """One pass: what is seen, and who is who in it."""

    observed: Observed
    traffic: Traffic
    roles: Roles
    size: int
    now: datetime

    @property
    def rollout(self) -> RolloutSpec:
        """spec.rollout with its defaults."""
        return self.observed.deployment.spec.rollout or RolloutSpec()

    @property
    def analysis(self) -> AnalysisSpec:
        """spec.rollout.analysis with its defaults."""
        return self.rollout.analysis or AnalysisSpec()

    @property
    def cramped(self) -> bool:
        """Whether there is no room for more pods than all requests take."""
        told = self.roles.told
        if told and told.strategy:
            return bool(told.replaced)
        return self.rollout.capacity == "Replace" and self.observed.deployment.spec.autoscaling is None

    def failure_of(self, revision: str, since: str | None = None) -> Failure | None:
        """Why pods of a revision do not serve; only what happened `since` then is final."""
        live = self.observed.get("Deployment", revision)
        return serving_failure(live, self.observed.pods_of(revision), since) if live else None


def stand(observed: Observed, target: Target, now: datetime) -> Standing:
    """Roles of the revisions after this pass."""
    traffic = look_at_traffic(observed)
    roles = cast_roles(observed, target, traffic, now)
    size = full_size(observed, roles.serving)
    if roles.told and roles.told.replaced and size:
        size = roles.told.replaced
    scene = _Scene(observed, traffic, roles, size, now)
    if roles.candidate is None:
        return _settle(scene)
    if _is_kept_warm(scene, roles.candidate.name):
        return _promote(scene, roles.candidate, Outcome("Promoted", Reason.RETURNED), None)
    begun = roles.told is not None and (roles.told.stage in TRAFFIC or roles.told.judged_since is not None)
    changed = None if begun else _changed_interface(scene, roles.candidate)
    if changed:
        return _fail(scene, roles.candidate, Failure(Reason.INTERFACE_CHANGED, changed), "Failed", None)
    return _try(scene, roles.candidate)


def _try(scene: _Scene, candidate: RevisionRecord) -> Standing:
    """One move of the candidate's rollout, unless it cannot run at all."""
    failure = scene.failure_of(candidate.name, _begun(scene, candidate.name))
    decision = decide(_situation(scene, candidate.name))
    judged = decision.position.stage in TRAFFIC and scene.roles.serving is not None
    serves = judged and decision.position.stage != "Replacing"
    if failure and failure.final and not (serves and scene.analysis.mode == "Observe"):
        return _fail(scene, candidate, failure, "RolledBack" if judged else "Failed", decision)
    outcome = decision.outcome
    if outcome is None:
        return _proceed(scene, candidate, decision, failure)
    if outcome.kind == "Promoted":
        return _promote(scene, candidate, outcome, decision)
    return _fail(scene, candidate, Failure(outcome.reason, outcome.message), outcome.kind, decision)


def _begun(scene: _Scene, candidate: str) -> str | None:
    """When this attempt began, if its Deployment is still the one of an earlier attempt; else all it shows counts.

    Status may name a candidate long after its pods were made: whoever was to write it may have been killed.
    """
    live = scene.observed.get("Deployment", candidate)
    made = live["metadata"].get("creationTimestamp", "") if live else ""
    earlier = any(entry.revision == candidate and entry.end_time >= made for entry in scene.roles.history)
    return scene.roles.candidate_since if earlier else None


def _situation(scene: _Scene, candidate: str) -> Situation:
    observed, traffic, roles = scene.observed, scene.traffic, scene.roles
    routed = traffic.wanted is not None
    live = observed.get("Deployment", candidate)
    split = traffic.split if traffic.split_is_wanted else None
    return Situation(
        candidate=candidate,
        stable=roles.serving,
        told=roles.told,
        course=find_course(roles.told, scene.rollout, routed=routed, size=scene.size if roles.stable else 0),
        rollout=scene.rollout,
        now=scene.now,
        routed=routed,
        reachable=roles.serving is None or traffic.through == traffic.wanted,
        displaced=traffic.is_leaving,
        size=scene.size,
        exists=live is not None,
        ready=ready_pods(live),
        gone=observed.ready_replicas(candidate) == 0,
        home=observed.asked_replicas(roles.serving),
        live=traffic.route,
        generation=traffic.generation,
        supervised=split is not None and split.supervision is not None,
        fleet=observed.fleet,
        stickiness=(observed.deployment.spec.traffic or TrafficSpec()).stickiness,
    )


# without a rollout of its own


def _is_kept_warm(scene: _Scene, name: str) -> bool:
    """Whether the candidate is the previous revision of a blue/green pair, all there still, and may simply return.

    One that was taken back since, as the candidate that it was again, has to show first what it can.
    """
    rollout, roles, traffic = scene.rollout, scene.roles, scene.traffic
    if roles.told or rollout.strategy != "BlueGreen" or rollout.paused or rollout.abort == name or not scene.size:
        return False
    if name not in find_endings(scene.observed, roles.history, traffic, scene.now):
        return False
    if traffic.wanted and name not in traffic.listed:
        return False
    previous = [entry.revision for entry in roles.history if entry.outcome == "Promoted"][1:2]
    ended = [entry.outcome for entry in roles.history if entry.revision == name and entry.outcome != "Superseded"]
    if previous != [name] or ended[0] != "Promoted":
        return False
    return ready_pods(scene.observed.get("Deployment", name)) >= scene.size


def _changed_interface(scene: _Scene, candidate: RevisionRecord) -> str | None:
    """A sentence when clients of stable would not get on with the candidate, and nobody has said that this is meant."""
    stable = scene.roles.stable
    if stable is None or scene.analysis.allow_interface_change or scene.traffic.wanted is None:
        return None
    if scene.rollout.strategy == "Immediate" or not (stable.facts.inputs and candidate.facts.inputs):
        return None
    for noun in ("inputs", "outputs"):
        old, new = _tensors(getattr(stable.facts, noun)), _tensors(getattr(candidate.facts, noun))
        if old != new:
            return (
                f"{noun} are {', '.join(sorted(new))}; {stable.name} has {', '.join(sorted(old))}. Set"
                " spec.rollout.analysis.allowInterfaceChange: true if clients are ready for this"
            )
    return None


def _tensors(tensors: Iterable[Tensor]) -> set[str]:
    return {f"{item.name} {item.data_type}{list(item.dims)}" for item in tensors}


# how a pass ends


def _settle(scene: _Scene) -> Standing:
    """Nothing is on its way."""
    roles = scene.roles
    failure = scene.failure_of(roles.stable.name) if roles.stable and roles.failed is None else None
    return _standing(scene, failure=failure)


def _proceed(scene: _Scene, candidate: RevisionRecord, decision: Decision, failure: Failure | None) -> Standing:
    """The candidate is on its way; where it needs nobody's room it never loses a pod before the end."""
    found = _standing(scene, candidate=candidate, failure=failure, decision=decision)
    if not scene.cramped:
        running = scene.observed.asked_replicas(candidate.name)
        return replace(found, candidate_replicas=min(scene.size, max(decision.pods, running)))
    kept = scene.size if decision.kept is None else decision.kept
    wishes = Wish(scene.roles.serving, kept), Wish(candidate.name, min(scene.size, decision.pods))
    first, second = allot(scene.observed, scene.size, *wishes)
    return replace(found, stable_replicas=first, candidate_replicas=second)


def _promote(scene: _Scene, candidate: RevisionRecord, outcome: Outcome, decision: Decision | None) -> Standing:
    roles, now = scene.roles, scene.now
    history = remember(
        roles.history, candidate.name, "Promoted", outcome.reason, roles.candidate_since, now, outcome.by
    )
    live = replace(roles, stable=candidate, since=timestamp(now), serving=candidate.name, history=history)
    return _standing(replace(scene, roles=live), decision=decision)


def _fail(
    scene: _Scene, candidate: RevisionRecord, failure: Failure, ending: Ending, decision: Decision | None
) -> Standing:
    roles, now = scene.roles, scene.now
    history = remember(roles.history, candidate.name, ending, failure.reason, roles.candidate_since, now)
    failed = FailedRevision(
        revision=candidate.name, reason=failure.reason.value, message=failure.message[:MESSAGE], time=timestamp(now)
    )
    left = replace(roles, history=history, failed=failed)
    return _standing(replace(scene, roles=left), decision=decision)


def _standing(
    scene: _Scene,
    *,
    candidate: RevisionRecord | None = None,
    failure: Failure | None = None,
    decision: Decision | None = None,
) -> Standing:
    roles, traffic, now = scene.roles, scene.traffic, scene.now
    busy = {roles.serving, candidate.name if candidate else None}
    ends = find_endings(scene.observed, roles.history, traffic, now)
    drains = {name: end for name, end in ends.items() if name not in busy}
    wakes = [*drains.values(), decision.wake if decision else None]
    releases = find_releases(scene.observed, traffic, drains, now) if scene.cramped else {}
    wakes += releases.values()
    if candidate and traffic.split and traffic.split_is_wanted:
        wakes.append(renewal_due(traffic.split))
    return Standing(
        stable=roles.stable,
        stable_since=roles.since,
        candidate=candidate,
        candidate_since=roles.candidate_since if candidate else None,
        candidate_replicas=scene.size,
        stable_replicas=_whole_size(scene),
        released=tuple(sorted(name for name, moment in releases.items() if moment <= now)),
        draining=tuple(sorted(drains)),
        failure=failure,
        failed=roles.failed,
        history=roles.history,
        wake=min((moment for moment in wakes if moment and moment > now), default=None),
        serving=roles.serving,
        size=scene.size,
        decision=decision,
        told=roles.told,
        traffic=traffic,
        route=_route(scene, candidate, decision),
        retry_token=roles.retry_token,
        returning=candidate is None and _is_returning(scene),
    )


def _whole_size(scene: _Scene) -> int:
    """Stable at full size, as far as nobody else holds its room."""
    if not scene.cramped:
        return scene.size
    asked = full_size(scene.observed, scene.roles.serving)
    return allot(scene.observed, asked, Wish(scene.roles.serving, asked), Wish(None, 0))[0]


def _is_returning(scene: _Scene) -> bool:
    return scene.cramped and scene.size > 0 and is_returning(scene.observed, scene.traffic, scene.roles.serving)


def _route(scene: _Scene, candidate: RevisionRecord | None, decision: Decision | None) -> Route:
    """A router that is left, or that there is none of, gives everything to the revision that serves."""
    serving = scene.roles.serving
    if candidate is None and _is_returning(scene):
        return Route(serving, {str(serving): 0})
    found = _asked_route(scene, candidate, decision)
    if candidate is None or serving is None or not (decision and decision.course.replaced):
        return found
    home, away = (scene.observed.ready_replicas(name) > 0 for name in (serving, candidate.name))
    return spare(found, candidate.name, home=home, away=away)


def _asked_route(scene: _Scene, candidate: RevisionRecord | None, decision: Decision | None) -> Route:
    serving = scene.roles.serving
    if candidate is None or decision is None or scene.traffic.is_leaving or scene.traffic.wanted is None:
        return whole_route(serving)
    live = scene.traffic.route
    if decision.held:
        sound = live is not None and live.is_between(serving, candidate.name)
        return live if live and sound else find_route(serving, candidate.name, Position("Warming"), decision.course)
    return find_route(serving, candidate.name, decision.position, decision.course)
