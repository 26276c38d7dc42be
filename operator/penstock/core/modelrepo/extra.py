"""`spec.server.config`: extra fields of Triton's ModelConfig, checked before they are merged.

Only what Penstock does not decide by itself may be set. Every refusal names the path as the user wrote it.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from .backends import Backend
from .names import unsafe_name
from .problems import Problem
from .proto import new_config, schema, unavailable_fields
from .settings import ServerSettings

__all__ = ["check_extra"]

_ROOT = "spec.server.config"
_OWN_REPOSITORY = "serve a Triton repository of your own for that (spec.model.format: TritonRepository)"
_OWNED = {
    "name": "it is spec.model.servedName",
    "platform": "it follows from the model's format",
    "backend": "it follows from the model's format",
    "runtime": "it follows from the model's format",
    "default_model_filename": "it follows from the model's format",
    "version_policy": "every revision is version 1; a change of model is a new revision",
    "max_batch_size": "use spec.server.batching.maxBatchSize",
    "input": "use spec.model.inputs",
    "output": "use spec.model.outputs",
    "instance_group": "use spec.server.instances",
    "response_cache": "use spec.server.responseCache",
    "sequence_batching": _OWN_REPOSITORY,
    "ensemble_scheduling": _OWN_REPOSITORY,
    "batch_input": _OWN_REPOSITORY,
    "batch_output": _OWN_REPOSITORY,
    "cc_model_filenames": _OWN_REPOSITORY,
    "model_operations": "it names libraries that the server would load",
    "model_repository_agents": "it names libraries that the server would load",
    "model_transaction_policy": "no model of this format answers a request more than once",
    "dynamic_batching.preferred_batch_size": "use spec.server.batching.preferredBatchSizes",
    "dynamic_batching.max_queue_delay_microseconds": "use spec.server.batching.maxQueueDelay",
    "dynamic_batching.default_queue_policy.max_queue_size": "use spec.server.batching.maxQueueSize",
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": "use spec.server.batching.queueTimeout",
    "model_warmup.inputs.input_data_file": "no file stands beside the model; use zero_data or random_data",
}
_LARGEST = sys.float_info.max
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def check_extra(settings: ServerSettings, backend: Backend) -> tuple[Problem, ...]:
    """Everything wrong with `spec.server.config`; empty when it can be merged."""
    extra = json.loads(settings.config)
    if not extra:
        return ()
    problems = [*_Fields(backend).check_fields(extra, schema.ModelConfig.DESCRIPTOR, _ROOT, "")]
    if problems:
        return tuple(problems)
    if "dynamic_batching" in extra and not settings.dynamic:
        message = "this server does no dynamic batching: that needs proven batching and two instances"
        return (Problem(f"{_ROOT}.dynamic_batching", "extra-field", message),)
    return tuple(_check_merged(extra, settings))


def _check_merged(extra: dict[str, Any], settings: ServerSettings) -> Iterator[Problem]:
    config = new_config()
    try:
        json_format.ParseDict(extra, config)
    except json_format.ParseError as error:
        yield Problem(_ROOT, "extra-value", f"not a part of a ModelConfig: {error}")
        return
    for path, since in unavailable_fields(config, settings.server_version):
        message = f"Triton {settings.server_version} does not know this field, {since} is the first that does"
        yield Problem(f"{_ROOT}.{path}", "field-unavailable", message)


class _Fields:
    """Walks through a part of a ModelConfig, field by field."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def check_fields(self, value: Any, message: Descriptor, path: str, fields: str) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            expected = f"an object with fields of {message.name}"
            yield Problem(path, "extra-value", f"{_show(value)} was given, {expected} goes here")
            return
        for key in sorted(value):
            here, name = f"{path}.{key}", f"{fields}{key}"
            field = message.fields_by_name.get(key)
            if field is None:
                yield Problem(here, "extra-field", f"Triton's {message.name} has no field of this name")
            elif name in _OWNED:
                yield Problem(here, "extra-owned", f"this field cannot be set here: {_OWNED[name]}")
            else:
                yield from self.check_field(value[key], field, here, name)

    def check_field(self, value: Any, field: FieldDescriptor, path: str, name: str) -> Iterator[Problem]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from self.check_map(value, field, path, name)
        elif not field.is_repeated:
            yield from self.check_value(value, field, path, name)
        elif not isinstance(value, list):
            yield Problem(path, "extra-value", f"{_show(value)} was given, a list goes here")
        else:
            for index, item in enumerate(value):
                yield from self.check_value(item, field, f"{path}[{index}]", name)

    def check_map(self, value: Any, field: FieldDescriptor, path: str, name: str) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            yield Problem(path, "extra-value", f"{_show(value)} was given, an object goes here")
            return
        inner = field.message_type.fields_by_name["value"]
        for key in sorted(value):
            here = f"{path}[{key!r}]"
            owned = self.owned(name, key)
            if owned:
                yield Problem(here, "extra-owned", f"this field cannot be set here: {owned}")
            elif name == "parameters" and key not in self._backend.parameters:
                known = ", ".join(sorted(self._backend.parameters))
                sentence = f"not a parameter of the {self._backend.name} backend; those are {known}"
                yield Problem(here, "extra-parameter", sentence)
            elif name == "metric_tags" and unsafe_name(key):
                yield Problem(here, "unsafe-name", f"a metric tag's name {unsafe_name(key)}")
            else:
                yield from self.check_value(value[key], inner, here, name)

    def owned(self, name: str, key: str) -> str | None:
        if name != "parameters":
            return _OWNED.get(f"{name}.{key}")
        if key == self._backend.threads:
            return "use spec.server.instances.threads"
        if key in self._backend.fixed:
            return f"Penstock sets it to {self._backend.fixed[key]}; spec.server.instances says what runs at once"
        return self._backend.owned.get(key)

    def check_value(self, value: Any, field: FieldDescriptor, path: str, name: str) -> Iterator[Problem]:
        kind = field.cpp_type
        if field.message_type is not None:
            yield from self.check_fields(value, field.message_type, path, f"{name}.")
        elif kind == FieldDescriptor.CPPTYPE_ENUM:
            names = [item.name for item in field.enum_type.values]
            if value not in names:
                yield Problem(path, "extra-value", f"{_show(value)} was given, one of {', '.join(names)} goes here")
        elif kind == FieldDescriptor.CPPTYPE_BOOL:
            if not isinstance(value, bool):
                yield Problem(path, "extra-value", f"{_show(value)} was given, true or false goes here")
        elif kind == FieldDescriptor.CPPTYPE_STRING:
            yield from _check_string(value, path)
        elif kind in _INTEGERS:
            low, high = _INTEGERS[kind]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                yield Problem(
                    path, "extra-value", f"{_show(value)} was given, an integer from {low} to {high} goes here"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            yield Problem(path, "extra-value", f"{_show(value)} was given, a number goes here")


def _check_string(value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(path, "extra-value", f"{_show(value)} was given, a string goes here; quote it")
    elif not value.isprintable() or len(value) > 1024:
        yield Problem(path, "extra-value", "a string of at most 1024 printable characters goes here")


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
