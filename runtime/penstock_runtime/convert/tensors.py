"""Types and example values of tensors, between Triton's names, NumPy's and the frameworks'."""

from collections.abc import Sequence

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Tensor

from .case import Array

__all__ = ["example_arrays", "triton_type"]

_NUMPY_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_TRITON_TYPES = {name: triton for triton, name in _NUMPY_TYPES.items()}
_BATCH, _FREE = 2, 8
"""Sizes of free dimensions in examples: the first, and the others; never 0 or 1, which torch exports as fixed."""


def triton_type(name: str) -> str | None:
    """Triton's name of a type, from NumPy's or torch's (`torch.float32`); None where Triton has none."""
    return _TRITON_TYPES.get(name.removeprefix("torch."))


def example_arrays(inputs: Sequence[Tensor], free: int = _FREE, batch: int = _BATCH) -> list[Array]:
    """Seeded example values of declared inputs: `batch` rows where the first dimension is free, `free` elsewhere."""
    generator = np.random.default_rng(0)
    arrays = []
    for index, tensor in enumerate(inputs):
        kind = _NUMPY_TYPES.get(tensor.data_type)
        if kind is None:
            message = (
                f"spec.model.inputs[{index}] is {tensor.data_type}, of which no example can be made; export to ONNX "
                "yourself"
            )
            raise Failure(Reason.INVALID_SPEC, message)
        shape = [size if size != -1 else (batch if at == 0 else free) for at, size in enumerate(tensor.dims)]
        if np.dtype(kind).kind == "f":
            arrays.append(generator.random(shape).astype(kind))
        else:
            arrays.append(generator.integers(0, 2, size=shape).astype(kind))
    return arrays
