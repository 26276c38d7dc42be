"""Answers: what a model, wherever it runs, makes of the rows of a dataset."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from penstock_runtime.batching import random_rows
from penstock_runtime.data import Array, Arrays, Dataset
from penstock_runtime.failure import is_out_of_memory, shorten
from penstock_runtime.finding import Tensor

__all__ = ["AnswerError", "Answerer", "answer_rows", "in_process", "made_dataset", "not_finite"]

Answerer: TypeAlias = Callable[[Arrays], Mapping[str, Array]]
"""Inputs by name to outputs by name; raises whatever its runtime raises."""
_FREE_SIZES = (8, 32, 224, 1)


class AnswerError(Exception):
    """A model does not answer, or not row by row; the message says which rows and what it said."""


def in_process(model: Path) -> Answerer:
    """The ONNX model in onnxruntime, on one thread; raises Failure when it cannot be loaded."""
    from penstock_runtime.onnxmodel import open_session  # noqa: PLC0415 - measure does without onnxruntime

    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, dict(arrays)), strict=True))


def answer_rows(run: Answerer, dataset: Dataset, batch: int) -> dict[str, Array]:
    """The answer to every row, outputs stacked along a first axis of rows; raises AnswerError and MemoryError.

    Rows go in `batch` at a time, or as the dataset demands. Outputs that do not have a row for each row given are only
    understood of rows given alone.
    """
    size = 1 if dataset.whole else dataset.fixed or max(1, batch)
    parts = [_answer(run, dataset, start, size) for start in range(0, dataset.rows, size)]
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except (ValueError, KeyError) as error:
        raise AnswerError(
            f"its answers differ in shape from row to row, so they cannot be compared: {error}"
        ) from error


def _answer(run: Answerer, dataset: Dataset, start: int, size: int) -> dict[str, Array]:
    count = min(size, dataset.rows - start)
    feed = {name: _slice(array, start, size, whole=name in dataset.whole) for name, array in dataset.arrays.items()}
    if count < size and dataset.fixed is None:
        feed = {name: array[:count] for name, array in feed.items()}
    try:
        outputs = run(feed)
    except Exception as error:  # runtimes have no common base for what they raise
        if is_out_of_memory(error):
            raise MemoryError from error
        raise AnswerError(f"it does not answer {_rows(start, count)}: {shorten(str(error), 300)}") from error
    given = next((len(feed[name]) for name in feed if name not in dataset.whole), 1)
    return {name: _by_row(np.asarray(array), name, given)[:count] for name, array in outputs.items()}


def _slice(array: Array, start: int, size: int, *, whole: bool) -> Array:
    """So many rows; past the end the last one again, for models that fix the number."""
    if whole:
        return np.asarray(array[start])
    rows = array[start : start + size]
    missing = size - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def _by_row(array: Array, name: str, given: int) -> Array:
    if array.ndim and len(array) == given:
        return array
    if given == 1:
        return array[None]
    raise AnswerError(
        f"output {name!r} has the shape {list(array.shape)} for {given} rows; one answer per row is needed"
    )


def _rows(start: int, count: int) -> str:
    return f"row {start}" if count == 1 else f"rows {start} to {start + count - 1}"


def not_finite(answers: Arrays) -> str | None:
    """A sentence about NaN and infinity among the answers; None where there is neither."""
    for name, array in answers.items():
        if array.dtype.kind != "f":
            continue
        bad = np.atleast_1d(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if bad.any():
            kind = "NaN" if np.isnan(array).any() else "infinity"
            return (
                f"output {name!r} has {kind} in {int(bad.sum())} of {len(bad)} rows, first in row {int(bad.argmax())}"
            )
    return None


def made_dataset(run: Answerer, inputs: Sequence[Tensor]) -> Dataset | None:
    """Seeded random rows that the model answers, where there is no data; None when none could be found."""
    for size in _FREE_SIZES:
        rows = random_rows(inputs, size) if all(tensor.data_type != "BF16" for tensor in inputs) else None
        if rows is None:
            continue
        fixed = {tensor.dims[0] for tensor in inputs if tensor.dims and tensor.dims[0] != -1}
        whole = frozenset(tensor.name for tensor in inputs if not tensor.dims)
        if len(fixed) > 1:
            return None
        dataset = Dataset(rows, None, 5, whole, next(iter(fixed), None))
        try:
            run({name: _slice(array, 0, dataset.fixed or 1, whole=name in whole) for name, array in rows.items()})
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            continue
        return dataset
    return None
