"""E1: whose failures are they? The candidate's share of all failures against its share of the traffic.

Given that a request failed, it was the candidate's with a probability that depends on the weights and on the ratio of
the two failure rates alone, whatever the rates are and however they change. A fault that both share therefore says
nothing, and needs no threshold to be told apart.
"""

from functools import cache, lru_cache
from math import exp, log
from typing import NamedTuple

__all__ = ["Comparison", "Design", "close_block", "compare", "design_of", "drop_block", "start_comparison", "strength"]

MULTIPLES = (1.7, 4.0, 16.0)
"""Of the tolerated ratio; a fault between or beyond two of them loses little to the nearest."""
WEIGHTS = (0.2, 0.37, 0.43)
EARLY = 0.5
"""Weight of a fault that is there from the start; the rest is for one that begins later."""
LATE_SCALE = 40
"""Of the prior for a late onset, pi_j = A / ((j + A)(j + A + 1)) for the j-th restart: nearly even up to A, sum 1."""
RESTART_SECONDS = 5
LARGEST = 1e200
"""A process is held here: long past any verdict, far from overflow."""

SOLID = 0.9
"""What the solid bet stakes on a block in which every request of the candidate fails and none of stable's."""
SOLID_WEIGHT = 0.1
SOLID_BLOCK = 8
"""Larger blocks are left to the other bets, which see such a fault at once."""


_NOTHING = (0, 0)
Wealth = tuple[float, float, float]
"""Of the three bets."""


class Design(NamedTuple):
    """The bets of a comparison: that the candidate fails `tolerance` times a multiple as often as stable."""

    tolerance: float
    bets: tuple[tuple[float, float], ...]
    """The ratio bet on, and the logarithm of its multiple."""
    weights: Wealth
    solid: float
    """Weight of the bet on a candidate that always fails; with the others' weights it makes 1."""
    cap: float
    """The most that one second may add to a logarithm."""
    cap_factor: float


class Comparison(NamedTuple):
    """Wealth of every bet, its weight included: of those placed at the start, and of those placed later.

    `stained` says that stable has failed since the last restart; without that a new bet could not do better than an old
    one. `failed` are failures of candidate and stable in the open block of the solid bet.
    """

    early: Wealth
    late: Wealth
    restarts: int = 0
    last: int = 0
    stained: bool = True
    solid_early: float = 0.0
    solid_late: float = 0.0
    blocks: int = 0
    failed: tuple[int, int] = _NOTHING


@cache
def design_of(tolerance: float, budget: float, *, cap: float, solid: bool = True) -> Design:
    """The bets for a comparison that alone may spend `budget` of false alarms; `solid` with or without that bet.

    `cap` is the part of what a verdict needs that one second may contribute at most: a lower gain keeps a test
    supermartingale one, and no single bad moment decides.
    """
    first, second, third = (weight * (1 - SOLID_WEIGHT * solid) for weight in WEIGHTS)
    needed = log(1 / (budget * EARLY * min(WEIGHTS)))
    return Design(
        tolerance,
        tuple((tolerance * multiple, log(multiple)) for multiple in MULTIPLES),
        (first, second, third),
        SOLID_WEIGHT * solid,
        cap * needed,
        exp(cap * needed),
    )


def start_comparison(design: Design) -> Comparison:
    """Before the first count."""
    return Comparison(design.weights, (0.0, 0.0, 0.0), solid_early=design.solid)


def compare(
    process: Comparison, design: Design, exposure: float, own: int, other: int, phi: float, t: int
) -> Comparison:
    """Weigh one second's failures, `own` of the candidate and `other` of stable.

    E1 (Lindon and Malek 2022, arXiv 2011.03567, the conditional form for counts). With rates in the ratio r a failure
    is the candidate's with probability theta(r) = e r / (e r + 1 - e), e being the candidate's exposure. Against the
    null r <= r0 each bet r = r0 m multiplies its wealth by
    (theta(r)/theta(r0))^own ((1 - theta(r))/(1 - theta(r0)))^other, raised to 1/phi: a test supermartingale. The
    exposure has to be known before the second's outcomes are.

    A fault that begins late would have to win back what the bets lost before. So bets are placed anew after stable's
    failures, at most each 5 s, with stakes pi_j that sum to 1 over all time (the e-detector of Shin, Ramdas and Rinaldo
    2022, arXiv 2203.03532, with a prior in place of a horizon): the mixture stays one e-process, however long the
    rollout lasts.
    """
    early, late, restarts, last, stained, solid_early, solid_late, blocks, (own_open, other_open) = process
    if stained and t - last >= RESTART_SECONDS:
        stake, (w1, w2, w3), (l1, l2, l3) = _stake(restarts), design.weights, late
        late = (l1 + stake * w1, l2 + stake * w2, l3 + stake * w3)
        restarts, last, stained = restarts + 1, t, False
    both = own + other
    base = both * log(1 + exposure * (design.tolerance - 1))
    f1, f2, f3 = [
        exp(min(design.cap, (own * gain + base - both * log(1 + exposure * (ratio - 1))) / phi))
        for ratio, gain in design.bets
    ]
    (e1, e2, e3), (l1, l2, l3) = early, late
    early = (min(LARGEST, e1 * f1), min(LARGEST, e2 * f2), min(LARGEST, e3 * f3))
    late = (min(LARGEST, l1 * f1), min(LARGEST, l2 * f2), min(LARGEST, l3 * f3))
    failed = (own_open + own, other_open + other)
    return Comparison(early, late, restarts, last, stained or other > 0, solid_early, solid_late, blocks, failed)


def close_block(process: Comparison, design: Design, own: int, other: int, phi: float) -> Comparison:
    """Settle the solid bet on a block of `own` requests of the candidate and `other` of stable, at least one of each.

    E1 treats failures as rare; where every request of the candidate fails it leaves evidence lying, above all at low
    traffic. The bet is on the event that all of the candidate's requests in the block fail and none of stable's does.
    Under the null p_c <= r0 p_s it has probability at most
    pi = max over p of (r0 p)^own (1 - p)^other, reached at p = min(own / (own + other), 1 / r0),
    so staking a > pi on it, with payoff a / pi when it happens and (1 - a) / (1 - pi) when not, is fair or worse: a
    test supermartingale (Shafer 2021, JRSS A 184, testing by betting). Block ends depend on request counts only.
    """
    early, late, restarts, last, stained, solid_early, solid_late, blocks, failed = process
    chance = _solid_chance(design.tolerance, own, other) if own <= SOLID_BLOCK else 1.0
    if chance < SOLID:
        happened = failed[0] >= own and not failed[1]
        ratio = SOLID / chance if happened else (1 - SOLID) / (1 - chance)
        factor = min(ratio ** (1 / phi), design.cap_factor)
        solid_early = min(LARGEST, solid_early * factor)
        solid_late = min(LARGEST, (solid_late + design.solid * _stake(blocks)) * factor)
        blocks += 1
    return Comparison(early, late, restarts, last, stained, solid_early, solid_late, blocks)


def drop_block(process: Comparison) -> Comparison:
    """Forget the open block: the weights changed within it."""
    return process if process.failed == _NOTHING else process._replace(failed=_NOTHING)


@lru_cache(4096)
def _solid_chance(tolerance: float, own: int, other: int) -> float:
    p = min(own / (own + other), 1 / tolerance)
    return (tolerance * p) ** own * (1 - p) ** other


def _stake(restarts: int) -> float:
    return LATE_SCALE / ((restarts + LATE_SCALE) * (restarts + LATE_SCALE + 1))


def strength(process: Comparison, design: Design) -> float:
    """The e-value: the weighted wealth of all bets, stakes not yet placed included."""
    placed = LATE_SCALE / (process.restarts + LATE_SCALE) * (1 - design.solid)
    placed_solid = LATE_SCALE / (process.blocks + LATE_SCALE) * design.solid
    early = sum(process.early) + process.solid_early
    late = sum(process.late) + placed + process.solid_late + placed_solid
    return EARLY * early + (1 - EARLY) * late
