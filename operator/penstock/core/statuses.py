"""What status says about a pass, and which of its changes are worth an event."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.status import (
    CandidateStatus,
    FailedRevision,
    ModelDeploymentStatus,
    PreparationStatus,
    RevisionStatus,
)

from .conditions import MESSAGE, Verdict, conditions, timestamp
from .fleet import RouterPodView
from .names import DEPLOYMENT_LABEL, REVISION_LABEL, resolve_name
from .observed import Observed
from .preparing import Preparing
from .publishing import Publishing, announce_routes
from .rendering import Rendering
from .revision import RevisionRecord
from .rollout import TRAFFIC, Decision, Route, describe_decision, percent, read_route
from .serverimages import server_image
from .standing import Standing
from .target import Target

__all__ = ["announce", "describe", "describe_invalid"]

_LAGGING = timedelta(seconds=5)
"""How long routers may take to follow before the laggards are named; most changes are in force within 0.1 s."""
_URI = 320
"""Characters of a URI in status; the record has all of it."""
Announcement = tuple[Literal["Normal", "Warning"], str, str]
Phase = Literal["Pending", "Preparing", "Progressing", "Paused", "Available", "RolledBack", "Failed"]


def describe(
    observed: Observed,
    preparing: Preparing,
    restoring: tuple[Preparing, ...],
    target: Target,
    standing: Standing,
    rendering: Rendering,
    publishing: Publishing,
    now: datetime,
) -> ModelDeploymentStatus:
    """The whole status; equal to the one before when nothing that users can see has changed."""
    deployment = observed.deployment
    metadata, before = deployment.metadata, deployment.status
    attested = _attested(observed, standing)
    stable = _revision(observed, standing.stable, standing.stable_since) or _unrecorded(observed, standing)
    stable = _weighed(stable, before.stable, attested)
    candidate = _candidate(observed, standing, attested)
    available = _availability(stable, standing.size, _stand_in(candidate))
    synced = _synced(observed, standing, rendering, now)
    verdict = _verdict(observed, restoring, target, standing, rendering, stable, available[1])
    verdict = publishing.weigh(verdict)
    return ModelDeploymentStatus(
        observed_generation=metadata.generation,
        phase=_phase(verdict, preparing, standing, available=available[0]),
        message=verdict.message[:MESSAGE],
        url=f"http://{metadata.name}.{metadata.namespace}.svc:8000",
        replicas=stable.replicas if stable else 0,
        selector=f"{DEPLOYMENT_LABEL}={metadata.name},{REVISION_LABEL}={stable.revision}" if stable else None,
        stable=stable,
        candidate=candidate,
        observed_retry_token=standing.retry_token,
        failed_revision=standing.failed,
        preparation=_preparation(preparing, target),
        attested_generation=attested[0] if attested else before.attested_generation,
        leaving_since=timestamp(rendering.leaving_since) if rendering.leaving_since else None,
        history=standing.history or None,
        conditions=conditions(
            verdict,
            available,
            _prepared(preparing),
            before.conditions or (),
            metadata.generation,
            now,
            _outdated(observed, standing),
            synced,
            published=publishing.told,
        ),
    )


# what the routers say


def _attested(observed: Observed, standing: Standing) -> tuple[int, Route] | None:
    """Generation and route that every Ready router pod is seen to follow now."""
    split, fleet = standing.traffic.split, observed.fleet
    if split is None or fleet is None or not fleet.attests(split.generation):
        return None
    return split.generation, read_route(split)


def _synced(
    observed: Observed, standing: Standing, rendering: Rendering, now: datetime
) -> tuple[bool, Reason, str] | None:
    """Whether the route that was decided is the one in force; what the pods say counts while somebody asks them."""
    if not rendering.generation:
        return None
    traffic, generation = standing.traffic, rendering.generation
    live = traffic.split is not None and traffic.generation == generation
    fleet = observed.fleet
    known = traffic.attested == generation and not (fleet and fleet.pods and standing.candidate)
    if live and (known or (fleet is not None and fleet.attests(generation))):
        return True, Reason.TRAFFIC_SYNCED, f"every Ready router pod follows generation {generation}"
    behind = [pod.name for pod in fleet.pods if not _follows(pod, generation)] if fleet and live else []
    refused = (
        next((f": {pod.name} refuses it: {pod.rejected}" for pod in fleet.pods if pod.rejected), "") if fleet else ""
    )
    if behind and _is_slow(observed, now):
        return False, Reason.TRAFFIC_NOT_SYNCED, f"{', '.join(behind)} do not follow generation {generation}{refused}"
    if fleet and not fleet.pods:
        return False, Reason.TRAFFIC_NOT_SYNCED, f"no router pod of Router {traffic.wanted} is Ready"
    return False, Reason.TRAFFIC_NOT_SYNCED, f"waiting for the routers to follow generation {generation}{refused}"


def _follows(pod: RouterPodView, generation: int) -> bool:
    return pod.answered and pod.generation == generation and not pod.expired


def _is_slow(observed: Observed, now: datetime) -> bool:
    """Whether the routers have been behind for so long that the laggards deserve to be named."""
    told = next((c for c in observed.deployment.status.conditions or () if c.type == "TrafficSynced"), None)
    if told is None or told.status == "True":
        return False
    return now - datetime.fromisoformat(told.last_transition_time) >= _LAGGING


# the revisions


def _candidate(observed: Observed, standing: Standing, attested: tuple[int, Route] | None) -> CandidateStatus | None:
    """Everything that the next pass has to remember; progress is the decision's."""
    decision, told = standing.decision, _revision(observed, standing.candidate, standing.candidate_since)
    if told is None or decision is None or standing.candidate is None:
        return None
    progress, place, course = decision.progress, decision.position, decision.course
    weighed = _weighed(told, standing.told, attested) or told
    return CandidateStatus(
        **weighed.model_dump(),
        stage=place.stage,
        step=place.step,
        observed_seconds=progress.observed_seconds,
        step_requests=progress.step_requests,
        strategy=course.strategy,
        plan=course.steps or None,
        shadow=course.shadow,
        replaced=course.replaced or None,
        replacing_since=timestamp(decision.replacing_since) if decision.replacing_since else None,
        verdict=progress.verdict,
        analysis=progress.analysis,
        judged_since=progress.judged_since,
    )


def _weighed(
    told: RevisionStatus | None, before: RevisionStatus | None, attested: tuple[int, Route] | None
) -> RevisionStatus | None:
    """With the share of the requests that the routers attest; the last one known while they do not."""
    if told is None:
        return None
    known = before.weight if before and before.revision == told.revision else None
    weight = percent(attested[1].weights.get(told.revision, 0)) if attested else known
    return told.model_copy(update={"weight": weight})


def describe_invalid(
    status: ModelDeploymentStatus, generation: int, sentence: str, now: datetime
) -> ModelDeploymentStatus:
    """A spec that this operator cannot read: everything stays as it is, and the status says why."""
    verdict = Verdict("Stuck", Reason.INVALID_SPEC, sentence)
    before = status.conditions or ()
    prepared = (False, Reason.INVALID_SPEC, "the spec cannot be read")
    return status.model_copy(
        update={
            "observed_generation": generation,
            "phase": "Failed",
            "message": sentence[:2048],
            "conditions": conditions(verdict, _availability(status.stable), prepared, before, generation, now),
        }
    )


def _revision(observed: Observed, record: RevisionRecord | None, since: str | None) -> RevisionStatus | None:
    if record is None:
        return None
    uri = record.model.uri[:_URI]
    told = RevisionStatus(revision=record.name, uri=uri, digest=record.facts.digest, since=since)
    return _counted(observed, told)


def _unrecorded(observed: Observed, standing: Standing) -> RevisionStatus | None:
    """A revision that serves without a readable record: what was known of it before."""
    if standing.serving is None:
        return None
    return _counted(observed, observed.deployment.status.stable or RevisionStatus(revision=standing.serving))


def _counted(observed: Observed, told: RevisionStatus) -> RevisionStatus:
    live = observed.get("Deployment", told.revision) or {}
    counts = {
        "replicas": live.get("spec", {}).get("replicas", 0),
        "ready_replicas": live.get("status", {}).get("readyReplicas", 0),
    }
    return told.model_copy(update=counts)


def _outdated(observed: Observed, standing: Standing) -> str | None:
    """A sentence when stable runs images of an older release; it goes on doing so until somebody asks for more."""
    server, settings = observed.deployment.spec.server, observed.settings
    if standing.stable is None or standing.candidate:
        return None
    image = server_image(server, standing.stable.facts, settings)
    current = (image, settings.jobs_image)
    if (standing.stable.server_image, standing.stable.fetch_image) == current:
        return None
    return (
        f"{standing.stable.name} runs {standing.stable.server_image}, this release brings {image};"
        f" `penstock upgrade-runtime {observed.deployment.metadata.name}` rolls it out like any change"
    )


def _preparation(preparing: Preparing, target: Target) -> PreparationStatus:
    if target.record is None:
        return preparing.status
    return preparing.status.model_copy(update={"revision": target.record.name})


def _prepared(preparing: Preparing) -> tuple[bool, Reason, str]:
    return preparing.facts is not None, preparing.reason, preparing.message


def _stand_in(candidate: CandidateStatus | None) -> CandidateStatus | None:
    """A candidate that serves in place of a stable revision without pods."""
    if candidate is None or not candidate.replaced or not candidate.ready_replicas:
        return None
    return candidate if candidate.weight not in (None, "0") else None


def _availability(
    stable: RevisionStatus | None, asked: int = 0, stand_in: CandidateStatus | None = None
) -> tuple[bool, str]:
    if stable is None:
        return False, "no revision has gone live yet"
    if stable.ready_replicas == 0 and stand_in:
        return True, f"{stand_in.revision}: {stand_in.ready_replicas} of {stand_in.replicas} replicas ready, on trial"
    if stable.ready_replicas == 0:
        wanted = stable.replicas or asked
        detail = f"none of {wanted} replicas is ready" if wanted else "scaled to 0"
        return False, f"{stable.revision}: {detail}"
    return True, f"{stable.revision}: {stable.ready_replicas} of {stable.replicas} replicas ready"


def _verdict(
    observed: Observed,
    restoring: tuple[Preparing, ...],
    target: Target,
    standing: Standing,
    rendering: Rendering,
    stable: RevisionStatus | None,
    available: str,
) -> Verdict:
    taken = _obstacle(observed)
    if taken:
        return taken
    for lost in restoring:
        return Verdict("Stuck" if lost.failed else "Working", lost.reason, lost.message)
    if standing.failed and target.record:
        return _rejection(standing, standing.failed, _missing_pods(standing, stable))
    if target.record is None:
        return Verdict("Stuck" if target.refused else "Working", target.reason, target.message)
    if rendering.missing_router:
        sentence = f"there is no Router {rendering.missing_router} in this namespace, as spec.traffic.router asks"
        return Verdict("Stuck", Reason.ROUTER_NOT_FOUND, f"{sentence}; create it, or name another")
    return _course(standing, stable, available)


def _course(standing: Standing, stable: RevisionStatus | None, available: str) -> Verdict:
    """Where the revision that the spec asks for stands."""
    if standing.failure:
        role = standing.candidate or standing.stable
        name = role.name if role else ""
        return Verdict("Working", standing.failure.reason, f"{name}: {standing.failure.message}")
    if standing.candidate and standing.decision:
        return _progress(standing.candidate.name, standing.decision)
    if stable and stable.ready_replicas == 0 and standing.size > 0 and not standing.promoted:
        return Verdict("Working", Reason.NOT_SERVING, available)
    return Verdict("Done", Reason.READY, available)


def _missing_pods(standing: Standing, stable: RevisionStatus | None) -> str:
    """How far stable has its pods back, after another revision had their room."""
    if stable is None or not (standing.returning or standing.released) or stable.ready_replicas >= standing.size:
        return ""
    meanwhile = "; until it is ready requests get 503 with Retry-After" if standing.returning else ""
    return f"; {stable.revision} has {stable.ready_replicas} of {standing.size} pods back{meanwhile}"


def _rejection(standing: Standing, failed: FailedRevision, missing: str = "") -> Verdict:
    """What was taken back from traffic has one reason for all who wait for it; the cause is in the message."""
    outcome = next((entry.outcome for entry in standing.history if entry.revision == failed.revision), "Failed")
    if outcome in ("RolledBack", "Aborted"):
        cause = "was aborted" if outcome == "Aborted" else f"was taken back, {failed.reason}"
        sentence = f"{failed.revision} {cause}: {failed.message}{missing}"
        return Verdict("Stuck", Reason.ROLLED_BACK, f"{sentence}. {failed.diagnosis}" if failed.diagnosis else sentence)
    return Verdict("Stuck", Reason.read(failed.reason), f"{failed.revision} cannot serve: {failed.message}{missing}")


def _progress(candidate: str, decision: Decision) -> Verdict:
    reason = decision.wait.reason
    if reason is Reason.DEADLINE_EXCEEDED:
        reason = Reason.PAUSED
    return Verdict("Working", reason, describe_decision(candidate, decision))


def _obstacle(observed: Observed) -> Verdict | None:
    """A question to the source that could not be put is in nobody's way."""
    questions = resolve_name(observed.deployment.metadata.name, "")
    for key, (reason, sentence) in sorted(observed.obstacles.items()):
        if not (key.kind == "Job" and key.name.startswith(questions)):
            return Verdict("Stuck", reason, sentence)
    return None


def _phase(verdict: Verdict, preparing: Preparing, standing: Standing, *, available: bool) -> Phase:
    if verdict.state == "Stuck":
        return "RolledBack" if verdict.reason is Reason.ROLLED_BACK else "Failed"
    if verdict.state == "Done":
        return "Available"
    if standing.candidate:
        return "Paused" if verdict.reason is Reason.PAUSED else "Progressing"
    if preparing.facts is None:
        return "Preparing"
    return "Available" if available else "Pending"


def announce(
    deployment: ModelDeployment, status: ModelDeploymentStatus, *, lost: bool = False
) -> Iterable[Announcement]:
    """(type, reason, message) of what has changed between the status before and this one.

    `lost` tells that a candidate went back because supervision was lost, which status shows as its new place alone.
    """
    before = deployment.status
    promoted = status.stable and (before.stable is None or before.stable.revision != status.stable.revision)
    if promoted and status.stable:
        yield "Normal", Reason.REVISION_PROMOTED.value, f"{status.stable.revision} ({status.stable.digest}) is live"
    yield from _announce_steps(before.candidate, status.candidate, status.message or "")
    if lost:
        yield "Warning", Reason.SUPERVISION_LOST.value, status.message or ""
    yield from _announce_preparation(before.preparation, status.preparation)
    yield from announce_routes(before, status)
    reason, state = _standing_of(status)
    if (reason, state) == _standing_of(before) or state == "Done":
        return
    grave = state == "Stuck" or reason == Reason.OUTAGE_DECLARED
    yield ("Warning" if grave else "Normal"), reason, status.message or ""


def _announce_preparation(before: PreparationStatus | None, after: PreparationStatus | None) -> Iterable[Announcement]:
    """Gates that were passed, and a source that can no longer be asked; failed gates are told by the conditions."""
    if after is None:
        return
    known = before if before and before.key == after.key else PreparationStatus(key=after.key)
    if after.gates and after.digest and not known.digest:
        results = ", ".join(f"{gate.name} {gate.measured}" for gate in after.gates)
        yield "Normal", Reason.PREPARED.value, f"all gates passed: {results}"[:MESSAGE]
    if after.refresh_failure and not (before and before.refresh_failure):
        yield "Warning", Reason.REFRESH_FAILED.value, after.refresh_failure


def _announce_steps(
    before: CandidateStatus | None, after: CandidateStatus | None, message: str
) -> Iterable[Announcement]:
    if after is None or before is None or before.revision != after.revision:
        return
    if (before.stage, before.step) == (after.stage, after.step):
        return
    if after.stage == "Replacing" and after.replaced != 1:
        yield "Normal", Reason.POD_REPLACED.value, message
    elif after.stage in TRAFFIC and after.stage != "Replacing":
        yield "Normal", Reason.STEP_STARTED.value, message


def _standing_of(status: ModelDeploymentStatus) -> tuple[str, str]:
    found = {condition.type: condition for condition in status.conditions or ()}
    for kind, state in (("Stalled", "Stuck"), ("Reconciling", "Working"), ("Ready", "Done")):
        if kind in found:
            return found[kind].reason, state
    return "", ""
