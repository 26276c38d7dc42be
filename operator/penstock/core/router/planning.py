"""`plan_fleet()`: from one look at a Router and its objects to what has to be written for it. Pure.

Counters are evidence, and a router pod that is replaced takes its history along. So pods of a fleet are not replaced
while a model of it is in a rollout, nor while those of another fleet of the namespace are: its Deployment is paused
for as long, at whatever point it stands, and goes on afterwards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from penstock.api.reasons import Reason
from penstock.api.router import ROUTER_KIND, Router, RouterStatus
from penstock.api.status import Condition
from penstock.core.conditions import Verdict, timestamp
from penstock.core.names import ObjectKey, key_of
from penstock.core.objects import differs, seal
from penstock.core.pods import IMAGE_REASONS, is_leaving, is_ready, scheduling_problem, waiting
from penstock.core.settings import Settings

from .fleet import TEMPLATE_ANNOTATION, fleet_name, fleet_objects

__all__ = ["Fleet", "FleetPlan", "is_moving", "plan_fleet"]

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Fleet:
    """One Router, the objects that are its own, its pods, and who depends on it."""

    router: Router
    settings: Settings
    objects: Mapping[ObjectKey, Manifest] = field(default_factory=dict)
    """Those whose controller is this Router, by uid."""
    pods: tuple[Manifest, ...] = ()
    users: tuple[str, ...] = ()
    """ModelDeployments whose spec names it, or that still have a split there."""
    made: bool = False
    """The operator made it on first use; the label managed-by says so."""
    rolling_out: tuple[str, ...] = ()
    """Those of `users` that have a candidate."""
    moving: str = ""
    """Another Router of the namespace whose pods are being replaced, see `is_moving`; who has begun goes on."""
    obstacles: Mapping[ObjectKey, tuple[Reason, str]] = field(default_factory=dict)
    """Objects that could not be written last time, and why."""

    @property
    def deployment(self) -> Manifest | None:
        """The fleet's Deployment as it is."""
        metadata = self.router.metadata
        return self.objects.get(ObjectKey("Deployment", metadata.namespace, fleet_name(metadata.name)))


@dataclass(frozen=True)
class FleetPlan:
    """What to do: `writes` in order, then the status, then `deletes`."""

    status: RouterStatus
    writes: tuple[dict[str, Any], ...] = ()
    deletes: tuple[ObjectKey, ...] = ()


def is_moving(deployment: Manifest | None, pods: Iterable[Manifest]) -> bool:
    """Whether the pods of a fleet are being replaced now; a paused fleet stands still."""
    return deployment is not None and not deployment["spec"].get("paused") and _has_old_pods(deployment, pods)


def plan_fleet(fleet: Fleet, now: datetime) -> FleetPlan:
    """What has to change so that the fleet is as its Router asks."""
    router = fleet.router
    if router.metadata.deletion_timestamp:
        return FleetPlan(router.status)
    if fleet.made and not fleet.users:
        return FleetPlan(
            router.status, deletes=(ObjectKey(ROUTER_KIND, router.metadata.namespace, router.metadata.name),)
        )
    held = _must_wait(fleet)
    writes = tuple(_changed(fleet, paused=held)) if _image(fleet) else ()
    return FleetPlan(_status(fleet, _verdict(fleet, held=held, writing=bool(writes)), now), writes)


def _changed(fleet: Fleet, *, paused: bool) -> Iterable[dict[str, Any]]:
    for manifest in fleet_objects(fleet.router, fleet.settings, paused=paused):
        sealed, live = seal(manifest), fleet.objects.get(key_of(manifest))
        if live is None or differs(sealed, live):
            yield sealed


def _image(fleet: Fleet) -> str:
    return fleet.router.spec.image or fleet.settings.router_image


def _must_wait(fleet: Fleet) -> bool:
    """Whether the Deployment has to stand still, because it has pods that it would replace."""
    live = fleet.deployment
    if live is None or not fleet.pods:
        return False
    if not fleet.rolling_out and (not fleet.moving or is_moving(live, fleet.pods)):
        return False
    wanted = fleet_objects(fleet.router, fleet.settings)[-1]
    return _has_old_pods(wanted, fleet.pods) or differs(wanted["spec"]["template"], live["spec"]["template"])


def _has_old_pods(deployment: Manifest, pods: Iterable[Manifest]) -> bool:
    """The pods themselves are asked: counts in status are those of the template before until it is seen."""
    made_from = deployment["spec"]["template"]["metadata"].get("annotations", {}).get(TEMPLATE_ANNOTATION)
    return any(
        pod["metadata"].get("annotations", {}).get(TEMPLATE_ANNOTATION) != made_from
        for pod in pods
        if not is_leaving(pod)
    )


def _verdict(fleet: Fleet, *, held: bool, writing: bool) -> Verdict:
    if not _image(fleet):
        return Verdict(
            "Stuck", Reason.INVALID_SPEC, "the chart names no router image; set images.router, or spec.image"
        )
    for reason, message in fleet.obstacles.values():
        return Verdict("Stuck", reason, message)
    live = fleet.deployment
    counts = live.get("status", {}) if live else {}
    ready, wanted = counts.get("readyReplicas", 0), fleet.router.spec.replicas
    told = f"{ready} of {wanted} router pods are ready"
    problem = _problem(live, fleet.pods)
    if problem:
        return Verdict("Working", problem[0], f"{told}; {problem[1]}"[:2048])
    if held:
        return Verdict("Working", Reason.ROLLOUT_IN_PROGRESS, f"{told}; {_reason_to_wait(fleet)}")
    if live is None or writing or _has_old_pods(live, fleet.pods):
        return Verdict("Working", Reason.ROLLOUT_IN_PROGRESS, told)
    if ready < wanted or counts.get("replicas", 0) != wanted:
        return Verdict("Working", Reason.SERVING if ready else Reason.NOT_SERVING, told)
    return Verdict("Done", Reason.READY, f"{told}, for {len(fleet.users)} models")


def _reason_to_wait(fleet: Fleet) -> str:
    if fleet.rolling_out:
        names = ", ".join(sorted(fleet.rolling_out)[:5])
        return f"they are replaced when no model of the fleet is in a rollout any more; now in one: {names}"
    return f"they are replaced when those of Router {fleet.moving} have been"


def _problem(live: Manifest | None, pods: Iterable[Manifest]) -> tuple[Reason, str] | None:
    """The first thing in the way of a router pod."""
    for condition in (live or {}).get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message = str(condition.get("message", ""))
            reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in message else Reason.POD_REFUSED
            return reason, f"the API server refuses a router pod: {message}"
    for pod in pods:
        if is_ready(pod) or is_leaving(pod):
            continue
        unschedulable = scheduling_problem(pod)
        if unschedulable:
            return Reason.UNSCHEDULABLE, f"a router pod cannot be placed: {unschedulable}"
        found = waiting(pod)
        if found:
            reason = Reason.IMAGE_UNAVAILABLE if found[0] in IMAGE_REASONS else Reason.NOT_SERVING
            return reason, f"a router pod waits: {found[0]}: {found[1]}"
    return None


def _status(fleet: Fleet, verdict: Verdict, now: datetime) -> RouterStatus:
    """The whole status; equal to the one before when nothing that people can see has changed."""
    live = fleet.deployment
    counts = live.get("status", {}) if live else {}
    return RouterStatus(
        observed_generation=fleet.router.metadata.generation,
        replicas=counts.get("replicas", 0),
        ready_replicas=counts.get("readyReplicas", 0),
        models=len(fleet.users),
        image=_image(fleet) or None,
        message=verdict.message,
        conditions=_conditions(fleet.router, verdict, now),
    )


def _conditions(router: Router, verdict: Verdict, now: datetime) -> tuple[Condition, ...]:
    """As for a ModelDeployment: Reconciling and Stalled only while True, and never together."""
    kinds = {"Ready": verdict.state == "Done"}
    if verdict.state != "Done":
        kinds["Reconciling" if verdict.state == "Working" else "Stalled"] = True
    before = {condition.type: condition for condition in router.status.conditions or ()}
    return tuple(_condition(kind, verdict, router, before.get(kind), now, true=true) for kind, true in kinds.items())


def _condition(
    kind: str, verdict: Verdict, router: Router, before: Condition | None, now: datetime, *, true: bool
) -> Condition:
    status: Literal["True", "False"] = "True" if true else "False"
    return Condition(
        type=kind,
        status=status,
        reason=verdict.reason.value,
        message=verdict.message,
        observed_generation=router.metadata.generation,
        last_transition_time=before.last_transition_time if before and before.status == status else timestamp(now),
    )
