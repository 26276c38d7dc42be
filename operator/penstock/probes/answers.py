"""An agent's answer to `GET /v1/observe`, from JSON that is not trusted to plain records.

An answer counts whole or not at all: the first field that is not what it should be refuses it, because half an answer
would look like a second without requests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

from penstock.core.fleet import RevisionCounts

__all__ = ["LARGEST", "PodAnswer", "PodRow", "PodSplit", "RouteState", "parse_answer"]

_MOST_ROWS = 4000
_MOST_BUCKETS = 64
_MOST_REVISIONS = 16
LARGEST = 2**53
"""Sums of such numbers stay exact where evidence is counted, and fit where status keeps them."""
_SKEW_SECONDS = 5
"""How far a clock may be set back without an answer being refused."""
_MIXED = -1
"""Index of the state of a second in which the route changed."""


@dataclass(frozen=True)
class RouteState:
    """What a router pod did with requests over a whole second; equal states may be added up."""

    generation: int
    weights: Mapping[str, int]
    shadow: tuple[str, int] | None = None
    bounds: tuple[int, ...] = ()


@dataclass(frozen=True)
class PodRow:
    """One second of one model in one pod; no state: the route changed inside it, so that it proves nothing."""

    second: int
    state: RouteState | None
    counts: Mapping[str, RevisionCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class PodSplit:
    """What one pod says of one model; rows are in order of time."""

    generation: int = 0
    expired: bool = False
    warm: Mapping[str, int] = field(default_factory=dict)
    rejected: str = ""
    first: int = 0
    """The first second its ring can answer for."""
    rows: tuple[PodRow, ...] = ()


@dataclass(frozen=True)
class PodAnswer:
    """All that a pod said at `now` (its clock, Unix seconds), by the uid of the ModelDeployment."""

    now: float
    splits: Mapping[str, PodSplit] = field(default_factory=dict)


def parse_answer(body: bytes) -> PodAnswer:
    """Raises ValueError for anything but a complete and sound answer."""
    try:
        content = _mapping(json.loads(body))
        now = _number(content["now"])
        splits = {uid: _split(_mapping(item), now) for uid, item in _mapping(content["splits"]).items()}
        return PodAnswer(now, splits)
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"not an answer of a router agent: {type(error).__name__} {error}") from error


def _split(item: Mapping[str, Any], now: float) -> PodSplit:
    bounds = _counts(item.get("bounds", ()))
    states = [_state(_mapping(state), bounds) for state in _list(item.get("states", ()), _MOST_ROWS)]
    rows = tuple(_row(_list(row, 3), states, len(bounds) + 1) for row in _list(item.get("rows", ()), _MOST_ROWS))
    if any(later.second <= earlier.second for earlier, later in pairwise(rows)):
        raise ValueError("rows are not in order of time")
    if rows and rows[-1].second > now + _SKEW_SECONDS:
        raise ValueError(f"a row of second {rows[-1].second}, and it is {now:.0f}")
    return PodSplit(
        generation=_count(item["generation"]),
        expired=_flag(item.get("expired", False)),
        warm=_weights(item.get("warm", {})),
        rejected=str(item.get("rejected", ""))[:1000],
        first=_count(item.get("from", 0)),
        rows=rows,
    )


def _state(item: Mapping[str, Any], bounds: tuple[int, ...]) -> RouteState:
    shadow = item.get("shadow")
    copied = (str(shadow[0]), _count(shadow[1])) if shadow else None
    return RouteState(_count(item["generation"]), _weights(item["weights"]), copied, bounds)


def _row(item: list[Any], states: list[RouteState], buckets: int) -> PodRow:
    second, index, counts = item
    if type(index) is not int or not _MIXED <= index < len(states):
        raise ValueError(f"a row of state {index!r}, of {len(states)} states")
    told = {str(name): _revision(_list(value, 5), buckets) for name, value in _bounded(_mapping(counts)).items()}
    return PodRow(_count(second), None if index == _MIXED else states[index], told)


def _revision(item: list[Any], buckets: int) -> RevisionCounts:
    latency = _counts(item.pop())
    if len(latency) not in (0, buckets):
        raise ValueError(f"{len(latency)} latency buckets, {buckets} are expected")
    requests, errors, client_errors, aborted = map(_count, item)
    return RevisionCounts(requests, errors, client_errors, aborted, latency)


def _weights(value: Any) -> dict[str, int]:
    return {str(name): _count(number) for name, number in _bounded(_mapping(value)).items()}


def _bounded(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(value) > _MOST_REVISIONS:
        raise ValueError(f"{len(value)} revisions, at most {_MOST_REVISIONS} are expected")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(_count(item) for item in _list(value, _MOST_BUCKETS))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, saw {type(value).__name__}")
    return value


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise ValueError(f"expected a list of at most {most}, saw {str(value)[:40]}")
    return list(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"expected a whole number from 0 to {LARGEST}, saw {str(value)[:40]}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"expected a finite number, saw {value!r}")
    return float(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, saw {value!r}")
    return value
