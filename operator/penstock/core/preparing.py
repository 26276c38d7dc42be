"""How far the preparation of what the spec asks for has come, and what has to be done about its Job.

The same inputs never run twice: facts are taken from the revision record that the preparation led to. A failure that
the world outside can mend is tried again after growing pauses, any other waits for a change of the spec, and each for
other means: what the Job is given to do it with. Content that another image has to open is given to that one, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

from penstock.api.base import wire
from penstock.api.facts import GateResult, ModelFacts
from penstock.api.model import SourceFormat
from penstock.api.openers import OPENERS
from penstock.api.preparation import Needs
from penstock.api.reasons import RETRYABLE, Reason
from penstock.api.spec import PrepareSpec
from penstock.api.status import PreparationStatus

from .conditions import timestamp
from .jobimages import choose_images
from .names import MEANS_ANNOTATION, ObjectKey, job_name, key_of
from .observed import Observed
from .pipeline import Outcome, Task, is_held_back, preparation_job, preparation_outcome, preparation_policy
from .recall import find_record, recall_preparation
from .refreshing import ask_source, learn_meaning
from .revision import RevisionRecord, canonical_hash

__all__ = ["Preparing", "name_job", "prepare", "serving_means"]

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=10)
_WARNINGS, _WARNING = 3, 200
"""How many of how many characters are in status; the record has all of them."""
_RESULTS, _ASKED = 1088, 0.3
"""Characters of all gates' results in status, and the part of them that says what was asked; the report has all."""
_PATIENCE_FOR_PODS = timedelta(seconds=10)
_HELD_UP = (Reason.UNSCHEDULABLE, Reason.IMAGE_UNAVAILABLE)
"""Of a Job in whose pod nothing has begun."""


@dataclass(frozen=True)
class Preparing:
    """`facts` once known; else why not yet, or why not at all. `create` is in the order in which to write it."""

    status: PreparationStatus
    facts: ModelFacts | None = None
    reason: Reason = Reason.PREPARING
    message: str = ""
    failed: bool = False
    create: tuple[dict[str, Any], ...] = ()
    delete: tuple[ObjectKey, ...] = ()
    wake: datetime | None = None


def prepare(observed: Observed, now: datetime) -> Preparing:
    """What is known of the model that the spec names."""
    found = _prepare(observed, learn_meaning(observed, recall_preparation(observed), now), now)
    ended = found.facts is not None or found.failed
    asking = ask_source(observed, found.status, now, ended=ended)
    return replace(
        found,
        create=(*found.create, *asking.create),
        delete=(*found.delete, *asking.delete),
        wake=min((moment for moment in (found.wake, asking.wake) if moment), default=None),
    )


def _prepare(observed: Observed, status: PreparationStatus, now: datetime) -> Preparing:
    record = find_record(observed, status)
    if record:
        return _known(status, record)
    name = name_job(observed, status.key, status.opener, status.source_format)
    if status.reason:
        status = _unless_means_changed(observed, status, name)
    job, looked = observed.get("Job", name), observed.get("Job", name_job(observed, status.key, None, None))
    found = _with_job(observed, status, job, now) if job else _without_job(observed, status, name, now)
    if looked is None or looked is job:
        return found
    return replace(found, delete=(*found.delete, key_of(dict(looked))))


def name_job(observed: Observed, key: str, opener: str | None, source_format: str | None) -> str:
    """The Job's name; one that follows a first look has another, so that neither is taken for the other."""
    answered = key if opener is None else canonical_hash([key, opener, source_format])
    return job_name(observed.deployment.metadata.name, answered)


def _known(status: PreparationStatus, record: RevisionRecord) -> Preparing:
    looked = {"opener": status.opener or record.opener, "source_format": status.source_format or record.format}
    return _succeeded(status.model_copy(update=looked), record.facts)


def _succeeded(status: PreparationStatus, facts: ModelFacts) -> Preparing:
    told = PreparationStatus(
        key=status.key,
        revision=status.revision,
        digest=facts.digest,
        size_bytes=facts.artifact.size_bytes,
        format=facts.format,
        source_format=status.source_format or facts.source_format,
        opener=status.opener,
        precision=facts.precision,
        gates=status.gates,
        report=status.report or facts.report,
        resolved=status.resolved,
        resolved_time=status.resolved_time,
        refresh_failure=status.refresh_failure,
        warnings=tuple(warning[:_WARNING] for warning in facts.warnings[:_WARNINGS]) or None,
    )
    passed = f"; {len(status.gates)} gates passed" if status.gates else ""
    return Preparing(told, facts, Reason.PREPARED, f"{facts.format} {facts.digest}{passed}")


def _task(observed: Observed, status: PreparationStatus) -> Task:
    deployment = observed.deployment
    spec = deployment.spec
    written = spec.model.format or "Auto"
    return Task(
        owner=deployment.metadata,
        key=status.key,
        model=spec.model,
        prepare=spec.prepare or PrepareSpec(),
        optimize=spec.optimize,
        gates=spec.gates,
        server=spec.server,
        env=(spec.pod.env or ()) if spec.pod else (),
        format=cast("SourceFormat", status.source_format) if status.opener and status.source_format else written,
        opener=status.opener or OPENERS[written],
        source_bytes=status.source_bytes,
    )


def _make_job(observed: Observed, status: PreparationStatus, name: str) -> dict[str, Any] | str:
    """The Job, annotated with what names its means; a sentence where this installation lacks an image for it."""
    task = choose_images(_task(observed, status), observed.settings)
    if isinstance(task, str):
        return task
    job = preparation_job(task, name, observed.settings)
    means = canonical_hash([job["spec"], _retry_token(observed)])[:16]
    return {**job, "metadata": {**job["metadata"], "annotations": {MEANS_ANNOTATION: means}}}


def _means(job: Mapping[str, Any]) -> str | None:
    found: str | None = job["metadata"].get("annotations", {}).get(MEANS_ANNOTATION)
    return found


def _has_other_means(observed: Observed, status: PreparationStatus, job: Mapping[str, Any]) -> bool:
    """Whether it would be another Job now; of the Job of a release that did not note them nobody can tell."""
    made = _make_job(observed, status, job["metadata"]["name"])
    return not isinstance(made, str) and _means(job) not in (None, _means(made))


def serving_means(observed: Observed) -> str:
    """Names what decides, beside the facts, whether content can be served; a refusal that is no failed Job's has it."""
    spec = observed.deployment.spec
    server = wire(spec.server) if spec.server else None
    return canonical_hash([server, spec.model.served_name, repr(observed.settings), _retry_token(observed)])[:16]


def _retry_token(observed: Observed) -> str | None:
    rollout = observed.deployment.spec.rollout
    return rollout.retry_token if rollout else None


def _unless_means_changed(observed: Observed, status: PreparationStatus, name: str) -> PreparationStatus:
    """A failure and its means; with others it is as if it had not failed, but for the Job that still has to go.

    The failure of a release that did not note them gets those of now.
    """
    job = _make_job(observed, status, name)
    if isinstance(job, str):
        return status
    means = _means(job) if status.attempt else serving_means(observed)
    if status.means in (None, means):
        return status.model_copy(update={"means": means})
    forgotten = ("reason", "message", "retry_time", "means", "gates", "report")
    return status.model_copy(update={"attempt": 0, **dict.fromkeys(forgotten)})


def _without_job(observed: Observed, status: PreparationStatus, name: str, now: datetime) -> Preparing:
    if status.reason and status.retry_time is None:
        return _failure(status)
    if status.retry_time and not _is_due(status.retry_time, now):
        return _failure(status, _moment(status.retry_time))
    job = _make_job(observed, status, name)
    if isinstance(job, str):
        return Preparing(status, reason=Reason.IMAGE_UNAVAILABLE, message=job, failed=True)
    return replace(_begun(observed, status), create=(preparation_policy(observed.deployment.metadata), job))


def _is_due(retry_time: str, now: datetime) -> bool:
    """Of a time that no pause reaches the clock has been set back since."""
    left = datetime.fromisoformat(retry_time) - now
    return not timedelta(0) < left <= _LONGEST_PAUSE


def _begun(observed: Observed, status: PreparationStatus) -> Preparing:
    return _under_way(status, Outcome(message=f"preparing {observed.deployment.spec.model.uri}"))


def _under_way(status: PreparationStatus, outcome: Outcome) -> Preparing:
    """While a failed preparation is tried again it still counts as failed: states that flap help nobody."""
    if status.reason:
        return _failure(status)
    return Preparing(status, reason=outcome.reason, message=outcome.message)


def _with_job(observed: Observed, status: PreparationStatus, job: Mapping[str, Any], now: datetime) -> Preparing:
    pods = observed.pods_of_job(job)
    outcome = _unless_asked_again(status, preparation_outcome(job, pods))
    if outcome.facts:
        return _succeeded(_told(status, outcome, now), outcome.facts)
    if outcome.needs:
        return _passed_on(status, job, outcome.needs, now)
    if outcome.failed and status.failed_job != job["metadata"]["uid"]:
        return _first_sight_of_failure(_told(status, outcome, now), job, outcome, now)
    if outcome.failed and not status.reason:
        return replace(_begun(observed, status), delete=(key_of(dict(job)),))
    if outcome.failed:
        due = status.retry_time is not None and _is_due(status.retry_time, now)
        return replace(_failure(status, _moment(status.retry_time)), delete=(key_of(dict(job)),) if due else ())
    if (not pods or outcome.reason in _HELD_UP) and _has_other_means(observed, status, job):
        return replace(_under_way(status, outcome), delete=(key_of(dict(job)),))
    started = _moment(job["metadata"].get("creationTimestamp"))
    overdue = started is not None and now - started > _PATIENCE_FOR_PODS
    unmade = not any(job.get("status", {}).get(count) for count in ("active", "failed", "succeeded"))
    if overdue and unmade and not is_held_back(job, pods):
        sentence = f"Job {job['metadata']['name']} has made no pod: its events say why (quota, limits, Pod Security)"
        return _under_way(status, replace(outcome, message=sentence))
    wake = started + _PATIENCE_FOR_PODS if started and not overdue else None
    return replace(_under_way(status, outcome), wake=wake)


def _unless_asked_again(status: PreparationStatus, outcome: Outcome) -> Outcome:
    """Whoever was chosen by a first look must open the content; passing it round would never end."""
    if outcome.needs is None or status.opener is None:
        return outcome
    sentence = (
        f"the {status.opener} image was to open {status.source_format} and says that {outcome.needs.format} needs"
        f" {outcome.needs.opener}; write spec.model.format"
    )
    return replace(outcome, needs=None, failed=True, reason=Reason.PREPARATION_FAILED, message=sentence)


def _passed_on(status: PreparationStatus, job: Mapping[str, Any], needs: Needs, now: datetime) -> Preparing:
    """The next Job follows once status remembers who has to open the content."""
    told = status.model_copy(
        update={"opener": needs.opener, "source_format": needs.format, "source_bytes": needs.size_bytes or None}
    )
    found = _under_way(told, Outcome(message=f"the content is {needs.format}: the {needs.opener} image opens it"))
    return replace(found, delete=(key_of(dict(job)),), wake=now)


def _told(status: PreparationStatus, outcome: Outcome, now: datetime) -> PreparationStatus:
    """With what the Job has reported beside facts or failure."""
    update: dict[str, Any] = {"gates": _shortened(outcome.gates) or None, "report": outcome.report}
    if outcome.resolved and status.resolved is None:
        update |= {"resolved": outcome.resolved, "resolved_time": timestamp(now)}
    return status.model_copy(update=update)


def _shortened(gates: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
    """Each gate may take as much room as there is for all of them."""
    room = _RESULTS // max(1, len(gates))
    asked = int(room * _ASKED)
    return tuple(
        gate.model_copy(update={"asked": gate.asked[:asked], "measured": gate.measured[: room - asked]})
        for gate in gates
    )


def _first_sight_of_failure(
    status: PreparationStatus, job: Mapping[str, Any], outcome: Outcome, now: datetime
) -> Preparing:
    attempt = status.attempt + 1
    retry = None
    if outcome.reason in RETRYABLE:
        retry = timestamp(now + min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
    told = status.model_copy(
        update={
            "attempt": attempt,
            "failed_job": job["metadata"]["uid"],
            "means": _means(job),
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
