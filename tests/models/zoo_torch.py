"""The network for digits in every form in which torch leaves it."""

import inspect
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch

from . import networks
from .networks import digits_cnn, digits_images
from .zoo_specimen import Specimen

__all__ = ["MAKERS"]

IMAGE = [{"name": "image", "dataType": "FP32", "dims": [-1, 1, 8, 8]}]
FACTORY = f"""import torch
from torch import nn


{inspect.getsource(networks.DigitsCnn)}

{inspect.getsource(networks._conv)}

def make():
    return DigitsCnn()
"""


@cache
def _held_out() -> dict[str, Any]:
    """Rows, labels, and what the network in this process answers."""
    digits = digits_images()
    images, network = np.ascontiguousarray(digits.held_out_images), digits_cnn()
    with torch.inference_mode():
        answers = network(torch.from_numpy(images)).numpy()
    return {"rows": images, "answers": (answers,), "labels": digits.held_out_labels, "input": "image"}


def _onnx() -> Specimen:
    """Weights in a second file, as torch.onnx.export writes them unless it is told otherwise."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            digits_cnn(), (torch.zeros(2, 1, 8, 8),), Path(folder) / "model.onnx", dynamo=True, external_data=True,
            dynamic_shapes=({0: "batch"},), opset_version=networks.OPSET, input_names=["image"],
            output_names=["logits"], verbose=False,
        )  # fmt: skip
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Specimen("ONNX", files, **_held_out())


def _exported() -> Specimen:
    example = (torch.zeros(2, 1, 8, 8),)
    file = io.BytesIO()
    program = torch.export.export(digits_cnn(), example, dynamic_shapes=({0: torch.export.Dim("batch", max=1024)},))
    torch.export.save(program, file)
    return Specimen("TorchExport", {"model.pt2": file.getvalue()}, **_held_out())


def _script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(digits_cnn(), torch.zeros(2, 1, 8, 8)), file)
    return file.getvalue()


def _scripted() -> Specimen:
    return Specimen("TorchScript", {"model.pt": _script()}, **_held_out(), model={"inputs": IMAGE})


def _libtorch() -> Specimen:
    """Served by libtorch, which knows no names."""
    names = {
        "inputs": [{**IMAGE[0], "name": "INPUT__0"}],
        "outputs": [{"name": "OUTPUT__0", "dataType": "FP32", "dims": [-1, 10]}],
    }
    found = {**_held_out(), "input": "INPUT__0"}
    model = {"convert": "Never", **names}
    return Specimen("TorchScript", {"model.pt": _script()}, **found, model=model, served="TorchScript")


def _weights(format_: str, name: str, data: bytes) -> Specimen:
    """Weights, and the module that they belong to as a file beside them."""
    model = {"trust": "Code", "entrypoint": "network:make", "inputs": IMAGE}
    return Specimen(format_, {name: data, "network.py": FACTORY.encode()}, **_held_out(), model=model)


def _safetensors() -> Specimen:
    return _weights("SafeTensors", "model.safetensors", safetensors.torch.save(digits_cnn().state_dict()))


def _state_dict() -> Specimen:
    file = io.BytesIO()
    torch.save(digits_cnn().state_dict(), file)
    return _weights("StateDict", "model.pth", file.getvalue())


def _archive() -> Specimen:
    """What torch-model-archiver packs: a TorchScript module and one of TorchServe's own handlers."""
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {
            "modelName": "digits", "serializedFile": "model.pt", "handler": "image_classifier", "modelVersion": "1.0",
        },
        "archiverVersion": "0.12.0",
    }  # fmt: skip
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("model.pt", _script())
    return Specimen("TorchServe", {"digits.mar": file.getvalue()}, **_held_out(), model={"inputs": IMAGE})


MAKERS: Mapping[str, Callable[[], Specimen]] = {
    "onnx": _onnx,
    "torch-export": _exported,
    "torchscript": _scripted,
    "torchscript-libtorch": _libtorch,
    "safetensors": _safetensors,
    "state-dict": _state_dict,
    "torchserve": _archive,
}
