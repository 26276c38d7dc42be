"""The report's section `optimization`, and what of it the user is warned of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .asked import OptimizeAsked
from .candidates import Candidate
from .files import size_of
from .isa import Isa
from .rating import Rating, Ratings
from .timing import Ratio, Timing
from .verdict import HOOK, INSISTING, PRUNED, Choice

__all__ = ["make_report", "make_warnings", "show_timing"]


def make_report(
    model: Path, candidates: Sequence[Candidate], ratings: Ratings, choice: Choice, asked: OptimizeAsked, isa: Isa
) -> dict[str, Any]:
    """The baseline's size and time, and a row for every candidate, in the order they were made.

    Times are milliseconds of one run on one thread; `runs` counts them, `discarded` is the share of disturbed windows,
    `clock` is `cpu` where there were too few others. `batch8` is the speedup with eight rows, which decides nothing.
    """
    size = size_of(model)
    rows = [
        _row(item, ratings.by_name.get(item.name, Rating()), choice, size) for item in candidates
    ]  # fmt: skip
    return {
        "asked": {"precision": asked.precision, "min_speedup": asked.min_speedup},
        "isa": isa.name,
        "baseline": {"size_bytes": size, **(show_timing(ratings.baseline) if ratings.baseline else {})},
        "candidates": rows,
    }


def show_timing(timing: Timing) -> dict[str, Any]:
    """A timing's part of a row."""
    return {
        "milliseconds": _round(timing.seconds * 1e3),
        "runs": timing.runs,
        "discarded": round(timing.discarded, 3),
        "clock": timing.clock,
    }


def make_warnings(
    candidates: Sequence[Candidate], choice: Choice, asked: OptimizeAsked, *, compared: bool
) -> list[str]:
    """What the user should know of the outcome, most important first."""
    warnings = []
    kept = choice.kept
    precision = kept.precision if kept is not None else None
    if asked.precision in INSISTING and precision != asked.precision:
        said = "; ".join(f"{item.name}: {choice.why[item.name]}" for item in candidates if item.name != PRUNED)
        warnings.append(f"precision {asked.precision} was asked for and is not served: {said}")
    if asked.precision == "Auto":
        warnings += [f"{item.name} was not tried: {item.why}" for item in candidates if item.wants_calibration]
    if kept is not None and not compared and (precision is not None or kept.name == HOOK):
        message = "nothing has compared its answers with the source's on your data: give spec.gates.dataset"
        what = f"served as {precision}" if precision is not None else "the one that spec.optimize.hook returned"
        warnings.append(f"the model is {what}, and {message}")
    for item in candidates:
        if item is kept or item.name == PRUNED:
            warnings += item.warnings
    return warnings


def _row(candidate: Candidate, rating: Rating, choice: Choice, baseline: int) -> dict[str, Any]:
    size = candidate.path.stat().st_size if candidate.path is not None else None
    row: dict[str, Any] = {
        "name": candidate.name,
        "precision": candidate.precision,
        "size_bytes": size,
        "size_ratio": round(baseline / size, 3) if size else None,
        **_ratio(rating.ratio),
        **(show_timing(rating.timing) if rating.timing else {"runs": 0}),
        "kept": candidate is choice.kept,
        "why": choice.why[candidate.name],
    }
    if rating.batch is not None:
        row["batch8"] = round(rating.batch.value, 3)
    if rating.difference is not None:
        row["difference"] = dict(rating.difference)
    return row


def _ratio(ratio: Ratio | None) -> dict[str, float | None]:
    if ratio is None:
        return {"speedup": None}
    return {"speedup": round(ratio.value, 3), "low": round(ratio.low, 3), "high": round(ratio.high, 3)}


def _round(value: float) -> float:
    return float(f"{value:.4g}")
