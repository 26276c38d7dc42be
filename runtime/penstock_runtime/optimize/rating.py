"""Ratings: candidates measured beside the model they would replace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_runtime.data import Dataset
from penstock_runtime.failure import is_out_of_memory, shorten

from .candidates import Candidate
from .running import difference, example, open_timed, runner
from .timing import Budget, Ratio, Timing, compare, measure, repeat

__all__ = ["Rating", "Ratings", "rate"]

_TOGETHER = 1 << 30
"""Bytes of files up to which all candidates are loaded at once, and measured in one run."""
_BATCH = 8
_BATCH_SHARE = 0.25
"""Of the time, for the larger batch that is only reported."""


@dataclass(frozen=True)
class Rating:
    """How fast a candidate is, alone and in a batch, and how far its answers are from the baseline's."""

    timing: Timing | None = None
    ratio: Ratio | None = None
    batch: Ratio | None = None
    difference: Mapping[str, Any] | None = None
    problem: str = ""
    """Why it cannot be measured."""


@dataclass(frozen=True)
class Ratings:
    """The baseline's own timing, None where nothing could be run; a rating for each candidate's name."""

    baseline: Timing | None
    by_name: Mapping[str, Rating]


def rate(baseline: Path, candidates: Sequence[Candidate], data: Dataset | None, seconds: float) -> Ratings:
    """Measure every candidate that was made, `seconds` each at most, in one interleaved run where memory allows."""
    made = [candidate for candidate in candidates if candidate.path is not None]
    size = sum(candidate.path.stat().st_size for candidate in made if candidate.path is not None)
    groups = [made] if size <= _TOGETHER else [[candidate] for candidate in made]
    own: Timing | None = None
    found: dict[str, Rating] = {}
    for group in groups:
        ratings = _rate_together(baseline, group, data, seconds)
        own = own or ratings.baseline
        found.update(ratings.by_name)
    return Ratings(own, found)


def _rate_together(baseline: Path, group: Sequence[Candidate], data: Dataset | None, seconds: float) -> Ratings:
    base = open_timed(baseline)
    sessions, found = {}, {}
    for candidate in group:
        try:
            session = open_timed(candidate.path) if candidate.path else None
            apart = difference(base, session, data) if data is not None else None
            found[candidate.name] = Rating(difference=apart)
            sessions[candidate.name] = session
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            found[candidate.name] = Rating(problem=shorten(f"onnxruntime cannot run it: {error}", 300))
    feed = example(base, data)
    if feed is None:
        problem = "the model cannot be run with random inputs; give spec.gates.dataset, with which it can be measured"
        return Ratings(None, {name: Rating(problem=rating.problem or problem) for name, rating in found.items()})
    try:
        single = _measure(base, sessions, feed, seconds * (len(sessions) + 1))
    except ArithmeticError as error:
        return Ratings(None, {name: Rating(problem=rating.problem or str(error)) for name, rating in found.items()})
    batches = _measure_batch(base, sessions, data, seconds * len(sessions) * _BATCH_SHARE)
    own = single.pop("")
    for name, timing in single.items():
        batch = compare(batches[""], batches[name]) if batches else None
        found[name] = Rating(timing, compare(own, timing), batch, found[name].difference)
    return Ratings(own, found)


def _measure_batch(
    base: Any, sessions: Mapping[str, Any], data: Dataset | None, seconds: float
) -> Mapping[str, Timing]:
    """Nothing where one of them cannot run the larger batch: it decides nothing."""
    try:
        feed = example(base, data, _BATCH)
        return _measure(base, sessions, feed, seconds) if feed is not None and sessions else {}
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        return {}


def _measure(base: Any, sessions: Mapping[str, Any], feed: Mapping[str, Any], seconds: float) -> dict[str, Timing]:
    runs = {name: repeat(runner(session, feed)) for name, session in {"": base, **sessions}.items()}
    return measure(runs, Budget(seconds))
