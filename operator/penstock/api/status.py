"""`ModelDeploymentStatus`: what people read, and with the revision records all that the operator remembers."""

from typing import Annotated, Literal

from pydantic import Field

from .base import ApiModel, K8s

__all__ = ["Condition", "HistoryEntry", "ModelDeploymentStatus", "PreparationStatus", "RevisionStatus"]

Message = Annotated[str, Field(max_length=2048)]
Time = Annotated[str, K8s(format="date-time")]


class Condition(ApiModel):
    """As metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=128)]
    message: Message = ""
    observed_generation: Annotated[int, K8s(format="int64")] = 0
    last_transition_time: Time


class RevisionStatus(ApiModel):
    """One revision as it runs now."""

    revision: str
    uri: str = ""
    digest: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    since: Time | None = None
    """Stable: when it went live. Candidate: when its pods were first asked for."""


class FailedRevision(ApiModel):
    """The revision that could not go live, and why."""

    revision: str
    reason: str
    message: Message
    time: Time


class PreparationStatus(ApiModel):
    """The preparation now under way or last ended."""

    key: str
    """Names the inputs: model source and what is asked of it."""
    attempt: int = 0
    """Failed tries so far."""
    failed_job: str | None = None
    """uid of the Job whose failure is told here."""
    revision: str | None = None
    """The revision that it led to."""
    retry_time: Time | None = None
    """When it is tried again, if it is."""
    digest: str | None = None
    size_bytes: Annotated[int, K8s(format="int64")] | None = None
    format: str | None = None
    reason: str | None = None
    message: Message | None = None
    warnings: Annotated[tuple[str, ...], Field(max_length=8), K8s(list_type="atomic")] | None = None


class HistoryEntry(ApiModel):
    """One ended rollout."""

    revision: str
    outcome: Literal["Promoted", "RolledBack", "Aborted", "Superseded", "Failed"]
    reason: str
    by: str | None = None
    start_time: Time | None = None
    end_time: Time


class ModelDeploymentStatus(ApiModel):
    """Written whole, by one field manager, and only when something in it changes."""

    observed_generation: Annotated[int, K8s(format="int64")] = -1
    phase: Literal["Pending", "Preparing", "Progressing", "Paused", "Available", "RolledBack", "Failed"] | None = None
    message: Message | None = None
    url: str | None = None
    replicas: int | None = None
    selector: str | None = None
    stable: RevisionStatus | None = None
    candidate: RevisionStatus | None = None
    failed_revision: FailedRevision | None = None
    preparation: PreparationStatus | None = None
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10), K8s(list_type="atomic")] | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), K8s(list_type="map", keys=("type",))] | None = (
        None
    )
