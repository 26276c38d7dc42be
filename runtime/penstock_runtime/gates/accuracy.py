"""The accuracy gate: a metric against labels, judged with what the number of rows can tell.

`minimum` is a target that people have measured as a plain number, so the plain number must reach it, and its 95 %
interval is shown beside it. `maxDropPercent` is a promise about rows nobody has seen, so the one-sided 95 % bound of
the paired drop on the same rows must be within it: too few rows fail the gate, and the sentence says how many would do.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.data import Array, Arrays

from .asked import AccuracyAsked
from .interval import drop_bound, resample, rows_enough, smallest_bound, wilson
from .metrics import LARGER_IS_BETTER, MetricError, Outcome, measure
from .row import GateRow, number

__all__ = ["judge_accuracy", "no_label"]

_FEWEST_ROWS = 30
"""Below this, resampled intervals of a metric are too narrow to be believed."""
_FAILED = Reason.ACCURACY_FAILED
_DROP = "accuracy.drop"
_MEND = "export the model again, lower what is asked, or set optimize.precision: None if it was changed"


def no_label(asked: AccuracyAsked) -> GateRow:
    """The row of a dataset without labels, which is refused and not skipped."""
    sentence = (
        f"spec.gates.accuracy asks for {asked.metric or 'a metric'}, and the dataset has no array `label`; "
        "add one with a value per row, or remove the gate"
    )
    return GateRow("accuracy", _text(asked), "no label", passed=False, reason=Reason.DATA_INVALID, sentence=sentence)


def judge_accuracy(
    asked: AccuracyAsked, label: Array, answers: Arrays, source: Arrays | None, fewest: int = _FEWEST_ROWS
) -> list[GateRow]:
    """The rows `accuracy` and `accuracy.drop`, as far as they are asked for; `source` are the source's own answers."""
    metric = asked.metric or "Top1"
    try:
        found = measure(metric, answers, label)
        before = None if source is None else measure(metric, source, label)
    except MetricError as error:
        sentence = f"{metric} cannot be measured: {error}"
        return [GateRow("accuracy", _text(asked), passed=False, reason=Reason.DATA_INVALID, sentence=sentence)]
    pair = _Pair(metric, found, before, len(label), fewest)
    rows = []
    if asked.minimum is not None:
        rows.append(_judge_minimum(pair, asked.minimum))
    if asked.max_drop is not None:
        rows.append(_judge_drop(pair, asked.max_drop))
    return rows


@dataclass(frozen=True)
class _Pair:
    """A metric of the model and of its source on the same rows, and both of them resampled."""

    metric: str
    found: Outcome
    before: Outcome | None
    rows: int
    fewest: int

    @cached_property
    def draws(self) -> Array:
        """[draw, model and source]."""
        statistics = [self.found.statistic, *([self.before.statistic] if self.before else [])]
        return resample(statistics, self.rows, self.found.cost * len(statistics))

    def interval(self) -> tuple[float, float]:
        """95 % of the model's value."""
        if self.metric == "Top1" and self.found.correct is not None:
            return wilson(float(self.found.correct.sum()), self.rows)
        low, high = np.quantile(self.draws[:, 0], (0.025, 0.975))
        return float(low), float(high)


def _judge_minimum(pair: _Pair, asked: float) -> GateRow:
    higher = LARGER_IS_BETTER[pair.metric]
    value, interval = pair.found.value, pair.interval()
    passed = value >= asked if higher else value <= asked
    asked_text = f"{pair.metric} at {'least' if higher else 'most'} {number(asked)}"
    measured = f"{number(value)} (95 % interval {number(interval[0])} to {number(interval[1])}, {pair.rows:,} rows)"
    sentence = "" if passed else f"{pair.metric} is {measured}, asked: {asked_text}; {_MEND}"
    return GateRow(
        "accuracy", asked_text, measured, passed, None if passed else _FAILED, sentence, value=value, bound=asked,
        better="Higher" if higher else "Lower", interval=interval, rows=pair.rows,
        baseline=pair.before.value if pair.before else None,
    )  # fmt: skip


def _judge_drop(pair: _Pair, asked: float) -> GateRow:
    unit = "points" if pair.metric != "MSE" else "% of the source's"
    asked_text = f"at most {number(asked)} {unit}"
    if pair.before is None:
        sentence = (
            "maxDropPercent compares with the source's own answers, and nothing here can run this source beside the "
            "server; write minimum instead"
        )
        return GateRow(_DROP, asked_text, "no source to compare with", passed=False, reason=_FAILED, sentence=sentence)
    drop, bound, enough = _drop(pair, asked)
    passed = bound <= asked
    measured = f"{number(drop)} {unit}, below {number(bound)} with 95 % confidence ({pair.rows:,} rows)"
    sentence = "" if passed else _drop_sentence(pair, asked, drop, bound, enough, unit)
    return GateRow(
        _DROP, asked_text, measured, passed, None if passed else _FAILED, sentence, value=bound, bound=asked,
        better="Lower", rows=pair.rows, unit=unit,
    )  # fmt: skip


def _drop_sentence(pair: _Pair, asked: float, drop: float, bound: float, enough: int | None, unit: str) -> str:
    assert pair.before is not None
    values = f"{pair.metric} is {number(pair.found.value)}, the source's own {number(pair.before.value)}"
    if drop > asked:
        return f"{values}: {number(drop)} {unit} worse, asked: at most {number(asked)} ({pair.rows:,} rows); {_MEND}"
    many = f"about {enough:,} rows like these would be enough" if enough else "no number of rows would be enough"
    return (
        f"{values}: {number(max(drop, 0.0))} {unit} worse, but {pair.rows:,} rows only prove that it is less than "
        f"{number(bound)}, asked: at most {number(asked)}; {many}"
    )


def _drop(pair: _Pair, asked: float) -> tuple[float, float, int | None]:
    """The drop, its bound, and the number of rows that would prove it; in percent points, of MSE in percent."""
    assert pair.before is not None
    if pair.metric == "Top1" and pair.found.correct is not None and pair.before.correct is not None:
        lost = int((pair.before.correct & ~pair.found.correct).sum())
        won = int((pair.found.correct & ~pair.before.correct).sum())
        bound = drop_bound(lost, won, pair.rows)
        return 100 * (lost - won) / pair.rows, 100 * bound, rows_enough(lost, won, pair.rows, asked / 100)
    drop = float(_worse(pair.metric, np.array(pair.found.value), np.array(pair.before.value)))
    draws = pair.draws
    bound = max(drop, float(np.quantile(_worse(pair.metric, draws[:, 0], draws[:, 1]), 0.95, method="higher")))
    if pair.metric == "F1":
        bound = max(bound, drop + 100 * smallest_bound(pair.rows))
    enough = None if drop >= asked else max(pair.fewest, ceil(pair.rows * ((bound - drop) / (asked - drop)) ** 2))
    if pair.rows < pair.fewest:
        bound = max(bound, 100.0)
    return drop, bound, enough


def _worse(metric: str, value: Array, before: Array) -> Array:
    if metric != "MSE":
        return 100 * (before - value)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, 100 * (value - before) / before, np.where(value > 0, np.inf, 0.0))


def _text(asked: AccuracyAsked) -> str:
    parts = []
    if asked.minimum is not None:
        parts.append(
            f"at {'least' if LARGER_IS_BETTER.get(asked.metric or '', True) else 'most'} {number(asked.minimum)}"
        )
    if asked.max_drop is not None:
        parts.append(f"at most {number(asked.max_drop)} worse")
    return f"{asked.metric or 'own metric'} {', '.join(parts)}".strip()
