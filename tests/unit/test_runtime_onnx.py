"""What inspection says about ONNX files: good ones with their facts, bad ones with a reason that names the fault."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.api.facts import ModelFacts
from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Finding, Tensor
from penstock_runtime.runtimes import CEILINGS, TARGET
from penstock_runtime.stages import inspect_source

Shape = list[int | str | None] | None
ANYTHING = Asked()
X, Y = ("x", TensorProto.FLOAT, ["N", 4]), ("y", TensorProto.FLOAT, ["N", 4])


def value(name: str, kind: int, shape: Shape) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes=None, inputs=(X,), outputs=(Y,), weights=(), opset: int = 17, ml: int = 0, ir: int = 8) -> Any:
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [v if hasattr(v, "type") else value(*v) for v in inputs],
        [v if hasattr(v, "type") else value(*v) for v in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = ir
    return made


def inspected(folder: Path, content: Any = None, asked: Asked = ANYTHING, name: str = "digits.onnx") -> Finding:
    if content is not None:
        data = content if isinstance(content, bytes) else content.SerializeToString()
        (folder / name).write_bytes(data)
    return inspect_source(folder, asked, lambda _: None)


def refused(folder: Path, content: Any = None, asked: Asked = ANYTHING, name: str = "digits.onnx") -> Failure:
    with pytest.raises(Failure) as caught:
        inspected(folder, content, asked, name)
    return caught.value


def test_a_good_model(tmp_path: Path) -> None:
    found = inspected(tmp_path, model())
    assert found.files == {"model.onnx": "digits.onnx"}
    assert (found.inputs, found.outputs) == ((Tensor("x", "FP32", (-1, 4)),), (Tensor("y", "FP32", (-1, 4)),))
    assert (found.batching, found.opset, found.ir_version, found.warnings) == (True, 17, 8, ())
    artifact = {"repository": "r", "manifest": "sha256:" + "0" * 64, "layer": "sha256:" + "1" * 64, "sizeBytes": 1}
    facts = {**found.to_answer()["facts"], "digest": "sha256:" + "2" * 64, "artifact": artifact}
    assert ModelFacts.model_validate(facts).inputs[0].dims == (-1, 4)


def test_the_only_file_needs_no_suffix(tmp_path: Path) -> None:
    assert inspected(tmp_path, model(), name="weights").files == {"model.onnx": "weights"}


def test_a_fixed_batch_is_no_batching_and_no_warning(tmp_path: Path) -> None:
    fixed = inspected(
        tmp_path, model(inputs=[("x", TensorProto.FLOAT, [1, 4])], outputs=[("y", TensorProto.FLOAT, [1, 4])])
    )
    assert (fixed.batching, fixed.warnings, fixed.inputs[0].dims) == (False, (), (1, 4))


def _sum_over_batch() -> Any:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1),
        helper.make_node("Div", ["x", "s"], ["y"]),
    ]
    return model(nodes)


def _flattened() -> Any:
    return model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        outputs=[("y", TensorProto.FLOAT, ["M"])],
        weights=[numpy_helper.from_array(np.array([-1], np.int64), "shape")],
    )


def _runs_with_one_row_only() -> Any:
    return model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        outputs=[("y", TensorProto.FLOAT, ["N", 2, 2])],
        weights=[numpy_helper.from_array(np.array([1, 2, 2], np.int64), "shape")],
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [(_sum_over_batch, "differs by"), (_flattened, "rows for batches"), (_runs_with_one_row_only, "could not be run")],
)
def test_batching_that_is_claimed_and_false_is_off_with_a_warning(tmp_path: Path, made: Any, words: str) -> None:
    found = inspected(tmp_path, made())
    assert not found.batching
    assert len(found.warnings) == 1
    assert words in found.warnings[0]


def test_batching_of_strings_and_integers(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("LabelEncoder", ["s"], ["i"], domain="ai.onnx.ml", keys_strings=["a", "b"],
                             values_int64s=[1, 2], default_int64=0),
            helper.make_node("Add", ["i", "k"], ["t"]),
        ],
        inputs=[("s", TensorProto.STRING, [None, 1]), ("k", TensorProto.INT64, [None, 1])],
        outputs=[("t", TensorProto.INT64, [None, 1])],
        ml=2,
    )  # fmt: skip
    found = inspected(tmp_path, made)
    assert [tensor.data_type for tensor in found.inputs] == ["STRING", "INT64"]
    assert found.batching


def test_free_inner_dimensions_get_a_size_that_runs(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones((2, 1, 20, 20), np.float32), "w")]
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        outputs=[("y", TensorProto.FLOAT, ["N", 2, "h", "w"])],
        weights=weights,
    )
    assert inspected(tmp_path, made).batching


def test_initializers_are_no_inputs(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones(4, np.float32), "w")]
    made = model(
        [helper.make_node("Mul", ["x", "w"], ["y"])], inputs=[X, ("w", TensorProto.FLOAT, [4])], weights=weights, ir=3
    )
    assert [tensor.name for tensor in inspected(tmp_path, made).inputs] == ["x"]


def _zipmap() -> Any:
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    maps = helper.make_value_info("probabilities", helper.make_sequence_type_proto(kind))
    node = helper.make_node("ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    return model([node], outputs=[maps], ml=1)


def _typed(kind: int) -> Any:
    return model([helper.make_node("Cast", ["x"], ["y"], to=kind)], outputs=[("y", kind, ["N", 4])], opset=19)


def _custom() -> Any:
    return model([helper.make_node("Magic", ["x"], ["y"], domain="com.example")])


def _scalar() -> Any:
    return model([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], outputs=[("y", TensorProto.FLOAT, [])])


NEWEST = CEILINGS[TARGET]
BAD = {
    "zipmap": (_zipmap(), Reason.UNSUPPORTED_MODEL, ("'probabilities'", "sequence", '{"zipmap": False}')),
    "complex": (_typed(TensorProto.COMPLEX64), Reason.UNSUPPORTED_MODEL, ("'y'", "COMPLEX64", "cast")),
    "float8": (_typed(TensorProto.FLOAT8E4M3FN), Reason.UNSUPPORTED_MODEL, ("'y'", "FLOAT8E4M3FN")),
    "custom operator": (_custom(), Reason.UNSUPPORTED_MODEL, ("'com.example'",)),
    "scalar output": (_scalar(), Reason.UNSUPPORTED_MODEL, ("output 'y'", "scalar")),
    "size 0": (model(inputs=[("x", TensorProto.FLOAT, [0, 4])]), Reason.UNSUPPORTED_MODEL, ("input 'x'", "size 0")),
    "no shape": (model(outputs=[("y", TensorProto.FLOAT, None)]), Reason.UNSUPPORTED_MODEL, ("output 'y'", "no shape")),
    "same name twice": (model(inputs=[X, X]), Reason.UNSUPPORTED_MODEL, ("two inputs named 'x'",)),
    "illegal name": (model(inputs=[("x\x07", TensorProto.FLOAT, [1])]), Reason.UNSUPPORTED_MODEL, ("printable",)),
    "long name": (model(inputs=[("x" * 300, TensorProto.FLOAT, [1])]), Reason.UNSUPPORTED_MODEL, ("256",)),
    "newer opset": (model(opset=99), Reason.UNSUPPORTED_OPSET, ("opset 99", str(NEWEST.opset), TARGET)),
    "newer ml opset": (model(ml=98), Reason.UNSUPPORTED_OPSET, ("opset 98 of ai.onnx.ml", str(NEWEST.ml_opset))),
    "newer format": (model(ir=77), Reason.UNSUPPORTED_OPSET, ("IR version 77", str(NEWEST.ir_version))),
    "cut short": (model().SerializeToString()[:-20], Reason.INVALID_MODEL, ("digits.onnx", "bytes", "upload")),
    "text": (b"<html>404</html>", Reason.INVALID_MODEL, ("digits.onnx", "16 bytes")),
    "empty": (b"", Reason.INVALID_MODEL, ("0 bytes",)),
    "unconnected": (model([helper.make_node("Relu", ["nowhere"], ["y"])]), Reason.INVALID_MODEL, ("nowhere",)),
    "unknown operator": (model([helper.make_node("Reluu", ["x"], ["y"])]), Reason.UNSUPPORTED_MODEL, ("Reluu",)),
}


@pytest.mark.parametrize(("content", "reason", "words"), BAD.values(), ids=BAD.keys())
def test_refusals_name_the_tensor_and_what_to_do(
    tmp_path: Path, content: Any, reason: Reason, words: tuple[str]
) -> None:
    failure = refused(tmp_path, content)
    assert failure.reason is reason, failure.message
    for word in words:
        assert word in failure.message


def test_unknown_content_is_named(tmp_path: Path) -> None:
    failure = refused(tmp_path, b"\x80\x04pickle", name="model.pkl")
    assert failure.reason is Reason.UNKNOWN_FORMAT
    assert "model.pkl" in failure.message
    (tmp_path / "readme.md").write_text("hello")
    failure = refused(tmp_path)
    assert failure.reason is Reason.UNKNOWN_FORMAT
    assert "model.pkl, readme.md" in failure.message


def test_several_onnx_files_need_a_model_onnx(tmp_path: Path) -> None:
    inspected(tmp_path, model(), name="a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"")
    assert refused(tmp_path).reason is Reason.UNKNOWN_FORMAT
    assert inspected(tmp_path, model(), name="model.onnx").files == {"model.onnx": "model.onnx"}


class TestExternalWeights:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
        made = model([helper.make_node("Mul", ["x", "w"], ["y"])], weights=[weights])
        (tmp_path / "m" / "data").mkdir(parents=True)
        place = {"location": "data/w.bin", "save_as_external_data": True, "size_threshold": 0}
        onnx.save_model(made, str(tmp_path / "m" / "net.onnx"), all_tensors_to_one_file=True, **place)
        return tmp_path

    def test_are_published_beside_the_model(self, folder: Path) -> None:
        found = inspected(folder)
        assert found.files == {"model.onnx": "m/net.onnx", "data/w.bin": "m/data/w.bin"}
        assert found.batching

    def test_that_are_missing(self, folder: Path) -> None:
        (folder / "m" / "data" / "w.bin").unlink()
        failure = refused(folder)
        assert (failure.reason, "data/w.bin" in failure.message) == (Reason.INVALID_MODEL, True)

    def test_that_are_cut_short(self, folder: Path) -> None:
        (folder / "m" / "data" / "w.bin").write_bytes(b"\0" * 7)
        assert refused(folder).reason is Reason.INVALID_MODEL

    @pytest.mark.parametrize("location", ["/etc/passwd", "../../etc/passwd", ""])
    def test_that_lie_elsewhere(self, folder: Path, location: str) -> None:
        path = folder / "m" / "net.onnx"
        made = onnx.load(str(path), load_external_data=False)
        made.graph.initializer[0].external_data[0].value = location
        path.write_bytes(made.SerializeToString())
        assert refused(folder).reason is Reason.INVALID_MODEL


class TestOverrides:
    def test_may_narrow_and_choose(self, tmp_path: Path) -> None:
        two = model(
            [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["z"])],
            outputs=[Y, ("z", TensorProto.FLOAT, ["N", "M"])],
        )
        asked = Asked(inputs=(Tensor("x", "FP32", (-1, 4)),), outputs=(Tensor("z", "FP32", (-1, 4)),))
        found = inspected(tmp_path, two, asked)
        assert found.outputs == (Tensor("z", "FP32", (-1, 4)),)
        assert found.batching

    def test_may_give_the_shape_that_the_model_lacks(self, tmp_path: Path) -> None:
        asked = Asked(outputs=(Tensor("y", "FP32", (-1, 4)),))
        found = inspected(tmp_path, model(outputs=[("y", TensorProto.FLOAT, None)]), asked)
        assert found.outputs[0].dims == (-1, 4)

    @pytest.mark.parametrize(
        ("group", "tensor", "words"),
        [
            ("inputs", Tensor("image", "FP32", (-1, 4)), ("spec.model.inputs[0]", "'image'", "are x")),
            ("inputs", Tensor("x", "FP64", (-1, 4)), ("FP64", "FP32")),
            ("outputs", Tensor("y", "FP32", (-1, 5)), ("spec.model.outputs[0]", "[-1, 5]", "[-1, 4]")),
            ("outputs", Tensor("y", "FP32", (-1, -1)), ("[-1, -1]",)),
            ("outputs", Tensor("y", "FP32", (-1,)), ("[-1]",)),
        ],
    )
    def test_must_agree_with_the_model(self, tmp_path: Path, group: str, tensor: Tensor, words: tuple[str]) -> None:
        failure = refused(tmp_path, model(), Asked(**{group: (tensor,)}))
        assert failure.reason is Reason.INVALID_SPEC
        for word in words:
            assert word in failure.message

    def test_must_name_every_input(self, tmp_path: Path) -> None:
        two = model([helper.make_node("Add", ["x", "z"], ["y"])], inputs=[X, ("z", TensorProto.FLOAT, ["N", 4])])
        failure = refused(tmp_path, two, Asked(inputs=(Tensor("x", "FP32", (-1, 4)),)))
        assert (failure.reason, "'z'" in failure.message) == (Reason.INVALID_SPEC, True)
