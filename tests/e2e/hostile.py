"""Models made to do harm: payloads that run a command, hang, take memory or disk without end, and bombs."""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from .models import WIDTH

__all__ = ["HOSTILE", "Hostile"]

COMMAND = "import os; said = os.system('sleep 900')"
"""Were it run, the preparation would end by its timeout, not with this refusal."""
ASKED_FOR = f"{COMMAND}; raise RuntimeError(f'the command was answered {{said}}')"
SOCKET = "import socket; socket.create_connection(('1.1.1.1', 443), 5)"
FOR_EVER = "while True: pass"
MEMORY = "held = []\nwhile True: held.append(bytearray(1 << 24))"
DISK = """
import os, pathlib
folder, number = pathlib.Path(os.environ["TMPDIR"]), 0
while True:
    (folder / f"junk-{number}").write_bytes(os.urandom(1 << 22))
    number += 1
"""


class Payload:
    """Unpickled, it runs its code."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self._code,)


@dataclass(frozen=True)
class Hostile:
    """A source, how it is asked for, and what status must say in how long."""

    files: Callable[[], Mapping[str, bytes]]
    reasons: tuple[str, ...]
    words: str
    model: Mapping[str, Any] = field(default_factory=dict)
    timeout: str = "10m"
    """spec.prepare.timeout."""
    seconds: float = 240
    """Within which it is told."""


def pickled(code: str) -> Callable[[], Mapping[str, bytes]]:
    """What joblib and pickle write, with a payload."""
    return lambda: {"model.pkl": pickle.dumps(Payload(code))}


def poisoned_export() -> Mapping[str, bytes]:
    """An honest .pt2 whose sample inputs are a payload: torch.export.load would fall back to running it."""
    import torch  # noqa: PLC0415 - slow

    from tests.models import zoo  # noqa: PLC0415

    poison = io.BytesIO()
    torch.save(Payload(COMMAND), poison)
    return {
        "model.pt2": _rewritten(zoo.specimen("torch-export").files["model.pt2"], "sample_inputs", poison.getvalue())
    }


def bomb() -> Mapping[str, bytes]:
    """An honest Keras file whose weights unpack to 2 GiB of nothing."""
    from tests.models import zoo  # noqa: PLC0415

    data = zoo.specimen("keras").files["model.keras"]
    return {"model.keras": _rewritten(data, ".weights.h5", None)}


def _rewritten(data: bytes, name: str, content: bytes | None) -> bytes:
    """A zip file with the member whose path contains `name` replaced; None: by 2 GiB of zeros."""
    target = io.BytesIO()
    found = 0
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for member in source.infolist():
            if name not in member.filename:
                made.writestr(member.filename, source.read(member), zipfile.ZIP_STORED)
                continue
            found += 1
            if content is not None:
                made.writestr(member.filename, content, zipfile.ZIP_STORED)
                continue
            with made.open(member.filename, "w", force_zip64=True) as zeros:
                for _ in range(2048):
                    zeros.write(bytes(1 << 20))
    assert found == 1, f"{name} was expected once in the archive"
    return target.getvalue()


def endless_loop() -> Mapping[str, bytes]:
    """A valid ONNX model whose every answer takes years."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["state", "decay"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", WIDTH]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", WIDTH]),
        ],
    )
    nodes = [helper.make_node("Loop", ["rounds", "yes", "features"], ["scores"], body=body)]
    weights = {
        "rounds": np.array(2**60, np.int64),
        "yes": np.array(True),
        "decay": np.array(0.999, np.float32),
    }
    return {"model.onnx": _graph(nodes, weights, WIDTH)}


def endless_tensor() -> Mapping[str, bytes]:
    """A valid ONNX model of a few bytes that asks for 4 TiB when it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["features", "sum"], ["scores"]),
    ]
    return {"model.onnx": _graph(nodes, {"huge": np.array([1 << 40], np.int64)}, WIDTH)}


def _graph(nodes: list[Any], weights: Mapping[str, Any], width: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return made


TRUSTED = {"trust": "Code", "format": "SKLearn"}
"""The user trusts the author: the code runs, and what it can do is all the more what the sandbox lets it."""
BROKEN = ("InvalidModel", "ConversionFailed")
HOSTILE: Mapping[str, Hostile] = {
    "a command in a pickle": Hostile(pickled(COMMAND), ("CodeNotTrusted",), "trust: Code", {"format": "SKLearn"}),
    "a command in a .pt2": Hostile(poisoned_export, ("CodeNotTrusted",), "was not run", {"format": "TorchExport"}),
    "a command in a trusted pickle": Hostile(pickled(ASKED_FOR), BROKEN, "", TRUSTED),
    "a connection from a trusted pickle": Hostile(pickled(SOCKET), BROKEN, "", TRUSTED),
    "hangs when it is loaded": Hostile(pickled(FOR_EVER), ("PreparationTimeout",), "hangs", TRUSTED, "75s"),
    "hangs when it answers": Hostile(endless_loop, ("PreparationTimeout",), "hangs", {}, "75s"),
    "memory without end": Hostile(pickled(MEMORY), ("PreparationOutOfMemory",), "prepare.resources", TRUSTED),
    "a tensor without end": Hostile(endless_tensor, ("PreparationOutOfMemory", "InvalidModel"), "", {}),
    "disk without end": Hostile(pickled(DISK), ("TooLarge", "NotEnoughDisk"), "", TRUSTED),
    "a bomb": Hostile(bomb, ("TooLarge", *BROKEN), "", {"format": "Keras"}),
}
