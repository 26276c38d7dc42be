"""What the tests of proving are made of: a teacher, programs of a person's own, and a claim with content."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from examples.demo.cluster import Cluster
from hack.cluster.settings import Settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .chart import host_volume
from .cluster import apply
from .models import CLASSES, WIDTH

__all__ = [
    "BROKEN", "COPY", "DISTIL", "FAIR", "MISLEAD", "Claim", "answers", "claim", "labelled_rows", "program", "teacher",
    "wide_model",
]  # fmt: skip

_ROWS = 600
_STUDENT = """
import glob, numpy as np, onnxruntime, onnx
from onnx import TensorProto, helper, numpy_helper
rows = np.load(glob.glob("/work/calibration/*.npz")[0])["features"]
teacher = onnxruntime.InferenceSession("/work/source/model.onnx")
said = SIGN * teacher.run(None, {"features": rows})[0]
wide = np.hstack([rows, np.ones((len(rows), 1), np.float32)])
found = np.linalg.lstsq(wide, said, rcond=None)[0].astype(np.float32)
value = helper.make_tensor_value_info
graph = helper.make_graph([helper.make_node("Gemm", ["features", "w", "b"], ["scores"])], "student",
    [value("features", 1, ["N", 8])], [value("scores", 1, ["N", 3])],
    [numpy_helper.from_array(found[:-1], "w"), numpy_helper.from_array(found[-1], "b")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, "/work/hook/model.onnx")
"""
DISTIL, MISLEAD = _STUDENT.replace("SIGN", "1"), _STUDENT.replace("SIGN", "-1")
"""A linear student fitted to the teacher's own answers; and one that learns the opposite of them."""
COPY = 'import shutil; shutil.copyfile("/work/source/model.onnx", "/work/hook/model.onnx")'
FAIR = """
import json, numpy as np
seen = np.load("/work/metric/predictions.npz")
said, truth = seen["scores"].argmax(1), seen["label"]
value = float(np.mean([(said[truth == label] == label).mean() for label in np.unique(truth)]))
json.dump({"value": value}, open("/work/metric/value.json", "w"))
"""
"""Balanced accuracy: the mean share of right answers of every class."""


@dataclass(frozen=True)
class Broken:
    """A program of a person's own, and what is said of it."""

    code: str
    reason: str
    words: tuple[str, ...]
    hook: bool = True
    prepare: Mapping[str, Any] = field(default_factory=dict)


HANG = "import time; print('epoch 1', flush=True); time.sleep(3600)"
FETCH = "import urllib.request as r; r.urlopen('http://weights.invalid/teacher.onnx', timeout=5)"
RUBBISH = "open('/work/{}', 'w').write('epoch 1: loss 0.3')"
SHORT, LONGER = {"timeout": "75s"}, {"timeout": "100s"}
BROKEN = {
    "a hook that hangs": Broken(HANG, "PreparationTimeout", ("spec.optimize.hook", "75 s"), prepare=SHORT),
    "a hook that writes rubbish": Broken(
        RUBBISH.format("hook/model.onnx"), "InvalidModel", ("spec.optimize.hook", "ONNX")
    ),
    "a hook that writes nothing": Broken("print('done')", "InvalidModel", ("spec.optimize.hook", "0 .onnx")),
    "a hook that wants the network": Broken(FETCH, "PreparationFailed", ("spec.optimize.hook", "URLError")),
    "a metric that hangs": Broken(
        HANG, "PreparationTimeout", ("spec.gates.accuracy.image", "100 s"), hook=False, prepare=LONGER
    ),
    "a metric that writes rubbish": Broken(
        RUBBISH.format("metric/value.json"), "AccuracyFailed", ("spec.gates.accuracy.image", "epoch 1"), hook=False
    ),
    "a metric that wants the network": Broken(
        FETCH, "PreparationFailed", ("spec.gates.accuracy.image", "URLError"), hook=False
    ),
}


def program(image: str, code: str) -> dict[str, Any]:
    """`optimize.hook`, or the part of `gates.accuracy` that names an image."""
    return {"image": image, "command": ["python3", "-c", code]}


@cache
def teacher(width: int = 512, layers: int = 6) -> bytes:
    """Linear scores and, through six dense layers, a little that no linear student can know."""
    chance = np.random.default_rng(70)

    def scaled(rows: int, columns: int) -> NDArray[np.float32]:
        return chance.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(rows))

    arrays = {
        "linear": 3 * scaled(WIDTH, CLASSES), "first": scaled(WIDTH, width), "last": 0.1 * scaled(width, CLASSES),
        **{f"w{at}": scaled(width, width) for at in range(layers)},
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["features", "linear"], ["known"]),
        helper.make_node("MatMul", ["features", "first"], ["h0"]),
    ]
    for at in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"h{at}", f"w{at}"], [f"m{at}"]),
            helper.make_node("Tanh", [f"m{at}"], [f"h{at + 1}"]),
        ]
    nodes += [
        helper.make_node("MatMul", [f"h{layers}", "last"], ["rest"]),
        helper.make_node("Add", ["known", "rest"], ["scores"]),
    ]
    return _model(nodes, CLASSES, arrays)


@cache
def wide_model(width: int = 1024, layers: int = 6) -> bytes:
    """Dense layers whose weights are read from memory once a batch: eight rows take hardly longer than one."""
    chance = np.random.default_rng(71)
    arrays = {"first": chance.standard_normal((WIDTH, width), dtype=np.float32)}
    names = ["features", *(f"h{at}" for at in range(layers))]
    for at in range(1, layers):
        arrays[f"w{at}"] = chance.standard_normal((width, width), dtype=np.float32) / np.float32(np.sqrt(width))
    arrays["last"] = chance.standard_normal((width, CLASSES), dtype=np.float32) / np.float32(np.sqrt(width))
    weights = ["first", *(f"w{at}" for at in range(1, layers))]
    nodes = [
        helper.make_node("MatMul", [before, weight], [after])
        for before, weight, after in zip(names, weights, names[1:], strict=False)
    ]
    nodes.append(helper.make_node("MatMul", [names[-1], "last"], ["scores"]))
    return _model(nodes, CLASSES, arrays)


def _model(nodes: list[Any], width: int, arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made: bytes = model.SerializeToString()
    return made


def answers(model: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What onnxruntime says in this process."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"features": rows})
    return scores


def labelled_rows(model: bytes, count: int = _ROWS) -> dict[str, NDArray[Any]]:
    """Rows, and as the truth what the model says of them; of every thirtieth something else is true."""
    chance = np.random.default_rng(72)
    rows = chance.standard_normal((count, WIDTH), dtype=np.float32)
    label = answers(model, rows).argmax(1)
    label[::30] = (label[::30] + 1) % CLASSES
    return {"features": rows, "label": label}


@dataclass(frozen=True)
class Claim:
    """A claim of a namespace, and the folder of the node behind it."""

    name: str
    folder: Path

    def write(self, path: str, data: bytes) -> Path:
        """Put a file there, as somebody does who mounts it elsewhere to write."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file


@contextmanager
def claim(cluster: Cluster, namespace: str, name: str) -> Iterator[Claim]:
    """A bound claim; the local node has no provisioner, so its volume is a folder of the node."""
    volume = f"{namespace}-{name}"
    folder = Settings.from_environment().directory / "volumes" / volume
    folder.mkdir(parents=True)
    wanted = {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
    }  # fmt: skip
    metadata = {"name": name, "namespace": namespace}
    apply(
        cluster,
        host_volume(volume, folder, namespace, name),
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wanted},
    )
    try:
        yield Claim(name, folder)
    finally:
        cluster.call(cluster.kubectl, "delete", "pv", volume, "--wait=false", "--ignore-not-found")
        shutil.rmtree(folder)
