"""Metrics of answers against labels: Top1, macro F1, AUC one against the rest, MSE and R².

Each is a function of weights, one per row, so that resampled rows cost no copies. The definitions are those of
scikit-learn, whose functions of the same names the tests compare them with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock_runtime.data import Array, Arrays

from .interval import Statistic

__all__ = ["LARGER_IS_BETTER", "MetricError", "Outcome", "measure"]

LARGER_IS_BETTER: Mapping[str, bool] = {"Top1": True, "F1": True, "AUC": True, "MSE": False, "R2": True}


class MetricError(Exception):
    """The metric has no meaning for these answers and labels; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """A metric of one model's answers: its value, and its value under weights.

    `correct` tells, for Top1 and F1, which rows are right. `cost` is the work of one evaluation in rows.
    """

    statistic: Statistic
    correct: Array | None = None
    cost: int = 1

    @property
    def value(self) -> float:
        """Of all rows, each counted once."""
        return self.statistic(None)


def measure(metric: str, answers: Arrays, label: Array) -> Outcome:
    """The metric of a model's answers; raises MetricError."""
    if metric in ("MSE", "R2"):
        expected, found = _values(answers, label)
        return Outcome(_mse(expected, found) if metric == "MSE" else _r2(expected, found), None, expected.shape[1])
    classes = _classes(label)
    if metric == "AUC":
        return _auc(_scores(answers), classes)
    predicted = _predicted(answers, classes)
    correct = predicted == classes
    return Outcome(_top1(correct) if metric == "Top1" else _f1(classes, predicted), correct, 4)


def _classes(label: Array) -> Array:
    """One class per row: whole numbers or text; columns of scores or of a one-hot code give the largest."""
    squeezed = label.reshape(len(label), -1)
    if squeezed.shape[1] == 1:
        column = squeezed[:, 0]
        if column.dtype.kind == "f":
            if not np.array_equal(column, np.rint(column)):
                raise MetricError("`label` holds fractions; this metric needs one class per row: whole numbers or text")
            return column.astype(np.int64)
        return column.astype(np.int64) if column.dtype.kind in "iub" else column.astype(str)
    if label.ndim == 2 and label.dtype.kind in "iubf":
        return np.asarray(squeezed.argmax(axis=1))
    raise MetricError(f"`label` has the shape {list(label.shape)}; expected one class per row, or one column per class")


def _predicted(answers: Arrays, classes: Array) -> Array:
    """The class each row was given: by an output that names classes, else by the largest score."""
    for array in answers.values():
        column = array.reshape(len(array), -1)
        if column.shape[1] != 1 or array.dtype.kind not in "iubOUS":
            continue
        if classes.dtype.kind in "iu" and array.dtype.kind in "iub":
            return column[:, 0].astype(np.int64)
        if classes.dtype.kind == "U" and array.dtype.kind in "OUS":
            return np.array([_text(item) for item in column[:, 0]])
    scores = _scores(answers)
    single = scores.shape[1] == 1
    chosen: Array = (scores[:, 0] > _threshold(scores)).astype(np.int64) if single else scores.argmax(axis=1)
    names = _column_names(classes, max(2, scores.shape[1]))
    return names[chosen]


def _scores(answers: Arrays) -> Array:
    """[row, class]: the first output with several numbers a row, else the first with one."""
    found = [
        (name, array.reshape(len(array), -1))
        for name, array in answers.items()
        if array.dtype.kind == "f" and sum(size > 1 for size in array.shape[1:]) <= 1
    ]
    found.sort(key=lambda item: item[1].shape[1] < 2)
    if not found:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in answers.items())
        raise MetricError(f"no output has a score per class, [rows, classes]; there are {shapes}")
    return found[0][1].astype(np.float64)


def _threshold(scores: Array) -> float:
    """Where a single score says yes: half of a probability, zero of a logit."""
    return 0.5 if scores.min(initial=0.0) >= 0 and scores.max(initial=1.0) <= 1 else 0.0


def _column_names(classes: Array, columns: int) -> Array:
    """Which class each column stands for: its number, or where labels are others, their sorted order."""
    known = np.unique(classes)
    if classes.dtype.kind in "iu" and (len(known) == 0 or (known.min() >= 0 and known.max() < columns)):
        return np.arange(columns)
    if len(known) != columns:
        message = (
            f"`label` has {len(known)} classes, of which some are no column numbers, and there are {columns} scores"
        )
        raise MetricError(f"{message}; write labels 0 to {columns - 1}")
    return known


def _text(item: object) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _top1(correct: Array) -> Statistic:
    hits = correct.astype(np.float64)
    return lambda weights: float(hits.mean() if weights is None else weights @ hits / weights.sum())


def _f1(classes: Array, predicted: Array) -> Statistic:
    """Mean over classes of 2 TP / (2 TP + FP + FN), 0 where undefined; classes seen in labels or predictions."""
    names, codes = np.unique(np.concatenate([classes, predicted]), return_inverse=True)
    real, said, count = codes[: len(classes)], codes[len(classes) :], len(names)
    right = np.where(real == said, real, count)

    def statistic(weights: Array | None) -> float:
        hits = np.bincount(right, weights, count + 1)[:count]
        total = np.bincount(real, weights, count) + np.bincount(said, weights, count)
        present = total > 0
        return float(np.mean(2 * hits[present] / total[present]))

    return statistic


def _auc(scores: Array, classes: Array) -> Outcome:
    """Mean over classes of the probability that a row of the class scores above one of another, ties half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982). Of two classes, or a single score,
    the second class's alone.
    """
    columns = max(2, scores.shape[1])
    names = _column_names(classes, columns)
    chosen = [1] if columns == 2 else list(range(columns))
    single = scores.shape[1] == 1
    parts = [_area(scores[:, 0 if single else at], classes == names[at]) for at in chosen]

    def statistic(weights: Array | None) -> float:
        areas = [part(weights) for part in parts]
        return float(np.mean(known)) if (known := [area for area in areas if not np.isnan(area)]) else 0.5

    if all(np.isnan(part(None)) for part in parts):
        raise MetricError("`label` is of one class in every row; AUC compares rows of a class with rows of others")
    return Outcome(statistic, None, 4 * len(parts))


def _area(score: Array, positive: Array) -> Statistic:
    _, group = np.unique(score, return_inverse=True)
    count = int(group.max()) + 1
    flags = positive.astype(np.float64)

    def statistic(weights: Array | None) -> float:
        mass = np.ones_like(flags) if weights is None else weights
        ours = np.bincount(group, mass * flags, count)
        others = np.bincount(group, mass * (1 - flags), count)
        pairs = ours.sum() * others.sum()
        if pairs == 0:
            return float("nan")
        below = np.cumsum(others) - others
        return float(ours @ (below + others / 2) / pairs)

    return statistic


def _values(answers: Arrays, label: Array) -> tuple[Array, Array]:
    """Expected and found numbers, [row, value]."""
    expected = label.reshape(len(label), -1)
    if label.dtype.kind not in "iubf":
        raise MetricError("`label` is text; this metric needs numbers")
    fitting = [
        array.reshape(len(array), -1)
        for array in answers.values()
        if array.dtype.kind in "iuf" and array[0].size == expected.shape[1]
    ]
    fitting.sort(key=lambda array: array.dtype.kind != "f")
    if not fitting:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in answers.items())
        raise MetricError(f"`label` has {expected.shape[1]} numbers a row, and no output has as many: {shapes}")
    return expected.astype(np.float64), fitting[0].astype(np.float64)


def _mse(expected: Array, found: Array) -> Statistic:
    errors = ((expected - found) ** 2).mean(axis=1)
    return lambda weights: float(errors.mean() if weights is None else weights @ errors / weights.sum())


def _r2(expected: Array, found: Array) -> Statistic:
    """Mean over values of 1 - residual / total sum of squares; where a value never varies 1 if it is met, else 0."""
    errors = (expected - found) ** 2

    def statistic(weights: Array | None) -> float:
        mass = np.ones(len(expected)) if weights is None else weights
        residual = mass @ errors
        total = mass @ (expected - mass @ expected / mass.sum()) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.where(total > 0, 1 - residual / total, np.where(residual > 0, 0.0, 1.0))
        return float(scores.mean())

    return statistic
