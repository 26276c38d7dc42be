"""Which revision serves, which is on its way, and what is in its way: the state machine of `strategy: Immediate`.

The stable revision is what status says; when status is gone, what the client Service selects, as long as its record
survives. A candidate goes live when all its pods are ready, and never before; the revision it replaces keeps its pods
until the longest request may have ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.traffic import TrafficSpec
from penstock.api.status import HistoryEntry
from penstock.api.units import duration_seconds

from .conditions import timestamp
from .names import REVISION_LABEL
from .observed import Observed
from .revision import RevisionRecord
from .server import Failure, serving_failure
from .target import Target

__all__ = ["Standing", "request_timeout", "stand"]

_HISTORY = 10
_PROPAGATION = timedelta(seconds=5)
"""How long a Service's new selector may take to reach every node."""


@dataclass(frozen=True)
class Standing:
    """Revisions by role; `failure` belongs to the candidate, or to the stable revision when there is no candidate."""

    stable: RevisionRecord | None
    stable_since: str | None
    candidate: RevisionRecord | None
    candidate_since: str | None
    candidate_replicas: int
    draining: tuple[RevisionRecord, ...]
    failure: Failure | None
    failed: tuple[str, Failure] | None
    """A revision found unable to serve in this very pass."""
    promoted: bool
    history: tuple[HistoryEntry, ...]
    wake: datetime | None
    serving: str | None
    """The revision that has the traffic: stable's name, also while stable's record cannot be read."""


def request_timeout(deployment: ModelDeployment) -> float:
    """Seconds; the longest a request may take."""
    return duration_seconds((deployment.spec.traffic or TrafficSpec()).timeout)


def stand(observed: Observed, target: Target, now: datetime) -> Standing:
    """Roles of the revisions after this pass."""
    status = observed.deployment.status
    stable, since, history = _stable(observed, now)
    candidate = target.record if target.record and (stable is None or target.record.name != stable.name) else None
    if candidate and status.failed_revision and status.failed_revision.revision == candidate.name:
        candidate = None
    candidate_since = _candidate_since(observed, candidate, now)
    serving = stable.name if stable else _unrecorded(observed)
    replicas = candidate_replicas(observed, serving)
    failure, failed, promoted = None, None, False
    if candidate:
        live = observed.get("Deployment", candidate.name)
        failure = serving_failure(live, observed.pods_of(candidate.name)) if live else None
        if failure and failure.final:
            failed = (candidate.name, failure)
            history = _remember(history, candidate.name, "Failed", failure.reason, candidate_since, now)
            candidate, failure = None, None
        elif live and is_up(live, replicas):
            history = _remember(history, candidate.name, "Promoted", Reason.REVISION_PROMOTED, candidate_since, now)
            stable, since, candidate, promoted, failure = candidate, timestamp(now), None, True, None
            serving = stable.name
    if candidate is None and failed is None and stable:
        live = observed.get("Deployment", stable.name)
        failure = serving_failure(live, observed.pods_of(stable.name)) if live else None
    draining, wake = _draining(observed, history, stable, candidate, now)
    return Standing(
        stable=stable,
        stable_since=since,
        candidate=candidate,
        candidate_since=candidate_since if candidate else None,
        candidate_replicas=replicas,
        draining=draining,
        failure=failure,
        failed=failed,
        promoted=promoted,
        history=history,
        wake=wake,
        serving=serving,
    )


def _stable(observed: Observed, now: datetime) -> tuple[RevisionRecord | None, str | None, tuple[HistoryEntry, ...]]:
    """The stable revision, since when, and a history that names it.

    A process killed between moving the Service and writing status leaves a revision live that history knows nothing
    of; without its entry the next update would take its pods away before they have drained.
    """
    status, records = observed.deployment.status, observed.records
    history = status.history or ()
    told = status.stable.revision if status.stable else None
    since = status.stable.since if status.stable else None
    if told not in records:
        told = _selected(observed)
        since = timestamp(now)
    stable = records.get(told or "")
    if stable is None:
        return None, None, history
    if not any(entry.revision == stable.name and entry.outcome == "Promoted" for entry in history):
        begun = since or timestamp(now)
        history = _remember(history, stable.name, "Promoted", Reason.REVISION_PROMOTED, begun, now)
    return stable, since, history


def _selected(observed: Observed) -> str | None:
    service = observed.get("Service", observed.deployment.metadata.name)
    return service["spec"].get("selector", {}).get(REVISION_LABEL) if service else None


def _unrecorded(observed: Observed) -> str | None:
    """A revision that serves though its record was deleted or cannot be read: it stays until another has gone live."""
    status = observed.deployment.status
    name = status.stable.revision if status.stable else _selected(observed)
    return name if name and observed.get("Deployment", name) else None


def _candidate_since(observed: Observed, candidate: RevisionRecord | None, now: datetime) -> str:
    told = observed.deployment.status.candidate
    if candidate and told and told.revision == candidate.name and told.since:
        return told.since
    return timestamp(now)


def candidate_replicas(observed: Observed, serving: str | None) -> int:
    """As many as the spec says, or under an autoscaler as many as stable runs now: the candidate takes all its load."""
    spec = observed.deployment.spec
    if spec.autoscaling is None:
        return spec.replicas
    live = observed.get("Deployment", serving) if serving else None
    wanted = live["spec"].get("replicas", spec.replicas) if live else spec.replicas
    return int(min(max(wanted, spec.autoscaling.min), spec.autoscaling.max))


def is_up(deployment: Mapping[str, Any], replicas: int) -> bool:
    """Whether the Deployment controller has seen the present spec and all its pods are ready."""
    status, generation = deployment.get("status", {}), deployment["metadata"].get("generation", 0)
    return bool(
        status.get("observedGeneration", 0) >= generation
        and status.get("updatedReplicas", 0) >= replicas
        and status.get("readyReplicas", 0) >= replicas
        and deployment["spec"].get("replicas", 1) >= replicas
    )


def _remember(
    history: tuple[HistoryEntry, ...], revision: str, outcome: str, reason: Reason, since: str, now: datetime
) -> tuple[HistoryEntry, ...]:
    entry = HistoryEntry.model_validate(
        {
            "revision": revision,
            "outcome": outcome,
            "reason": reason.value,
            "startTime": since,
            "endTime": timestamp(now),
        }
    )
    return (entry, *history)[:_HISTORY]


def _draining(
    observed: Observed,
    history: tuple[HistoryEntry, ...],
    stable: RevisionRecord | None,
    candidate: RevisionRecord | None,
    now: datetime,
) -> tuple[tuple[RevisionRecord, ...], datetime | None]:
    """Revisions that lost the traffic less than a drain ago, and when the first of them is done."""
    drain = timedelta(seconds=request_timeout(observed.deployment)) + _PROPAGATION
    busy = {record.name for record in (stable, candidate) if record}
    promotions = [entry for entry in history if entry.outcome == "Promoted"]
    ends: dict[str, datetime] = {}
    for newer, older in pairwise(promotions):
        ends.setdefault(older.revision, datetime.fromisoformat(newer.end_time) + drain)
    live = {
        name: end
        for name, end in ends.items()
        if name not in busy and end > now and name in observed.records and observed.get("Deployment", name)
    }
    return tuple(observed.records[name] for name in sorted(live)), min(live.values(), default=None)
