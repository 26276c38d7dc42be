"""Tiny networks with seeded weights, made with nothing but onnx, for the tests of optimization."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock_runtime.data import Dataset


def conv_network(*, channels: int = 16, opset: int = 20, names: bool = True) -> Any:
    """Two convolutions over `image [n, 1, 8, 8]` and a Gemm to ten `logits`."""
    weights = {
        "w1": (channels, 1, 3, 3), "b1": (channels,), "w2": (channels, channels, 3, 3), "b2": (channels,),
        "w3": (10, channels * 16), "b3": (10,),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="second", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("MaxPool", ["r2"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], name="last", transB=1),
    ]
    return _model(nodes, weights, ("image", ["n", 1, 8, 8]), ("logits", ["n", 10]), opset, names=names)


def dense_network(*, width: int = 64, opset: int = 20) -> Any:
    """MatMul, Relu, MatMul over `rows [n, width]`."""
    nodes = [
        helper.make_node("MatMul", ["rows", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="last"),
    ]
    weights = {"w1": (width, width), "w2": (width, width)}
    return _model(nodes, weights, ("rows", ["n", width]), ("y", ["n", width]), opset)


def vision_transformer() -> Any:
    """A patch convolution with a small share of the arithmetic, then MatMuls."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], name="patch", kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["c"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w2"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w3"], ["y"], name="last"),
    ]
    weights = {"w1": (8, 1, 4, 4), "b1": (8,), "w2": (32, 256), "w3": (256, 64)}
    return _model(nodes, weights, ("image", ["n", 1, 8, 8]), ("y", ["n", 64]), 20)


def sums() -> Any:
    """No layer with weights at all."""
    nodes = [helper.make_node("Add", ["rows", "rows"], ["y"], name="add")]
    return _model(nodes, {}, ("rows", ["n", 4]), ("y", ["n", 4]), 20)


def save(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def images(rows: int = 64, scale: float = 16.0, seed: int = 1) -> Dataset:
    pixels = np.random.default_rng(seed).random((rows, 1, 8, 8)).astype(np.float32) * scale
    return Dataset({"image": pixels}, None, rows)


def _model(nodes: Any, weights: Any, taken: Any, given: Any, opset: int, *, names: bool = True) -> Any:
    generator = np.random.default_rng(7)
    tensors = [
        numpy_helper.from_array(
            (generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32), name
        )
        for name, shape in weights.items()
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (taken, given)]
    if not names:
        for node in nodes:
            node.name = ""
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}
