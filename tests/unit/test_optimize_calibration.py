"""Calibration data that would ruin a model is found before it does; data that is merely odd is warned of."""

import numpy as np
import pytest

from penstock.api.reasons import Reason
from penstock_runtime.data import Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.optimize.calibration import Reader, check_calibration, feeds
from tests.unit.optimize_networks import images


def normal(mean: float = 0.0, scale: float = 1.0, rows: int = 200) -> Dataset:
    numbers = np.random.default_rng(5).normal(mean, scale, (rows, 8)).astype(np.float32)
    return Dataset({"x": numbers}, None, rows)


@pytest.mark.parametrize(
    ("calibration", "dataset"),
    [
        (images(100), images(500, seed=2)),
        (images(100), None),
        (normal(), normal(rows=1000)),
        (Dataset({"ids": np.ones((20, 4), np.int64)}, None, 20), None),
    ],
)
def test_data_of_the_same_kind_is_taken(calibration: Dataset, dataset: Dataset | None) -> None:
    assert check_calibration(calibration, dataset) == ()


@pytest.mark.parametrize(
    ("calibration", "dataset", "words"),
    [
        (images(scale=1.0), images(scale=16.0), "of the dataset's numbers would be clipped"),
        (images(scale=255.0), images(scale=1.0), "times the range"),
        (images(scale=1.0), normal(), "clipped"),
    ],
)
def test_another_scale_is_refused(calibration: Dataset, dataset: Dataset, words: str) -> None:
    dataset = Dataset({next(iter(calibration.arrays)): next(iter(dataset.arrays.values()))}, None, dataset.rows)
    with pytest.raises(Failure, match="prepare both the same way") as caught:
        check_calibration(calibration, dataset)
    assert caught.value.reason == Reason.DATA_INVALID
    assert words in caught.value.message


def test_a_range_a_little_off_is_warned_of() -> None:
    (wider,) = check_calibration(normal(scale=3.0), normal())
    assert "times the range leaves INT8 too few steps" in wider
    (narrower,) = check_calibration(normal(scale=0.55), normal())
    assert "would be clipped" in narrower


def test_numbers_that_are_none_are_refused() -> None:
    data = images(32)
    data.arrays["image"][3, 0, 0, :2] = (np.nan, np.inf)
    with pytest.raises(Failure, match="holds 2 numbers that are NaN or infinite") as caught:
        check_calibration(data, None)
    assert caught.value.reason == Reason.DATA_INVALID


def test_constant_data_is_refused_and_one_constant_input_warned_of() -> None:
    with pytest.raises(Failure, match="every number of image is 0"):
        check_calibration(images(32, scale=0.0), None)
    mixed = Dataset({**images(32).arrays, "mask": np.ones((32, 4), np.float32)}, None, 32)
    assert check_calibration(mixed, None) == ("in spec.optimize.calibration every number of 'mask' is the same",)


def test_few_rows_are_warned_of() -> None:
    (warning,) = check_calibration(images(5), None)
    assert "has 5 rows" in warning


def test_rows_are_fed_as_the_model_takes_them() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert [feed["x"].shape for feed in feeds(Dataset({"x": rows}, None, 6))] == [(1, 2)] * 6
    assert [feed["x"].shape for feed in feeds(Dataset({"x": rows}, None, 6), 4)] == [(4, 2)]
    assert [feed["x"].shape for feed in feeds(Dataset({"x": rows}, None, 6, fixed=3))] == [(3, 2)] * 2
    assert [feed["x"].shape for feed in feeds(Dataset({"x": rows}, None, 6, whole=frozenset({"x"})), 4)] == [(2,)] * 6


def test_the_quantizer_may_read_the_rows_twice() -> None:
    reader = Reader(Dataset({"x": np.arange(3, dtype=np.float32)[:, None]}, None, 3))
    first = [int(feed["x"][0, 0]) for feed in iter(reader.get_next, None)]
    reader.rewind()
    assert first == [int(feed["x"][0, 0]) for feed in iter(reader.get_next, None)] == [0, 1, 2]
