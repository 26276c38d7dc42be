"""Offline gates: what passes, what is refused, with which numbers and words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from penstock.api.facts import GateResult
from penstock.api.reasons import Reason
from penstock.api.report import read_report
from penstock_runtime.data import Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Tensor
from penstock_runtime.gates import GateRow, GatesAsked, ParityAsked, first_failed, judge_metric
from penstock_runtime.gates.accuracy import judge_accuracy
from penstock_runtime.gates.answers import Answerer, AnswerError, answer_rows, made_dataset, not_finite
from penstock_runtime.gates.asked import AccuracyAsked
from penstock_runtime.gates.consistency import check_consistency
from penstock_runtime.gates.interval import drop_bound, rows_enough, smallest_bound, wilson
from penstock_runtime.gates.offline import OfflineGates, judge_size, read_reference
from penstock_runtime.gates.parity import ParityError, compare, judge_parity, parity_report
from penstock_runtime.gates.row import number, size_text


def scores(rows: int = 100, classes: int = 4, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, classes)).astype(np.float32)


def data(rows: int = 100, label: bool = True) -> Dataset:
    return Dataset({"x": scores(rows)}, scores(rows).argmax(axis=1) if label else None, rows)


def as_report(rows: list[GateRow]) -> Any:
    answers = [row.to_answer() for row in rows]
    for answer in answers:
        GateResult.model_validate(answer)
    return read_report(json.dumps({"schema": "penstock.dev/report/v1", "gates": answers})).gates


# what is asked


def test_everything_that_can_be_asked_is_read() -> None:
    asked = GatesAsked.read(
        {
            "parity": {"minTop1Agreement": "0.99", "maxAbsoluteDifference": "1e-3", "minRowShare": "0.9"},
            "accuracy": {"metric": "F1", "minimum": "0.5", "maxDropPercent": "1"},
            "latency": {"p95": "20ms", "concurrency": 8, "batchSize": 2},
            "throughput": {"minPerSecond": "200"},
            "size": {"max": "1Mi"},
            "memory": {"max": "1Gi"},
            "tune": {"goal": "Latency"},
        }
    )
    assert asked.parity == ParityAsked(0.99, 1e-3, None, 0.9)
    assert asked.accuracy == AccuracyAsked("F1", 0.5, 1.0)
    assert asked.latency == {95: 0.02}
    assert (asked.latency_load.concurrency, asked.latency_load.batch_size) == (8, 2)
    assert (asked.throughput, asked.throughput_load.concurrency) == (200, 8)
    assert (asked.size, asked.memory, asked.goal, asked.trials) == (1 << 20, 1 << 30, "Latency", 8)
    assert GatesAsked.read({}) == GatesAsked()


# parity


def test_equal_answers_pass_every_bound() -> None:
    found = compare({"y": scores()}, {"y": scores()})
    rows = judge_parity(ParityAsked(1.0, 0.0, 0.0), found)
    assert [row.name for row in rows] == ["parity.top1", "parity.absolute", "parity.relative"]
    assert all(row.passed and not row.sentence for row in as_report(rows))


def test_one_row_beyond_the_bound_fails_unless_a_share_is_enough() -> None:
    answers = scores()
    answers[17, 2] += 0.5
    found = compare({"y": scores()}, {"y": answers})
    (row,) = judge_parity(ParityAsked(absolute=0.1), found)
    assert (row.passed, row.reason, row.rows) == (False, Reason.PARITY_FAILED, 100)
    assert "1 of 100 rows differ from the source by more than 0.1" in row.sentence
    assert "output 'y', row 17" in row.sentence
    assert row.value == pytest.approx(0.5, rel=1e-4)
    assert judge_parity(ParityAsked(absolute=0.1, row_share=0.99), found)[0].passed
    assert not judge_parity(ParityAsked(absolute=0.1, row_share=0.995), found)[0].passed


def test_top1_counts_rows_and_shows_its_interval() -> None:
    answers = scores()
    answers[:3] = -answers[:3]
    (row,) = judge_parity(ParityAsked(top1=0.98), compare({"y": scores()}, {"y": answers}))
    assert not row.passed
    assert row.value == 0.97
    assert row.interval == pytest.approx(wilson(97, 100))
    assert "97 of 100 rows" in row.measured
    assert "first other row: 0" in row.sentence


def test_the_worst_output_decides() -> None:
    source = {"a": scores(), "b": scores(seed=5)}
    found = compare(source, {"a": scores(), "b": scores(seed=5) + 0.25})
    assert found.where == "b"
    assert found.absolute is not None
    assert float(found.absolute.max()) == pytest.approx(0.25, rel=1e-5)


def test_relative_is_of_the_largest_value_of_the_source() -> None:
    found = compare({"y": np.array([[1.0, 10.0], [0.0, 2.0]])}, {"y": np.array([[1.5, 10.0], [0.0, 2.0]])})
    assert found.relative is not None
    assert found.relative.tolist() == [0.05, 0.0]
    assert parity_report(found)["max_relative"] == 0.05


def test_classes_and_text_must_be_equal() -> None:
    classes, text = np.array([1, 2, 3]), np.array([["a"], ["b"], [b"c"]], dtype=object)
    found = compare({"c": classes, "t": text}, {"c": np.array([1, 2, 4]), "t": np.array([["a"], ["x"], ["c"]])})
    assert found.agree is not None
    assert found.agree.tolist() == [True, False, False]
    assert not judge_parity(ParityAsked(absolute=1.0), found)[0].passed


def test_nothing_asked_is_still_reported() -> None:
    (row,) = judge_parity(None, compare({"y": scores()}, {"y": scores() + 1e-3}))
    assert row.passed
    assert "top-1" in row.measured
    assert "cosine" in row.measured
    assert as_report([row])


@pytest.mark.parametrize(
    ("precision", "noise", "passes"),
    [(None, 1e-6, True), (None, 1e-2, False), ("FP16", 1e-3, True), ("FP16", 5e-2, False), ("INT8", 1e-2, True)],
)
def test_an_empty_gate_asks_what_the_precision_allows(precision: str | None, noise: float, passes: bool) -> None:
    source = np.eye(4, dtype=np.float32)[np.arange(100) % 4]
    found = compare({"y": source}, {"y": source + np.float32(noise)})
    assert all(row.passed for row in judge_parity(ParityAsked(), found, precision)) is passes


def test_unlike_outputs_cannot_be_compared() -> None:
    with pytest.raises(ParityError, match="has none of that name"):
        compare({"y": scores()}, {"z": scores()})
    with pytest.raises(ParityError, match=r"\[4\] a row from the source and \[3\]"):
        compare({"y": scores()}, {"y": scores()[:, :3]})


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0, 2), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_differences_are_what_they_say(rows: int, classes: int, noise: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = generator.normal(size=(rows, classes))
    answer = source + noise * generator.normal(size=(rows, classes))
    found = compare({"y": source}, {"y": answer})
    assert found.absolute is not None
    np.testing.assert_allclose(found.absolute, np.abs(source - answer).max(axis=1))
    assert found.cosine is None or -1.0000001 <= found.cosine <= 1.0000001
    assert (found.top1 is None) == (classes == 1)


# accuracy


def test_a_minimum_is_held_against_the_plain_number() -> None:
    answers = scores()
    label = answers.argmax(axis=1)
    label[:4] = (label[:4] + 1) % 4
    (row,) = judge_accuracy(AccuracyAsked("Top1", minimum=0.96), label, {"y": answers}, None)
    assert row.passed
    assert row.measured.startswith("0.96 (95 % interval 0.901")
    assert row.interval == pytest.approx(wilson(96, 100))
    (row,) = judge_accuracy(AccuracyAsked("Top1", minimum=0.97), label, {"y": answers}, None)
    assert (row.passed, row.reason) == (False, Reason.ACCURACY_FAILED)
    assert "asked: Top1 at least 0.97" in row.sentence


def test_too_few_rows_fail_and_say_how_many_would_do() -> None:
    answers = scores(540)
    label = answers.argmax(axis=1)
    (row,) = judge_accuracy(AccuracyAsked("Top1", max_drop=0.2), label, {"y": answers}, {"y": answers})
    assert not row.passed
    assert "540 rows only prove that it is less than 0.4985" in row.sentence
    enough = rows_enough(0, 0, 540, 0.002)
    assert enough is not None
    assert f"about {enough:,} rows like these would be enough" in row.sentence
    more = scores(enough)
    (row,) = judge_accuracy(AccuracyAsked("Top1", max_drop=0.2), more.argmax(axis=1), {"y": more}, {"y": more})
    assert row.passed


def test_a_drop_is_told_as_one() -> None:
    source = scores(1000)
    label, answers = source.argmax(axis=1), source.copy()
    answers[:50] = -answers[:50]
    (row,) = judge_accuracy(AccuracyAsked("Top1", max_drop=1.0), label, {"y": answers}, {"y": source})
    assert not row.passed
    assert "5 points worse, asked: at most 1" in row.sentence
    assert as_report([row])


@pytest.mark.parametrize("metric", ["F1", "AUC"])
def test_resampled_metrics_of_equal_answers(metric: str) -> None:
    answers = scores(200)
    label = answers.argmax(axis=1)
    asked = AccuracyAsked(metric, minimum=0.9, max_drop=2.0)
    rows = judge_accuracy(asked, label, {"y": answers}, {"y": answers})
    assert [row.passed for row in rows] == [True, True]
    again = judge_accuracy(asked, label, {"y": answers}, {"y": answers})
    assert rows == again


def test_mean_squared_error_is_bounded_above() -> None:
    generator = np.random.default_rng(1)
    label = generator.normal(size=200)
    source = label + 0.1 * generator.normal(size=200)
    worse = label + 0.2 * generator.normal(size=200)
    passed = judge_accuracy(AccuracyAsked("MSE", 0.02, 10), label, {"y": source[:, None]}, {"y": source[:, None]})
    assert [row.passed for row in passed] == [True, True]
    failed = judge_accuracy(AccuracyAsked("MSE", 0.02, 10), label, {"y": worse[:, None]}, {"y": source[:, None]})
    assert [row.passed for row in failed] == [False, False]
    assert failed[0].better == "Lower"


def test_few_rows_prove_nothing_of_a_resampled_metric() -> None:
    label = np.arange(10.0)
    rows = judge_accuracy(AccuracyAsked("R2", max_drop=5), label, {"y": label[:, None]}, {"y": label[:, None]})
    assert not rows[0].passed
    assert "about 30 rows" in rows[0].sentence


def test_a_drop_needs_a_source() -> None:
    answers = scores()
    (row,) = judge_accuracy(AccuracyAsked("Top1", max_drop=1), answers.argmax(axis=1), {"y": answers}, None)
    assert not row.passed
    assert "write minimum instead" in row.sentence


@pytest.mark.parametrize(
    ("metric", "label", "words"),
    [
        ("Top1", np.full(100, 0.5), "holds fractions"),
        ("Top1", np.full(100, 9), "write labels 0 to 3"),
        ("AUC", np.zeros(100, np.int64), "of one class in every row"),
        ("MSE", np.full(100, "a"), "is text"),
        ("MSE", np.zeros(100), "no output has as many"),
        ("Top1", np.zeros((100, 2, 2)), "expected one class per row"),
    ],
)
def test_labels_that_do_not_fit(metric: str, label: Any, words: str) -> None:
    (row,) = judge_accuracy(AccuracyAsked(metric, minimum=0.5), label, {"y": scores()}, None)
    assert (row.passed, row.reason) == (False, Reason.DATA_INVALID)
    assert words in row.sentence


def test_an_output_that_names_classes_comes_before_scores() -> None:
    answers = {"label": np.array([3, 7, 7]), "probabilities": scores(3, 2)}
    (row,) = judge_accuracy(AccuracyAsked("Top1", minimum=1.0), np.array([3, 7, 7]), answers, None)
    assert row.passed
    names = {"label": np.array(["cat", "dog"], dtype=object)}
    (row,) = judge_accuracy(AccuracyAsked("F1", minimum=1.0), np.array(["cat", "dog"]), names, None)
    assert row.passed


def test_one_score_says_yes_above_half_or_zero() -> None:
    for one in (np.array([[0.2], [0.9]]), np.array([[-3.0], [2.0]])):
        (row,) = judge_accuracy(AccuracyAsked("Top1", minimum=1.0), np.array([0, 1]), {"y": one}, None)
        assert row.passed


def test_a_metric_of_the_users_own() -> None:
    assert [row.passed for row in judge_metric({"image": "m", "minimum": "0.9"}, 0.91, None)] == [True]
    rows = judge_metric({"image": "m", "minimum": "0.9", "maxDropPercent": "1"}, 0.88, 0.9)
    assert [(row.name, row.passed) for row in rows] == [("accuracy", False), ("accuracy.drop", False)]
    assert "0.88 (the source's own is 0.9), asked: at least 0.9" in rows[0].sentence
    assert as_report(rows)


# intervals


def test_bounds_that_are_known() -> None:
    assert wilson(0, 10)[0] == 0.0
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert smallest_bound(540) == pytest.approx(2.7055 / 542.7055, rel=1e-4)
    assert rows_enough(10, 2, 100, 0.01) is None


@given(st.integers(0, 20), st.integers(0, 20), st.integers(40, 3000))
@settings(deadline=None, max_examples=20)
def test_a_drop_bound_lies_above_the_drop_and_falls_with_rows(lost: int, won: int, rows: int) -> None:
    bound = drop_bound(lost, won, rows)
    assert (lost - won) / rows < bound <= 1
    excess = bound - (lost - won) / rows
    assert drop_bound(4 * lost, 4 * won, 4 * rows) - (lost - won) / rows < excess
    assert drop_bound(lost + 1, won, rows) > bound
    margin = bound / 2
    enough = rows_enough(lost, won, rows, margin)
    if enough is not None:
        scale = enough / rows
        assert drop_bound(lost * scale, won * scale, enough) <= margin * 1.001


# answers, consistency, size


def test_rows_are_fed_as_the_dataset_demands() -> None:
    seen: list[int] = []

    def run(arrays: Any) -> Any:
        seen.append(len(arrays["x"]))
        return {"y": arrays["x"] * 2}

    five = Dataset({"x": np.arange(10.0).reshape(5, 2)}, None, 5)
    np.testing.assert_array_equal(answer_rows(run, five, 2)["y"], five.arrays["x"] * 2)
    assert seen == [2, 2, 1]
    seen.clear()
    three = Dataset(five.arrays, None, 5, fixed=3)
    np.testing.assert_array_equal(answer_rows(run, three, 32)["y"], five.arrays["x"] * 2)
    assert seen == [3, 3]
    whole = Dataset(five.arrays, None, 5, frozenset({"x"}))
    assert answer_rows(lambda arrays: {"y": arrays["x"].sum()}, whole, 32)["y"].tolist() == [1, 5, 9, 13, 17]


def test_answers_without_rows_are_understood_one_by_one_alone() -> None:
    five = Dataset({"x": np.arange(5.0)[:, None]}, None, 5)
    assert answer_rows(lambda arrays: {"y": arrays["x"].sum()}, five, 1)["y"].shape == (5,)
    with pytest.raises(AnswerError, match="one answer per row is needed"):
        answer_rows(lambda arrays: {"y": arrays["x"].sum()}, five, 5)


def test_a_model_that_mixes_rows_is_inconsistent() -> None:
    def mixing(arrays: Any) -> Any:
        return {"y": arrays["x"] - arrays["x"].mean(axis=0)}

    row = check_consistency(mixing, data(), 32)
    assert row is not None
    assert (row.passed, row.reason) == (False, Reason.CONSISTENCY_FAILED)
    assert "maxBatchSize: 0" in row.sentence
    good = check_consistency(lambda arrays: {"y": arrays["x"] * 2}, data(), 32)
    assert good is not None
    assert good.passed
    assert check_consistency(mixing, data(), 1) is None


def test_precision_decides_what_is_consistent() -> None:
    def scaled(arrays: Any) -> Any:
        scale = np.abs(arrays["x"]).max() / 127
        return {"y": np.rint(arrays["x"] / scale) * scale}

    plain, quantized = check_consistency(scaled, data(), 32), check_consistency(scaled, data(), 32, "INT8")
    assert plain is not None
    assert quantized is not None
    assert (plain.passed, quantized.passed) == (False, True)


def test_no_number_is_no_answer() -> None:
    answers = scores()
    answers[5, 1] = np.nan
    assert not_finite({"y": answers}) == "output 'y' has NaN in 1 of 100 rows, first in row 5"
    answers[5, 1] = np.inf
    assert "infinity" in (not_finite({"y": answers}) or "")
    assert not_finite({"y": np.array(["a"])}) is None


def test_made_rows_find_a_size_that_runs() -> None:
    def run(arrays: Any) -> Any:
        if arrays["x"].shape[1] < 200:
            raise ValueError("too small a picture")
        return {"y": arrays["x"].sum(axis=1)}

    made = made_dataset(run, (Tensor("x", "FP32", (-1, -1)),))
    assert made is not None
    assert made.arrays["x"].shape == (5, 224)


def test_the_size_of_the_files() -> None:
    assert judge_size(1 << 20, 1 << 20).passed
    row = judge_size(1 << 20, (1 << 20) + 1)
    assert (row.passed, row.reason) == (False, Reason.SIZE_FAILED)
    assert "1,048,577 bytes" in row.sentence


def test_rows_of_numbers_that_are_none_stay_json() -> None:
    row = GateRow("x", value=float("nan"), bound=float("inf"), interval=(0.0, float("inf")), measured="m" * 500)
    assert row.to_answer() == {"name": "x", "passed": True, "measured": row.to_answer()["measured"]}
    assert len(row.to_answer()["measured"]) <= 160


# all together, in process


def onnx(path: Path, factor: float = 1.0, nodes: list[Any] | None = None) -> Path:
    value = helper.make_tensor_value_info
    constant = helper.make_tensor("f", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph(
        nodes or [helper.make_node("Mul", ["x", "f"], ["y"])], "g", [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])], [constant],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path.write_bytes(made.SerializeToString())
    return path


GATES = {
    "parity": {"minTop1Agreement": "1", "maxAbsoluteDifference": "1e-3"},
    "accuracy": {"metric": "Top1", "minimum": "0.9"},
    "size": {"max": "1Mi"},
}


def offline(asked: Asked, dataset: Dataset, reference: Answerer | None, path: Path) -> list[GateRow]:
    """All offline gates of a model that is its own baseline."""
    return OfflineGates(asked, dataset, reference, path).judge(path)


def test_a_good_model_passes_all(tmp_path: Path) -> None:
    path = onnx(tmp_path / "model.onnx")
    rows = offline(Asked(gates=GATES), data(), None, path)
    assert [row.name for row in rows] == ["size", "parity.top1", "parity.absolute", "accuracy", "consistency"]
    assert first_failed(rows) is None


def test_a_changed_model_is_refused_with_why(tmp_path: Path) -> None:
    baseline, candidate = onnx(tmp_path / "a.onnx"), onnx(tmp_path / "b.onnx", -1.0)
    gates = OfflineGates(Asked(gates=GATES), data(), None, baseline)
    assert gates.accept(baseline) is None
    why = gates.accept(candidate)
    assert why is not None
    assert "the largest output is the source's in 0 of 100 rows" in why


def test_the_frameworks_own_answers_come_before_the_files(tmp_path: Path) -> None:
    path = onnx(tmp_path / "model.onnx")
    gates = OfflineGates(Asked(gates=GATES), data(), lambda arrays: {"y": arrays["x"] + 1}, path)
    assert not all(row.passed for row in gates.judge(path))
    assert gates.parity_report() is not None


def test_no_number_is_refused_whatever_was_asked(tmp_path: Path) -> None:
    path = onnx(tmp_path / "m.onnx", nodes=[helper.make_node("Log", ["x"], ["y"])])
    (row,) = [row for row in offline(Asked(), data(), None, path) if not row.passed]
    assert row.reason is Reason.PARITY_FAILED
    assert "has NaN" in row.sentence


def test_accuracy_without_labels_is_refused(tmp_path: Path) -> None:
    path = onnx(tmp_path / "m.onnx")
    row = first_failed(offline(Asked(gates=GATES), data(label=False), None, path))
    assert row is not None
    assert row.reason is Reason.DATA_INVALID
    assert "no array `label`" in row.sentence


def test_rows_that_mix_only_on_real_data_are_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["top", "f"], ["over"]),
        helper.make_node("Relu", ["over"], ["extra"]),
        helper.make_node("Add", ["x", "extra"], ["y"]),
    ]
    path = onnx(tmp_path / "m.onnx", 1.5, nodes)
    gates = OfflineGates(Asked(), data(), None, path, inputs=(Tensor("x", "FP32", (-1, 4)),))
    assert [row.passed for row in gates.judge(path) if row.name == "consistency"] == [False]
    made = OfflineGates(Asked(), None, None, path, inputs=(Tensor("x", "FP32", (-1, 4)),))
    assert [row.passed for row in made.judge(path)] == [True]


def test_a_source_that_cannot_read_the_data_is_no_fault_of_the_model(tmp_path: Path) -> None:
    def refuse(_: Any) -> Any:
        raise ValueError("token 900 of 512")

    path = onnx(tmp_path / "m.onnx")
    with pytest.raises(Failure, match="token 900 of 512") as refused:
        offline(Asked(), data(), refuse, path)
    assert refused.value.reason is Reason.DATA_INVALID


def test_the_sources_answers_are_kept_for_the_server(tmp_path: Path) -> None:
    path = onnx(tmp_path / "m.onnx", 2.0)
    gates = OfflineGates(Asked(), data(), None, path)
    gates.keep(tmp_path / "answers")
    kept = read_reference(tmp_path / "answers")
    assert kept is not None
    np.testing.assert_array_equal(kept["y"], scores() * 2)
    assert read_reference(tmp_path / "none") is None
    gates.write_predictions(path, tmp_path / "metric", tmp_path / "metric-source")
    with np.load(tmp_path / "metric" / "predictions.npz", allow_pickle=False) as archive:
        assert set(archive) == {"y", "label"}
    assert (tmp_path / "metric-source" / "predictions.npz").is_file()


def test_files_that_nothing_here_runs_are_judged_by_size_alone(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(bytes(100))
    rows = offline(Asked(gates={**GATES, "size": {"max": "10"}}), data(), None, plan)
    assert [(row.name, row.passed) for row in rows] == [("size", False)]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (3 << 19, "1.5 MiB"), (5 << 40, "5120 GiB")],
)
def test_sizes_are_told_in_a_fitting_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1"), (0.97, "0.97"), (5.7220459e-06, "5.722e-06"), (12.345678, "12.35"), (999.9, "999.9"),
        (999.96, "1,000"), (1890.4, "1,890"), (99_999.6, "100,000"), (100_000, "100,000"), (-20_000, "-20,000"),
        (1.5e13, "1.5e+13"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text
