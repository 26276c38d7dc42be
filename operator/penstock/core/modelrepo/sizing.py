"""How much memory and shared memory a server with a model needs.

Measured on Triton 2.51 with Python-based backends (the larger of the two flavours): idle server 38-44 MiB; one instance
70 MiB with a small MLP, 205 MiB with ResNet-18 (45 MiB of weights), 384 MiB after a batch of 32; shared memory 1 MiB
per instance at idle, growing to the largest batch in flight and never shrinking.
"""

from collections.abc import Iterable

from penstock.api.facts import ModelFacts, Tensor

from .backends import backend_of
from .settings import ServerSettings

__all__ = ["MIB", "content_bytes", "memory_bytes", "shm_bytes"]

MIB = 1 << 20
_SERVER = 64 * MIB
_INSTANCE = 70 * MIB
_INSTANCE_OF = {"pytorch": 256 * MIB, "openvino": 128 * MIB, "tensorrt": 1024 * MIB}
"""Where one instance is more than that: libtorch, OpenVINO's compiler, a CUDA context."""
_CLIENT_ROWS = 32
"""Of a batch that a client sends to a model that Triton does not batch."""
_WEIGHTS = 5  # halves: the file's size 2.5 times, for the weights, the optimised graph and the arena
_SHM_BASE = 64 * MIB
_SHM_PER_MODEL = 64 * MIB
_FREE_DIMENSION = 256
_STRING_ELEMENT = 256
_ELEMENT_BYTES = {
    "BOOL": 1, "UINT8": 1, "INT8": 1,
    "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
    "UINT32": 4, "INT32": 4, "FP32": 4,
    "UINT64": 8, "INT64": 8, "FP64": 8,
    "STRING": _STRING_ELEMENT,
}  # fmt: skip


def content_bytes(facts: ModelFacts) -> int:
    """Bytes of the files that are served, wherever they are."""
    return facts.mount.size_bytes if facts.mount else facts.artifact.size_bytes


def shm_bytes(facts: ModelFacts, settings: ServerSettings) -> int:
    """Size of /dev/shm in bytes: 64 MiB + instances x largest batch x (input + output bytes of a row) x 1.5.

    A free dimension counts as 256, a string as 256 bytes. The tensors of a repository served as it is are unknown:
    it gets 64 MiB per model on top. /dev/shm counts against the container's memory limit.
    """
    if facts.format == "TritonRepository":
        return _SHM_BASE + _SHM_PER_MODEL * max(1, len(facts.models))
    row = _row_bytes((*facts.inputs, *facts.outputs), batched=facts.batching)
    backend = backend_of(facts)
    unbatched = _CLIENT_ROWS if backend and backend.batches == "Never" and facts.batching else 1
    flight = settings.instances * (settings.max_batch_size or unbatched) * row * 3 // 2
    return _round_up(_SHM_BASE + flight, MIB)


def memory_bytes(facts: ModelFacts, settings: ServerSettings) -> int:
    """Default memory limit in bytes, a multiple of 64 MiB.

    64 MiB for the server + instances x (70 MiB, of larger backends more, + 2.5 x the model's size) + shared memory +
    response cache. Of a
    repository served as it is, two instances of every model are assumed, and the whole content as each one's weights.
    """
    instances, size, backend = settings.instances, content_bytes(facts), backend_of(facts)
    if backend is None:
        fixed, copies = 2 * max(1, len(facts.models)) * _INSTANCE, 2
    else:
        fixed, copies = instances * _INSTANCE_OF.get(backend.name, _INSTANCE), instances
    weights = copies * size * _WEIGHTS // 2
    total = _SERVER + fixed + weights + shm_bytes(facts, settings) + settings.cache_bytes
    return _round_up(total, 64 * MIB)


def _row_bytes(tensors: Iterable[Tensor], *, batched: bool) -> int:
    total = 0
    for tensor in tensors:
        elements = 1
        for dimension in tensor.dims[1:] if batched else tensor.dims:
            elements *= dimension if dimension >= 0 else _FREE_DIMENSION
        total += elements * _ELEMENT_BYTES[tensor.data_type]
    return total


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
