"""TensorFlow SavedModel: its signature `serving_default` becomes ONNX by tf2onnx. In an image of its own."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tf2onnx

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten

from .case import Array, Arrays, Case, Opened

__all__ = ["open_saved_model"]

_SIGNATURE = "serving_default"
_OPSET = 18
"""The newest that tf2onnx writes."""


def open_saved_model(case: Case) -> Opened:
    """Load the folder; raises Failure."""
    case.progress("loading the SavedModel")
    try:
        loaded = tf.saved_model.load(str(case.path.parent))
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        message = (
            f"TensorFlow {tf.__version__} cannot read the SavedModel: {shorten(str(error), 400)}; upload its whole "
            "folder"
        )
        raise Failure(Reason.INVALID_MODEL, message) from error
    signature = _signature(loaded)
    specs = list(signature.structured_input_signature[1].values())
    names = list(signature.structured_input_signature[1])
    outputs = sorted(signature.structured_outputs)

    def export(path: Path, owner: Any = loaded) -> None:
        assert owner is not None, "variables end with the object that loaded them"
        specified = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in zip(names, specs, strict=True)]

        @tf.function(input_signature=specified)  # type: ignore[untyped-decorator]  # TensorFlow is not followed
        def call(*arguments: Any) -> dict[str, Any]:
            found = signature(**dict(zip(names, arguments, strict=True)))
            return {name: tf.identity(found[name], name=name) for name in outputs}

        model, _ = tf2onnx.convert.from_function(call, input_signature=specified, opset=_OPSET)
        _rename(model.graph, names, outputs)
        path.write_bytes(model.SerializeToString())

    def answer(arrays: Arrays, owner: Any = loaded) -> dict[str, Array]:
        assert owner is not None
        given = {name: tf.constant(arrays[name], dtype=spec.dtype) for name, spec in zip(names, specs, strict=True)}
        found = signature(**given)
        return {name: np.asarray(found[name].numpy()) for name in outputs}

    return Opened(export, answer, ("tensorflow-cpu", "tensorflow", "tf2onnx", "onnx"))


def _signature(loaded: Any) -> Any:
    found = getattr(loaded, "signatures", {})
    if _SIGNATURE not in found:
        message = (
            f"the SavedModel has the signatures {', '.join(found) or 'none'}; save it with one called {_SIGNATURE}"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return found[_SIGNATURE]


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """The signature's own names, in its order, for what tf2onnx calls otherwise."""
    names = dict(zip((item.name for item in graph.input), inputs, strict=True))
    names |= dict(zip((item.name for item in graph.output), outputs, strict=True))
    taken = {name for node in graph.node for name in (*node.input, *node.output)} - set(names)
    if taken & set(names.values()):
        return
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_param = "batch"
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
