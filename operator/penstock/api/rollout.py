"""`spec.rollout`: how a new revision takes the place of the stable one, and by what evidence."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from . import replacerules, rules, trafficrules
from .base import ApiModel, Duration, K8s, Number, Rule

__all__ = [
    "AnalysisSpec",
    "BlueGreenSpec",
    "CanarySpec",
    "ErrorsSpec",
    "InitialSpec",
    "LatencySpec",
    "ReplaceSpec",
    "RolloutSpec",
    "ShadowSpec",
    "Step",
    "SupervisionSpec",
]

RevisionCommand = Annotated[str, Field(max_length=64, pattern=r"^([a-z][-a-z0-9]*-[0-9a-f]{8}(/[0-9]{1,2})?)?$")]


class Step(ApiModel):
    """One step of a canary."""

    weight: Annotated[Number, K8s(rules=(trafficrules.WEIGHT_RANGE,))]
    """Percent of the requests that the candidate gets, down to 0.1."""
    hold: Annotated[Duration, K8s(rules=(trafficrules.HOLD_RANGE,))] = "1m"
    """How long the step is observed at least; time without counters does not count."""


class CanarySpec(ApiModel):
    """Steps with growing weight; after the last the candidate is promoted."""

    steps: Annotated[
        tuple[Step, ...], Field(min_length=1, max_length=20), K8s(list_type="atomic", rules=(trafficrules.STEPS_GROW,))
    ]


class BlueGreenSpec(ApiModel):
    """The candidate at full size beside stable, reachable at the preview Service, then one switch."""

    auto_promote: bool = True
    """Switch as soon as the candidate is ready; false waits for `promote`."""
    hold: Annotated[Duration, K8s(rules=(trafficrules.HOLD_RANGE,))] = "1m"
    """After the switch the previous revision keeps 5 % for this long, so that both can be compared."""
    keep_previous: Duration = "10m"
    """The previous revision keeps its pods for this long, for an instant return."""


class ReplaceSpec(ApiModel):
    """How pods change hands with `capacity: Replace`; every pod of the candidate is a step."""

    hold: Annotated[Duration, K8s(rules=(trafficrules.HOLD_RANGE,))] = "1m"
    """How long each share is observed at least; time without counters does not count."""


class ShadowSpec(ApiModel):
    """Copies of requests to the candidate before it answers any; its answers are dropped."""

    percent: Annotated[Number, K8s(rules=(trafficrules.WEIGHT_RANGE,))]
    duration: Annotated[Duration, K8s(rules=(trafficrules.HOLD_RANGE,))] = "5m"


class ErrorsSpec(ApiModel):
    """When a candidate answers with too many errors."""

    tolerance: Annotated[Number, K8s(rules=(trafficrules.TOLERANCE_RANGE,))] = "2"
    """Errors up to this multiple of stable's rate are accepted."""
    max_percent: Annotated[Number, K8s(rules=(trafficrules.PERCENT_RANGE,))] = "1"
    """The error rate that a promoted revision is proven to be below; it also takes back, while stable is below it."""


class LatencySpec(ApiModel):
    """When a candidate is too slow."""

    quantile: Annotated[Number, K8s(rules=(trafficrules.QUANTILE_RANGE,))] = "95"
    """The percentile of stable's latency that is compared."""
    tolerance: Annotated[Number, K8s(rules=(trafficrules.TOLERANCE_RANGE,))] = "2"
    """A request is slow when it takes longer than this multiple of it."""


class AnalysisSpec(ApiModel):
    """What is compared, and how sure a decision has to be."""

    mode: Literal["Enforce", "Observe"] = "Enforce"
    """Observe: steps advance by time, verdicts are written, nothing is taken back."""
    allow_interface_change: bool = False
    """Admit a candidate whose inputs or outputs differ from stable's."""
    errors: ErrorsSpec | None = None
    latency: LatencySpec | None = None
    false_rollback: Annotated[Number, K8s(rules=(trafficrules.PROBABILITY_RANGE,))] = "0.01"
    """Probability, over the whole rollout, of taking back a revision that is no worse than tolerated."""
    promote_confidence: Annotated[Number, K8s(rules=(trafficrules.CONFIDENCE_RANGE,))] = "0.95"
    """How sure it must be that the candidate's error rate is below maxPercent before it is promoted."""
    on_no_traffic: Literal["Hold", "Promote", "Rollback"] = "Hold"
    """What to do with a candidate that no request has reached."""
    deadline: Annotated[Duration, K8s(rules=(trafficrules.DEADLINE_RANGE,))] = "30m"
    """Without a verdict by then the rollout pauses and says how long it would still take."""


class SupervisionSpec(ApiModel):
    """What the routers do by themselves when no operator watches a candidate."""

    timeout: Annotated[Duration, K8s(rules=(trafficrules.SUPERVISION_RANGE,))] = "1m"
    """After this long without an operator that sees the counters."""
    on_loss: Literal["Stable", "Keep"] = "Stable"
    """Stable: all traffic to the stable revision. Keep: weights stay as they are."""


class InitialSpec(ApiModel):
    """The revision to start from when a cluster is rebuilt from Git in the middle of a rollout."""

    uri: Annotated[
        str,
        Field(min_length=1, max_length=2048),
        K8s(rules=(rules.URI_FORM, rules.URI_CLEAN, rules.URI_WITHOUT_PARENTS)),
    ]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = None


class RolloutSpec(ApiModel):
    """How a new revision takes the place of the stable one."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        trafficrules.STRATEGY_FIELDS,
        replacerules.REPLACE_FIELD,
        replacerules.REPLACE_KEEPS,
        replacerules.REPLACE_STEPS,
        replacerules.REPLACE_SHADOW,
    )

    strategy: Literal["Canary", "BlueGreen", "Immediate"] | None = None
    """Default: Canary, with provider Service Immediate."""
    canary: CanarySpec | None = None
    """Default: 10 % for 1m, then 50 % for 1m."""
    blue_green: BlueGreenSpec | None = None
    shadow: ShadowSpec | None = None
    capacity: Literal["Surge", "Replace"] | None = None
    """Surge, the default: the candidate's pods beside stable's. Replace: there is no room for both, so stable gives its
    pods up one by one and the candidate has their share; with one replica that is an outage, declared by this field."""
    replace: ReplaceSpec | None = None
    analysis: AnalysisSpec | None = None
    supervision: SupervisionSpec | None = None
    initial: InitialSpec | None = None
    paused: bool = False
    """Hold the weights where they are; a candidate that turns out bad is still taken back."""
    promote: RevisionCommand | None = None
    """A candidate to promote now, or with `/1` to end its step 1; inert for any other revision."""
    abort: RevisionCommand | None = None
    """A candidate to take back now; inert for any other revision."""
    retry_token: Annotated[str, Field(max_length=64)] | None = None
    """A new value tries a revision again that was taken back."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] | None = None
    """Revision records kept beside those in use. Default: 5."""
