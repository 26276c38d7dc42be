"""`.keras`: a Keras 3 model, run and exported by its torch backend. Nothing of TensorFlow is needed."""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten

from .case import Case, Opened
from .torchonnx import failed, open_program, quiet

os.environ["KERAS_BACKEND"] = "torch"

import keras

__all__ = ["open_keras"]

_SIZES = (2, 8)
"""Rows, and sizes of other free dimensions, of the example by which the model is traced."""


class _Flat(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """A Keras model that takes its inputs one by one and answers with a list."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> list[Any]:
        """Answers in the order of the model's outputs."""
        inputs = list(arguments) if len(arguments) > 1 else arguments[0]
        return list(keras.tree.flatten(self.model(inputs, training=False)))


def open_keras(case: Case) -> Opened:
    """Load the model without running code of the file, and trace it; raises Failure."""
    case.progress("loading the Keras model")
    model = _load(case)
    inputs = _inputs(model)
    examples, shapes = _examples(inputs)
    case.progress("exporting the Keras model")
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(_Flat(model).eval(), examples, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        raise failed("torch cannot export this Keras model", error) from error
    names = _told([str(item.name) for item in inputs], "input")
    keys = _told([str(name) for name in getattr(model, "output_names", ("",) * len(model.outputs))], "output")
    opened = open_program(case, program, names=names, keys=keys)
    return Opened(opened.export, opened.answer, ("keras", *opened.tools), opened.warnings)


def _load(case: Case) -> Any:
    try:
        with quiet():
            return keras.saving.load_model(case.path, compile=False, safe_mode=case.asked.trust != "Code")
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        text = shorten(str(error), 400)
        if "safe_mode" in text or "unsafe" in text.lower():
            message = (
                f"{case.found.path} holds Python code (a Lambda layer), which was not run; write the layer as a class "
                f"of Keras, or set trust: Code: {text}"
            )
            raise Failure(Reason.CODE_NOT_TRUSTED, message) from error
        message = f"Keras {keras.__version__} cannot read {case.found.path}: {text}"
        raise Failure(Reason.INVALID_MODEL, f"{message}; it must be made of Keras's own layers") from error


def _inputs(model: Any) -> Sequence[Any]:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        message = (
            "the Keras model was saved before it knew its input's shape; give it an Input layer, or call it once, and "
            "save it again"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return list(inputs)


def _told(names: list[str], kind: str) -> list[str]:
    """The names that a person gave; Keras numbers the others through, differently in every process."""
    if all(name and not re.match(r"^keras_tensor(_\d+)?$", name) for name in names):
        return names
    return [kind] if len(names) == 1 else [f"{kind}_{index}" for index in range(len(names))]


def _examples(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[dict[int, Any], ...]]:
    rows, free = _SIZES
    examples, shapes = [], []
    for item in inputs:
        sizes = [size or (rows if at == 0 else free) for at, size in enumerate(item.shape)]
        kind = getattr(torch, keras.backend.standardize_dtype(item.dtype))
        examples.append(torch.zeros(sizes, dtype=kind))
        dynamic = torch.export.Dim.DYNAMIC
        shapes.append({at: dynamic for at, size in enumerate(item.shape) if size is None})
    return tuple(examples), tuple(shapes)
