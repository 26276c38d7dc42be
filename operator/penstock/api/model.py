"""`spec.model`: which model, where its content is, and how it may be fetched, opened and delivered.

No CRD defaults here: a preparation is named by a hash of what the user wrote.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from . import modelrules, rules
from .base import ApiModel, Duration, K8s, Rule
from .facts import DataType

__all__ = [
    "ConnectionSpec",
    "ContentUri",
    "ModelSpec",
    "ObjectKeyRef",
    "ObjectName",
    "SecretName",
    "SignatureSpec",
    "SourceFormat",
    "TensorSpec",
]

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
ContentUri = Annotated[
    str,
    Field(min_length=1, max_length=2048),
    K8s(rules=(rules.URI_FORM, rules.URI_CLEAN, rules.URI_WITHOUT_PARENTS)),
]
"""oci:// s3:// gs:// az:// https:// hf:// models:/ or pvc://"""
SourceFormat = Literal[
    "Auto", "ONNX", "TritonRepository", "OpenVINO", "TensorRT", "TorchExport", "TorchScript", "SafeTensors",
    "StateDict", "Keras", "SKLearn", "XGBoost", "LightGBM", "Treelite", "MLflow", "TorchServe", "SavedModel",
]  # fmt: skip


class SecretName(ApiModel):
    """A Secret of the same namespace. It is mounted, never read by the operator."""

    name: ObjectName


class ObjectKeyRef(ApiModel):
    """One key of an object of the same namespace."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]


class SignatureSpec(ApiModel):
    """Require a valid signature."""

    type: Literal["Cosign", "ModelSigning"] | None = None
    """Cosign (default): cosign's for oci://, `<uri>.sig` as made by `cosign sign-blob` otherwise. ModelSigning: the
    OpenSSF bundle `model.sig` in the model's folder, over all its files."""
    key_secret_ref: ObjectKeyRef
    """The PEM public key (ECDSA P-256 or Ed25519)."""


class ConnectionSpec(ApiModel):
    """How the source is reached, where its defaults do not do; a credentials Secret may say the same."""

    endpoint: Annotated[str, Field(max_length=512, pattern=r"^https?://[^/\s@]+(/[^\s@]*)?$")] | None = None
    """Base URL of the S3, Blob or Storage service, the MLflow server or the model hub."""
    region: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9-]+$")] | None = None
    ca_config_map_ref: ObjectKeyRef | None = None
    """PEM certificates to trust instead of the public ones."""


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
        modelrules.MOUNT_NEEDS_CLAIM,
        modelrules.REFRESH_OF_PIN,
        modelrules.ENTRYPOINT_OF_WEIGHTS,
        modelrules.WEIGHTS_NEED_ENTRYPOINT,
        modelrules.ENTRYPOINT_NEEDS_TRUST,
        modelrules.DVC_POINTER,
    )

    uri: ContentUri
    """Where the content is: oci://, s3://, gs://, az://, https://, hf://, models:/name@alias or pvc://claim/path."""
    format: SourceFormat | None = None
    """What the content is; Auto looks into it."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = None
    """Pin of the content. Without it the URI is resolved once, and the digest found is recorded."""
    served_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] | None = None
    """The model's name in URLs; metadata.name unless said otherwise."""
    credentials_secret_ref: SecretName | None = None
    """Credentials for the URI, with the keys the ecosystem uses: see the guide, "Credentials"."""
    connection: ConnectionSpec | None = None
    signature: SignatureSpec | None = None
    """Refuse content that does not carry a valid signature."""
    trust: Literal["Data", "Code"] | None = None
    """Code admits content that runs code when it is loaded: Python backends in a ready Triton repository, pickles,
    factories."""
    entrypoint: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`module:factory` in the content: called without arguments it returns the torch module that weights belong to."""
    convert: Literal["Auto", "Never"] | None = None
    """Auto: to ONNX whatever can be. Never: TorchScript, XGBoost and LightGBM are served by backends of their own."""
    delivery: Literal["Copy", "Mount"] | None = None
    """Mount: serving pods mount the claim read-only, nothing is copied; for content too large to publish."""
    refresh: Annotated[Duration, K8s(rules=(modelrules.REFRESH_RANGE,))] | None = None
    """Ask the source this often whether the URI means something else now; if so, that is a new revision."""
    dvc_remote: ContentUri | None = None
    """The remote that a `.dvc` pointer at `uri` speaks of."""
    inputs: Tensors | None = None
    """Inputs, overriding what inspection finds."""
    outputs: Tensors | None = None
    """Outputs, overriding what inspection finds."""
