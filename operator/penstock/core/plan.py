"""`plan()`: from one snapshot and the time to everything that has to be written. Pure; the reconcile loop only obeys.

The order of the writes is part of the decision: what takes traffic back before all else, records before what they
describe, capacity before traffic, memory before what it allows, traffic before capacity is taken away. Each pass writes
only what differs, so a pass that finds the world as asked writes nothing, and a pass that was cut short after any of
its writes is finished by the next one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from penstock.api.reasons import Reason
from penstock.api.status import ModelDeploymentStatus

from .announcing import announce
from .diagnosis import diagnose, find_examination
from .names import ObjectKey, key_of
from .objects import differs, seal
from .observed import Observed
from .preparing import Preparing, prepare
from .publishing import Publishing, publish
from .recall import begin_with
from .rendering import Rendering, SplitChange, render
from .restoring import restore, superseded_jobs
from .revision import record_manifest
from .servercounts import Examination
from .standing import Standing, stand
from .statuses import describe
from .target import Target, find_target

__all__ = ["Event", "HandOver", "Join", "Leave", "Plan", "Write", "plan"]


_PATIENCE = timedelta(seconds=30)
"""Routers that have not followed for longer are asked once a second."""


@dataclass(frozen=True)
class Write:
    """Apply this manifest; create it when it does not exist."""

    manifest: dict[str, Any]
    fenced: bool = False
    """Only over the version this plan was made from: what raises a weight must not be written by a leader of old."""
    whole: bool = False
    """Replace the whole object: somebody has added to it what an apply would leave there."""


@dataclass(frozen=True)
class Join:
    """Hold on to a Router by an ownerReference of one's own; the default one is made when it does not exist."""

    router: str


@dataclass(frozen=True)
class Leave:
    """Take that ownerReference away; the garbage collector removes a fleet with its last user."""

    router: str


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
    """What to do, in order: `writes`, status, `raises`, events, `deletes`, `routes`.

    Status is memory. A pass cut short before it has told of a failure would try the same revision again; and a split
    that gives a candidate more is written after the status that says so, so that nobody who comes later finds a weight
    that nobody remembers. The first of `writes` may be a split that takes traffic back: that waits for nothing.
    Routes to Gateways come last of all: nothing else depends on them.
    """

    status: ModelDeploymentStatus
    writes: tuple[Write | HandOver | Join | Leave, ...] = ()
    raises: tuple[Write, ...] = ()
    deletes: tuple[ObjectKey, ...] = ()
    routes: tuple[Write, ...] = ()
    events: tuple[Event, ...] = ()
    wake: datetime | None = None
    observe: Literal["", "slow", "fast"] = ""
    """How closely to watch this model's router pods: not at all, each second, or several times a second."""
    examine: Examination | None = None
    """Servers to ask, once and beside all else, why their revision had to be taken back."""
    needs_credentials: bool = False
    """Registry credentials must stand in the namespace before the writes are made."""


def plan(observed: Observed, now: datetime) -> Plan:
    """What has to change so that the world is as the ModelDeployment asks."""
    deployment = observed.deployment
    if deployment.metadata.deletion_timestamp:
        return Plan(deployment.status)
    asked = begin_with(observed)
    preparing = prepare(asked, now)
    target = find_target(asked, preparing)
    standing = diagnose(observed, stand(observed, target, now))
    rendering = render(observed, standing, now)
    restoring = _restoring(observed, standing)
    publishing = publish(observed)
    status = describe(observed, preparing, restoring, target, standing, rendering, publishing, now)
    jobs = [manifest for source in (preparing, *restoring) for manifest in source.create]
    lowering, raises = _split_writes(rendering.split)
    needed = frozenset({preparing.status.key, *(source.status.key for source in restoring)})
    deletes = [
        *(key for source in (preparing, *restoring) for key in source.delete),
        *superseded_jobs(observed, needed),
        *rendering.removals,
        *publishing.removals,
    ]
    wakes = (preparing.wake, standing.wake, rendering.wake)
    return Plan(
        status=status,
        writes=(
            *lowering,
            *_records(observed, target),
            *([Join(rendering.join)] if rendering.join else ()),
            *_changed(observed, [*rendering.manifests, *jobs], rendering),
            *([Leave(rendering.leave)] if rendering.leave else ()),
        ),
        raises=raises,
        deletes=tuple(dict.fromkeys(deletes)),
        routes=tuple(Write(manifest) for manifest in publishing.writes),
        events=(
            *_edits(publishing),
            *(Event(*item) for item in announce(deployment, status, lost=_has_lost(standing))),
        ),
        wake=min((moment for moment in wakes if moment), default=None),
        observe=_attention(observed, status, standing, rendering, now),
        examine=find_examination(observed, standing, now),
        needs_credentials=bool(jobs or rendering.serving),
    )


def _split_writes(change: SplitChange | None) -> tuple[tuple[Write, ...], tuple[Write, ...]]:
    """What goes before everything else, and what waits for status."""
    if change is None:
        return (), ()
    write = Write(change.manifest, fenced=change.fenced or change.whole, whole=change.whole)
    return ((write,), ()) if change.lowers else ((), (write,))


def _edits(publishing: Publishing) -> Iterable[Event]:
    return (Event("Warning", Reason.ROUTE_DRIFT.value, sentence) for sentence in publishing.edited)


def _has_lost(standing: Standing) -> bool:
    return standing.decision is not None and standing.decision.lost


def _attention(
    observed: Observed, status: ModelDeploymentStatus, standing: Standing, rendering: Rendering, now: datetime
) -> Literal["", "slow", "fast"]:
    """Closely while the routers have not followed, as long as that can be a matter of moments."""
    asked = standing.decision.observe if standing.decision and standing.candidate else ""
    asked = "slow" if standing.returning else asked
    synced = next((c for c in observed.deployment.status.conditions or () if c.type == "TrafficSynced"), None)
    late = synced is not None and synced.status == "False" and _age(synced.last_transition_time, now) > _PATIENCE
    if rendering.generation in (0, status.attested_generation) and not rendering.adopting:
        return "slow" if asked and late else asked
    return ("slow" if late else "fast") if rendering.generation else asked


def _age(moment: str, now: datetime) -> timedelta:
    return now - datetime.fromisoformat(moment)


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
