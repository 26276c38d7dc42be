"""Small ONNX models: linear ones that answer, and broken ones that must be refused."""

import hashlib
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH, CLASSES = 8, 3


@dataclass(frozen=True)
class Model:
    """An ONNX file; `seed` decides its weights, so that two models give different answers."""

    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def answer(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What onnxruntime says in this process."""
        session = onnxruntime.InferenceSession(self.data, providers=["CPUExecutionProvider"])
        (scores,) = session.run(["scores"], {"features": rows})
        return scores


def linear_model(seed: int = 1, opset: int = 17, ir_version: int = 8, padding: int = 0) -> Model:
    """scores = features · W + b; `padding` bytes of unused weights make the file as large as asked."""
    chance = np.random.default_rng(seed)
    weights = {
        "weights": chance.standard_normal((WIDTH, CLASSES), dtype=np.float32),
        "bias": chance.standard_normal(CLASSES, dtype=np.float32),
    }
    if padding:
        weights["padding"] = np.frombuffer(chance.bytes(padding), dtype=np.uint8)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return Model(model.SerializeToString())


def newer_model() -> Model:
    """An opset that no runtime knows yet."""
    return linear_model(opset=999)


def truncated_model() -> Model:
    """The first two thirds of a file."""
    data = linear_model().data
    return Model(data[: len(data) * 2 // 3])


def one_byte_changed(model: Model) -> Model:
    """A valid model with one bit of its last weight flipped."""
    read = onnx.load_from_string(model.data)
    raw = bytearray(read.graph.initializer[0].raw_data)
    raw[-1] ^= 1
    read.graph.initializer[0].raw_data = bytes(raw)
    return Model(read.SerializeToString())


def some_rows(count: int = 4) -> NDArray[np.float32]:
    """Features to ask about; the same ones every time."""
    return np.random.default_rng(0).standard_normal((count, WIDTH), dtype=np.float32)
