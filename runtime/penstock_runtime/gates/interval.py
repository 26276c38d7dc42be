"""Confidence intervals of shares, paired differences of shares, and whatever can be resampled.

Everything is deterministic: the resampling is seeded, so that the same answers give the same verdict.
"""

from collections.abc import Callable, Sequence
from math import ceil, sqrt
from typing import TypeAlias

import numpy as np

from penstock_runtime.data import Array

__all__ = ["Statistic", "drop_bound", "resample", "rows_enough", "smallest_bound", "wilson"]

_Z_ONE_SIDED = 1.6448536269514722
_Z_TWO_SIDED = 1.959963984540054
Statistic: TypeAlias = Callable[[Array | None], float]
"""A number of some rows, each counted as often as the weights say; None: once each."""
_SEED = 20240229
_WORK = 200_000_000
_FEWEST, _MOST = 200, 1000
_LONGEST = 1 << 40


def wilson(hits: float, rows: float, z: float = _Z_TWO_SIDED) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927, JASA 22:209), which also holds near 0 and 1 and for few rows."""
    if rows <= 0:
        return 0.0, 1.0
    share, spread = hits / rows, z * z / rows
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / rows + spread / (4 * rows))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return 0.0 if hits == 0 else low, 1.0 if hits == rows else high


def drop_bound(lost: float, won: float, rows: float, z: float = _Z_ONE_SIDED) -> float:
    """Upper bound of a paired drop: of the share of rows lost less the share won; one-sided, 95 % by default.

    `lost` rows were right before and are wrong now, `won` the other way round. The bound inverts the score test of
    Tango (1998, Statistics in Medicine 17:891) whose variance stays above zero when nothing changed: `rows` rows of
    which none was lost still allow a drop of z^2 / (rows + z^2).
    """
    low, high = (lost - won) / rows, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(lost, won, rows, middle) > -z else (low, middle)
    return high


def _score(lost: float, won: float, rows: float, drop: float) -> float:
    """Tango's statistic of the hypothesis that the drop is `drop`; it falls as `drop` grows."""
    a = 2 * rows
    b = -lost - won + (2 * rows - lost + won) * drop
    c = -won * drop * (1 - drop)
    share_won = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = rows * (2 * share_won + drop * (1 - drop))
    distance = lost - won - rows * drop
    if variance <= 0:
        return 0.0 if distance == 0 else float("-inf") if distance < 0 else float("inf")
    return distance / sqrt(variance)


def smallest_bound(rows: int) -> float:
    """The drop that so many rows cannot exclude, even if not one of them changed."""
    return drop_bound(0, 0, rows)


def rows_enough(lost: float, won: float, rows: int, margin: float) -> int | None:
    """How many rows with the same shares lost and won would prove the drop below the margin; None: no number would."""
    if margin <= 0 or (lost - won) / rows >= margin:
        return None
    low, high = 0.0, 1.0
    while drop_bound(lost * high, won * high, rows * high) > margin:
        low, high = high, high * 2
        if rows * high > _LONGEST:
            return None
    for _ in range(40):
        middle = (low + high) / 2
        if middle and drop_bound(lost * middle, won * middle, rows * middle) <= margin:
            high = middle
        else:
            low = middle
    return ceil(rows * high)


def resample(statistics: Sequence[Statistic], rows: int, cost: int = 1) -> Array:
    """Bootstrap (Efron 1979): the statistics of rows drawn with replacement, [draw, statistic], the same rows for all.

    So columns are paired. Between 200 and 1,000 draws, fewer the more rows there are and the more each costs.
    """
    draws = int(np.clip(_WORK // max(1, rows * cost), _FEWEST, _MOST))
    generator = np.random.default_rng(_SEED)
    found = np.empty((draws, len(statistics)))
    for draw in range(draws):
        weights = np.bincount(generator.integers(0, rows, rows), minlength=rows).astype(np.float64)
        found[draw] = [statistic(weights) for statistic in statistics]
    return found
