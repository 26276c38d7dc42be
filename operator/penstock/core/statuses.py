"""What status says about a pass, and which of its changes are worth an event."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.status import FailedRevision, ModelDeploymentStatus, PreparationStatus, RevisionStatus

from .conditions import Verdict, conditions, timestamp
from .names import DEPLOYMENT_LABEL, REVISION_LABEL, ObjectKey
from .observed import Observed
from .preparing import Preparing
from .revision import RevisionRecord
from .standing import Standing
from .target import Target

__all__ = ["announce", "describe", "describe_invalid"]

Phase = Literal["Pending", "Preparing", "Progressing", "Paused", "Available", "RolledBack", "Failed"]


def describe(
    observed: Observed,
    preparing: Preparing,
    restoring: tuple[Preparing, ...],
    target: Target,
    standing: Standing,
    now: datetime,
) -> ModelDeploymentStatus:
    """The whole status; equal to the one before when nothing that users can see has changed."""
    deployment = observed.deployment
    metadata, before = deployment.metadata, deployment.status
    failed = _failed_revision(before, target, standing, now)
    stable = _revision(observed, standing.stable, standing.stable_since) or _unrecorded(observed, standing)
    candidate = _revision(observed, standing.candidate, standing.candidate_since)
    available = _availability(stable, standing.candidate_replicas)
    verdict = _verdict(observed, restoring, target, standing, failed, stable, available[1])
    return ModelDeploymentStatus(
        observed_generation=metadata.generation,
        phase=_phase(verdict, preparing, standing, available=available[0]),
        message=verdict.message[:2048],
        url=f"http://{metadata.name}.{metadata.namespace}.svc:8000",
        replicas=stable.replicas if stable else 0,
        selector=f"{DEPLOYMENT_LABEL}={metadata.name},{REVISION_LABEL}={stable.revision}" if stable else None,
        stable=stable,
        candidate=candidate,
        failed_revision=failed,
        preparation=_preparation(preparing, target),
        history=standing.history or None,
        conditions=conditions(
            verdict,
            available,
            _prepared(preparing),
            before.conditions or (),
            metadata.generation,
            now,
            _outdated(observed, standing),
        ),
    )


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
    told = RevisionStatus(revision=record.name, uri=record.model.uri, digest=record.facts.digest, since=since)
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
    current = ((server.image if server else None) or settings.triton_image, settings.jobs_image)
    if (standing.stable.server_image, standing.stable.fetch_image) == current:
        return None
    return (
        f"{standing.stable.name} runs {standing.stable.server_image}, this release brings {settings.triton_image};"
        f" `penstock upgrade-runtime {observed.deployment.metadata.name}` rolls it out like any change"
    )


def _failed_revision(
    before: ModelDeploymentStatus, target: Target, standing: Standing, now: datetime
) -> FailedRevision | None:
    if standing.failed:
        name, failure = standing.failed
        return FailedRevision(
            revision=name, reason=failure.reason.value, message=failure.message[:2048], time=timestamp(now)
        )
    told = before.failed_revision
    return told if told and target.record and told.revision == target.record.name else None


def _preparation(preparing: Preparing, target: Target) -> PreparationStatus:
    if target.record is None:
        return preparing.status
    return preparing.status.model_copy(update={"revision": target.record.name})


def _prepared(preparing: Preparing) -> tuple[bool, Reason, str]:
    return preparing.facts is not None, preparing.reason, preparing.message


def _availability(stable: RevisionStatus | None, asked: int = 0) -> tuple[bool, str]:
    if stable is None:
        return False, "no revision has gone live yet"
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
    failed: FailedRevision | None,
    stable: RevisionStatus | None,
    available: str,
) -> Verdict:
    taken = _obstacle(observed.obstacles)
    if taken:
        return taken
    for lost in restoring:
        return Verdict("Stuck" if lost.failed else "Working", lost.reason, lost.message)
    if failed:
        return Verdict("Stuck", Reason.read(failed.reason), f"{failed.revision} cannot serve: {failed.message}")
    if target.record is None:
        return Verdict("Stuck" if target.refused else "Working", target.reason, target.message)
    if standing.failure:
        role = standing.candidate or standing.stable
        name = role.name if role else ""
        return Verdict("Working", standing.failure.reason, f"{name}: {standing.failure.message}")
    if standing.candidate:
        ready = _revision(observed, standing.candidate, None)
        count = ready.ready_replicas if ready else 0
        sentence = f"{standing.candidate.name}: {count} of {standing.candidate_replicas} replicas ready"
        return Verdict("Working", Reason.ROLLOUT_IN_PROGRESS, sentence)
    if stable and stable.ready_replicas == 0 and standing.candidate_replicas > 0 and not standing.promoted:
        return Verdict("Working", Reason.NOT_SERVING, available)
    return Verdict("Done", Reason.READY, available)


def _obstacle(obstacles: Mapping[ObjectKey, tuple[Reason, str]]) -> Verdict | None:
    for _, (reason, sentence) in sorted(obstacles.items()):
        return Verdict("Stuck", reason, sentence)
    return None


def _phase(verdict: Verdict, preparing: Preparing, standing: Standing, *, available: bool) -> Phase:
    if verdict.state == "Stuck":
        return "Failed"
    if verdict.state == "Done":
        return "Available"
    if standing.candidate:
        return "Progressing"
    if preparing.facts is None:
        return "Preparing"
    return "Available" if available else "Pending"


def announce(
    deployment: ModelDeployment, status: ModelDeploymentStatus
) -> Iterable[tuple[Literal["Normal", "Warning"], str, str]]:
    """(type, reason, message) of what has changed between the status before and this one."""
    before = deployment.status
    promoted = status.stable and (before.stable is None or before.stable.revision != status.stable.revision)
    if promoted and status.stable:
        yield "Normal", Reason.REVISION_PROMOTED.value, f"{status.stable.revision} ({status.stable.digest}) is live"
    reason, state = _standing_of(status)
    if (reason, state) == _standing_of(before) or state == "Done":
        return
    yield ("Warning" if state == "Stuck" else "Normal"), reason, status.message or ""


def _standing_of(status: ModelDeploymentStatus) -> tuple[str, str]:
    found = {condition.type: condition for condition in status.conditions or ()}
    for kind, state in (("Stalled", "Stuck"), ("Reconciling", "Working"), ("Ready", "Done")):
        if kind in found:
            return found[kind].reason, state
    return "", ""
