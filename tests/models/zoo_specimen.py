"""What training leaves behind, and how the framework that trained it answers."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Specimen", "dataset", "npz"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Specimen:
    """A model's files, and its answers to rows that it has not seen."""

    format: str
    """As spec.model.format names it, and as it is found by content."""
    files: Mapping[str, bytes]
    rows: Array
    answers: tuple[Array, ...]
    """Of the source framework, one for each output, first axis the rows."""
    labels: Array
    input: str
    """The input's name once it is served, by which a dataset names its rows."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """What spec.model says beside `uri`."""
    served: str = "ONNX"
    """The format that is served."""
    tolerance: float = 1e-4
    """Largest difference of an answer that the order of float32 sums explains."""


def dataset(made: Specimen, rows: int = 200) -> bytes:
    """What spec.gates.dataset reads: rows under the input's name, and `label`."""
    return npz({made.input: made.rows[:rows], "label": made.labels[:rows]})


def npz(arrays: Mapping[str, Array]) -> bytes:
    """An `.npz` file of these arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
