"""Proof of batching: a batch must give each row what the row gives alone.

A free first dimension is only a claim: models normalise over it, flatten it, or mean a sequence by it. Triton would mix
the requests of different callers in such a model, so `max_batch_size` is emitted only after this proof.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .failure import is_out_of_memory, shorten
from .finding import Tensor

__all__ = ["Proof", "prove_batching"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = Mapping[str, Array]

_ROWS = 5
_SEED = 20240229
_FREE_SIZES = (8, 32, 224, 1)
"""Tried in turn for every free dimension but the first: sequences, small and usual images, and degenerate."""
_MOST_ELEMENTS = 1 << 26
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
_RELATIVE_HALF = 2e-3
_NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """Whether batching is proven, and if the model claims it but it is not, why."""

    proven: bool
    warnings: tuple[str, ...] = ()


def prove_batching(session: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Proof:
    """Run the same seeded random rows as batch 1, 2 and 5 and compare every row; never raises for a model's failure."""
    if any(not tensor.dims or tensor.dims[0] != -1 for tensor in (*inputs, *outputs)):
        return Proof(proven=False)
    if any(tensor.data_type == "BF16" for tensor in (*inputs, *outputs)):
        return Proof(proven=False, warnings=("batching is not proven: BF16 tensors cannot be made here",))
    names = [tensor.name for tensor in outputs]
    reason = "no size was tried"
    for size in _FREE_SIZES:
        rows = random_rows(inputs, size)
        if rows is None:
            continue
        try:
            whole = session.run(names, rows)
            parts = [(at, count, session.run(names, _rows(rows, at, count))) for at, count in ((0, 1), (4, 1), (3, 2))]
        except Exception as error:  # the runtime's own exceptions have no common base
            if is_out_of_memory(error):
                raise MemoryError from error
            reason = shorten(str(error), 160)
            continue
        problem = _compare(names, whole, parts)
        return Proof(proven=problem is None, warnings=(problem,) if problem else ())
    return Proof(proven=False, warnings=(f"batching is not proven: random inputs could not be run: {reason}",))


def random_rows(inputs: Sequence[Tensor], free: int) -> dict[str, Array] | None:
    """Seeded inputs with `_ROWS` rows, or None where they would be too large to make."""
    generator = np.random.default_rng(_SEED)
    rows = {}
    for tensor in inputs:
        shape = (_ROWS, *(free if size == -1 else size for size in tensor.dims[1:]))
        if float(np.prod(shape, dtype=np.float64)) > _MOST_ELEMENTS:
            return None
        rows[tensor.name] = _random(generator, tensor.data_type, shape)
    return rows


def _random(generator: np.random.Generator, data_type: str, shape: tuple[int, ...]) -> Array:
    if data_type == "STRING":
        return generator.choice(np.array(["a", "b", "c"], dtype=object), size=shape)
    kind = np.dtype(_NUMPY[data_type])
    if kind.kind == "f":
        return generator.random(shape).astype(kind)
    return generator.integers(0, 2, size=shape).astype(kind)


def _rows(arrays: Arrays, at: int, count: int) -> dict[str, Array]:
    return {name: array[at : at + count] for name, array in arrays.items()}


def _compare(
    names: Sequence[str], whole: Sequence[Array], parts: Sequence[tuple[int, int, Sequence[Array]]]
) -> str | None:
    for index, name in enumerate(names):
        for at, count, part in parts:
            problem = _compare_rows(whole[index], part[index], at, count)
            if problem:
                return f"batching is off: output {name!r} {problem}"
    return None


def _compare_rows(whole: Array, part: Array, at: int, count: int) -> str | None:
    if whole.ndim == 0 or part.ndim == 0 or len(whole) != _ROWS or len(part) != count:
        sizes = f"{_first(whole)} and {_first(part)}"
        return f"has {sizes} rows for batches of {_ROWS} and {count}"
    expected = whole[at : at + count]
    if expected.shape != part.shape:
        return f"has rows of shape {list(expected.shape[1:])} in a batch and {list(part.shape[1:])} alone"
    if part.dtype.kind != "f":
        return None if np.array_equal(expected, part) else f"differs between a batch of {_ROWS} and of {count}"
    difference = _largest_difference(expected, part)
    relative = _RELATIVE_HALF if part.dtype == np.float16 else _RELATIVE
    scale = float(np.max(np.abs(np.nan_to_num(expected.astype(np.float64))), initial=0.0))
    if difference <= _ABSOLUTE + relative * scale:
        return None
    return f"differs by {difference:.3g} (of {scale:.3g}) between a batch of {_ROWS} and of {count}"


def _first(array: Array) -> int:
    return len(array) if array.ndim else 0


def _largest_difference(first: Array, second: Array) -> float:
    """Of numbers; equal infinities and NaNs count as equal, unequal ones as infinite."""
    left, right = first.astype(np.float64), second.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(left - right))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0))
