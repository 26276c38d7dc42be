"""The parity gate: a model's answers against its source's, row by row.

Every number is reported whatever was asked: the share of rows with the same largest output, the largest absolute
difference, that difference in relation to the largest value of the source's answers, and the cosine of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.data import Array, Arrays

from .asked import ParityAsked
from .interval import wilson
from .row import GateRow, number, share

__all__ = ["Differences", "ParityError", "compare", "judge_parity", "parity_report"]

_FAILED = Reason.PARITY_FAILED
_DEFAULTS = {
    None: ParityAsked(top1=0.99, relative=1e-4),
    "FP16": ParityAsked(top1=0.99, relative=5e-3),
    "INT8": ParityAsked(top1=0.99),
}
"""What `parity: {}` means. Measured: conversions differ by 1e-6 of the largest value, FP16 by 5e-4, INT8 by 1e-2."""
_EDGES = np.power(10.0, np.arange(-9, 4))


class ParityError(Exception):
    """Answers that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Differences:
    """How two sets of answers differ; `absolute` and `relative` have one number per row, the largest of its outputs.

    `agree` tells per row whether the largest value of every output, and every class or text, is the same; None where no
    output has several values.
    """

    rows: int
    absolute: Array | None
    relative: Array | None
    agree: Array | None
    cosine: float | None
    where: str = ""
    """The output with the largest absolute difference."""

    @property
    def top1(self) -> float | None:
        """Share of rows that agree."""
        return None if self.agree is None else float(self.agree.mean())

    def summary(self) -> str:
        """All numbers, for people."""
        parts = [] if self.top1 is None else [f"top-1 {number(self.top1)}"]
        if self.absolute is not None and self.relative is not None:
            parts.append(f"differences up to {number(self.absolute.max())}, relative {number(self.relative.max())}")
        if self.cosine is not None:
            parts.append(f"cosine {self.cosine:.6f}")
        return f"{', '.join(parts)} ({self.rows:,} rows)"


def compare(source: Arrays, answers: Arrays) -> Differences:
    """Compare all outputs that the source has; raises ParityError where they are not alike in name, shape or type."""
    if not source:
        raise ParityError("the source has no outputs")
    parts = [_compare(name, array, answers.get(name)) for name, array in source.items()]
    numbers = [part for part in parts if part.absolute is not None]
    absolute = [part.absolute for part in numbers if part.absolute is not None]
    relative = [part.relative for part in numbers if part.relative is not None]
    worst = numbers[int(np.argmax([array.max() for array in absolute]))] if numbers else parts[0]
    agree = [part.agree for part in parts if part.agree is not None]
    return replace(
        worst,
        absolute=np.max(absolute, axis=0) if numbers else None,
        relative=np.max(relative, axis=0) if numbers else None,
        agree=np.all(agree, axis=0) if agree else None,
        cosine=min((part.cosine for part in numbers if part.cosine is not None), default=None),
    )


def _compare(name: str, source: Array, answer: Array | None) -> Differences:
    if answer is None:
        raise ParityError(f"the source has an output {name!r}, the model has none of that name")
    if source.shape != answer.shape:
        shapes = f"{list(source.shape[1:])} a row from the source and {list(answer.shape[1:])} from the model"
        raise ParityError(f"output {name!r} has the shape {shapes}")
    rows = len(source)
    left, right = source.reshape(rows, -1), answer.reshape(rows, -1)
    if source.dtype.kind in "OUSb" or (source.dtype.kind in "iu" and left.shape[1] == 1):
        same = _as_text(left) == _as_text(right) if source.dtype.kind in "OUS" else left == right
        return Differences(rows, None, None, same.all(axis=1), None, name)
    if answer.dtype.kind not in "iuf":
        raise ParityError(f"output {name!r} is {source.dtype.name} from the source, {answer.dtype.name} from the model")
    first, second = left.astype(np.float64), right.astype(np.float64)
    absolute = np.abs(first - second).max(axis=1, initial=0.0)
    scale = float(np.abs(first).max(initial=0.0))
    relative = absolute / scale if scale else np.where(absolute > 0, np.inf, 0.0)
    agree = first.argmax(axis=1) == second.argmax(axis=1) if left.shape[1] > 1 else None
    return Differences(rows, absolute, relative, agree, _cosine(first, second), name)


def _as_text(array: Array) -> Array:
    flat = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def _cosine(first: Array, second: Array) -> float | None:
    lengths = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return None if lengths == 0 else float(np.vdot(first, second)) / lengths


def judge_parity(
    asked: ParityAsked | None, found: Differences, precision: str | None = None, prefix: str = "parity"
) -> list[GateRow]:
    """A row for each bound, or one with all numbers where nothing is asked."""
    if asked is None:
        return [GateRow(prefix, "", found.summary(), value=found.top1, rows=found.rows)]
    if asked.bounds_nothing:
        asked = replace(_DEFAULTS[precision], row_share=asked.row_share)
    rows = []
    if asked.top1 is not None:
        rows.append(_judge_top1(asked.top1, found, f"{prefix}.top1"))
    for kind, bound in (("absolute", asked.absolute), ("relative", asked.relative)):
        if bound is not None:
            rows.append(_judge_difference(kind, bound, asked.row_share, found, f"{prefix}.{kind}"))
    return rows


def _judge_top1(asked: float, found: Differences, name: str) -> GateRow:
    text = f"at least {number(asked)}"
    if found.agree is None or found.top1 is None:
        sentence = (
            "minTop1Agreement compares the largest of several values, and no output of this model has several; "
            "write maxAbsoluteDifference or maxRelativeDifference"
        )
        return GateRow(name, text, "not applicable", passed=False, reason=_FAILED, sentence=sentence)
    hits = int(found.agree.sum())
    low, high = wilson(hits, found.rows)
    measured = f"{number(found.top1)} ({share(hits, found.rows)})"
    passed = found.top1 >= asked
    sentence = (
        ""
        if passed
        else f"the largest output is the source's in {share(hits, found.rows)} ({number(found.top1)}), asked: {text}; "
        f"first other row: {int(np.argmin(found.agree))}; all: {found.summary()}; {_advice()}"
    )
    return GateRow(
        name, text, measured, passed, None if passed else _FAILED, sentence, value=found.top1, bound=asked,
        better="Higher", interval=(low, high), rows=found.rows,
    )  # fmt: skip


def _judge_difference(kind: str, bound: float, row_share: float, found: Differences, name: str) -> GateRow:
    text = f"at most {number(bound)}" + (f" in {number(row_share)} of the rows" if row_share < 1 else "")
    values = found.absolute if kind == "absolute" else found.relative
    if values is None:
        sentence = f"no output of this model has numbers of which a {kind} difference could be taken; ask for top-1"
        return GateRow(name, text, "not applicable", passed=False, reason=_FAILED, sentence=sentence)
    within = int((values <= bound).sum())
    passed = within >= row_share * found.rows
    largest = float(values.max())
    measured = f"{number(largest)}, {share(within, found.rows)} within"
    sentence = (
        ""
        if passed
        else f"{share(found.rows - within, found.rows)} differ from the source by more than {number(bound)} ({kind}), "
        f"the largest by {number(largest)} in output {found.where!r}, row {int(values.argmax())}; "
        f"asked: {text}; all: {found.summary()}; {_advice()}"
    )
    return GateRow(
        name, text, measured, passed, None if passed else _FAILED, sentence, value=largest, bound=bound,
        better="Lower", rows=found.rows,
    )  # fmt: skip


def _advice() -> str:
    return "loosen the bound if that is tolerable, or set optimize.precision: None where numerics were changed"


def parity_report(found: Differences) -> Mapping[str, Any]:
    """The section `parity` of the report."""
    report: dict[str, Any] = {"rows": found.rows}
    if found.top1 is not None:
        report["top1_agreement"] = found.top1
    if found.absolute is not None and found.relative is not None:
        counts, _ = np.histogram(np.clip(found.absolute, _EDGES[0], _EDGES[-1]), _EDGES)
        report["max_absolute"] = float(found.absolute.max())
        if np.isfinite(found.relative).all():
            report["max_relative"] = float(found.relative.max())
        report["differences"] = {"edges": [float(edge) for edge in _EDGES], "counts": [int(n) for n in counts]}
    return report
