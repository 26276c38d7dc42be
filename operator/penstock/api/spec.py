"""`ModelDeploymentSpec`: what people write.

Fields below `model` and `server` carry no CRD defaults: a revision is a hash of what the user wrote there, so a default
that changes, or a field that a later release adds, must not appear in it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from . import replacerules, rules, trafficrules
from .base import ApiModel, Duration, K8s, Quantity, Rule
from .model import ModelSpec, ObjectName
from .proving import GatesSpec, OptimizeSpec
from .rollout import RolloutSpec
from .traffic import TrafficSpec

__all__ = [
    "AutoscalingSpec",
    "BatchingSpec",
    "InstancesSpec",
    "ModelDeploymentSpec",
    "PodPlacement",
    "PodSpec",
    "PreparePodSpec",
    "PrepareSpec",
    "Resources",
    "ServerSpec",
]

QuantityMap = Annotated[dict[str, Quantity], K8s(max_properties=16)]
Flags = Annotated[dict[str, Annotated[str, K8s(max_length=256)]], K8s(max_properties=32, rules=(rules.FLAG_NAME,))]
LabelValue = Annotated[str, K8s(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
Labels = Annotated[dict[str, LabelValue], K8s(max_properties=32, rules=(rules.METADATA_KEYS,))]
Annotations = Annotated[
    dict[str, Annotated[str, K8s(max_length=4096)]], K8s(max_properties=32, rules=(rules.METADATA_KEYS,))
]


class Resources(ApiModel):
    """Requests and limits as in any container; what is not said is filled in from the model's size."""

    requests: QuantityMap | None = None
    limits: QuantityMap | None = None


class BatchingSpec(ApiModel):
    """Dynamic batching: several requests computed as one. It needs two instances or more."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (rules.PREFERRED_WITHIN_MAXIMUM, rules.QUEUE_NEEDS_BATCHING)

    max_batch_size: Annotated[int, Field(ge=0, le=65536)] | None = None
    """0 turns batching off. Default: 32 where batching is proven, 0 elsewhere."""
    preferred_batch_sizes: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=16), K8s(list_type="atomic")]
        | None
    ) = None
    """Batch sizes the scheduler aims for."""
    max_queue_delay: Duration | None = None
    """How long a request may wait for company."""
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests that may wait; one more is answered 503. Default 256."""
    queue_timeout: Duration | None = None
    """A request that waited this long is answered 503."""


class InstancesSpec(ApiModel):
    """Copies of the model in one server."""

    count: Annotated[int, Field(ge=1, le=64)] | None = None
    kind: Literal["CPU", "GPU"] | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of one CPU instance. Default: the CPU limit divided by the instances, at least 1."""


class ResponseCacheSpec(ApiModel):
    """Triton's local response cache."""

    size: Quantity


class ServerSpec(ApiModel):
    """How Triton serves the model."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (rules.BATCHING_NEEDS_TWO, rules.GPU_LIMIT)

    batching: BatchingSpec | None = None
    instances: InstancesSpec | None = None
    warmup: Literal["Auto", "None"] | None = None
    """Auto: each instance answers a made-up request before it counts as ready."""
    response_cache: ResponseCacheSpec | None = None
    config: Annotated[dict[str, Any], K8s(preserve=True, max_properties=64)] | None = None
    """Extra fields of Triton's ModelConfig in its own names; those Penstock owns are refused."""
    flags: Flags | None = None
    """Extra flags of tritonserver without the leading dashes; those Penstock owns are refused."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """The Triton image; the chart's, pinned when the revision is made, unless said otherwise."""
    resources: Resources | None = None
    """Default: CPU request 100m and limit 1, memory from the model's size."""


class EnvVar(ApiModel):
    """One variable of the server's environment, by value only."""

    name: Annotated[
        str, Field(min_length=1, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128), K8s(rules=(rules.ENV_NAME,))
    ]
    value: Annotated[str, Field(max_length=4096)] = ""


class LocalObject(ApiModel):
    """An object of the same namespace by name."""

    name: ObjectName


Preserved = Annotated[dict[str, Any], K8s(preserve=True)]


class PodPlacement(ApiModel):
    """Where pods go and what they carry; no free template, which could mount any Secret or host path."""

    labels: Annotated[Labels, K8s(rules=(rules.LABEL_KEYS,))] | None = None
    annotations: Annotations | None = None
    node_selector: Labels | None = None
    tolerations: Annotated[tuple[Preserved, ...], Field(max_length=32), K8s(list_type="atomic")] | None = None
    affinity: Preserved | None = None
    topology_spread_constraints: (
        Annotated[tuple[Preserved, ...], Field(max_length=8), K8s(list_type="atomic")] | None
    ) = None
    priority_class_name: ObjectName | None = None
    image_pull_secrets: (
        Annotated[tuple[LocalObject, ...], Field(max_length=8), K8s(list_type="map", keys=("name",))] | None
    ) = None


class PodSpec(PodPlacement):
    """Placement and metadata of the serving pods; no free template, which could mount any Secret or host path."""

    service_account_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), K8s(list_type="map", keys=("name",))] | None = None


class PreparePodSpec(PodPlacement):
    """Placement of the preparation's pod; its service account is what cloud identities are bound to."""

    service_account_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None


class PrepareSpec(ApiModel):
    """The preparation Job."""

    resources: Resources | None = None
    timeout: Annotated[Duration, K8s(rules=(rules.PREPARE_TIMEOUT,))] = "30m"
    """The Job is ended, and the preparation failed, after this long."""
    pod: PreparePodSpec | None = None


class AutoscalingTarget(ApiModel):
    """What the autoscaler holds steady."""

    cpu_percent: Annotated[int, Field(ge=1, le=1000)]
    """Average CPU use of the serving pods, in percent of their request."""


class AutoscalingSpec(ApiModel):
    """A HorizontalPodAutoscaler over the stable revision."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (rules.AUTOSCALING_RANGE,)

    min: Annotated[int, Field(ge=1, le=1000)] = 1
    max: Annotated[int, Field(ge=1, le=1000)]
    target: AutoscalingTarget
    behavior: Preserved | None = None
    """As in autoscaling/v2."""


class ModelDeploymentSpec(ApiModel):
    """Which model, how it is served, how many."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        rules.VERBATIM_SERVER,
        trafficrules.STRATEGY_OF_PROVIDER,
        replacerules.REPLACE_AUTOSCALING,
        replacerules.REPLACE_PROVIDER,
    )

    model: ModelSpec
    optimize: OptimizeSpec | None = None
    gates: GatesSpec | None = None
    prepare: PrepareSpec | None = None
    server: ServerSpec | None = None
    pod: PodSpec | None = None
    replicas: Annotated[int, Field(ge=0, le=1000), K8s(default=1)] = 1
    """Serving pods; the start value when autoscaling is set."""
    autoscaling: AutoscalingSpec | None = None
    rollout: RolloutSpec | None = None
    traffic: TrafficSpec | None = None
