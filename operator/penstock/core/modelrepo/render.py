"""The config.pbtxt of one model, from what inspection proved and how it is to be served."""

import json

from google.protobuf import json_format

from penstock.api.facts import ModelFacts, Tensor

from .proto import ModelConfig, new_config
from .settings import ServerSettings

__all__ = ["render_config"]

_BACKENDS = {"ONNX": "onnxruntime"}


def render_config(facts: ModelFacts, served_name: str, server: ServerSettings) -> ModelConfig:
    """The complete config of a model that Penstock serves by itself.

    It says everything that Triton would otherwise guess, above all the instance count (onnxruntime makes two on a CPU)
    and the threads (the host's cores, not the container's). Raises ValueError for a TritonRepository, which is served
    as it is, and for extra fields that `check_extra` refuses.
    """
    if facts.format not in _BACKENDS:
        raise ValueError(f"a model of format {facts.format} brings its own config.pbtxt")
    config = new_config()
    config.name = served_name
    config.backend = _BACKENDS[facts.format]
    config.max_batch_size = server.max_batch_size
    _add_tensors(config.input, facts.inputs, server)
    _add_tensors(config.output, facts.outputs, server)
    _add_instances(config, server)
    if server.dynamic:
        _add_scheduler(config.dynamic_batching, server)
    if server.cache_bytes:
        config.response_cache.enable = True
    if server.warmup:
        _add_warmup(config)
    return _merge_extra(config, server)


def _add_tensors(fields: ModelConfig, tensors: tuple[Tensor, ...], server: ServerSettings) -> None:
    for tensor in tensors:
        dims = tensor.dims[1:] if server.max_batch_size else tensor.dims
        field = fields.add(name=tensor.name, data_type=f"TYPE_{tensor.data_type}", dims=dims or (1,))
        if not dims:
            field.reshape.SetInParent()


def _add_instances(config: ModelConfig, server: ServerSettings) -> None:
    config.instance_group.add(kind=f"KIND_{server.kind}", count=server.instances)
    config.parameters["intra_op_thread_count"].string_value = str(server.threads)
    config.parameters["inter_op_thread_count"].string_value = "1"


def _add_scheduler(batching: ModelConfig, server: ServerSettings) -> None:
    batching.preferred_batch_size.extend(server.preferred_batch_sizes)
    batching.max_queue_delay_microseconds = server.max_queue_delay_us
    policy = batching.default_queue_policy
    policy.max_queue_size = server.max_queue_size
    policy.default_timeout_microseconds = server.queue_timeout_us


def _add_warmup(config: ModelConfig) -> None:
    """One request of zeros per instance, a single row, so that the first real request finds everything allocated.

    A free dimension is made 1. A tensor with several free ones is an image more often than not, and a picture of one
    pixel is refused by many networks: such a model gets no warm-up rather than a start that fails.
    """
    if not config.input or any(sum(size < 0 for size in tensor.dims) > 1 for tensor in config.input):
        return
    warmup = config.model_warmup.add(name="penstock", batch_size=1 if config.max_batch_size else 0)
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
