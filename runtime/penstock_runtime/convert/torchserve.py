"""TorchServe's `.mar`: a zip archive of a model and the code around it. The model is taken, the code is not."""

import ast
import dataclasses
import io
import json
import zipfile
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.formats.detect import Detected
from penstock_runtime.formats.zipped import read_member, sight_zip

from . import dispatch
from .case import Case, Opened

__all__ = ["open_archive"]

_HANDLERS = ("image_classifier", "image_segmenter", "object_detector", "text_classifier")
"""TorchServe's own, which decode and normalise inputs and name classes; Penstock serves the bare tensors."""
_MANIFEST = "MAR-INF/MANIFEST.json"
_LARGEST_TEXT = 16 << 20


def open_archive(case: Case) -> Opened:
    """Open the model inside of the archive, by what that is; raises Failure."""
    with zipfile.ZipFile(case.path) as archive:
        manifest = _manifest(archive)
        told = _check_handler(str(manifest.get("handler") or ""))
        name = _member(archive, manifest, "serializedFile")
        content = archive.read(name)
        model_file = manifest.get("modelFile")
        entrypoint = _entrypoint(archive, _member(archive, manifest, "modelFile")) if model_file else ""
    inner = dataclasses.replace(case, content=content, code=(case.path,), found=_sight(case, name, content))
    opened = _open_inner(inner, entrypoint)
    return Opened(opened.export, opened.answer, opened.tools, (told, *opened.warnings))


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        found = json.loads(read_member(archive, _MANIFEST, _LARGEST_TEXT))["model"]
        assert isinstance(found, dict)
    except (KeyError, ValueError, AssertionError, zipfile.BadZipFile) as error:
        message = f"the TorchServe archive's {_MANIFEST} cannot be read; make it again with torch-model-archiver"
        raise Failure(Reason.INVALID_MODEL, message) from error
    return found


def _check_handler(handler: str) -> str:
    name = handler.removesuffix(".py").partition(":")[0]
    if name not in _HANDLERS:
        message = (
            f"the TorchServe archive has the handler {handler or 'none'!r}, code that TorchServe ran around the model, "
            "and Penstock serves the model alone; call that code before the model, and archive it with one of "
            f"{', '.join(_HANDLERS)}"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return f"TorchServe's handler {name} is not served: requests and answers are the model's own tensors"


def _member(archive: zipfile.ZipFile, manifest: dict[str, Any], key: str) -> str:
    name = str(manifest.get(key) or "")
    if name not in archive.namelist():
        message = f"the TorchServe archive's manifest names {name!r} as {key}, which the archive lacks; make it again"
        raise Failure(Reason.INVALID_MODEL, message)
    return name


def _sight(case: Case, name: str, content: bytes) -> Detected:
    """What the archive's own model is, told by its bytes as of any other file."""
    seen = sight_zip(io.BytesIO(content), len(content)) if content[:2] == b"PK" else None
    if seen is None or seen.format not in ("TorchScript", "TorchExport", "StateDict"):
        what = seen.what if seen else "no file that torch saves since release 1.6"
        message = (
            f"{name} in the TorchServe archive is {what}; Penstock opens TorchScript, exported programs and weights"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return Detected(seen.format, case.found.path, seen.what, seen.runs_code)


def _open_inner(case: Case, entrypoint: str) -> Opened:
    if case.found.format == "TorchScript":
        return dispatch.open_case(case)
    if case.found.format == "StateDict" and case.asked.trust != "Code":
        message = (
            "the TorchServe archive holds weights and the code of their model, which runs when it is converted; set "
            "spec.model.trust: Code if you trust its author, or archive a TorchScript module"
        )
        raise Failure(Reason.CODE_NOT_TRUSTED, message)
    named = case.asked.entrypoint or entrypoint
    if case.found.format == "StateDict" and not case.found.runs_code and not named:
        message = (
            "the TorchServe archive holds weights without a model file; write spec.model.entrypoint as module:factory"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    return dispatch.open_case(
        dataclasses.replace(case, asked=dataclasses.replace(case.asked, entrypoint=named or None))
    )


def _entrypoint(archive: zipfile.ZipFile, name: str) -> str:
    """`module:Class` of the one class in the archive's model file, as TorchServe finds it; raises Failure."""
    module = name.removesuffix(".py").replace("/", ".")
    try:
        tree = ast.parse(read_member(archive, name, _LARGEST_TEXT))
    except (SyntaxError, ValueError) as error:
        raise Failure(
            Reason.INVALID_MODEL, f"{name} in the TorchServe archive is no Python: {shorten(str(error), 200)}"
        ) from error
    classes = [item.name for item in tree.body if isinstance(item, ast.ClassDef) and item.bases]
    return f"{module}:{classes[0]}" if len(classes) == 1 else ""
