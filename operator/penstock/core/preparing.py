"""How far the preparation of what the spec asks for has come, and what has to be done about its Job.

The same inputs never run twice: facts are taken from the revision record that the preparation led to. A failure that
the world outside can mend is tried again after growing pauses, any other waits for a change of the spec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.reasons import RETRYABLE, Reason
from penstock.api.status import PreparationStatus

from .conditions import timestamp
from .names import PREPARATION_LABEL, REVISION_LABEL, ObjectKey, job_name, key_of
from .observed import Observed
from .pipeline import Outcome, preparation_job, preparation_outcome
from .revision import RevisionRecord, preparation_key
from .server import Failure

__all__ = ["Preparing", "begin_with", "prepare", "restore", "superseded_jobs"]

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=10)
_WARNINGS = 4
"""In status; the record has all of them."""
_PATIENCE_FOR_PODS = timedelta(seconds=10)


@dataclass(frozen=True)
class Preparing:
    """`facts` once known; else why not yet, or why not at all."""

    status: PreparationStatus
    facts: ModelFacts | None = None
    reason: Reason = Reason.PREPARING
    message: str = ""
    failed: bool = False
    create: dict[str, Any] | None = None
    delete: ObjectKey | None = None
    wake: datetime | None = None


def begin_with(observed: Observed) -> Observed:
    """As if the spec asked for `rollout.initial` while nothing serves; spec.model follows as its candidate (PD-25)."""
    deployment = observed.deployment
    initial = deployment.spec.rollout.initial if deployment.spec.rollout else None
    if initial is None or deployment.status.stable or _is_served(observed):
        return observed
    model = deployment.spec.model.model_copy(update={"uri": initial.uri, "digest": initial.digest})
    spec = deployment.spec.model_copy(update={"model": model})
    return replace(observed, deployment=deployment.model_copy(update={"spec": spec}))


def _is_served(observed: Observed) -> bool:
    """Whether a revision was found live though status has been lost."""
    name = observed.deployment.metadata.name
    split, service = observed.get("TrafficSplit", name), observed.get("Service", name)
    named = split["spec"].get("stable") if split else None
    candidate = observed.deployment.status.candidate
    if named and not (candidate and candidate.revision == named):
        return True
    selected = service["spec"].get("selector", {}).get(REVISION_LABEL) if service else None
    return selected in observed.records


def prepare(observed: Observed, now: datetime) -> Preparing:
    """What is known of the model that the spec names."""
    deployment = observed.deployment
    key = preparation_key(deployment.spec.model, deployment.metadata.namespace)
    told = deployment.status.preparation
    status = told if told and told.key == key else PreparationStatus(key=key)
    known = _known_facts(observed, status)
    if known:
        return _succeeded(status, known)
    job = observed.get("Job", job_name(deployment.metadata.name, key))
    if job is None:
        return _without_job(observed, status, now)
    return _with_job(status, job, preparation_outcome(job, observed.pods_of_job(job)), now)


def _known_facts(observed: Observed, status: PreparationStatus) -> ModelFacts | None:
    for record in observed.records.values():
        if record.preparation == status.key or record.name == status.revision:
            return record.facts
    return None


def _succeeded(status: PreparationStatus, facts: ModelFacts) -> Preparing:
    told = PreparationStatus(
        key=status.key,
        revision=status.revision,
        digest=facts.digest,
        size_bytes=facts.artifact.size_bytes,
        format=facts.format,
        warnings=facts.warnings[:_WARNINGS] or None,
    )
    return Preparing(told, facts, Reason.PREPARED, f"{facts.format} {facts.digest}")


def _without_job(observed: Observed, status: PreparationStatus, now: datetime) -> Preparing:
    if status.reason and status.retry_time is None:
        return _failure(status)
    if status.retry_time and timestamp(now) < status.retry_time:
        return _failure(status, _moment(status.retry_time))
    deployment, owner = observed.deployment, observed.deployment.metadata
    job = preparation_job(owner, status.key, deployment.spec.model, deployment.spec.prepare, observed.settings)
    return replace(_under_way(status, Outcome(message=f"preparing {deployment.spec.model.uri}")), create=job)


def _under_way(status: PreparationStatus, outcome: Outcome) -> Preparing:
    """While a failed preparation is tried again it still counts as failed: states that flap help nobody."""
    if status.reason:
        return _failure(status)
    return Preparing(status, reason=outcome.reason, message=outcome.message)


def _with_job(status: PreparationStatus, job: Mapping[str, Any], outcome: Outcome, now: datetime) -> Preparing:
    if outcome.facts:
        return _succeeded(status, outcome.facts)
    uid = job["metadata"]["uid"]
    if outcome.failed and status.failed_job != uid:
        return _first_sight_of_failure(status, uid, outcome, now)
    if outcome.failed:
        due = status.retry_time is not None and timestamp(now) >= status.retry_time
        return replace(_failure(status, _moment(status.retry_time)), delete=key_of(dict(job)) if due else None)
    started = _moment(job["metadata"].get("creationTimestamp"))
    overdue = started is not None and now - started > _PATIENCE_FOR_PODS
    if overdue and not any(job.get("status", {}).get(count) for count in ("active", "failed", "succeeded")):
        sentence = f"Job {job['metadata']['name']} has made no pod: its events say why (quota, limits, Pod Security)"
        return _under_way(status, replace(outcome, message=sentence))
    wake = started + _PATIENCE_FOR_PODS if started and not overdue else None
    return replace(_under_way(status, outcome), wake=wake)


def _first_sight_of_failure(status: PreparationStatus, uid: str, outcome: Outcome, now: datetime) -> Preparing:
    attempt = status.attempt + 1
    retry = None
    if outcome.reason in RETRYABLE:
        retry = timestamp(now + min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
    told = status.model_copy(
        update={
            "attempt": attempt,
            "failed_job": uid,
            "retry_time": retry,
            "reason": outcome.reason.value,
            "message": outcome.message[:2048],
        }
    )
    return _failure(told, _moment(retry))


def _failure(status: PreparationStatus, wake: datetime | None = None) -> Preparing:
    return Preparing(status, None, Reason.read(status.reason), status.message or "", failed=True, wake=wake)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def restore(observed: Observed, record: RevisionRecord, failure: Failure) -> Preparing:
    """Prepare a record's content again because the artifact store has lost it; it must come out the same."""
    owner = observed.deployment.metadata
    status = PreparationStatus(key=record.preparation, revision=record.name)
    lost = (
        f"the artifact store has lost {record.facts.artifact.layer}; it is being prepared again from {record.model.uri}"
    )
    job = observed.get("Job", job_name(owner.name, record.preparation))
    if job is None:
        pinned = record.model.model_copy(update={"digest": record.facts.digest})
        again = preparation_job(owner, record.preparation, pinned, observed.deployment.spec.prepare, observed.settings)
        return Preparing(status, reason=Reason.ARTIFACT_MISSING, message=lost, create=again)
    outcome = preparation_outcome(job, observed.pods_of_job(job))
    if job["metadata"]["creationTimestamp"] < failure.time and (outcome.facts or outcome.failed):
        return Preparing(status, reason=Reason.ARTIFACT_MISSING, message=lost, delete=key_of(dict(job)))
    if outcome.failed:
        return Preparing(status, reason=outcome.reason, message=f"{lost}, which failed: {outcome.message}", failed=True)
    if outcome.facts and outcome.facts.artifact.manifest != record.facts.artifact.manifest:
        sentence = (
            f"{record.model.uri} no longer gives the content of {record.name}: the record names"
            f" {record.facts.artifact.manifest}, preparing it again gave {outcome.facts.artifact.manifest}"
        )
        return Preparing(status, reason=Reason.DIGEST_MISMATCH, message=sentence, failed=True)
    return Preparing(status, reason=Reason.ARTIFACT_MISSING, message=lost)


def superseded_jobs(observed: Observed, needed: frozenset[str]) -> tuple[ObjectKey, ...]:
    """Jobs still running for inputs that nobody asks for any more."""
    return tuple(
        key_of(dict(job))
        for job in observed.of_kind("Job")
        if job["metadata"]["labels"].get(PREPARATION_LABEL) not in needed and job.get("status", {}).get("active")
    )
