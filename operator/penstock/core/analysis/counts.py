"""What one second of traffic says about both revisions, and how it is read from the routers' rows."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from penstock.core.fleet import RevisionCounts, Row

__all__ = ["UNKNOWN", "Counts", "Second", "choose_threshold", "to_second"]

UNKNOWN = -1
"""`slow` of a second for which no bound had been chosen: latency is not judged by it."""

_THRESHOLD_SAMPLES = 100
"""Fewer of stable's requests give no bound; a p95 then still rests on five requests beyond it."""


class Counts(NamedTuple):
    """One revision in one second: requests that ended, and how many of them went wrong in each way.

    With sticky routing the last three count distinct clients, each once.
    """

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    slow: int = 0


class Second(NamedTuple):
    """One second in which all router pods agreed on the route; `weight` is the candidate's, in 0.1 %.

    Weight 0 is history of stable. With `shadow` the candidate got copies of `weight` of stable's requests, its answers
    were dropped. The first in a tuple is the Unix second in which it ended.
    """

    t: int
    weight: int
    stable: Counts
    candidate: Counts = Counts()
    shadow: bool = False


_IDLE = RevisionCounts()


def to_second(row: Row, stable: str, candidate: str | None, slow_above_ms: int | None) -> Second:
    """The row seen from these two revisions; a row without the candidate is history.

    `slow_above_ms` is one of the row's bounds, as `choose_threshold` gives it; a request is slow when it took longer.
    None, or a row without latencies, leaves latency unknown for this second.
    """
    copied = row.shadow[1] if row.shadow and row.shadow[0] == candidate else 0
    weight = copied or (row.weights.get(candidate, 0) if candidate else 0)
    counts = row.counts
    first = _seen(counts.get(stable, _IDLE), row.bounds, slow_above_ms)
    second = _seen(counts.get(candidate, _IDLE), row.bounds, slow_above_ms) if candidate and weight else Counts()
    return Second(row.second, weight, first, second, copied > 0)


def _seen(counts: RevisionCounts, bounds: tuple[int, ...], above: int | None) -> Counts:
    slow = UNKNOWN
    if above is not None and above in bounds:
        slow = sum(counts.latency[bounds.index(above) + 1 :])
    return Counts(counts.requests, counts.errors, counts.client_errors, slow)


def choose_threshold(rows: Iterable[Row], stable: str, quantile: float, tolerance: float) -> int | None:
    """The time in ms above which a request counts as slow: `tolerance` times stable's quantile, next bound up.

    The quantile is interpolated within its bucket. Rows in which stable shares its traffic count as well. None while
    fewer than 100 requests of stable are known, or when the quantile lies beyond the last bound: then nothing can be
    called slow, and latency is not judged.
    """
    by_bound: dict[int, int] = {}
    beyond = 0
    for row in rows:
        counts = row.counts.get(stable)
        if counts and row.bounds and len(counts.latency) == len(row.bounds) + 1:
            for bound, count in zip(row.bounds, counts.latency, strict=False):
                by_bound[bound] = by_bound.get(bound, 0) + count
            beyond += counts.latency[-1]
    total = sum(by_bound.values()) + beyond
    if total < _THRESHOLD_SAMPLES:
        return None
    found = _quantile(by_bound, quantile * total)
    if found is None:
        return None
    return next((bound for bound in sorted(by_bound) if bound >= tolerance * found), max(by_bound))


def _quantile(by_bound: Mapping[int, int], rank: float) -> float | None:
    """The value at this rank, linear within the bucket that holds it."""
    below = 0
    for lower, upper in pairwise((0, *sorted(by_bound))):
        inside = by_bound[upper]
        if inside and below + inside >= rank:
            return lower + (upper - lower) * (rank - below) / inside
        below += inside
    return None
