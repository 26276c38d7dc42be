"""The format of a source, and which of its files is the model: by content, in every image, without loading anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from penstock.api.openers import OPENERS
from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.finding import Asked, SourceTree

from .mlmodel import read_mlmodel
from .sighting import Sighting
from .sniff import sniff

__all__ = ["Detected", "detect", "look", "opener_of"]

_MOST_FILES = 2000
_NO_MODELS = (".py", ".md", ".yaml", ".yml", ".csv", ".parquet", ".lock", ".toml", ".sig")
"""Passed over where another file is a model: a source brings code, words and data along."""
_CODE_FORMATS = ("SafeTensors", "StateDict")
_INNER = {"sklearn": "SKLearn", "pytorch": "StateDict", "xgboost": "XGBoost", "lightgbm": "LightGBM", "onnx": "ONNX"}
_FLAVORS = (*_INNER, "keras", "tensorflow")


@dataclass(frozen=True)
class Detected:
    """A format of spec.model.format but Auto, the path of its main file, and what that file was seen to be."""

    format: str
    path: str
    what: str = ""
    runs_code: bool = False


def detect(tree: SourceTree, asked: Asked) -> str:
    """The format of the source; raises Failure (UnknownFormat, InvalidModel, CodeNotTrusted, InvalidSpec)."""
    return look(tree, asked).format


def look(tree: SourceTree, asked: Asked) -> Detected:
    """The format and the file to open; raises Failure."""
    if asked.format == "TritonRepository" or (asked.format == "Auto" and tree.looks_like_repository()):
        return Detected("TritonRepository", "", "a Triton model repository")
    if not tree.sizes:
        raise Failure(Reason.UNKNOWN_FORMAT, "the source holds no file")
    found = _folder(tree, asked.format) or _one_file(tree, asked)
    _check_trust(found, asked)
    return found


def opener_of(tree: SourceTree, found: Detected) -> str:
    """The image that opens it: Basic, Convert or TensorFlow."""
    if found.format == "MLflow" and mlflow_flavor(tree, found.path)[0] == "tensorflow":
        return "TensorFlow"
    return OPENERS[found.format]


def mlflow_flavor(tree: SourceTree, path: str) -> tuple[str, Mapping[str, str]]:
    """The flavour by which an MLflow model is opened, and its settings; raises Failure."""
    model = read_mlmodel(tree.root / path)
    for name in _FLAVORS:
        if name in model.flavors:
            return _split_keras(name, model.flavors[name])
    message = (
        f"the MLflow model has the flavours {', '.join(model.flavors) or 'none'}; Penstock opens {', '.join(_FLAVORS)}"
    )
    raise Failure(Reason.UNKNOWN_FORMAT, message)


def _split_keras(name: str, settings: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """MLflow calls Keras 3 models tensorflow too; they need no TensorFlow."""
    is_keras = name == "keras" or settings.get("model_type") == "keras"
    return ("keras" if is_keras else name), settings


def _folder(tree: SourceTree, asked: str) -> Detected | None:
    """Formats that are folders: MLflow and SavedModel, the outermost of each."""
    for name, format_ in (("MLmodel", "MLflow"), ("saved_model.pb", "SavedModel")):
        paths = [path for path in tree.sizes if PurePosixPath(path).name == name]
        if asked not in ("Auto", format_) or not paths:
            continue
        outermost = min(paths, key=lambda path: (path.count("/"), path))
        if format_ == "SavedModel":
            seen = sniff(tree.root / outermost)
            if seen is None or seen.format != "SavedModel":
                message = f"{outermost} is not the graph of a TensorFlow SavedModel; save the model again"
                raise Failure(Reason.INVALID_MODEL, message)
        return Detected(format_, outermost, f"a model saved by {'MLflow' if format_ == 'MLflow' else 'TensorFlow'}")
    return None


def _one_file(tree: SourceTree, asked: Asked) -> Detected:
    seen = _sightings(tree)
    known: dict[str, list[str]] = {}
    for path, sighting in seen.items():
        if sighting.format:
            known.setdefault(sighting.format, []).append(path)
    if asked.format != "Auto":
        return _as_asked(tree, seen, known, asked.format)
    named_onnx = [path for path in tree.sizes if path.lower().endswith(".onnx")]
    if "ONNX" in known or (not known and named_onnx):
        return Detected("ONNX", _preferred(known.get("ONNX", named_onnx), "ONNX"), "an ONNX model")
    if set(known) == set(_CODE_FORMATS):
        del known["StateDict"]
    if not known:
        raise _unknown(tree, seen)
    if len(known) > 1:
        kinds = "; ".join(f"{paths[0]} is {seen[paths[0]].what}" for paths in known.values())
        message = f"the source holds several models: {kinds}; name one in spec.model.format, or upload it alone"
        raise Failure(Reason.UNKNOWN_FORMAT, message)
    ((format_, paths),) = known.items()
    return _detected(format_, paths, seen)


def _sightings(tree: SourceTree) -> dict[str, Sighting]:
    paths = [path for path in tree.sizes if not any(part.startswith(".") for part in path.split("/"))]
    if len(paths) > 1:
        paths = [path for path in paths if not path.lower().endswith(_NO_MODELS)] or paths
    found = {}
    for path in paths[:_MOST_FILES]:
        sighting = sniff(tree.root / path)
        if sighting is not None:
            found[path] = sighting
    return found


def _as_asked(tree: SourceTree, seen: Mapping[str, Sighting], known: Mapping[str, list[str]], asked: str) -> Detected:
    """The file of the format that the user names; a pickle may hold any model, if the user says so."""
    if asked in known:
        return _detected(asked, known[asked], seen)
    if asked == "ONNX":
        return Detected("ONNX", "", "")
    if asked == "SKLearn":
        pickles = [path for path, sighting in seen.items() if sighting.runs_code and sighting.format is None]
        if pickles:
            return _detected("SKLearn", pickles, seen)
    what = "; ".join(f"{path} is {_told(sighting)}" for path, sighting in list(seen.items())[:4])
    message = f"spec.model.format is {asked}, and no file of the source is of it: {what or 'it holds ' + tree.shown()}"
    raise Failure(Reason.INVALID_MODEL, shorten(f"{message}; correct format, or leave it out"))


def _detected(format_: str, paths: list[str], seen: Mapping[str, Sighting]) -> Detected:
    path = paths[0] if format_ == "SafeTensors" else _preferred(paths, format_)
    return Detected(format_, path, seen[path].what, seen[path].runs_code)


def _preferred(paths: list[str], format_: str) -> str:
    """The only one, or the only one called `model`."""
    named = [path for path in paths if PurePosixPath(path).name.partition(".")[0] == "model"]
    for some in (paths, named):
        if len(some) == 1:
            return some[0]
    if format_ == "ONNX":
        return "model.onnx" if "model.onnx" in paths else paths[0]
    message = (
        f"the source holds {len(paths)} models ({', '.join(paths[:4])}); call the one to serve model, or upload it "
        "alone"
    )
    raise Failure(Reason.UNKNOWN_FORMAT, message)


def _unknown(tree: SourceTree, seen: Mapping[str, Sighting]) -> Failure:
    if seen:
        reason = Reason.INVALID_MODEL if any(item.damaged for item in seen.values()) else Reason.UNKNOWN_FORMAT
        told = "; ".join(f"{path} is {_told(sighting)}" for path, sighting in list(seen.items())[:3])
        return Failure(reason, told)
    path, size = next(iter(tree.sizes.items()))
    if len(tree.sizes) == 1:
        with (tree.root / path).open("rb") as file:
            start = file.read(8).hex(" ")
        message = f"{path} ({size} bytes, starting {start or 'with nothing'}) is of no format that Penstock knows"
    else:
        message = f"the source holds {tree.shown()}; none is of a format that Penstock knows"
    return Failure(Reason.UNKNOWN_FORMAT, f"{message}; convert the model to ONNX")


def _told(sighting: Sighting) -> str:
    return f"{sighting.what}; {sighting.advice}" if sighting.advice and not sighting.format else sighting.what


def _check_trust(found: Detected, asked: Asked) -> None:
    if asked.trust == "Code":
        if found.format in _CODE_FORMATS and not found.runs_code and not asked.entrypoint:
            message = (
                f"{found.path} holds weights alone; name the factory of their model in spec.model.entrypoint as "
                "module:factory"
            )
            raise Failure(Reason.INVALID_SPEC, message)
        return
    if found.runs_code:
        message = (
            f"{found.path} is {found.what}, and loading it runs whatever code it holds; set spec.model.trust: Code if "
            f"you trust its author, or save the model with {'skops' if found.format == 'SKLearn' else 'torch.export'}"
        )
        raise Failure(Reason.CODE_NOT_TRUSTED, message)
    if found.format in _CODE_FORMATS:
        message = (
            f"{found.path} holds weights without their model; name the factory of the model in spec.model.entrypoint "
            "as module:factory and set trust: Code, or upload what torch.export.save writes"
        )
        raise Failure(Reason.CODE_NOT_TRUSTED, message)
