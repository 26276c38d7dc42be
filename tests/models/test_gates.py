"""The gates' numbers against scikit-learn's and against simulation, and the trap of random data on a real network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from tests.models.networks import digits_cnn, digits_images, export_onnx

from penstock_runtime.data import Dataset
from penstock_runtime.finding import Asked
from penstock_runtime.gates.interval import drop_bound, wilson
from penstock_runtime.gates.metrics import measure
from penstock_runtime.gates.offline import OfflineGates
from penstock_runtime.optimize.policy import Recipe
from penstock_runtime.optimize.quantize import prepare_network, quantize_static

many = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def draw(seed: int, rows: int, classes: int, ties: bool = False) -> tuple[Any, Any]:
    """Scores that are right more often than not, and labels of which every class is seen."""
    generator = np.random.default_rng(seed)
    label = np.concatenate([np.arange(classes), generator.integers(0, classes, rows - classes)])
    scores = generator.random((rows, classes)) + 0.4 * np.eye(classes)[label]
    scores = np.round(scores, 1) if ties else scores
    return scores / scores.sum(axis=1, keepdims=True), label


@many
@given(seeds, st.integers(20, 200), st.integers(2, 6))
def test_top1_and_f1(seed: int, rows: int, classes: int) -> None:
    scores, label = draw(seed, rows, classes)
    said = scores.argmax(axis=1)
    assert measure("Top1", {"y": scores}, label).value == pytest.approx(sk.accuracy_score(label, said))
    expected = sk.f1_score(label, said, average="macro", zero_division=0)
    assert measure("F1", {"y": scores}, label).value == pytest.approx(expected)


@many
@given(seeds, st.integers(20, 200), st.booleans())
def test_auc_of_two_classes(seed: int, rows: int, ties: bool) -> None:
    scores, label = draw(seed, rows, 2, ties)
    expected = sk.roc_auc_score(label, scores[:, 1])
    assert measure("AUC", {"y": scores}, label).value == pytest.approx(expected)
    assert measure("AUC", {"y": scores[:, 1:]}, label).value == pytest.approx(expected)


@many
@given(seeds, st.integers(20, 200), st.integers(3, 6))
def test_auc_one_against_the_rest(seed: int, rows: int, classes: int) -> None:
    scores, label = draw(seed, rows, classes)
    expected = sk.roc_auc_score(label, scores, multi_class="ovr", average="macro")
    assert measure("AUC", {"y": scores}, label).value == pytest.approx(expected)


@many
@given(seeds, st.integers(5, 200), st.integers(1, 4))
def test_errors_of_numbers(seed: int, rows: int, values: int) -> None:
    generator = np.random.default_rng(seed)
    label = generator.normal(size=(rows, values))
    found = label + generator.normal(size=(rows, values))
    assert measure("MSE", {"y": found}, label).value == pytest.approx(sk.mean_squared_error(label, found))
    assert measure("R2", {"y": found}, label).value == pytest.approx(sk.r2_score(label, found))


@many
@given(seeds, st.sampled_from(["Top1", "F1", "AUC", "MSE", "R2"]))
def test_weights_count_rows_as_often(seed: int, metric: str) -> None:
    scores, label = draw(seed, 60, 3)
    answers = {"y": scores if metric in ("Top1", "F1", "AUC") else scores[:, :1]}
    times = np.random.default_rng(seed).integers(0, 3, 60)
    repeated = {"y": np.repeat(answers["y"], times, axis=0)}
    weighted = measure(metric, answers, label).statistic(times.astype(np.float64))
    assert weighted == pytest.approx(measure(metric, repeated, np.repeat(label, times)).value)


def test_a_drop_bound_is_wrong_in_about_one_of_twenty() -> None:
    """2,000 datasets of 300 rows, 3 % lost and 1 % won: the bound must lie below the true drop of 2 points rarely."""
    generator = np.random.default_rng(7)
    counts = generator.multinomial(300, (0.03, 0.01, 0.96), size=2000)
    known: dict[tuple[int, int], float] = {}
    missed = 0
    for lost, won, _ in counts.tolist():
        bound = known.setdefault((lost, won), drop_bound(lost, won, 300))
        missed += bound < 0.02
    assert 0.02 < missed / 2000 < 0.07


def test_an_interval_of_a_share_covers_it() -> None:
    hits = np.random.default_rng(7).binomial(540, 0.98, size=2000)
    covered = sum(low <= 0.98 <= high for low, high in (wilson(int(count), 540) for count in hits))
    assert 0.93 < covered / 2000 < 0.98


def test_random_data_condemns_a_network_that_is_right_on_real_data(tmp_path: Path) -> None:
    """Its activations are clipped at what calibration has seen, and nothing like noise was among that."""
    digits = digits_images()
    plain = export_onnx(digits_cnn(), digits.train_images[:2], tmp_path / "plain.onnx")
    prepare_network(plain, tmp_path / "prepared.onnx")
    calibration = Dataset({"image": digits.train_images[:256]}, None, 256)
    recipe = Recipe("static", "INT8", seven_bits=True)
    small = quantize_static(tmp_path / "prepared.onnx", tmp_path / "small.onnx", recipe, calibration)

    asked = Asked(gates={"parity": {"minTop1Agreement": "0.99"}, "accuracy": {"metric": "Top1", "maxDropPercent": "1"}})
    real = Dataset({"image": digits.held_out_images}, digits.held_out_labels, len(digits.held_out_labels))
    assert [row.passed for row in OfflineGates(asked, real, None, plain).judge(small, "INT8")] == [True, True, True]

    noise = np.random.default_rng(1).normal(size=digits.held_out_images.shape).astype(np.float32)
    row = OfflineGates(asked, Dataset({"image": noise}, None, len(noise)), None, plain).judge(small, "INT8")[0]
    assert not row.passed
    assert row.value is not None
    assert row.value < 0.9
