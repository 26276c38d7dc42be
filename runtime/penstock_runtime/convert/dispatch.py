"""From a format to the module that opens it, and from an opened model to a finished one."""

import dataclasses
import importlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, full_disk, is_out_of_memory, shorten
from penstock_runtime.finding import Asked, Progress, SourceTree
from penstock_runtime.formats.detect import look

from .case import Array, Arrays, Case, Converted, Opened, Reference

__all__ = ["convert", "import_all", "load_reference", "open_case", "preload"]

_OPENERS: Mapping[str, tuple[str, str]] = {
    "TorchExport": ("torchexport", "open_torch_export"),
    "TorchScript": ("torchscript", "open_torch_script"),
    "SafeTensors": ("weights", "open_weights"),
    "StateDict": ("weights", "open_weights"),
    "Keras": ("kerasfile", "open_keras"),
    "SKLearn": ("estimators", "open_estimator"),
    "XGBoost": ("boosters", "open_xgboost"),
    "LightGBM": ("boosters", "open_lightgbm"),
    "MLflow": ("mlflowmodel", "open_mlflow"),
    "TorchServe": ("torchserve", "open_archive"),
    "SavedModel": ("savedmodel", "open_saved_model"),
}
_MODEL = "model.onnx"


def preload() -> None:
    """Import what most conversions need, while there is nothing else to do."""
    for name in ("onnx", "onnxruntime", "torch", "onnxscript", "tensorflow"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def import_all(*but: str) -> None:
    """Import every family but these formats': for the build of an image, which must have what they need."""
    for module in {module for format_, (module, _) in _OPENERS.items() if format_ not in but}:
        importlib.import_module(f".{module}", __package__)


def convert(tree: SourceTree, asked: Asked, format_: str, out: Path, progress: Progress) -> Converted:
    """Write `model.onnx`, and where it is large `model.onnx.data`, into the empty folder `out`; raises Failure."""
    case = Case(tree, asked, look(tree, dataclasses.replace(asked, format=format_)), progress)
    from .finish import finish  # noqa: PLC0415 - onnx is imported by those who convert

    opened = open_case(case)
    progress("converting the model to ONNX")
    path = out / _MODEL
    _guarded(opened, path)
    finish(path)
    return Converted(path, format_, opened.answer, opened.warnings, _versions(opened.tools))


def load_reference(tree: SourceTree, asked: Asked, format_: str, model: Path, progress: Progress) -> Reference | None:
    """The answers of a source that is converted already, or is served as it is; None where nothing here can run it.

    Its names are those of `model`: of the conversion, or those under which Triton serves the format.
    """
    if format_ not in _OPENERS:
        return None
    case = Case(tree, asked, look(tree, dataclasses.replace(asked, format=format_)), progress)
    try:
        answer = open_case(case).answer
    except ModuleNotFoundError:  # served as it is, and opened by an image without its framework
        return None
    return answer if model.suffix == ".onnx" else _as_served(answer)


def _as_served(answer: Reference) -> Reference:
    """Under Triton's names for what it serves without ONNX: trees have one output, libtorch numbers them."""

    def served(arrays: Arrays) -> dict[str, Array]:
        found = answer(arrays)
        if "input__0" in arrays:
            return {"output__0": found.get("probabilities", next(iter(found.values())))}
        return {f"OUTPUT__{index}": array for index, array in enumerate(found.values())}

    return served


def open_case(case: Case) -> Opened:
    """Open the source in its framework; raises Failure."""
    module, function = _OPENERS[case.found.format]
    opened: Opened = getattr(importlib.import_module(f".{module}", __package__), function)(case)
    return opened


def _guarded(opened: Opened, path: Path) -> None:
    try:
        opened.export(path)
    except (Failure, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or full_disk(error) is not None:
            raise
        message = f"the model cannot be converted to ONNX: {type(error).__name__}: {shorten(str(error), 900)}"
        raise Failure(Reason.CONVERSION_FAILED, message) from error


def _versions(tools: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in tools:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
