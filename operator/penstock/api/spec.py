"""`ModelDeploymentSpec`: what people write.

Fields below `model` and `server` carry no CRD defaults: a revision is a hash of what the user wrote there, so a default
that changes, or a field that a later release adds, must not appear in it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from . import rules, trafficrules
from .base import ApiModel, Duration, K8s, Quantity, Rule
from .facts import DataType
from .rollout import RolloutSpec
from .traffic import TrafficSpec

__all__ = [
    "AutoscalingSpec",
    "BatchingSpec",
    "InstancesSpec",
    "ModelDeploymentSpec",
    "ModelSpec",
    "PodPlacement",
    "PodSpec",
    "PrepareSpec",
    "Resources",
    "ServerSpec",
    "TensorSpec",
]

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
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


class SecretName(ApiModel):
    """A Secret of the same namespace. It is mounted, never read by the operator."""

    name: ObjectName


class SecretKey(ApiModel):
    """One key of a Secret of the same namespace."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]


class SignatureSpec(ApiModel):
    """Require a valid signature: cosign's for oci://, `<uri>.sig` as made by `cosign sign-blob` otherwise."""

    key_secret_ref: SecretKey
    """The PEM public key (ECDSA P-256 or Ed25519)."""


class TensorSpec(ApiModel):
    """One input or output, overriding what inspection finds."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    data_type: DataType
    dims: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=2**31 - 1)], ...], Field(max_length=8), K8s(list_type="atomic")
    ]
    """Shape as the model declares it; -1 where a dimension is free."""


Tensors = Annotated[tuple[TensorSpec, ...], Field(max_length=64), K8s(list_type="map", keys=("name",))]


class ModelSpec(ApiModel):
    """Which model: where its content is, and what it must be."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        rules.DIGEST_OF_URI,
        rules.NO_CREDENTIALS_FOR_CLAIM,
        rules.VERBATIM_TENSORS,
    )

    uri: Annotated[
        str,
        Field(min_length=1, max_length=2048),
        K8s(rules=(rules.URI_FORM, rules.URI_CLEAN, rules.URI_WITHOUT_PARENTS)),
    ]
    """Where the content is: oci://, s3://, https:// or pvc://claim/path."""
    format: Literal["Auto", "ONNX", "TritonRepository"] | None = None
    """What the content is; Auto looks into it."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = None
    """Pin of the content. Without it the URI is resolved once, and the digest found is recorded."""
    served_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] | None = None
    """The model's name in URLs; metadata.name unless said otherwise."""
    credentials_secret_ref: SecretName | None = None
    """Credentials for the URI, with the keys the ecosystem uses: see the guide, "Credentials"."""
    signature: SignatureSpec | None = None
    """Refuse content that does not carry a valid signature."""
    trust: Literal["Data", "Code"] | None = None
    """Code admits content that runs code when it is loaded: Python backends in a ready Triton repository."""
    inputs: Tensors | None = None
    """Inputs, overriding what inspection finds."""
    outputs: Tensors | None = None
    """Outputs, overriding what inspection finds."""


class PrepareSpec(ApiModel):
    """The preparation Job."""

    resources: Resources | None = None
    timeout: Annotated[Duration, K8s(rules=(rules.PREPARE_TIMEOUT,))] = "30m"
    """The Job is ended, and the preparation failed, after this long."""


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

    cel_rules: ClassVar[tuple[Rule, ...]] = (rules.VERBATIM_SERVER, trafficrules.STRATEGY_OF_PROVIDER)

    model: ModelSpec
    prepare: PrepareSpec | None = None
    server: ServerSpec | None = None
    pod: PodSpec | None = None
    replicas: Annotated[int, Field(ge=0, le=1000), K8s(default=1)] = 1
    """Serving pods; the start value when autoscaling is set."""
    autoscaling: AutoscalingSpec | None = None
    rollout: RolloutSpec | None = None
    traffic: TrafficSpec | None = None
