"""What a network computes: where its arithmetic and weights are, which decides how it can be made faster."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from .files import graphs

__all__ = ["Layer", "Network", "read_network"]

_DENSE = ("MatMul", "Gemm")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
_SMALL = 0.01
"""Share of the arithmetic, and of the weights, below which a layer at the edge gains nothing from INT8."""


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with constant FP32 weights: multiplications for one row, number of weights.

    `edge`: it reads an input or writes an output of the network.
    """

    name: str
    operator: str
    multiplications: int
    weights: int
    edge: bool


@dataclass(frozen=True)
class Network:
    """The layers that can be changed, and what else decides: free dimensions count as 1."""

    layers: tuple[Layer, ...]
    opset: int
    quantized: bool
    half: bool
    """Whether weights are FP16 already."""

    @property
    def multiplications(self) -> int:
        """Of all layers, for one row."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def convolutional(self) -> bool:
        """Whether there is a convolution at all."""
        return any(layer.operator == "Conv" for layer in self.layers)

    @property
    def dense_share(self) -> float:
        """Share of the arithmetic that MatMul and Gemm do; 0 where there is none."""
        dense = sum(layer.multiplications for layer in self.layers if layer.operator in _DENSE)
        return dense / self.multiplications if dense else 0.0

    @property
    def small_edges(self) -> tuple[str, ...]:
        """First and last layers too small to gain: converting their numbers to and fro costs more than it saves."""
        weights = sum(layer.weights for layer in self.layers)
        return tuple(
            layer.name
            for layer in self.layers
            if layer.edge and layer.multiplications < _SMALL * self.multiplications and layer.weights < _SMALL * weights
        )


def read_network(model: Any) -> Network:
    """Look into a model whose shapes have been inferred, as far as they could be."""
    shapes = {value.name: _shape(value) for value in _values(model.graph)}
    floats, halves = {}, 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            floats[tensor.name] = tuple(tensor.dims)
        halves += tensor.data_type == onnx.TensorProto.FLOAT16
    edges = {value.name for value in (*model.graph.input, *model.graph.output)}
    layers = tuple(_layers(model.graph.node, floats, shapes, edges))
    operators = {node.op_type for nodes in graphs(model) for node in nodes}
    return Network(
        layers=layers,
        opset=max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0),
        quantized=bool(operators & set(_QUANTIZED)),
        half=halves > 0 and not layers,
    )


def _layers(
    nodes: Iterable[Any],
    floats: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    edges: set[str],
) -> Iterable[Layer]:
    for node in nodes:
        if node.op_type not in ("Conv", *_DENSE) or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            continue
        weights = floats.get(node.input[1])
        if weights is None or len(weights) < 2:
            continue
        places = shapes.get(node.output[0], ())
        repeats = prod(places[2:]) if node.op_type == "Conv" else prod(places[1:-1]) if len(places) > 2 else 1
        edge = node.input[0] in edges or node.output[0] in edges
        yield Layer(node.name, node.op_type, prod(weights) * repeats, prod(weights), edge)


def _values(graph: Any) -> Iterable[Any]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output


def _shape(value: Any) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0 else 1 for dim in dims)
