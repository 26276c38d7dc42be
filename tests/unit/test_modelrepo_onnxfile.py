"""Reading an ONNX file's signature without the onnx package, whatever the bytes."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from penstock.core.modelrepo.onnxfile import OnnxSignature, OnnxTensor, read_onnx


def model() -> bytes:
    """y = x · w, where w is listed as an input and has its value in the file."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], [0.5] * 8)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [weights],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())


CONTENT = model()
SIGNATURE = OnnxSignature((OnnxTensor("x", "FP32", (-1, 4)),), (OnnxTensor("y", "FP32", (-1, 2)),))


def test_inputs_and_outputs_without_the_constants() -> None:
    assert read_onnx(CONTENT) == SIGNATURE


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.STRING, "STRING"), (TensorProto.BFLOAT16, "BF16"), (TensorProto.COMPLEX64, "")]
)
def test_types_are_tritons(kind: int, name: str) -> None:
    value = helper.make_tensor_value_info("x", kind, None)
    graph = helper.make_graph([], "g", [value], [])
    signature = read_onnx(helper.make_model(graph).SerializeToString())
    assert signature == OnnxSignature((OnnxTensor("x", name, None),), ())


@pytest.mark.parametrize("cut", range(0, len(CONTENT), 7))
def test_a_truncated_file_is_never_taken_for_a_whole_one(cut: int) -> None:
    assert read_onnx(CONTENT[:cut]) != SIGNATURE or onnx.load_from_string(CONTENT[:cut]).graph.output


@pytest.mark.parametrize("content", [b"", b"this is text\n", b"\x00" * 64, b"\xff" * 64, b"\x08\x07"])
def test_what_is_no_model_is_a_sentence(content: bytes) -> None:
    said = read_onnx(content)
    assert isinstance(said, str)
    assert said.startswith("the file ")


@given(st.binary(max_size=200), st.integers(0, len(CONTENT) - 1))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    for content in (noise, CONTENT[:at] + noise + CONTENT[at + len(noise) :]):
        assert isinstance(read_onnx(content), str | OnnxSignature)
