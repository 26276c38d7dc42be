"""MLflow: the file MLmodel says by which library a model was saved and where; the rest is that library's family."""

import dataclasses
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.content import safe_path
from penstock_runtime.failure import Failure
from penstock_runtime.finding import SourceTree, Tensor
from penstock_runtime.formats.detect import Detected, look, mlflow_flavor
from penstock_runtime.formats.mlmodel import Column, read_mlmodel
from penstock_runtime.onnxmodel import external_files, open_session, parse_model

from . import dispatch
from .case import Array, Arrays, Case, Opened

__all__ = ["open_mlflow"]

_PATHS = ("pickled_model", "data", "model_data", "saved_model_dir", "model_path")
"""Settings under which the flavours keep the path of their file or folder."""
_FORMATS = {
    "sklearn": "SKLearn", "xgboost": "XGBoost", "lightgbm": "LightGBM", "onnx": "ONNX", "keras": "Keras",
    "tensorflow": "SavedModel",
}  # fmt: skip
_TYPES = {
    "double": "FP64", "float": "FP32", "integer": "INT32", "long": "INT64", "boolean": "BOOL", "string": "STRING",
    "float64": "FP64", "float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "int16": "INT16",
    "int8": "INT8", "uint8": "UINT8", "bool": "BOOL", "str": "STRING", "object": "STRING",
}  # fmt: skip


def open_mlflow(case: Case) -> Opened:
    """Open the model by its flavour; raises Failure."""
    flavor, settings = mlflow_flavor(case.tree, case.found.path)
    home = PurePosixPath(case.found.path).parent
    place = next((settings[key] for key in _PATHS if settings.get(key)), "")
    if not place:
        raise Failure(
            Reason.INVALID_MODEL,
            f"the MLflow flavour {flavor} does not say where its model is; save it with MLflow again",
        )
    inner = _below(case.tree, (home / safe_path(place)).as_posix())
    asked = dataclasses.replace(case.asked, format=_FORMATS.get(flavor, "Auto"))
    found = look(inner, asked)
    signature = _signature(case, found)
    if signature and not asked.inputs and found.format != "SKLearn":
        asked = dataclasses.replace(asked, inputs=signature)
    if found.format == "ONNX":
        return _open_onnx(case, found.path or next(iter(inner.sizes)))
    code = (case.tree.root / home / "code", case.tree.root / home)
    return dispatch.open_case(Case(inner, asked, found, case.progress, code=code, signature=signature))


def _below(tree: SourceTree, place: str) -> SourceTree:
    """The file, or the files of the folder, at `place`, by the paths they have in the whole tree."""
    sizes = {path: size for path, size in tree.sizes.items() if path == place or path.startswith(f"{place}/")}
    if not sizes:
        raise Failure(
            Reason.INVALID_MODEL, f"MLmodel speaks of {place}, which the source lacks; upload the whole folder"
        )
    return SourceTree(tree.root, sizes)


def _signature(case: Case, found: Detected) -> tuple[Tensor, ...]:
    """Inputs of the signature, for families that cannot tell their own."""
    if found.format in ("XGBoost", "LightGBM", "Keras", "SavedModel", "TorchExport", "ONNX"):
        return ()
    return tuple(_tensor(column) for column in read_mlmodel(case.path).inputs)


def _tensor(column: Column) -> Tensor:
    data_type = _TYPES.get(column.type)
    if data_type is None:
        message = (
            f"the signature's input {column.name!r} is of type {column.type}, which cannot be served; write "
            "spec.model.inputs"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return Tensor(column.name, data_type, column.shape or (-1, 1))


def _open_onnx(case: Case, path: str) -> Opened:
    """The ONNX flavour is copied with its weights; its own answers are the source's."""
    source = case.tree.root / path
    files = external_files(parse_model(case.tree, path, "ONNX"), case.tree, path)
    session: Any = open_session(source)

    def export(target: Path) -> None:
        shutil.copyfile(source, target)
        for place, origin in files.items():
            (target.parent / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(case.tree.root / origin, target.parent / place)

    def answer(arrays: Arrays) -> dict[str, Array]:
        names = [item.name for item in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    return Opened(export, answer, ("onnx", "onnxruntime"))
