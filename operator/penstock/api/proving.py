"""`spec.optimize` and `spec.gates`: how a model may be changed, and what it must prove before it gets a request."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from . import modelrules
from .base import ApiModel, Duration, K8s, Number, Quantity, Real, Rule
from .model import ConnectionSpec, ContentUri, SecretName

__all__ = [
    "AccuracyGate",
    "CalibrationSpec",
    "DataSpec",
    "GatesSpec",
    "HookSpec",
    "LatencyGate",
    "MemoryGate",
    "OptimizeSpec",
    "ParityGate",
    "PruneSpec",
    "SizeGate",
    "ThroughputGate",
    "TuneSpec",
]

Samples = Annotated[int, Field(ge=1, le=1_000_000)]
Image = Annotated[str, Field(min_length=1, max_length=512)]
Command = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], Field(max_length=32), K8s(list_type="atomic")
]
Concurrency = Annotated[int, Field(ge=1, le=256)]
Batch = Annotated[int, Field(ge=1, le=4096)]
Length = Annotated[Duration, K8s(rules=(modelrules.LATENCY_RANGE,))]


class DataSpec(ApiModel):
    """Arrays of rows: an `.npz` file, or a folder of `.npy` files; named as the model's inputs."""

    uri: ContentUri
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = None
    credentials_secret_ref: SecretName | None = None
    connection: ConnectionSpec | None = None


class CalibrationSpec(DataSpec):
    """Rows like those in production, from which the ranges of INT8 activations are taken."""

    max_samples: Samples | None = None
    """Default 256."""


class PruneSpec(ApiModel):
    """Set the smallest weights to zero. It makes files compress better and promises no speed."""

    amount: Annotated[Number, K8s(rules=(modelrules.PRUNE_RANGE,))]
    """Share of the weights of each layer, from 0.01 to 0.95."""


class HookSpec(ApiModel):
    """A training step of your own, such as distillation: it reads the model and data, and returns a candidate.

    The container sees `/work/source` and `/work/calibration` read-only and writes one ONNX model into `/work/hook`.
    """

    image: Image
    command: Command | None = None


class OptimizeSpec(ApiModel):
    """How the model may be changed to be faster; numerics are never changed unless asked."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (modelrules.CALIBRATION_IS_USED,)

    precision: Literal["None", "Auto", "FP16", "INT8"] | None = None
    """Auto tries what suits the network and keeps what was measured faster; FP16 and INT8 insist on one."""
    calibration: CalibrationSpec | None = None
    min_speedup: Annotated[Number, K8s(rules=(modelrules.SPEEDUP_RANGE,))] | None = None
    """A candidate is kept only when its in-process runtime is this many times faster than the baseline. Default 1.2."""
    prune: PruneSpec | None = None
    hook: HookSpec | None = None


class ParityGate(ApiModel):
    """The served model's answers against the source framework's, row by row."""

    min_top1_agreement: Annotated[Number, K8s(rules=(modelrules.SHARE_RANGE,))] | None = None
    """Share of rows whose largest output is the same one."""
    max_absolute_difference: Real | None = None
    max_relative_difference: Real | None = None
    """Of the largest absolute value that the output has in the source's answers."""
    min_row_share: Annotated[Number, K8s(rules=(modelrules.SHARE_RANGE,))] | None = None
    """Share of rows that must be within the differences. Default 1."""


class AccuracyGate(ApiModel):
    """A metric of the answers against `label`, with its 95 % confidence interval."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (modelrules.METRIC_OR_IMAGE, modelrules.ACCURACY_NAMES_A_BOUND)

    metric: Literal["Top1", "F1", "AUC", "MSE", "R2"] | None = None
    """F1 is macro-averaged; AUC is one against the rest."""
    image: Image | None = None
    """Your own metric: reads `/work/metric/predictions.npz` (outputs and `label`), writes `{"value": 0.97}` to
    `/work/metric/value.json`; larger is better."""
    command: Command | None = None
    minimum: Real | None = None
    """MSE: the maximum."""
    max_drop_percent: Annotated[Number, K8s(rules=(modelrules.DROP_RANGE,))] | None = None
    """Points that the metric may be worse than the source framework's own on the same rows, with 95 % confidence.
    MSE: percent of the source's."""


class LatencyGate(ApiModel):
    """Latency in the server as it will be configured, from the first byte sent to the last received."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (modelrules.LATENCY_NAMES_A_BOUND,)

    p50: Length | None = None
    p95: Length | None = None
    p99: Length | None = None
    concurrency: Concurrency | None = None
    """Requests under way at once. Default 1."""
    batch_size: Batch | None = None
    """Rows of a request. Default 1."""


class ThroughputGate(ApiModel):
    """Rows answered per second."""

    min_per_second: Annotated[Number, K8s(rules=(modelrules.THROUGHPUT_RANGE,))]
    concurrency: Concurrency | None = None
    """Requests under way at once. Default 8."""
    batch_size: Batch | None = None
    """Rows of a request. Default 1."""


class SizeGate(ApiModel):
    """Bytes of the files that are served."""

    max: Quantity


class MemoryGate(ApiModel):
    """The server's peak memory, from its start to the end of the measurements."""

    max: Quantity


class TuneSpec(ApiModel):
    """Let instances, threads and batching be chosen by measurement, where spec.server says nothing of them."""

    goal: Literal["Latency", "Throughput"]
    """The lowest p95 at the latency gate's concurrency, or the most rows per second at the throughput gate's."""
    trials: Annotated[int, Field(ge=2, le=12)] | None = None
    """Default 8."""


class GatesSpec(ApiModel):
    """All must pass before a revision gets any traffic."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (modelrules.GATES_NEED_DATASET,)

    dataset: DataSpec | None = None
    """Arrays named as the inputs, and `label`."""
    parity: ParityGate | None = None
    accuracy: AccuracyGate | None = None
    latency: LatencyGate | None = None
    throughput: ThroughputGate | None = None
    size: SizeGate | None = None
    memory: MemoryGate | None = None
    tune: TuneSpec | None = None
