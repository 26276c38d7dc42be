"""`plan()`: from one snapshot and the time to everything that has to be written. Pure; the reconcile loop only obeys.

The order of the writes is part of the decision: records before what they describe, capacity before traffic, traffic
before capacity is taken away. Each pass writes only what differs, so a pass that finds the world as asked writes
nothing, and a pass that was cut short after any of its writes is finished by the next one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from penstock.api.status import ModelDeploymentStatus

from .names import ObjectKey, key_of
from .objects import differs, seal
from .observed import Observed
from .preparing import Preparing, prepare, restore, superseded_jobs
from .rendering import Rendering, render
from .revision import record_manifest
from .standing import Standing, stand
from .statuses import announce, describe
from .target import Target, find_target

__all__ = ["Event", "HandOver", "Plan", "Write", "plan"]


@dataclass(frozen=True)
class Write:
    """Apply this manifest; create it when it does not exist."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class HandOver:
    """Give `spec.replicas` of a Deployment to a second field manager, before ours drops the field."""

    key: ObjectKey
    replicas: int


@dataclass(frozen=True)
class Event:
    """One Kubernetes event about the ModelDeployment; made on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What to do, in order: `writes`, then status and events, then `deletes`.

    Status is memory: a pass cut short before it has told of a failure would try the same revision again.
    """

    status: ModelDeploymentStatus
    writes: tuple[Write | HandOver, ...] = ()
    deletes: tuple[ObjectKey, ...] = ()
    events: tuple[Event, ...] = ()
    wake: datetime | None = None
    needs_credentials: bool = False
    """Registry credentials must stand in the namespace before the writes are made."""


def plan(observed: Observed, now: datetime) -> Plan:
    """What has to change so that the world is as the ModelDeployment asks."""
    deployment = observed.deployment
    if deployment.metadata.deletion_timestamp:
        return Plan(deployment.status)
    preparing = prepare(observed, now)
    target = find_target(observed, preparing)
    standing = stand(observed, target, now)
    rendering = render(observed, standing)
    restoring = _restoring(observed, standing)
    status = describe(observed, preparing, restoring, target, standing, now)
    jobs = [job for source in (preparing, *restoring) if (job := source.create)]
    writes = [*_records(observed, target), *_changed(observed, [*rendering.manifests, *jobs], rendering)]
    needed = frozenset({preparing.status.key, *(source.status.key for source in restoring)})
    deletes = [
        *(source.delete for source in (preparing, *restoring) if source.delete),
        *superseded_jobs(observed, needed),
        *rendering.removals,
    ]
    wakes = [moment for moment in (preparing.wake, standing.wake) if moment]
    return Plan(
        status=status,
        writes=tuple(writes),
        deletes=tuple(dict.fromkeys(deletes)),
        events=tuple(Event(*item) for item in announce(deployment, status)),
        wake=min(wakes, default=None),
        needs_credentials=bool(jobs or rendering.serving),
    )


def _restoring(observed: Observed, standing: Standing) -> tuple[Preparing, ...]:
    record = standing.candidate or standing.stable
    if record and standing.failure and standing.failure.artifact_missing:
        return (restore(observed, record, standing.failure),)
    return ()


def _records(observed: Observed, target: Target) -> Iterable[Write]:
    if target.record and target.fresh:
        yield Write(record_manifest(observed.deployment.metadata, target.record))


def _changed(
    observed: Observed, manifests: Iterable[dict[str, Any]], rendering: Rendering
) -> Iterable[Write | HandOver]:
    for manifest in manifests:
        key, sealed = key_of(manifest), seal(manifest)
        live = observed.objects.get(key)
        hand_over = HandOver(key, rendering.hand_overs[key]) if key in rendering.hand_overs else None
        if live and hand_over:
            yield hand_over
        if live is None or (manifest["kind"] != "Job" and differs(sealed, live)):
            yield Write(sealed)
        if live is None and hand_over:
            yield hand_over
