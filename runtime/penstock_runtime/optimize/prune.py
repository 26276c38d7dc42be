"""Unstructured pruning: the smallest weights of each layer become zero. Files compress better; nothing gets faster."""

from pathlib import Path

import numpy as np
import onnx

from .files import read_whole, write_tidy

__all__ = ["prune"]

_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def prune(source: Path, out: Path, amount: float) -> float:
    """Write the model with that share of each layer's weights set to zero; returns the share over all of them."""
    model = read_whole(source)
    weights = {node.input[1] for node in model.graph.node if node.op_type in _LAYERS and len(node.input) > 1}
    zeros = total = 0
    for tensor in model.graph.initializer:
        if tensor.name not in weights or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = onnx.numpy_helper.to_array(tensor).copy()
        count = round(amount * values.size)
        smallest = np.argsort(np.abs(values), axis=None, kind="stable")[:count]
        values.reshape(-1)[smallest] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        zeros, total = zeros + int(np.count_nonzero(values == 0)), total + values.size
    write_tidy(model, out)
    return zeros / total if total else 0.0
