"""How much disk a preparation may use, and how much of it a node must have free to take its pod.

The limit follows from the largest content that the chart admits: what is downloaded stops there. The request follows
from the source's real size as soon as a first look has told it: asking every node for the largest model there may ever
be would leave small clusters with no place for small models.
"""

from dataclasses import dataclass
from math import ceil

from penstock.core.settings import Settings

from .task import Task

__all__ = ["Room", "work_room"]

_MARKERS = 64 * 2**20
_UNKNOWN = 512 * 2**20
_DATA = 256 * 2**20
_CANDIDATES = 1.5
"""The network made ready for quantization, and an FP16 or INT8 version of it."""


@dataclass(frozen=True)
class Room:
    """Bytes of the work volume: at most, and those a node must have."""

    limit: int
    request: int


def work_room(task: Task, settings: Settings) -> Room:
    """The source, its prepared form, its candidates, the server's copy, the layer to publish; and the data."""
    copies, data = _copies(task), len(task.contents) - 1
    most = settings.max_model_bytes
    known = _UNKNOWN if task.source_bytes is None else ceil(task.source_bytes * copies)
    request = known + data * _DATA + _MARKERS
    limit = ceil(most * (copies + data)) + _MARKERS
    return Room(limit, min(request, limit))


def _copies(task: Task) -> float:
    found = 1.0 if task.is_mounted else 2.0
    found += 1.0 if task.opener != "Basic" else 0.0
    found += _CANDIDATES if task.optimize else 0.0
    found += 1.0 if task.has_hook else 0.0
    return found + (1.0 if task.is_measured else 0.0)
