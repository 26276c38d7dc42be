"""Triton's ModelConfig schema, and config.pbtxt text in both directions.

The schema is the one NVIDIA compiles into `tritonclient`. Its package imports numpy and gRPC when touched, a second of
start-up and 40 MiB that neither the operator nor the command line need, so the one generated module is loaded by file;
it is registered under its own name, and a later `import tritonclient.grpc` finds it there.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format

from . import textreader, textwriter

__all__ = [
    "ConfigSyntaxError",
    "ModelConfig",
    "config_text",
    "new_config",
    "parse_config",
    "parse_version",
    "schema",
    "unavailable_fields",
]

_MODULE = "tritonclient.grpc.model_config_pb2"
ModelConfig: TypeAlias = Any
"""A protobuf message of the type `inference.ModelConfig`; generated code carries no types."""

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(\.[0-9]{1,4})?")
_SINCE = {
    "model_metrics": (2, 52),
    "ensemble_scheduling.max_inflight_requests": (2, 64),
}
"""Fields that servers before this version do not know: they refuse the whole file over one of them."""


def _load_schema() -> Any:
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise ImportError("tritonclient is not installed; it holds the schema of config.pbtxt")
    file = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded; reinstall tritonclient")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


schema: Any = _load_schema()
"""The generated module: message classes and enum values by name."""


class ConfigSyntaxError(ValueError):
    """Text that is not a ModelConfig; `line` and `column` count from 1, 0 where the place is unknown."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def new_config() -> ModelConfig:
    """An empty ModelConfig."""
    return schema.ModelConfig()


def config_text(config: ModelConfig) -> str:
    """The text of config.pbtxt: fields in schema order, map keys sorted, so equal configs give equal bytes."""
    try:
        return textwriter.write(config)
    except textwriter.NotWritten:
        text: str = text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
        return text


def parse_config(text: str) -> ModelConfig:
    """The config in a text; raises ConfigSyntaxError with line and column.

    Almost all texts are read by our own reader, ten times faster than protobuf's. Whatever it does not take is judged
    by protobuf's, whose verdict and wording stand.
    """
    config = new_config()
    try:
        textreader.read(text, config)
    except textreader.NotRead:
        config = new_config()
        try:
            text_format.Parse(text, config)
        except text_format.ParseError as error:
            line, column = error.GetLine() or 0, error.GetColumn() or 0
            detail = str(error).removeprefix(f"{line}:{column}").lstrip(" :")
            raise ConfigSyntaxError(detail, line, column) from None
    return config


def unavailable_fields(config: ModelConfig, version: str) -> list[tuple[str, str]]:
    """Fields that are set but unknown to this server version, as (path, first version that knows it).

    Raises ValueError for a text that is not a version.
    """
    server = parse_version(version)
    return [
        (path, "{}.{}".format(*since)) for path, since in _SINCE.items() if since > server and _is_set(config, path)
    ]


def _is_set(message: Any, path: str) -> bool:
    name, _, rest = path.partition(".")
    field = message.DESCRIPTOR.fields_by_name[name]
    if rest:
        return bool(message.HasField(name)) and _is_set(getattr(message, name), rest)
    return bool(message.HasField(name) if field.has_presence else getattr(message, name))


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor of a Triton version such as `2.51` or `2.51.0`; raises ValueError."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a Triton version; write it like 2.51")
    return int(match[1]), int(match[2])
