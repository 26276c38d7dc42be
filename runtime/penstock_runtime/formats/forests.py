"""Trees for Triton's FIL backend: XGBoost, LightGBM and Treelite files, read for what their server must be told."""

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.finding import Asked, Finding, SourceTree, Tensor

from .detect import Detected
from .ubjson import read_ubjson

__all__ = ["inspect_forest"]

_INPUT, _OUTPUT = "input__0", "output__0"
_HEAD = 1 << 20


@dataclass(frozen=True)
class _Trees:
    """What a file of trees says: `classes` is 0 where it answers a value, and `outputs` the width of its answer."""

    file: str
    model_type: str
    features: int
    classes: int
    outputs: int


def inspect_forest(tree: SourceTree, asked: Asked, found: Detected) -> Finding:
    """Files, the one input and the one output, as the FIL backend has them; raises Failure."""
    path = tree.root / found.path
    try:
        if found.format == "XGBoost":
            trees = _xgboost(path.read_bytes())
        elif found.format == "LightGBM":
            with path.open("rb") as file:
                trees = _lightgbm(file.read(_HEAD).decode(errors="replace"))
        else:
            with path.open("rb") as file:
                trees = _treelite(file.read(_HEAD))
    except Failure:
        raise
    except (ValueError, KeyError, TypeError, IndexError, struct.error, RecursionError) as error:
        message = (
            f"{found.path} is {found.what} that cannot be read ({type(error).__name__}: {shorten(str(error), 200)}); "
            "save it again"
        )
        raise Failure(Reason.INVALID_MODEL, message) from error
    inputs = (Tensor(_INPUT, "FP32", (-1, trees.features)),)
    outputs = (Tensor(_OUTPUT, "FP32", (-1, trees.outputs)),)
    _check(asked.inputs, inputs, "inputs")
    classes = (Tensor(_OUTPUT, "FP32", (-1, 1)),)
    if trees.classes and asked.outputs == classes:
        outputs = classes
    _check(asked.outputs, outputs, "outputs")
    forest = {"modelType": trees.model_type, "classes": trees.classes}
    return Finding(found.format, {trees.file: found.path}, (), inputs, outputs, batching=True, forest=forest)


def _check(asked: tuple[Tensor, ...], own: tuple[Tensor, ...], field: str) -> None:
    if asked and asked != own:
        shown = f"{own[0].name} {own[0].data_type} {list(own[0].dims)}"
        message = (
            f"spec.model.{field} differs from what trees that are served as they are have: {shown}; remove it, or "
            "write that"
        )
        raise Failure(Reason.INVALID_SPEC, message)


def _xgboost(content: bytes) -> _Trees:
    text = content.lstrip()[:1] == b"{" and re.match(rb'^\s*\{\s*"', content) is not None
    model: Any = json.loads(content) if text else read_ubjson(content)
    learner = model["learner"]
    settings = learner["learner_model_param"]
    classes, targets = int(settings["num_class"]), int(settings.get("num_target", 1))
    if targets > 1:
        message = f"the XGBoost model has {targets} targets; trees served as they are have one: write convert: Auto"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    if learner["gradient_booster"]["name"] not in ("gbtree", "dart"):
        message = (
            f"the XGBoost model's booster is {learner['gradient_booster']['name']}; only trees can be served as they "
            "are: write convert: Auto"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    objective = str(learner["objective"]["name"])
    count = classes if classes > 1 else 2 if objective.startswith("binary:") else 0
    kind, file = ("xgboost_json", "xgboost.json") if text else ("xgboost_ubj", "xgboost.ubj")
    return _Trees(file, kind, int(settings["num_feature"]), count, count or 1)


def _lightgbm(head: str) -> _Trees:
    settings = dict(line.partition("=")[::2] for line in head.partition("\nTree=")[0].splitlines())
    objective = settings.get("objective", "").split(" ")[0]
    classes = int(settings["num_class"])
    count = classes if classes > 1 else 2 if objective in ("binary", "cross_entropy") else 0
    return _Trees("model.txt", "lightgbm", int(settings["max_feature_idx"]) + 1, count, count or 1)


def _treelite(head: bytes) -> _Trees:
    """Version, types, numbers of trees and features, task, averaging, targets, then the classes of each target."""
    features, task, _, targets = struct.unpack_from("<iBBi", head, 22)
    (length,) = struct.unpack_from("<Q", head, 32)
    if targets != 1 or length != 1:
        message = f"the Treelite model has {targets} targets; the server answers one: split the model"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    (classes,) = struct.unpack_from("<i", head, 40)
    is_classifier = task in (0, 2)
    count = max(classes, 2) if is_classifier else 0
    return _Trees("checkpoint.tl", "treelite_checkpoint", features, count, count or 1)
