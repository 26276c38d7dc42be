"""The config.pbtxt of one model, from what inspection proved and how it is to be served."""

import json

from google.protobuf import json_format

from penstock.api.facts import ModelFacts, Tensor

from .backends import Backend, backend_of
from .proto import ModelConfig, new_config
from .settings import ServerSettings

__all__ = ["render_config"]

_THRESHOLD = "0.5"
"""Of binary classifiers that answer with a class; newer fil backends refuse a classifier without it."""


def render_config(facts: ModelFacts, served_name: str, server: ServerSettings) -> ModelConfig:
    """The complete config of a model that Penstock serves by itself.

    It says everything that Triton would otherwise guess, above all the instance count (onnxruntime makes two on a CPU)
    and the threads (the host's cores, not the container's). Raises ValueError for a TritonRepository, which is served
    as it is, and for extra fields that `check_extra` refuses.
    """
    backend = backend_of(facts)
    if backend is None:
        raise ValueError(f"a model of format {facts.format} brings its own config.pbtxt")
    config = new_config()
    config.name = served_name
    config.backend = backend.name
    config.max_batch_size = server.max_batch_size
    _add_tensors(config.input, facts.inputs, server)
    _add_tensors(config.output, facts.outputs, server)
    config.instance_group.add(kind=f"KIND_{server.kind}", count=server.instances)
    for key, value in _parameters(backend, facts, server).items():
        config.parameters[key].string_value = value
    if server.dynamic:
        _add_scheduler(config.dynamic_batching, server)
    if server.cache_bytes:
        config.response_cache.enable = True
    if server.warmup:
        _add_warmup(config, backend.warmup_count)
    return _merge_extra(config, server)


def _add_tensors(fields: ModelConfig, tensors: tuple[Tensor, ...], server: ServerSettings) -> None:
    for tensor in tensors:
        dims = tensor.dims[1:] if server.max_batch_size else tensor.dims
        field = fields.add(name=tensor.name, data_type=f"TYPE_{tensor.data_type}", dims=dims or (1,))
        if not dims:
            field.reshape.SetInParent()


def _parameters(backend: Backend, facts: ModelFacts, server: ServerSettings) -> dict[str, str]:
    found = dict(backend.fixed)
    if backend.threads:
        found[backend.threads] = str(server.threads)
    if backend.batches == "Never" and server.max_batch_size:
        found["ENABLE_BATCH_PADDING"] = "YES"
    if facts.forest:
        found["model_type"] = facts.forest.model_type
        classifies = facts.forest.classes > 0
        found["is_classifier"] = found["output_class"] = _yes(classifies)
        found["predict_proba"] = _yes(classifies and facts.outputs[0].dims[-1] == facts.forest.classes)
        if classifies:
            found["threshold"] = _THRESHOLD
    return found


def _yes(value: bool) -> str:  # noqa: FBT001 - the word for it
    return "true" if value else "false"


def _add_scheduler(batching: ModelConfig, server: ServerSettings) -> None:
    batching.preferred_batch_size.extend(server.preferred_batch_sizes)
    batching.max_queue_delay_microseconds = server.max_queue_delay_us
    policy = batching.default_queue_policy
    policy.max_queue_size = server.max_queue_size
    policy.default_timeout_microseconds = server.queue_timeout_us


def _add_warmup(config: ModelConfig, count: int) -> None:
    """A request of zeros per instance, a single row, so that the first real request finds everything allocated.

    `count` says how often where once is not enough: TorchScript optimizes what its first runs have shown it.

    A free dimension is made 1. A tensor with several free ones is an image more often than not, and a picture of one
    pixel is refused by many networks: such a model gets no warm-up rather than a start that fails.
    """
    if not config.input or any(sum(size < 0 for size in tensor.dims) > 1 for tensor in config.input):
        return
    warmup = config.model_warmup.add(name="penstock", batch_size=1 if config.max_batch_size else 0, count=count)
    for tensor in config.input:
        sample = warmup.inputs[tensor.name]
        sample.data_type = tensor.data_type
        sample.dims.extend(1 if size < 0 else size for size in tensor.dims)
        sample.zero_data = True


def _merge_extra(config: ModelConfig, server: ServerSettings) -> ModelConfig:
    extra = json.loads(server.config)
    if not extra:
        return config
    addition = new_config()
    try:
        json_format.ParseDict(extra, addition)
    except json_format.ParseError as error:
        raise ValueError(f"spec.server.config: {error}") from error
    if addition.model_warmup:
        del config.model_warmup[:]
    config.MergeFrom(addition)
    return config
