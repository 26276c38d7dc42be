"""FP16 weights and arithmetic, with inputs and outputs as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .files import read_whole, write_tidy

__all__ = ["convert_half"]

_LARGEST = float(np.finfo(np.float16).max)


def convert_half(source: Path, out: Path) -> tuple[str, ...]:
    """Write the FP16 model; returns a warning where weights are cut, which the converter does without a word."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - it takes a second

    model = read_whole(source)
    cut = sorted(tensor.name for tensor in model.graph.initializer if _largest(tensor) > _LARGEST)
    write_tidy(convert_float_to_float16(model, keep_io_types=True), out)
    if not cut:
        return ()
    return (f"fp16: {len(cut)} weights have numbers beyond {_LARGEST:.0f}, FP16's largest, and were cut: {cut[0]}",)


def _largest(tensor: Any) -> float:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return 0.0
    values = onnx.numpy_helper.to_array(tensor)
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
