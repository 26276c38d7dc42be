"""Which candidate is kept, and for every one the sentence why or why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .asked import Accept, OptimizeAsked
from .candidates import Candidate
from .rating import Rating, Ratings
from .timing import Ratio

__all__ = ["HOOK", "INSISTING", "PRUNED", "Choice", "choose"]

INSISTING = ("FP16", "INT8")
"""Precisions that are asked for by name."""
PRUNED, HOOK = "pruned", "hook"
_UNMEASURED = "not measured: it would run on a GPU, and this Job has none"


@dataclass(frozen=True)
class Choice:
    """The candidate that is kept, None for the model itself; `why` has a sentence for every candidate's name."""

    kept: Candidate | None
    why: Mapping[str, str]


def choose(candidates: Sequence[Candidate], ratings: Ratings, asked: OptimizeAsked, accept: Accept | None) -> Choice:
    """The fastest that is `minSpeedup` faster and passes its gates; else the pruned model if asked for; else none.

    Gates are not asked about a precision that was asked for by name: they judge what is served in any case, and their
    reason is then the preparation's.
    """
    why = {item.name: _obstacle(item, ratings.by_name.get(item.name, Rating()), asked) for item in candidates}
    fit = sorted((item for item in candidates if not why[item.name]), key=lambda item: -_speed(ratings, item))
    kept = None
    for candidate in fit:
        assert candidate.path is not None
        refused = None
        if kept is None and accept is not None and asked.precision not in INSISTING:
            refused = accept(candidate.path, candidate.precision)
        why[candidate.name] = _sentence(ratings, candidate, kept, refused)
        if kept is None and refused is None:
            kept = candidate
    if asked.prune is None:
        return Choice(kept, why)
    pruned = next(item for item in candidates if item.name == PRUNED)
    why[PRUNED] = f"{kept.name} is served instead" if kept else "asked for, whatever its speed"
    return Choice(kept or pruned, why)


def _obstacle(candidate: Candidate, rating: Rating, asked: OptimizeAsked) -> str:
    """Why a candidate cannot be kept, empty where it can."""
    insisted = asked.precision in INSISTING and candidate.precision == asked.precision
    if candidate.path is None:
        return candidate.why
    if candidate.name == PRUNED:
        return "asked for, whatever its speed"
    if asked.target == "GPU":
        return "" if insisted else _UNMEASURED
    if rating.ratio is None:
        return rating.problem
    if rating.difference is not None and rating.difference["broken"]:
        return "it answers rows of yours with NaN or infinity where the model does not"
    if asked.precision in INSISTING and not insisted:
        return f"it is not {asked.precision}"
    return _too_slow(rating.ratio, asked, insisted=insisted)


def _too_slow(ratio: Ratio, asked: OptimizeAsked, *, insisted: bool) -> str:
    """A speed with bounds on both sides of 1 was not measured; who insists on a precision is taken at its value."""
    said = f"{ratio.value:.2f} times as fast as the model"
    if ratio.value < asked.min_speedup:
        return f"{said}; minSpeedup is {asked.min_speedup:g}"
    if not insisted and asked.min_speedup > 1 and ratio.low <= 1:
        return f"{said}, but it may be anything from {ratio.low:.2f} to {ratio.high:.2f}: the node was too busy to tell"
    return ""


def _speed(ratings: Ratings, candidate: Candidate) -> float:
    ratio = ratings.by_name.get(candidate.name, Rating()).ratio
    return ratio.value if ratio else 0.0


def _sentence(ratings: Ratings, candidate: Candidate, kept: Candidate | None, refused: str | None) -> str:
    if kept is not None:
        return f"{kept.name} is faster"
    if refused is not None:
        return f"its gates fail: {refused}"
    ratio = ratings.by_name.get(candidate.name, Rating()).ratio
    return f"{ratio.value:.2f} times as fast as the model" if ratio else f"asked for; {_UNMEASURED}"
