"""Calibration data: whether it can be believed, and how it is fed to a model row by row.

Nothing fails when it is wrong: with pixels divided by 16 once too often INT8 answers one digit in ten correctly, and no
tool says a word. So it is compared with the gates' dataset where there is one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.data import Array, Dataset
from penstock_runtime.failure import Failure

__all__ = ["Reader", "check_calibration", "feeds"]

_FEW = 16
_SPAN_REFUSED, _SPAN_WARNED = 4.0, 2.0
"""How many times wider the calibration's range may be than the dataset's: each doubling costs INT8 one bit."""
_OUTSIDE_REFUSED, _OUTSIDE_WARNED = 0.1, 0.01
"""Share of the dataset's numbers outside of the calibration's range, where INT8 clips them."""
_MARGIN = 0.05
_NAME = "spec.optimize.calibration"
_ADVICE = "prepare both the same way, as the model was trained"


@dataclass(frozen=True)
class _Range:
    low: float
    high: float

    @property
    def span(self) -> float:
        return self.high - self.low

    def shown(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}"


class Reader:
    """Rows for onnxruntime's calibration, one by one; restartable, as it may ask for the first again."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.rewind()

    def get_next(self) -> Mapping[str, Array] | None:
        """The next feed; None after the last."""
        return next(self._feeds, None)

    def rewind(self) -> None:
        """Start again."""
        self._feeds = feeds(self._data)


def feeds(data: Dataset, batch: int = 1) -> Iterator[dict[str, Array]]:
    """The data as inputs of single runs, `batch` rows each where the model takes any number; a short rest is left."""
    size = data.fixed or (1 if data.whole else batch)
    for at in range(0, data.rows - size + 1, size):
        yield {
            name: array[at] if name in data.whole else np.ascontiguousarray(array[at : at + size])
            for name, array in data.arrays.items()
        }


def check_calibration(calibration: Dataset, dataset: Dataset | None) -> tuple[str, ...]:
    """What is odd about the data; raises Failure `DataInvalid` for data that would ruin the model."""
    floats = {name: array for name, array in calibration.arrays.items() if array.dtype.kind == "f"}
    for name, array in floats.items():
        _check_finite(name, array)
    warnings = []
    if calibration.rows < _FEW:
        warnings.append(f"{_NAME} has {calibration.rows} rows; ranges from so few may be too narrow: give 100 or more")
    constant = [name for name, array in floats.items() if array.min() == array.max()]
    if floats and len(constant) == len(floats):
        value = next(iter(floats.values())).flat[0]
        message = f"in {_NAME} every number of {', '.join(constant)} is {value:g}; give rows like those in production"
        raise Failure(Reason.DATA_INVALID, message)
    warnings += [f"in {_NAME} every number of {name!r} is the same" for name in constant]
    if dataset is not None:
        for name, array in floats.items():
            known = dataset.arrays.get(name)
            if known is not None and known.size and name not in constant:
                warnings += _check_scale(name, array, known)
    return tuple(warnings)


def _check_finite(name: str, array: Array) -> None:
    broken = int(array.size - np.count_nonzero(np.isfinite(array)))
    if broken:
        message = f"array {name!r} of {_NAME} holds {broken} numbers that are NaN or infinite; remove those rows"
        raise Failure(Reason.DATA_INVALID, message)


def _check_scale(name: str, calibration: Array, known: Array) -> list[str]:
    """Compare the ranges of one input; those of the dataset without its rarest numbers."""
    seen = _Range(float(calibration.min()), float(calibration.max()))
    finite = known[np.isfinite(known)].astype(np.float64)
    usual = _Range(float(np.quantile(finite, 0.001)), float(np.quantile(finite, 0.999)))
    margin = _MARGIN * seen.span
    outside = float(np.mean((finite < seen.low - margin) | (finite > seen.high + margin)))
    times = seen.span / usual.span if usual.span > 0 else 1.0
    ranges = f"{name!r} goes from {seen.shown()} in {_NAME} and from {usual.shown()} in spec.gates.dataset"
    problems = []
    if outside > _OUTSIDE_WARNED:
        problems.append(f"{ranges}: {outside:.0%} of the dataset's numbers would be clipped; {_ADVICE}")
    if times > _SPAN_WARNED:
        problems.append(f"{ranges}: {times:.1f} times the range leaves INT8 too few steps; {_ADVICE}")
    if problems and (outside > _OUTSIDE_REFUSED or times > _SPAN_REFUSED):
        raise Failure(Reason.DATA_INVALID, problems[0])
    return problems
