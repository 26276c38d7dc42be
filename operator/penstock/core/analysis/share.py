"""E3: the candidate's own share of failed or slow requests, above or proven below a fixed bound."""

from functools import cache
from math import exp, log
from typing import NamedTuple

__all__ = ["Level", "LevelDesign", "advance_level", "level_design", "level_strength", "proof", "requests_for_proof"]

LATE_SCALE = 40
EARLY = 0.5
_ODDS = (2.0, 5.0, 25.0)
_BELOW = (0.0, 1 / 8, 1 / 4, 1 / 2)
_LARGEST_EXPONENT = 460.0


class LevelDesign(NamedTuple):
    """Logarithms of what a failed, and a good, request multiplies each bet by; bets have equal weights."""

    failed: tuple[float, ...]
    good: tuple[float, ...]


class Level(NamedTuple):
    """Counts divided by the dispersion of their time: since the start, and since the last restart (`open_*`)."""

    failed: float = 0.0
    good: float = 0.0
    late: tuple[float, ...] = (0.0,) * len(_ODDS)
    """Wealth, as of the last restart, of the bets placed later."""
    open_failed: float = 0.0
    open_good: float = 0.0
    restarts: int = 0


@cache
def level_design(bound: float) -> LevelDesign:
    """Bets on a share above `bound`: its odds times 2, 5 and 25."""
    shares = [odds * bound / (1 - bound + odds * bound) for odds in _ODDS]
    return LevelDesign(
        tuple(log(share / bound) for share in shares), tuple(log((1 - share) / (1 - bound)) for share in shares)
    )


def advance_level(level: Level, design: LevelDesign, requests: int, failed: int, phi: float, *, restart: bool) -> Level:
    """One more second of the candidate's requests; with `restart` new bets are placed before it.

    Against the null share <= bound a bet on q multiplies by (q/bound)^x ((1 - q)/(1 - bound))^(n - x), raised to
    1/phi; restarts as in `comparison.compare`. Between restarts only two sums are kept.
    """
    good = (requests - failed) / phi
    bad = failed / phi
    if not restart:
        return Level(
            level.failed + bad, level.good + good, level.late, level.open_failed + bad, level.open_good + good,
            level.restarts,
        )  # fmt: skip
    stake = LATE_SCALE / ((level.restarts + LATE_SCALE) * (level.restarts + LATE_SCALE + 1)) / len(_ODDS)
    return Level(
        level.failed + bad, level.good + good, tuple([wealth + stake for wealth in _late(level, design)]), bad, good,
        level.restarts + 1,
    )  # fmt: skip


def level_strength(level: Level, design: LevelDesign) -> float:
    """The e-value against a share at or below the bound."""
    early = [_exp(level.failed * bad + level.good * good) for bad, good in zip(design.failed, design.good, strict=True)]
    waiting = LATE_SCALE / (level.restarts + LATE_SCALE)
    return EARLY * sum(early) / len(early) + (1 - EARLY) * (sum(_late(level, design)) + waiting)


def _late(level: Level, design: LevelDesign) -> list[float]:
    return [
        min(1e200, wealth * _exp(level.open_failed * bad + level.open_good * good))
        for wealth, bad, good in zip(level.late, design.failed, design.good, strict=True)
    ]


def _exp(exponent: float) -> float:
    return exp(min(exponent, _LARGEST_EXPONENT))


def proof(requests: float, failed: float, bound: float, phi: float) -> float:
    """E3: the e-value for a share below `bound`; it is proven with confidence 1 - beta when this reaches 1 / beta.

    E = mean over q of ((q/bound)^x ((1 - q)/(1 - bound))^(n - x))^(1/phi), q in {0, bound/8, bound/4, bound/2}: a
    mixture of likelihood ratios of Bernoulli counts (Robbins 1970, Ann. Math. Stat. 41; Waudby-Smith and Ramdas 2024,
    JRSS B 86, section 3). Valid for whatever phi >= 1: M^(1/phi) >= 1/beta only where M >= 1/beta.
    """
    if bound >= 1:
        return _exp(requests - failed)
    return sum(_exp(_below(q, requests, failed, bound) / phi) for q in _BELOW) / len(_BELOW)


def _below(q: float, requests: float, failed: float, bound: float) -> float:
    good = (requests - failed) * log((1 - q * bound) / (1 - bound))
    if not q:
        return -1e9 if failed else good
    return failed * log(q) + good


def requests_for_proof(requests: int, failed: int, bound: float, phi: float, goal: float) -> int | None:
    """Requests still needed for `proof` to reach `goal` if failures go on at the rate seen; None: it never would."""
    if proof(requests, failed, bound, phi) >= goal:
        return 0
    rate = failed / requests if requests else 0.0
    low, high = 0, 64
    while proof(requests + high, failed + rate * high, bound, phi) < goal:
        low, high = high, 2 * high
        if high > 10**9:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = proof(requests + middle, failed + rate * middle, bound, phi) >= goal
        low, high = (low, middle) if enough else (middle, high)
    return high
