"""The consistency gate: a row in company must be answered as the same row alone.

Inspection has proven that on random rows before it allowed batching. Here it is seen on the user's data, and again
through the server, where requests of different callers meet in one batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.data import Arrays, Dataset

from .answers import Answerer, AnswerError, answer_rows
from .parity import ParityError, compare
from .row import GateRow, number

__all__ = ["check_consistency", "judge_crowded"]

_ROWS = 32
_SIZES = (2, 7, 32)
_TOLERANCES = {None: 1e-4, "FP16": 5e-3, "INT8": 5e-2}
"""Of the largest value of an output. Kernels differ by batch size: some 1e-6; INT8 that takes its scale from the batch
differs as much as INT8 itself."""
_MEND = (
    "rows of different requests would change each other: set server.batching.maxBatchSize: 0, or mend the model, which "
    "may normalise or reduce over the first dimension"
)


def check_consistency(
    run: Answerer, dataset: Dataset, biggest: int, precision: str | None = None, name: str = "consistency"
) -> GateRow | None:
    """Answers in batches of 2, 7 and 32, as far as `biggest` allows, against answers one by one.

    None where rows cannot be batched at all.
    """
    sizes = [size for size in _SIZES if size < biggest] + ([min(biggest, _ROWS)] if biggest > 1 else [])
    if dataset.whole or dataset.fixed or not sizes or dataset.rows < 2:
        return None
    rows, tolerance = dataset.spread(_ROWS), _TOLERANCES[precision]
    asked = f"at most {number(tolerance)}"
    try:
        alone = answer_rows(run, rows, 1)
        worst = max(_differences(run, rows, alone, sizes))
    except (AnswerError, ParityError) as error:
        sentence = f"{error}; {_MEND}"
        return GateRow(name, asked, "no answer", passed=False, reason=Reason.CONSISTENCY_FAILED, sentence=sentence)
    difference, size, output = worst
    passed = difference <= tolerance
    measured = f"{number(difference)} ({rows.rows} rows, batches of {', '.join(map(str, sorted(set(sizes))))})"
    sentence = (
        ""
        if passed
        else f"output {output!r} of a row in a batch of {size} differs from the same row alone by {number(difference)} "
        f"of the output's largest value, allowed are {number(tolerance)}; {_MEND}"
    )
    return GateRow(
        name, asked, measured, passed, None if passed else Reason.CONSISTENCY_FAILED, sentence,
        value=difference if np.isfinite(difference) else None, bound=tolerance, better="Lower", rows=rows.rows,
    )  # fmt: skip


def judge_crowded(
    row: GateRow,
    run: Answerer,
    crowded: Callable[[Dataset], Arrays],
    dataset: Dataset,
    precision: str | None = None,
) -> GateRow:
    """The same of rows that were asked for at once by different callers, on top of what batches have shown."""
    rows, tolerance = dataset.spread(_ROWS), _TOLERANCES[precision]
    failed = Reason.CONSISTENCY_FAILED
    try:
        found = compare(answer_rows(run, rows, 1), crowded(rows))
    except (AnswerError, ParityError) as error:
        return replace(row, passed=False, reason=failed, sentence=f"requests at once: {error}; {_MEND}")
    difference = float(found.relative.max()) if found.relative is not None else 0.0
    if difference <= tolerance and (found.relative is not None or found.agree is None or found.agree.all()):
        return row
    sentence = (
        f"a row that the server computes together with other callers' rows differs from the same row alone by "
        f"{number(difference)} of the output's largest value, allowed are {number(tolerance)}; {_MEND}"
    )
    return replace(row, passed=False, reason=failed, sentence=sentence, value=difference)


def _differences(run: Answerer, rows: Dataset, alone: Arrays, sizes: list[int]) -> Iterator[tuple[float, int, str]]:
    for size in sizes:
        together = answer_rows(run, rows, min(size, rows.rows))
        for name, array in alone.items():
            found = compare({name: array}, together)
            if found.relative is not None:
                yield float(found.relative.max()), size, name
            elif found.agree is not None and not found.agree.all():
                yield float("inf"), size, name
    yield 0.0, 0, ""
