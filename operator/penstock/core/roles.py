"""Which revision plays which part before anything is decided: who serves, who is on its way, who has failed.

The stable revision is what status says; when status is gone, what the split names or the client Service selects, as
long as its record survives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.rollout import RolloutSpec
from penstock.api.status import CandidateStatus, FailedRevision, HistoryEntry

from .conditions import timestamp
from .history import remember
from .observed import Observed
from .pods import ends
from .revision import RevisionRecord
from .routing import Traffic
from .target import Target

__all__ = ["Roles", "cast_roles", "full_size", "ready_pods"]

_CLOCKS_DIFFER = timedelta(seconds=15)
"""At most, between machines whose clocks are looked after."""


@dataclass(frozen=True)
class Roles:
    """Who plays which part before anything is decided."""

    stable: RevisionRecord | None
    since: str | None
    serving: str | None
    history: tuple[HistoryEntry, ...]
    candidate: RevisionRecord | None
    candidate_since: str | None
    told: CandidateStatus | None
    """What status remembers of the candidate."""
    failed: FailedRevision | None
    """The revision that the spec asks for and that is not tried again."""
    retry_token: str | None


def cast_roles(observed: Observed, target: Target, traffic: Traffic, now: datetime) -> Roles:
    """Who is who, as status and the spec have it.

    A candidate that the spec no longer asks for ends here, whether its successor is known yet or still prepared.
    """
    status = observed.deployment.status
    stable, since, history = _stable(observed, traffic, now)
    serving = stable.name if stable else _unrecorded(observed, traffic)
    if stable is None and target.record and target.record.name == serving:
        stable, since = target.record, status.stable.since if status.stable else timestamp(now)
    failed, token = _failed(observed, target)
    candidate = target.record if target.record and (stable is None or target.record.name != stable.name) else None
    if candidate and failed and failed.revision == candidate.name:
        candidate = None
    told = status.candidate
    if told and (candidate is None or told.revision != candidate.name):
        if told.revision != serving and not (failed and failed.revision == told.revision):
            history = remember(history, told.revision, "Superseded", Reason.SUPERSEDED, told.since, now)
        told = None
    begun = told.since if told and told.since else _beginning(observed, candidate, now)
    return Roles(stable, since, serving, history, candidate, begun, told, failed, token)


def _beginning(observed: Observed, candidate: RevisionRecord | None, now: datetime) -> str:
    """Now, or the last end that pods of an earlier attempt show already: a node's clock may be ahead of this one.

    A clock that is further ahead is not followed: what other nodes date would count for nothing until then.
    """
    pods = observed.pods_of(candidate.name) if candidate else ()
    known = [end.finished for pod in pods for end in ends(pod) if end.finished <= timestamp(now + _CLOCKS_DIFFER)]
    return max([timestamp(now), *known])


def _stable(
    observed: Observed, traffic: Traffic, now: datetime
) -> tuple[RevisionRecord | None, str | None, tuple[HistoryEntry, ...]]:
    """The stable revision, since when, and a history that names it.

    A process killed between moving the Service and writing status leaves a revision live that history knows nothing
    of; without its entry the next update would take its pods away before they have drained.
    """
    status, records = observed.deployment.status, observed.records
    history = status.history or ()
    told = status.stable.revision if status.stable else None
    since = status.stable.since if status.stable else None
    if told not in records:
        told = _routed(observed, traffic)
        since = timestamp(now)
    stable = records.get(told or "")
    if stable is None:
        return None, None, history
    if not any(entry.revision == stable.name and entry.outcome == "Promoted" for entry in history):
        begun = since or timestamp(now)
        history = remember(history, stable.name, "Promoted", Reason.REVISION_PROMOTED, begun, now)
    return stable, since, history


def _routed(observed: Observed, traffic: Traffic) -> str | None:
    """The revision that requests go to, but not one that status says is still on its way there."""
    candidate = observed.deployment.status.candidate
    named = traffic.split.stable if traffic.split else None
    if named and not (candidate and candidate.revision == named):
        return named
    return traffic.selected


def _unrecorded(observed: Observed, traffic: Traffic) -> str | None:
    """A revision that serves though its record was deleted or cannot be read: it stays until another has gone live."""
    status = observed.deployment.status
    name = status.stable.revision if status.stable else _routed(observed, traffic)
    return name if name and observed.get("Deployment", name) else None


def _failed(observed: Observed, target: Target) -> tuple[FailedRevision | None, str | None]:
    """The failure that still counts, and the retry token that has been seen.

    It is forgotten when the spec asks for another revision, and by a new token once nothing aborts the revision any
    more. A token that comes while nothing has failed is spent: it must not retry a failure of later.
    """
    status, rollout = observed.deployment.status, observed.deployment.spec.rollout or RolloutSpec()
    failed = status.failed_revision
    if failed and target.record and target.record.name != failed.revision:
        failed = None
    allowed = rollout.analysis is not None and rollout.analysis.allow_interface_change
    if failed and failed.reason == Reason.INTERFACE_CHANGED.value and allowed:
        failed = None
    if failed is None:
        return None, rollout.retry_token
    if rollout.abort == failed.revision or rollout.retry_token in (None, status.observed_retry_token):
        return failed, status.observed_retry_token
    return None, rollout.retry_token


def full_size(observed: Observed, serving: str | None) -> int:
    """As many pods as the spec says, or under an autoscaler as many as stable runs now: they take all requests."""
    spec = observed.deployment.spec
    if spec.autoscaling is None:
        return spec.replicas
    live = observed.get("Deployment", serving) if serving else None
    wanted = live["spec"].get("replicas", spec.replicas) if live else spec.replicas
    return int(min(max(wanted, spec.autoscaling.min), spec.autoscaling.max))


def ready_pods(deployment: Mapping[str, Any] | None) -> int:
    """Pods that are ready and as last asked for; none while the Deployment controller has not seen that yet."""
    if deployment is None:
        return 0
    status, generation = deployment.get("status", {}), deployment["metadata"].get("generation", 0)
    if status.get("observedGeneration", 0) < generation:
        return 0
    counts = (status.get("updatedReplicas", 0), status.get("readyReplicas", 0), deployment["spec"].get("replicas", 1))
    return int(min(counts))
