"""scikit-learn: estimators and pipelines saved by skops, or by pickle and joblib where their author is trusted."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import skops.io
import xgboost
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int32TensorType,
    Int64TensorType,
    StringTensorType,
)
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.base import is_classifier, is_outlier_detector, is_regressor

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.finding import Tensor

from . import boosters
from .case import Array, Arrays, Case, Opened
from .finish import OPSETS

__all__ = ["open_estimator"]

_TYPES = {
    "FP32": FloatTensorType, "FP64": DoubleTensorType, "INT64": Int64TensorType, "INT32": Int32TensorType,
    "STRING": StringTensorType, "BOOL": BooleanTensorType,
}  # fmt: skip
_OWN_TYPES = re.compile(
    r"^(sklearn\.(tree\._tree\.Tree|neighbors\._(kd|ball)_tree\.\w+|metrics\._dist_metrics\.\w+"
    r"|ensemble\._hist_gradient_boosting\.\w+\.\w+|_loss\.\w+\.\w+|linear_model\._sgd_fast\.\w+)"
    r"|xgboost\.(core\.Booster|sklearn\.XGB\w+)|lightgbm\.(basic\.Booster|sklearn\.LGBM\w+)|collections\.OrderedDict)$"
)
"""Compiled types of the libraries, which skops leaves to its callers: made of arrays, they run no code of the file."""
_TOOLS = ("scikit-learn", "skl2onnx", "onnx")
_INPUT = "X"


def open_estimator(case: Case) -> Opened:
    """Load the estimator; raises Failure."""
    case.progress("loading the estimator")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        model = _load_skops(case) if case.found.what == "a skops file" else _load_pickle(case)
    told = tuple(dict.fromkeys(_version_warning(item.message) for item in noted if "Version" in item.category.__name__))
    opened = boosters.open_booster(case, model) or _open(case, model)
    return Opened(opened.export, opened.answer, opened.tools, (*told, *opened.warnings))


def _version_warning(message: Any) -> str:
    saved = getattr(message, "original_sklearn_version", None)
    if saved is None:
        return shorten(str(message), 200)
    versions = f"saved by scikit-learn {saved}, converted by {message.current_sklearn_version}"
    return f"{versions}; compare the answers on rows of your own (gates.parity)"


def _load_skops(case: Case) -> Any:
    """Types outside of the libraries' own are refused by name; with trust: Code they are admitted."""
    content = case.content if case.content is not None else case.path.read_bytes()
    try:
        named = skops.io.get_untrusted_types(data=content)
        unknown = [name for name in named if not _OWN_TYPES.match(name)]
        refused = unknown if case.asked.trust != "Code" else []
        found = None if refused else skops.io.loads(content, trusted=named)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(case, error) from error
    if refused:
        message = (
            f"{case.found.path} holds types that are not known to be safe: {', '.join(refused[:6])}; set "
            "spec.model.trust: Code if you trust its author"
        )
        raise Failure(Reason.CODE_NOT_TRUSTED, message)
    return found


def _load_pickle(case: Case) -> Any:
    """Detection lets a pickle pass for trust: Code alone."""
    assert case.asked.trust == "Code"
    try:
        return joblib.load(case.path if case.content is None else io.BytesIO(case.content))
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(case, error) from error


def _unreadable(case: Case, error: Exception) -> Failure:
    text = shorten(f"{type(error).__name__}: {error}", 400)
    return Failure(
        Reason.INVALID_MODEL,
        f"{case.found.path} cannot be read: {text}; save it with the library versions of the report",
    )


def _open(case: Case, model: Any) -> Opened:
    if not hasattr(model, "fit") or not (hasattr(model, "predict") or hasattr(model, "transform")):
        message = (
            f"{case.found.path} holds {type(model).__module__}.{type(model).__name__}, which is no estimator of "
            "scikit-learn"
        )
        raise Failure(Reason.INVALID_MODEL, message)
    inputs = _inputs(case, model)
    _register_boosters()

    def export(path: Path) -> None:
        options = {id(model): {"zipmap": False}} if is_classifier(model) else None
        kinds = [(tensor.name, _TYPES[tensor.data_type]([None, *tensor.dims[1:]])) for tensor in inputs]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made = to_onnx(model, initial_types=kinds, options=options, target_opset=OPSETS)
            except NameError:  # classifiers without probabilities have no such option
                made = to_onnx(model, initial_types=kinds, target_opset=OPSETS)
        boosters.write(made, path, {})

    return Opened(export, _answers(model, inputs), _tools(model))


def _inputs(case: Case, model: Any) -> tuple[Tensor, ...]:
    """One matrix of FP32 unless the user says otherwise; columns that are picked by name are an input each."""
    asked = case.asked.inputs
    for index, tensor in enumerate(asked):
        if tensor.data_type not in _TYPES:
            message = (
                f"spec.model.inputs[{index}] is {tensor.data_type}; scikit-learn's models take {', '.join(_TYPES)}"
            )
            raise Failure(Reason.INVALID_SPEC, message)
    if _picks_by_name(model):
        names = [str(name) for name in getattr(model, "feature_names_in_", ())]
        asked = asked or case.signature
        if asked and {tensor.name for tensor in asked} >= set(names):
            return asked
        message = (
            f"the pipeline picks columns by name ({', '.join(names[:8])}); write each under spec.model.inputs with its "
            "dataType and dims [-1, 1]"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    if len(asked) == 1:
        return asked
    features = getattr(model, "n_features_in_", None)
    if asked or features is None:
        taken = "one matrix" if features is None else f"one matrix of {features} features"
        message = (
            f"{type(model).__name__} takes {taken}; write one input under spec.model.inputs, like X, FP32, [-1, n]"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    return (Tensor(_INPUT, "FP32", (-1, int(features))),)


def _picks_by_name(model: Any) -> bool:
    """Whether a ColumnTransformer in a pipeline names its columns with text."""
    for _, step in getattr(model, "steps", ()):
        if _picks_by_name(step):
            return True
    for _, step, columns in getattr(model, "transformers_", ()):
        named = isinstance(columns, str) or (
            not isinstance(columns, slice) and any(isinstance(column, str) for column in np.atleast_1d(columns))
        )
        if named or _picks_by_name(step):
            return True
    return False


def _answers(model: Any, inputs: Sequence[Tensor]) -> Callable[[Arrays], dict[str, Array]]:
    """The estimator's methods under the names that skl2onnx gives their results."""

    def answer(arrays: Arrays) -> dict[str, Array]:
        rows = _rows(arrays, inputs, by_name=_picks_by_name(model))
        if is_classifier(model):
            scores = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.decision_function(rows)
            return {"label": _plain(model.predict(rows)), "probabilities": _both_sides(_plain(scores))}
        if is_outlier_detector(model):
            return {
                "label": _column(_plain(model.predict(rows))),
                "scores": _column(_plain(model.decision_function(rows))),
            }
        if is_regressor(model):
            return {"variable": _column(_plain(model.predict(rows)))}
        if hasattr(model, "predict"):
            return {"label": _plain(model.predict(rows)), "scores": _plain(model.transform(rows))}
        return {"variable": _plain(model.transform(rows))}

    return answer


def _rows(arrays: Arrays, inputs: Sequence[Tensor], *, by_name: bool) -> Any:
    if by_name:
        return pd.DataFrame({tensor.name: np.asarray(arrays[tensor.name]).reshape(-1) for tensor in inputs})
    return np.asarray(arrays[inputs[0].name])


def _plain(found: Any) -> Array:
    array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    return array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))


def _both_sides(scores: Array) -> Array:
    """One score of a binary classifier as skl2onnx writes it: against the first class, and for the second."""
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def _column(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _tools(model: Any) -> tuple[str, ...]:
    steps = [type(step).__module__.partition(".")[0] for _, step in getattr(model, "steps", ())]
    more = {"xgboost": ("xgboost-cpu", "xgboost", "onnxmltools"), "lightgbm": ("lightgbm", "onnxmltools")}
    return (*_TOOLS, *(tool for step in dict.fromkeys(steps) for tool in more.get(step, ())))


def _register_boosters() -> None:
    """Boosters are estimators too, at the end of a pipeline."""
    options: dict[str, Any] = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for kind, alias, regressor, converter in (
        (xgboost.XGBClassifier, "XGBoostXGBClassifier", False, convert_xgboost),
        (xgboost.XGBRegressor, "XGBoostXGBRegressor", True, convert_xgboost),
        (lightgbm.LGBMClassifier, "LightGbmLGBMClassifier", False, convert_lightgbm),
        (lightgbm.LGBMRegressor, "LightGbmLGBMRegressor", True, convert_lightgbm),
    ):
        shapes = calculate_linear_regressor_output_shapes if regressor else calculate_linear_classifier_output_shapes
        update_registered_converter(kind, alias, shapes, converter, options=None if regressor else options)
