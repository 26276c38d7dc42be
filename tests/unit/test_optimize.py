"""Optimization of whole files: tiny networks in, what is served and what is reported out."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from penstock.api.reasons import Reason
from penstock_runtime.data import Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.optimize import OptimizeAsked, Optimized, compare_with_source, optimize
from penstock_runtime.optimize import files as optimize_files
from tests.unit.optimize_networks import conv_network, dense_network, images, operators, save, sums

ANY_SPEED = 0.001
"""Below every ratio: decisions of these tests do not depend on the machine."""


def optimized(source: Path, calibration: Dataset | None = None, **asked) -> Optimized:
    options = {name: asked.pop(name) for name in ("accept", "hook", "dataset") if name in asked}
    out = source.parent / f"out-{len(list(source.parent.iterdir()))}"
    out.mkdir()
    wanted = OptimizeAsked(**{"min_speedup": ANY_SPEED, "seconds": 0.05, **asked})
    done = optimize(source, out, wanted, calibration, lambda _: None, **options)
    kept = [] if done.model == source or not done.model.is_relative_to(out) else [done.model]
    assert [path for path in out.rglob("*") if path.is_file()] == kept, "nothing but the kept model stays"
    return done


def answers(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, feed)
    return answer


def row(done: Optimized, name: str) -> dict:
    return next(item for item in done.report["candidates"] if item["name"] == name)


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    return save(conv_network(), tmp_path / "model.onnx")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return save(dense_network(), tmp_path / "model.onnx")


def test_a_convolutional_network_becomes_static_int8(conv: Path) -> None:
    done = optimized(conv, images(), precision="INT8", dataset=images(100, seed=2))
    assert (done.precision, done.model.name, done.warnings) == ("INT8", "model.onnx", ())
    kept = row(done, "static-int8")
    assert kept["kept"]
    assert kept["difference"]["relative"] < 0.1
    assert kept["runs"] > 0
    assert {"milliseconds", "discarded", "clock", "low", "high", "batch8", "size_ratio"} <= kept.keys()
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(done.model)
    feed = dict(images(8, seed=3).arrays)
    known, found = answers(conv, feed), answers(done.model, feed)
    assert np.abs(known - found).max() < 0.1 * np.abs(known).max()


def test_nobody_tries_dynamic_int8_on_convolutions(conv: Path) -> None:
    for calibration in (images(), None):
        done = optimized(conv, calibration, precision="Auto")
        assert [item["name"] for item in done.report["candidates"]] == ["graph", "static-int8"]
        assert not operators(done.model) & {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}


def test_a_dense_network_becomes_dynamic_int8(dense: Path) -> None:
    done = optimized(dense, precision="INT8")
    assert done.precision == "INT8"
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= operators(done.model)
    assert any("give spec.gates.dataset" in warning for warning in done.warnings)


def test_half_keeps_the_interface(dense: Path) -> None:
    done = optimized(dense, precision="FP16")
    session = ort.InferenceSession(str(done.model), providers=["CPUExecutionProvider"])
    assert [(item.name, item.type) for item in session.get_inputs()] == [("rows", "tensor(float)")]
    assert [(item.name, item.type) for item in session.get_outputs()] == [("y", "tensor(float)")]
    assert row(done, "fp16")["size_ratio"] > 1.5


def test_weights_too_large_for_half_are_named(tmp_path: Path) -> None:
    model = dense_network()
    values = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0] = 1e6
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    done = optimized(save(model, tmp_path / "model.onnx"), precision="FP16")
    assert any("were cut: w1" in warning for warning in done.warnings)


def test_what_is_not_faster_is_not_served(conv: Path) -> None:
    done = optimized(conv, images(), precision="INT8", min_speedup=100.0, dataset=images(40))
    assert (done.model, done.precision) == (conv, None)
    (warning,) = done.warnings
    assert "INT8 was asked for and is not served: static-int8: " in warning
    assert warning.endswith("times as fast as the model; minSpeedup is 100")
    assert not row(done, "static-int8")["kept"]


def test_auto_without_calibration_serves_the_model_and_says_what_to_add(conv: Path) -> None:
    done = optimized(conv, precision="Auto", min_speedup=100.0)
    assert (done.model, done.precision) == (conv, None)
    assert any("spec.optimize.calibration.uri" in warning for warning in done.warnings)


def test_int8_by_name_without_calibration_is_an_error(conv: Path) -> None:
    with pytest.raises(Failure, match=r"spec\.optimize\.calibration\.uri") as caught:
        optimized(conv, precision="INT8")
    assert caught.value.reason == Reason.DATA_INVALID


def test_a_network_with_nothing_to_quantize_is_served_as_it_is(tmp_path: Path) -> None:
    source = save(sums(), tmp_path / "model.onnx")
    done = optimized(source, precision="INT8")
    assert (done.model, done.precision) == (source, None)
    assert "no Conv, MatMul or Gemm" in done.warnings[0]


def test_what_is_int8_already_is_left_alone(dense: Path, tmp_path: Path) -> None:
    once = optimized(dense, precision="INT8")
    twice = optimized(once.model, precision="INT8")
    assert twice.model == once.model
    assert "INT8 already" in twice.warnings[0]


def test_the_gates_have_the_last_word_in_auto(dense: Path) -> None:
    done = optimized(dense, precision="Auto", accept=lambda path, precision: "no" if precision else None)
    assert done.precision is None
    assert row(done, "graph")["kept"] or row(done, "graph")["why"]
    assert row(done, "dynamic-int8")["why"] in ("its gates fail: no", "graph is faster")


def test_bad_calibration_is_an_error_before_anything_is_made(conv: Path) -> None:
    with pytest.raises(Failure, match="clipped"):
        optimized(conv, images(scale=1.0), precision="Auto", dataset=images(scale=16.0))


def test_pruning_makes_zeros_and_promises_no_speed(conv: Path) -> None:
    done = optimized(conv, prune=0.5, min_speedup=100.0)
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(done.model).graph.initializer}
    assert {name: np.mean(weights[name] == 0) for name in ("w1", "w2", "w3")} == dict.fromkeys(("w1", "w2", "w3"), 0.5)
    kept = np.abs(weights["w2"][weights["w2"] != 0])
    original = onnx.numpy_helper.to_array(onnx.load(conv).graph.initializer[2])
    assert kept.min() >= np.median(np.abs(original)) * 0.999
    assert "nothing runs faster" in done.warnings[0]
    assert row(done, "pruned")["speedup"] is not None


def test_pruning_and_int8_go_together(conv: Path) -> None:
    done = optimized(conv, images(), prune=0.5, precision="INT8")
    assert (done.precision, done.model.parent.name) == ("INT8", "pruned-static-int8")
    assert any("of the weights are zero" in warning for warning in done.warnings)
    assert row(done, "pruned")["why"] == "pruned-static-int8 is served instead"


def test_a_hook_s_model_is_one_more_candidate(conv: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    student = save(conv_network(channels=2), hook / "student.onnx")
    done = optimized(conv, images(), hook=student)
    assert (done.model, done.precision) == (student, None)
    both = optimized(conv, images(), hook=student, precision="Auto", min_speedup=100.0)
    names = {item["name"] for item in both.report["candidates"]}
    assert names == {"graph", "static-int8", "hook", "hook-graph", "hook-static-int8"}
    assert both.model == conv


def test_external_weights_are_taken_in(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(dense_network(), source, save_as_external_data=True, location="model.data", size_threshold=0)
    assert optimize_files.size_of(source) > 2 * 64 * 64 * 4
    done = optimized(source, precision="FP16")
    (tmp_path / "model.data").unlink()
    assert answers(done.model, {"rows": np.ones((2, 64), np.float32)}).shape == (2, 64)


def test_a_model_that_fits_into_no_file_is_refused(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_runtime.optimize.choose.LARGEST", 1000)
    with pytest.raises(Failure, match=r"remove spec\.optimize") as caught:
        optimized(dense, precision="Auto")
    assert caught.value.reason == Reason.TOO_LARGE


@pytest.mark.parametrize("precision", ["INT8", "FP16"])
def test_the_same_inputs_give_the_same_bytes(conv: Path, precision: str) -> None:
    first, second = (optimized(conv, images(), precision=precision).model.read_bytes() for _ in range(2))
    assert first == second
    model = onnx.ModelProto.FromString(first)
    assert (model.producer_name, len(model.metadata_props)) == ("penstock", 0)
    assert [item.domain for item in model.opset_import] == [""]


def test_a_tool_that_fails_is_a_sentence(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("penstock_runtime.optimize.quantize.quantize_static", broken)
    done = optimized(conv, images(), precision="Auto", min_speedup=100.0)
    assert row(done, "static-int8")["why"] == "it cannot be made: RuntimeError: no such kernel"
    with pytest.raises(Failure, match="no such kernel") as caught:
        optimized(conv, images(), precision="INT8")
    assert caught.value.reason == Reason.UNSUPPORTED_MODEL


def test_memory_that_runs_out_is_not_hidden(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr("penstock_runtime.optimize.quantize.quantize_static", broken)
    with pytest.raises(MemoryError):
        optimized(conv, images(), precision="Auto")


def test_for_a_gpu_candidates_are_made_and_not_measured(dense: Path) -> None:
    data = Dataset({"rows": np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)}, None, 32)
    done = optimized(dense, data, precision="INT8", target="GPU", dataset=data)
    assert done.precision == "INT8"
    kinds = {item.data_type for item in onnx.load(done.model).graph.initializer if "zero_point" in item.name}
    assert kinds == {onnx.TensorProto.INT8}
    assert row(done, "static-int8")["why"].startswith("asked for; not measured")


def test_a_converted_model_slower_than_its_source_is_reported(dense: Path) -> None:
    report, warnings = compare_with_source(dense, lambda _: {"y": np.zeros(1)}, None, seconds=0.1)
    assert report["speedup"] < 0.9
    assert "times slower" in warnings[0]

    def slow(feed):
        return {"y": [np.linalg.svd(np.ones((64, 64))) for _ in feed]}

    report, warnings = compare_with_source(dense, slow, None, seconds=0.1)
    assert report["speedup"] > 1
    assert warnings == ()


def test_a_source_that_cannot_run_one_row_spoils_nothing(dense: Path) -> None:
    def broken(_):
        raise ValueError("needs two rows")

    assert compare_with_source(dense, broken, None) == ({"problem": "needs two rows"}, ())
