"""Content that the artifact store has lost is prepared again, and Jobs that nobody asks for any more go."""

from dataclasses import replace

from penstock.api.openers import OPENERS
from penstock.api.proving import OptimizeSpec
from penstock.api.reasons import Reason
from penstock.api.spec import PrepareSpec
from penstock.api.status import PreparationStatus

from .jobimages import choose_images
from .names import COMPONENT_LABEL, PREPARATION_LABEL, ObjectKey, key_of
from .observed import Observed
from .pipeline import RESOLVE, Task, preparation_job, preparation_outcome, preparation_policy
from .preparing import Preparing, name_job
from .revision import RevisionRecord
from .server import Failure

__all__ = ["restore", "superseded_jobs"]


def restore(observed: Observed, record: RevisionRecord, failure: Failure) -> Preparing:
    """Prepare a record's content again because the artifact store has lost it; it must come out the same."""
    status = PreparationStatus(key=record.preparation, revision=record.name)
    lost = (
        f"the artifact store has lost {record.facts.artifact.layer}; it is being prepared again from {record.model.uri}"
    )
    waiting = Preparing(status, reason=Reason.ARTIFACT_MISSING, message=lost)
    job = observed.get("Job", name_job(observed, record.preparation, record.opener, record.format))
    if job is None:
        return _begin(observed, record, waiting)
    outcome = preparation_outcome(job, observed.pods_of_job(job))
    ended = outcome.facts or outcome.failed or outcome.needs
    if job["metadata"]["creationTimestamp"] < failure.time and ended:
        return replace(waiting, delete=(key_of(dict(job)),))
    if outcome.needs:
        sentence = f"{lost}, which failed: the content is {outcome.needs.format} now, which needs another image"
        return replace(waiting, reason=Reason.DIGEST_MISMATCH, message=sentence, failed=True)
    if outcome.failed:
        return replace(waiting, reason=outcome.reason, message=f"{lost}, which failed: {outcome.message}", failed=True)
    if outcome.facts and outcome.facts.artifact.manifest != record.facts.artifact.manifest:
        sentence = (
            f"{record.model.uri} no longer gives the content of {record.name}: the record names"
            f" {record.facts.artifact.manifest}, preparing it again gave {outcome.facts.artifact.manifest}"
        )
        return replace(waiting, reason=Reason.DIGEST_MISMATCH, message=sentence, failed=True)
    return waiting


def _begin(observed: Observed, record: RevisionRecord, waiting: Preparing) -> Preparing:
    """Without gates: they were passed once, and the content has to be the same."""
    owner, written = observed.deployment.metadata, record.model.format or "Auto"
    task = Task(
        owner=owner,
        key=record.preparation,
        model=record.model.model_copy(update={"digest": record.facts.digest, "refresh": None}),
        prepare=observed.deployment.spec.prepare or PrepareSpec(),
        optimize=_as_it_came_out(record),
        format=record.format or written,
        opener=record.opener or OPENERS[written],
    )
    chosen = choose_images(task, observed.settings)
    if isinstance(chosen, str):
        return replace(waiting, reason=Reason.IMAGE_UNAVAILABLE, message=f"{waiting.message}: {chosen}", failed=True)
    name = name_job(observed, record.preparation, record.opener, record.format)
    return replace(waiting, create=(preparation_policy(owner), preparation_job(chosen, name, observed.settings)))


def _as_it_came_out(record: RevisionRecord) -> OptimizeSpec | None:
    """What was chosen by measurement the first time is asked for outright: another node might choose otherwise."""
    if record.optimize is None:
        return None
    return record.optimize.model_copy(update={"precision": record.facts.precision or "None", "min_speedup": "1"})


def superseded_jobs(observed: Observed, needed: frozenset[str]) -> tuple[ObjectKey, ...]:
    """Preparations still running for inputs that nobody asks for any more."""
    return tuple(
        key_of(dict(job))
        for job in observed.of_kind("Job")
        if job["metadata"]["labels"].get(COMPONENT_LABEL) != RESOLVE
        if job["metadata"]["labels"].get(PREPARATION_LABEL) not in needed and job.get("status", {}).get("active")
    )
