"""`ModelDeploymentStatus`: what people read, and with the revision records all that the operator remembers."""

from typing import Annotated, Literal

from pydantic import Field

from .base import ApiModel, K8s
from .facts import GateResult

__all__ = [
    "AnalysisStatus",
    "CandidateStatus",
    "Condition",
    "FailedRevision",
    "HistoryEntry",
    "MetricEvidence",
    "ModelDeploymentStatus",
    "PlannedStep",
    "PreparationStatus",
    "RevisionStatus",
]

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
    weight: str | None = None
    """Percent of the requests, as attested by the routers."""


class PlannedStep(ApiModel):
    """One step of the plan that was pinned when the rollout began."""

    weight: str
    """Percent."""
    hold_seconds: int


class MetricEvidence(ApiModel):
    """What one comparison has come to; numbers as text, the API has no floats."""

    name: Literal["errors", "clientErrors", "latency"]
    stable: str = ""
    """`3 of 1200 (0.25 %)`"""
    candidate: str = ""
    evidence: str = ""
    """The e-value against the candidate; the rollout is taken back when it reaches `threshold`."""
    threshold: str = ""


class AnalysisStatus(ApiModel):
    """The evidence so far, complete: with the routers' own history an operator that starts anew goes on from it."""

    as_of: Annotated[int, K8s(format="int64")] = 0
    """Unix second up to which counters have been used."""
    requests: Annotated[int, K8s(format="int64")] = 0
    """Requests that the candidate has answered."""
    slow_above_milliseconds: int | None = None
    """A request that takes longer counts as slow; None until stable's latency is known."""
    metrics: Annotated[tuple[MetricEvidence, ...], Field(max_length=4), K8s(list_type="map", keys=("name",))] | None = (
        None
    )
    rules: Annotated[str, Field(max_length=512)] = ""
    """What is compared, as it was asked for when the rollout began; later edits count for the next one."""
    sums: Annotated[str, Field(max_length=6144)] = ""
    """The sums of the sequential tests in a compact form that only Penstock reads."""


class CandidateStatus(RevisionStatus):
    """The revision on its way."""

    stage: Literal["Starting", "Warming", "Previewing", "Shadowing", "Replacing", "Stepping", "Promoting"] | None = None
    step: int = 0
    """Counted from 1; 0 before the first."""
    observed_seconds: int = 0
    """Seconds of this step (or of the shadow stage) with the weight attested and the counters read."""
    step_requests: int = 0
    """Requests that the candidate has answered in this step."""
    strategy: Literal["Canary", "BlueGreen", "Immediate"] | None = None
    plan: Annotated[tuple[PlannedStep, ...], Field(max_length=21), K8s(list_type="atomic")] | None = None
    """Pinned with strategy and shadow when the rollout began: edits count for the next one. A Service pins nothing."""
    shadow: PlannedStep | None = None
    replaced: int | None = None
    """With capacity: Replace: how many pods change hands in all, pinned with the plan."""
    replacing_since: Time | None = None
    """Since when stable makes room for the present step; the candidate has to be ready within analysis.deadline."""
    verdict: Literal["Pass", "Fail", "Undecided", "Inconclusive", "NoEvidence"] | None = None
    analysis: AnalysisStatus | None = None
    judged_since: Time | None = None
    """When it first got traffic, with capacity: Replace when stable began to make room; the deadline counts from
    here."""


class FailedRevision(ApiModel):
    """The revision that could not go live, and why."""

    revision: str
    reason: str
    message: Message
    time: Time
    diagnosis: Annotated[str, Field(max_length=512)] | None = None
    """What Triton's own counters say of it, where they could be read at once; no part of the verdict."""


class PreparationStatus(ApiModel):
    """The preparation now under way or last ended."""

    key: str
    """Names the inputs: model source and what is asked of it."""
    attempt: int = 0
    """Failed tries so far."""
    failed_job: str | None = None
    """uid of the Job whose failure is told here."""
    means: str | None = None
    """Names what the failed try was given: `spec.prepare`, the chart's images and limits, `retryToken`.

    With other means it is tried again.
    """
    revision: str | None = None
    """The revision that it led to."""
    retry_time: Time | None = None
    """When it is tried again, if it is."""
    digest: str | None = None
    size_bytes: Annotated[int, K8s(format="int64")] | None = None
    format: str | None = None
    """What is served, once prepared."""
    source_format: str | None = None
    """What the source was found to be, where another container image has to open it or it was converted."""
    opener: Literal["Basic", "Convert", "TensorFlow"] | None = None
    """The image that the source turned out to need."""
    source_bytes: Annotated[int, K8s(format="int64")] | None = None
    """Of the source, where a first look has told: the next pod asks its node for that much room."""
    precision: str | None = None
    gates: Annotated[tuple[GateResult, ...], Field(max_length=16), K8s(list_type="map", keys=("name",))] | None = None
    """What each gate measured against what it asked."""
    report: str | None = None
    """Digest of the whole report in the artifact store; `penstock report` shows it."""
    resolved: str | None = None
    """What the URI means, in the source's own words: an ETag, a digest, a version."""
    resolved_time: Time | None = None
    """Since when it is known to mean that."""
    refresh_failure: Annotated[str, Field(max_length=256)] | None = None
    """Why the source could not say what the URI means now; it is asked again at the next refresh."""
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
    candidate: CandidateStatus | None = None
    observed_retry_token: str | None = None
    failed_revision: FailedRevision | None = None
    preparation: PreparationStatus | None = None
    attested_generation: Annotated[int, K8s(format="int64")] | None = None
    """The newest generation of the TrafficSplit that every Ready router pod was seen to follow."""
    leaving_since: Time | None = None
    """Since when clients no longer come through a router that still has the route; requests on kept connections end."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10), K8s(list_type="atomic")] | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), K8s(list_type="map", keys=("type",))] | None = (
        None
    )
