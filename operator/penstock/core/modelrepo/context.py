"""Context: what is known around a config.pbtxt when it is checked; the more is known, the more can be checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from .onnxfile import OnnxSignature
from .proto import ModelConfig

__all__ = ["Context", "ModelFile"]

_SERVER_VERSION = "2.51"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file below a model's directory: its size in bytes, and where it could be looked into, what it declares.

    `onnx` is the signature of an ONNX file, or the sentence that says why it is not one.
    """

    size: int
    onnx: OnnxSignature | str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """None means unknown everywhere: rules that need it then keep silent.

    `files` are paths relative to the model's directory, folders ending in `/`; `models` are the configs of the whole
    repository by directory name. `cache` and `rate_limit` tell whether the server has them on, `gpus` how many it sees.
    `backends` are installed besides Triton's own. `auto_complete` tells that the server fills in what
    configs leave out, which Penstock's never do. `strict` makes errors of what Triton accepts and misreads; it is set
    for what Penstock renders itself.
    """

    directory: str | None = None
    files: Mapping[str, ModelFile] | None = None
    models: Mapping[str, ModelConfig] | None = None
    server_version: str = _SERVER_VERSION
    cache: bool | None = None
    rate_limit: bool | None = None
    gpus: int | None = None
    backends: frozenset[str] = frozenset()
    auto_complete: bool = False
    strict: bool = False
