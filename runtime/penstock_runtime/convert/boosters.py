"""XGBoost and LightGBM: gradient boosted trees, read from their own text or binary formats, which hold data alone."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten

from .case import Array, Arrays, Case, Opened

__all__ = ["open_booster", "open_lightgbm", "open_xgboost", "write"]

_INPUT, _LABEL, _PROBABILITIES, _VALUE = "X", "label", "probabilities", "variable"
_OPSET = 15
"""The newest that onnxmltools writes trees for; its nodes have not changed since."""


def open_xgboost(case: Case) -> Opened:
    """Load a model in JSON or UBJ, told apart by content; raises Failure."""
    case.progress("loading the XGBoost model")
    content = case.content if case.content is not None else case.path.read_bytes()
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        message = f"XGBoost {xgboost.__version__} cannot read {case.found.path}: {shorten(str(error), 400)}"
        raise Failure(Reason.INVALID_MODEL, f"{message}; save it again with save_model") from error
    return _open_xgboost(case, booster)


def open_lightgbm(case: Case) -> Opened:
    """Load a model in LightGBM's text; raises Failure."""
    case.progress("loading the LightGBM model")
    content = case.content if case.content is not None else case.path.read_bytes()
    try:
        booster = lightgbm.Booster(model_str=content.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        message = f"LightGBM {lightgbm.__version__} cannot read {case.found.path}: {shorten(str(error), 400)}"
        raise Failure(Reason.INVALID_MODEL, f"{message}; save it again with save_model") from error
    return _open_lightgbm(case, booster)


def open_booster(case: Case, model: Any) -> Opened | None:
    """A booster that was unpickled, or an estimator around one whose labels are its own numbers; otherwise None."""
    classes = getattr(model, "classes_", None)
    if classes is not None and not np.array_equal(classes, np.arange(len(classes))):
        return None
    if isinstance(model, (xgboost.XGBModel, xgboost.Booster)):
        return _open_xgboost(case, model if isinstance(model, xgboost.Booster) else model.get_booster())
    if isinstance(model, (lightgbm.LGBMModel, lightgbm.Booster)):
        return _open_lightgbm(case, model if isinstance(model, lightgbm.Booster) else model.booster_)
    return None


def _open_xgboost(case: Case, booster: Any) -> Opened:
    objective = str(json.loads(booster.save_config())["learner"]["objective"]["name"])
    name = _input_name(case)
    features = int(booster.num_features())
    # the names of a table's columns, which a matrix does not have
    booster.feature_names, booster.feature_types = None, None
    if objective in ("binary:hinge", "binary:logitraw", "multi:softmax"):
        message = (
            f"the XGBoost objective {objective} answers no probabilities; train with binary:logistic or "
            "multi:softprob, or write convert: Never"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    is_classifier = objective.startswith(("binary:", "multi:"))

    def export(path: Path) -> None:
        kinds = [(name, FloatTensorType([None, features]))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(
                convert_xgboost(booster, initial_types=kinds, target_opset=_OPSET),
                path,
                _shapes(name, features, is_classifier=is_classifier),
            )

    def answer(arrays: Arrays) -> dict[str, Array]:
        found = booster.predict(xgboost.DMatrix(_matrix(arrays)))
        return _answers(found, is_classifier=is_classifier)

    return Opened(export, answer, ("xgboost-cpu", "xgboost", "onnxmltools", "onnx"))


def _open_lightgbm(case: Case, booster: Any) -> Opened:
    head = booster.model_to_string(num_iteration=1)
    objective = next(
        (line.removeprefix("objective=") for line in head.splitlines() if line.startswith("objective=")), ""
    )
    name, features = _input_name(case), int(booster.num_feature())
    is_classifier = objective.startswith(("binary", "multiclass", "multiclassova", "cross_entropy"))

    def export(path: Path) -> None:
        kinds = [(name, FloatTensorType([None, features]))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = convert_lightgbm(booster, initial_types=kinds, target_opset=_OPSET, zipmap=False)
        write(made, path, _shapes(name, features, is_classifier=is_classifier))

    def answer(arrays: Arrays) -> dict[str, Array]:
        return _answers(np.asarray(booster.predict(_matrix(arrays))), is_classifier=is_classifier)

    return Opened(export, answer, ("lightgbm", "onnxmltools", "onnx"))


def _matrix(arrays: Arrays) -> Array:
    """The one input, whatever it is called."""
    (rows,) = arrays.values()
    return np.asarray(rows, np.float32)


def _answers(found: Array, *, is_classifier: bool) -> dict[str, Array]:
    """As the converted model names and shapes them: label and probabilities of all classes, or one value a row."""
    if not is_classifier:
        return {_VALUE: found.reshape(len(found), -1).astype(np.float32)}
    probabilities = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
    labels = np.argmax(probabilities, axis=1) if found.ndim > 1 else found > 0.5
    return {_LABEL: labels.astype(np.int64), _PROBABILITIES: probabilities.astype(np.float32)}


def _shapes(name: str, features: int, *, is_classifier: bool) -> dict[str, tuple[int | str, ...]]:
    inputs: dict[str, tuple[int | str, ...]] = {name: ("batch", features)}
    return inputs | ({_LABEL: ("batch",)} if is_classifier else {_VALUE: ("batch", 1)})


def _input_name(case: Case) -> str:
    asked = case.asked.inputs
    return asked[0].name if len(asked) == 1 else _INPUT


def write(model: Any, path: Path, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Write a converter's model with its first dimensions named `batch`, and shapes that it leaves out or has wrong."""
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        if value.name in shapes:
            del shape.dim[:]
            for size in shapes[value.name]:
                dim = shape.dim.add()
                if isinstance(size, str):
                    dim.dim_param = size
                else:
                    dim.dim_value = size
        elif shape.dim and not shape.dim[0].dim_value:
            shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString())
