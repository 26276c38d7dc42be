"""ModelFacts: what inspection learned about a model, and all that the operator ever knows of its content.

Facts cross from the preparation Job, which reads untrusted files, to the operator through a termination message, so
they are small (4 KB encoded) and every string in them is bounded and of a safe alphabet.
"""

from typing import Annotated, Literal

from pydantic import Field

from .base import ApiModel, Duration

__all__ = [
    "ArtifactRef",
    "DataType",
    "Forest",
    "GateResult",
    "ModelFacts",
    "ModelFormat",
    "MountRef",
    "RepositoryModel",
    "Tensor",
    "Tuned",
]

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "STRING",
]  # fmt: skip
ModelFormat = Literal[
    "ONNX", "TritonRepository", "OpenVINO", "TensorRT", "TorchScript", "XGBoost", "LightGBM", "Treelite",
]  # fmt: skip
"""What can be served; every other format is converted to ONNX."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
SafeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=128)]
Count = Annotated[int, Field(ge=0, le=2**62)]
"""What the API server stores as an int64, and what Triton reads as one."""
TensorName = Annotated[str, Field(min_length=1, max_length=256)]


class Tensor(ApiModel):
    """One input or output: `dims` is the whole shape as the model declares it, -1 where free."""

    name: TensorName
    data_type: DataType
    dims: tuple[Annotated[int, Field(ge=-1, le=2**62)], ...]


class ArtifactRef(ApiModel):
    """Where serving pods fetch the content: one tar layer under one manifest of the artifact store, both by digest.

    `manifest` and `layer` are a pure function of the content, so that preparing the same inputs again restores them.
    """

    repository: str
    manifest: Digest
    layer: Digest
    size_bytes: Count


class RepositoryModel(ApiModel):
    """One model of a ready Triton repository, as its own config.pbtxt or its files declare it."""

    name: SafeName
    backend: str = ""
    ensemble: bool = False


class GateResult(ApiModel):
    """One thing that was measured, against what was asked; numbers as text with their unit."""

    name: SafeName
    """`parity.top1`, `accuracy`, `latency.p95`, `throughput`, `size`, `memory`, `consistency`, `speedup` ..."""
    asked: Annotated[str, Field(max_length=64)] = ""
    measured: Annotated[str, Field(max_length=160)] = ""
    passed: bool


class MountRef(ApiModel):
    """Content that stays where it is: a folder or file of a claim; `artifact` then holds its checksums alone."""

    claim: SafeName
    path: Annotated[str, Field(max_length=1024)] = ""
    size_bytes: Count = 0
    """Of the files that are served."""


class Forest(ApiModel):
    """What the server must be told of trees, because their files do not say it, or not where it looks."""

    model_type: Literal["xgboost_json", "xgboost_ubj", "lightgbm", "treelite_checkpoint"]
    classes: Annotated[int, Field(ge=0, le=65536)] = 0
    """2 or more of a classifier, 0 where the trees give a value."""


class Tuned(ApiModel):
    """Settings that `spec.gates.tune` has chosen by measurement; they hold where spec.server says nothing."""

    instances: Annotated[int, Field(ge=1, le=64)] | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    max_queue_delay: Duration | None = None


class ModelFacts(ApiModel):
    """What is known of one model's content; the same content gives the same facts."""

    format: ModelFormat
    digest: Digest
    """Digest of the source: of the file, of the OCI manifest, or of the sorted `sha256sum` lines of a folder."""
    artifact: ArtifactRef
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    batching: bool = False
    """True when the first dimension of every tensor is a batch, proven: batch 1, 2 and k gave the same rows."""
    opset: Count | None = None
    ir_version: Count | None = None
    source_format: SafeName | None = None
    """What the source was, where it was converted."""
    derived: bool = False
    """The files that are served are not the source's own bytes: converted, pruned, quantized or a hook's."""
    precision: Literal["FP16", "INT8"] | None = None
    """To what optimization has changed the numerics; None: not at all."""
    report: Digest | None = None
    """Manifest of the report in the artifact store."""
    mount: MountRef | None = None
    forest: Forest | None = None
    """Of XGBoost, LightGBM and Treelite models that are served as they are."""
    tuned: Tuned | None = None
    models: tuple[RepositoryModel, ...] = ()
    """The models of a TritonRepository, in name order; empty for other formats."""
    warnings: tuple[Annotated[str, Field(max_length=300)], ...] = ()
