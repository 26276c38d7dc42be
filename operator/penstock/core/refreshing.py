"""Refresh: asking the source, each spec.model.refresh, whether the URI means something else by now.

A small Job asks. Its own end is the clock of the next one, so a refresh that finds nothing new writes nothing but that
Job (docs/adr/0011); what it finds is a new preparation, and a new revision only if the content differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penstock.api.base import wire
from penstock.api.resource import ModelDeployment
from penstock.api.spec import PrepareSpec
from penstock.api.status import PreparationStatus
from penstock.api.units import duration_seconds

from .conditions import timestamp
from .names import COMPONENT_LABEL, ObjectKey, key_of, resolve_name
from .observed import Observed
from .pipeline import RESOLVE, Task, preparation_outcome, preparation_policy, resolve_job
from .revision import canonical_hash, preparation_key

__all__ = ["REFRESH_FAILURE", "Asking", "ask_source", "learn_meaning"]

REFRESH_FAILURE = 256
"""Characters in status; the event has no more either, the Job's pod has all of it."""
_CLOCKS_DIFFER = timedelta(hours=1)
"""What is dated further ahead was so before a clock was set back. With less a node's clock may be fast, and who asked
again at once would ask for ever."""


@dataclass(frozen=True)
class Asking:
    """What has to be done so that the source is asked in time."""

    create: tuple[dict[str, Any], ...] = ()
    delete: tuple[ObjectKey, ...] = ()
    wake: datetime | None = None


def learn_meaning(observed: Observed, status: PreparationStatus, now: datetime) -> PreparationStatus:
    """Status with what the last Job has found; the status of another preparation where the URI means something new.

    A first answer that there is nothing to compare with counts as new: the content says whether it is.
    """
    job = _job(observed)
    if _period(observed.deployment) is None:
        return status.model_copy(update={"refresh_failure": None})
    if job is None or not _may_tell(status, job, now):
        return status
    outcome = preparation_outcome(job, observed.pods_of_job(job))
    if outcome.failed:
        return status.model_copy(update={"refresh_failure": f"{outcome.reason}: {outcome.message}"[:REFRESH_FAILURE]})
    if outcome.resolved is None:
        return status
    if outcome.resolved == status.resolved:
        return status.model_copy(update={"refresh_failure": None})
    spec, namespace = observed.deployment.spec, observed.deployment.metadata.namespace
    key = preparation_key(spec, namespace, outcome.resolved)
    return PreparationStatus(key=key, resolved=outcome.resolved, resolved_time=timestamp(now))


def _may_tell(status: PreparationStatus, job: Mapping[str, Any], now: datetime) -> bool:
    """Whether the Job asked later than what is known, and there is an ended preparation to compare with."""
    if status.resolved is None:
        return status.digest is not None or status.reason is not None
    if status.resolved_time is None:
        return True
    asked = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    known = datetime.fromisoformat(status.resolved_time)
    return asked > known or (_is_ahead(known, now) and not _is_ahead(asked, now))


def _is_ahead(moment: datetime, now: datetime) -> bool:
    return moment > now + _CLOCKS_DIFFER


def ask_source(observed: Observed, status: PreparationStatus, now: datetime, *, ended: bool) -> Asking:
    """The next Job once it is due; none while the preparation itself is under way."""
    job, period = _job(observed), _period(observed.deployment)
    stale = tuple(key_of(dict(item)) for item in _jobs(observed) if item is not job)
    if period is None or not ended:
        return Asking(delete=stale)
    asked = _ended(job) if job else None
    if job and asked is None:
        return Asking(delete=stale)
    known = datetime.fromisoformat(status.resolved_time) if status.resolved_time else None
    last = max((moment for moment in (asked, known) if moment and not _is_ahead(moment, now)), default=None)
    if last and now < last + period:
        return Asking(delete=stale, wake=last + period)
    if job:
        leaving = job["metadata"].get("deletionTimestamp") is not None
        return Asking(delete=(*stale, key_of(dict(job))), wake=None if leaving else now)
    made = _resolve(observed, period)
    if key_of(made) in observed.obstacles:
        return Asking(delete=stale, wake=now + period)
    return Asking((preparation_policy(observed.deployment.metadata), made), stale)


def _resolve(observed: Observed, period: timedelta) -> dict[str, Any]:
    deployment = observed.deployment
    model = deployment.spec.model
    key = _source(deployment)
    task = Task(
        deployment.metadata, key, model, deployment.spec.prepare or PrepareSpec(), format=model.format or "Auto"
    )
    name = resolve_name(deployment.metadata.name, key)
    return resolve_job(task, name, int(period.total_seconds()), observed.settings)


def _source(deployment: ModelDeployment) -> str:
    """Names what is asked: the source and the way to it."""
    asked = wire(deployment.spec.model)
    way = ("uri", "credentialsSecretRef", "connection", "dvcRemote", "format")
    return canonical_hash({name: asked[name] for name in way if name in asked})[:16]


def _period(deployment: ModelDeployment) -> timedelta | None:
    """How often; None for a source that is not asked: pinned content cannot change."""
    model = deployment.spec.model
    return timedelta(seconds=duration_seconds(model.refresh)) if model.refresh and model.digest is None else None


def _jobs(observed: Observed) -> list[Mapping[str, Any]]:
    return [job for job in observed.of_kind("Job") if job["metadata"]["labels"].get(COMPONENT_LABEL) == RESOLVE]


def _job(observed: Observed) -> Mapping[str, Any] | None:
    if _period(observed.deployment) is None:
        return None
    return observed.get("Job", resolve_name(observed.deployment.metadata.name, _source(observed.deployment)))


def _ended(job: Mapping[str, Any]) -> datetime | None:
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None
