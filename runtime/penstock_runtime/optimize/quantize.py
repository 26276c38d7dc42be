"""INT8 by onnxruntime's own quantizer, after the preparation without which it fails on most exported models."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from penstock_runtime.data import Dataset

from .calibration import Reader
from .files import read_whole, write_tidy
from .policy import Recipe

__all__ = ["prepare_network", "quantize_dynamic", "quantize_static"]

_DENSE = ["MatMul", "Gemm"]
_UNKNOWN = {"DefaultTensorType": onnx.TensorProto.FLOAT}
"""Type of what shape inference cannot see through, such as operators of onnxruntime's own."""


def prepare_network(source: Path, out: Path) -> Any:
    """The model with constants folded, shapes inferred and every node named, written to `out` and returned.

    Shapes that an exporter wrote for weights are dropped: the quantizer transposes a Gemm's weights and then fails on
    the difference. onnxruntime's symbolic inference is left out: it finds no more to quantize, and brings sympy.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415 - it takes a second

    whole = out.with_name("whole.onnx")
    model = read_whole(source)
    del model.graph.value_info[:]
    onnx.save(model, whole)
    with quiet():
        quant_pre_process(whole, out, skip_symbolic_shape=True)
    whole.unlink()
    prepared = onnx.load(out)
    weights = {tensor.name for tensor in prepared.graph.initializer}
    shapes = [value for value in prepared.graph.value_info if value.name not in weights]
    del prepared.graph.value_info[:]
    prepared.graph.value_info.extend(shapes)
    for at, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{at}"
    onnx.save(prepared, out)
    return prepared


def quantize_static(prepared: Path, out: Path, recipe: Recipe, calibration: Dataset) -> Path:
    """QDQ with a scale for each channel of weights and ranges of activations from the calibration data."""
    from onnxruntime import quantization as ort  # noqa: PLC0415 - it takes a second

    signed = ort.QuantType.QInt8
    with quiet():
        ort.quantize_static(
            prepared,
            out,
            Reader(calibration),
            quant_format=ort.QuantFormat.QDQ,
            activation_type=signed if recipe.signed_activations else ort.QuantType.QUInt8,
            weight_type=signed,
            per_channel=True,
            reduce_range=recipe.seven_bits,
            nodes_to_exclude=list(recipe.excluded),
            extra_options={"ActivationSymmetric": recipe.signed_activations, **_UNKNOWN},
        )
    return write_tidy(onnx.load(out), out)


def quantize_dynamic(prepared: Path, out: Path, recipe: Recipe) -> Path:
    """INT8 weights of MatMul and Gemm; ranges of activations are taken at run time."""
    from onnxruntime import quantization as ort  # noqa: PLC0415 - it takes a second

    with quiet():
        ort.quantize_dynamic(
            prepared,
            out,
            op_types_to_quantize=_DENSE,
            weight_type=ort.QuantType.QInt8,
            per_channel=True,
            reduce_range=recipe.seven_bits,
            extra_options=dict(_UNKNOWN),
        )
    return write_tidy(onnx.load(out), out)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantizer's advice, which is for people at a terminal, stays unsaid."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
