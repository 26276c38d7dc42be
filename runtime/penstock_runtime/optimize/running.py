"""Models as something to run: sessions as the server has them, and inputs to run them with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from penstock_runtime.data import Array, Arrays, Dataset
from penstock_runtime.failure import is_out_of_memory

from .calibration import feeds

__all__ = ["difference", "example", "open_timed", "runner"]

_FREE = (128, 224, 32, 8, 1)
"""Sizes tried for free dimensions where no data says any."""
_ROWS = 64
_SEED = 20240229
_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
}  # fmt: skip


def open_timed(path: Path) -> Any:
    """A session on one thread with the runtime's own graph optimization, as serving has it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runner(session: Any, feed: Arrays) -> Callable[[], object]:
    """One run of a session with those inputs."""
    return lambda: session.run(None, feed)


def example(session: Any, data: Dataset | None, batch: int = 1) -> Mapping[str, Array] | None:
    """Inputs for one run, of the user's data or random; None where there is no way to make a batch of that size.

    Random inputs are good for times only: what a model answers to noise says nothing about its numerics.
    """
    if data is not None:
        return _of_data(data, batch)
    if batch > 1 and not all(item.shape and not isinstance(item.shape[0], int) for item in session.get_inputs()):
        return None
    for free in _FREE:
        feed = _random(session, batch, free)
        if feed is None:
            return None
        try:
            session.run(None, feed)
        except Exception as error:  # the runtime's own exceptions have no common base
            if is_out_of_memory(error):
                raise MemoryError from error
            continue
        return feed
    return None


def difference(baseline: Any, candidate: Any, data: Dataset) -> dict[str, Any]:
    """How far a candidate's answers to the user's first rows are from the baseline's; for the report, not a gate.

    `relative`: the largest difference of any output, of its largest value; `top1`: the share of rows with the same
    largest value, over the first output that has several; `broken`: outputs that are only finite in the baseline.
    """
    relative, broken, agreed = 0.0, False, []
    for feed in feeds(data.spread(_ROWS)):
        pairs = zip(baseline.run(None, feed), candidate.run(None, feed), strict=True)
        floats = [(np.asarray(a), np.asarray(b)) for a, b in pairs if getattr(a, "dtype", np.dtype("O")).kind == "f"]
        for known, other in floats:
            usable = np.isfinite(known)
            broken |= not bool(np.isfinite(other[usable]).all())
            scale = float(np.abs(known[usable]).max(initial=0.0))
            apart = float(np.abs(known[usable].astype(np.float64) - other[usable]).max(initial=0.0))
            relative = max(relative, apart / scale if scale else apart)
        several = next(((a, b) for a, b in floats if a.ndim > 1 and a.shape[-1] > 1), None)
        if several is not None:
            agreed.append(float(np.mean(several[0].argmax(-1) == several[1].argmax(-1))))
    top1 = {"top1": round(float(np.mean(agreed)), 4)} if agreed else {}
    return {"rows": min(_ROWS, data.rows), "relative": float(f"{relative:.3g}"), **top1, "broken": broken}


def _of_data(data: Dataset, batch: int) -> Mapping[str, Array] | None:
    if batch > 1 and (data.whole or data.fixed or data.rows < batch):
        return None
    return next(feeds(data, batch), None)


def _random(session: Any, batch: int, free: int) -> dict[str, Array] | None:
    generator = np.random.default_rng(_SEED)
    feed = {}
    for item in session.get_inputs():
        first, *rest = item.shape or [1]
        shape = [first if isinstance(first, int) else batch, *(n if isinstance(n, int) else free for n in rest)]
        shape = shape if item.shape else []
        if item.type == "tensor(string)":
            feed[item.name] = np.full(shape, "a", dtype=object)
            continue
        kind = np.dtype(_TYPES[item.type]) if item.type in _TYPES else None
        if kind is None:
            return None
        numbers = generator.random(shape) if kind.kind == "f" else generator.integers(0, 2, size=shape)
        feed[item.name] = np.asarray(numbers).astype(kind)
    return feed
