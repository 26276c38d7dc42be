"""How much stable's failures come in bursts: the divisor that keeps one bad moment from counting as many.

Errors are not independent: a pod that dies or a client that retries makes many at once. The test of a count against a
share takes each as a draw of its own, so its evidence is divided by how much more stable's counts vary than independent
ones would (quasi-likelihood: Wedderburn 1974, Biometrika 61; McCullagh and Nelder, Generalized Linear Models, 4.5). A
burst of s seconds shows only in blocks of about s seconds or more, hence several scales.
"""

from math import sqrt
from typing import NamedTuple

__all__ = ["SCALES", "Spread", "Traffic", "dispersion", "feed_spread", "feed_traffic"]

SCALES = (1, 5, 15, 60)
"""Seconds; each a multiple of the one before."""

WARM_SECONDS = 900
"""Seconds of history after which stable's own variation is believed alone."""

_WARM_WEIGHT, _COLD_WEIGHT, _COLD_BLOCKS = 3.0, 27.0, 3.0
"""Pseudo-errors that the prior weighs; without history so many more, and as many as are expected in three blocks."""
_WARM_VALUE, _COLD_VALUE = 1.0, 8.0
"""The dispersion that the prior assumes: independent errors, or bursts of the size a retry storm has."""

_CHANCE = 2.0
"""Standard deviations above 1 that independent failures may show."""

Four = tuple[int, int, int, int]
Three = tuple[int, int, int]


class Traffic(NamedTuple):
    """Stable's requests in blocks of 1, 5, 15 and 60 observed seconds."""

    seconds: int = 0
    total: int = 0
    open: Three = (0, 0, 0)
    """Requests of the unfinished blocks of 5, 15 and 60 s."""
    squares: Four = (0, 0, 0, 0)
    """By scale, the sum over finished blocks of n²."""


class Spread(NamedTuple):
    """Stable's failures of one kind, x, in the same blocks."""

    total: int = 0
    open: Three = (0, 0, 0)
    squares: Four = (0, 0, 0, 0)
    """By scale, the sum over finished blocks of x²."""
    products: Four = (0, 0, 0, 0)
    """By scale, the sum over finished blocks of x n."""


def feed_traffic(traffic: Traffic, requests: int) -> Traffic:
    """One more second. Whole numbers only, so that the order of additions cannot matter."""
    seconds, total, (n5, n15, n60), (s1, s5, s15, s60) = traffic
    seconds += 1
    n5 += requests
    n15 += requests
    n60 += requests
    if seconds % 5 == 0:
        s5 += n5 * n5
        n5 = 0
        if seconds % 15 == 0:
            s15 += n15 * n15
            n15 = 0
            if seconds % 60 == 0:
                s60 += n60 * n60
                n60 = 0
    return Traffic(seconds, total + requests, (n5, n15, n60), (s1 + requests * requests, s5, s15, s60))


def feed_spread(spread: Spread, before: Traffic, requests: int, failed: int) -> Spread:
    """One more second; `before` is the traffic without it. A second that changes nothing gives the same object."""
    seconds = before.seconds + 1
    if not failed and (seconds % 5 or not spread.open[2]):
        return spread
    total, (x5, x15, x60), (q1, q5, q15, q60), (p1, p5, p15, p60) = spread
    x5 += failed
    x15 += failed
    x60 += failed
    if seconds % 5 == 0:
        n5, n15, n60 = before.open
        q5 += x5 * x5
        p5 += x5 * (n5 + requests)
        x5 = 0
        if seconds % 15 == 0:
            q15 += x15 * x15
            p15 += x15 * (n15 + requests)
            x15 = 0
            if seconds % 60 == 0:
                q60 += x60 * x60
                p60 += x60 * (n60 + requests)
                x60 = 0
    squares = (q1 + failed * failed, q5, q15, q60)
    return Spread(total + failed, (x5, x15, x60), squares, (p1 + failed * requests, p5, p15, p60))


LARGEST = 32.0
"""Twice what a retry storm of mean size 8 shows. More is an outage, and must not blind for long after."""
LARGEST_OF_PROOF = 8.0
"""A proof takes a burst for at most so many independent failures, lest one outage put off every promotion."""


def dispersion(spread: Spread, traffic: Traffic, *, wary: bool = True) -> float:
    """phi = max(1, F of each scale), F being the variance of block counts over what independent failures would give.

    F_s = (sum (x - n p)^2 + k f0) / (sum n p (1 - p) + k) over the finished blocks of s seconds: a ratio of sums,
    because a mean of ratios is inflated by blocks with few requests. p is stable's rate so far. The prior (k, f0) goes
    from (30 and three blocks' failures, 8) without history to (3, 1) with 15 minutes of it, and is (3, 1) for who is
    not `wary`. An F no larger
    than two standard deviations above 1 for independent failures (variance 2 / blocks + 1 / expected failures) is
    chance and counts as 1; without that, the largest of four noisy numbers would slow every verdict by a tenth. The
    value is at least 1 and comes from stable's past alone, so that a log-likelihood divided by it keeps an e-process
    one (Jensen: E[e^(X/phi)] <= E[e^X]^(1/phi)).
    """
    total, seconds = traffic.total, max(traffic.seconds, 1)
    p = (spread.total + 0.2) / (total + 50)
    cold = 1 - min(seconds, WARM_SECONDS) / WARM_SECONDS if wary else 0.0
    value = _WARM_VALUE + cold * (_COLD_VALUE - _WARM_VALUE)
    variance = p * (1 - p)
    largest = 1.0
    rows = zip(SCALES, (0, *traffic.open), traffic.squares, spread.squares, spread.products, strict=True)
    for scale, unfinished, nn, xx, xn in rows:
        expected = (total - unfinished) * variance
        weight = _WARM_WEIGHT + cold * (_COLD_WEIGHT + _COLD_BLOCKS * total * variance * scale / seconds)
        excess = xx - 2 * p * xn + p * p * nn + weight * (value - 1) - expected
        if excess > (largest - 1) * (expected + weight) and excess > _CHANCE * sqrt(
            expected * (2 * expected * scale / seconds + 1)
        ):
            largest = 1 + excess / (expected + weight)
    return min(largest, LARGEST if wary else LARGEST_OF_PROOF)
