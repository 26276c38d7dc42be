"""The fold: evidence and one second give evidence. Nothing else is remembered, so a restart changes nothing."""

from collections.abc import Iterable
from functools import lru_cache
from math import log
from typing import NamedTuple

from .comparison import Design, close_block, compare, design_of, drop_block, start_comparison, strength
from .counts import UNKNOWN, Counts, Second
from .dispersion import Spread, Traffic, dispersion, feed_spread, feed_traffic
from .evidence import Evidence, Metric, Trial
from .rules import Rules
from .share import Level, LevelDesign, advance_level, level_design

__all__ = ["BELOW", "GUARD_SHARE", "SHARES", "Bets", "Designs", "advance", "begin", "designs_of", "stable_rate"]

SHARES = (0.6, 0.2, 0.2)
"""How `falseRollback` is divided between errors, client errors and latency."""
GUARD_SHARE = 1 / 20
"""Of the errors' part, what the absolute guard has."""
BELOW = (1 / 8, 1 / 4, 1 / 2)
"""Multiples of the tolerated ratio that the proof of being below it bets on."""

_BELOW_CAP = 1.0
_NONE = (0, 0)
_PRIOR_REQUESTS = 20
"""Requests that the attested weight counts for in the exposure, beside those really routed."""
_SLOW_RATIO = 2.0
"""Slow requests up to this multiple of stable's are accepted; what slow means has its own tolerance."""
_FORGET = 1 - 1 / 15
_STABLE_PRIOR = 100
"""Requests at stable's long-run rate that its last seconds are weighed against."""
_CAP = 0.36
"""Of a verdict's evidence, what one second may contribute: two never suffice, it takes a third."""
_SLOW_CAP = 0.04
"""The same for latency: a pod that is slow for 20 s, while its caches are cold or its node is busy, is not yet a slow
revision."""


class Bets(NamedTuple):
    """What one metric bets on: see the fields of `Metric`."""

    ratio: Design
    level: LevelDesign | None = None
    unity: Design | None = None


class Designs(NamedTuple):
    """The bets of every metric."""

    errors: Bets
    client_errors: Bets
    latency: Bets


@lru_cache(64)
def designs_of(rules: Rules) -> Designs:
    """From the rules alone."""
    errors, client_errors, latency = (share * rules.alpha for share in SHARES)
    solid = not rules.sticky
    return Designs(
        Bets(
            design_of(rules.tolerance, errors * (1 - GUARD_SHARE), cap=_CAP, solid=solid),
            level_design(min(rules.max_rate, 0.99)),
            design_of(1.0, errors * GUARD_SHARE, cap=_CAP, solid=False),
        ),
        Bets(design_of(rules.tolerance, client_errors, cap=_CAP, solid=solid)),
        Bets(design_of(_SLOW_RATIO, latency, cap=_SLOW_CAP, solid=solid), level_design(1 - rules.quantile)),
    )


def begin(rules: Rules, history: Iterable[Second] = ()) -> Evidence:
    """No evidence yet; `history` are seconds of stable, oldest first, the longer the better (15 minutes)."""
    errors, client_errors, latency = (_start(bets) for bets in designs_of(rules))
    evidence = Evidence(0, Traffic(), None, errors, client_errors, latency)
    for second in history:
        evidence = advance(evidence, rules, second)
    return evidence


def _start(bets: Bets) -> Metric:
    unity = start_comparison(bets.unity) if bets.unity else None
    return Metric(Spread(), start_comparison(bets.ratio), level=Level() if bets.level else None, unity=unity)


def advance(evidence: Evidence, rules: Rules, second: Second) -> Evidence:
    """The evidence with one more second; a second that is not newer than the last one changes nothing.

    The candidate is compared first, by what was known before the second; then stable's counts join the history.
    """
    t, stable = second.t, second.stable
    if t <= evidence.t:
        return evidence
    _, before, timed, errors, client_errors, latency, (requests, failed), trial = evidence
    recent = (requests * _FORGET + stable.requests, failed * _FORGET + stable.errors)
    if second.weight:
        designs = designs_of(rules)
        look = _look(
            trial, rules, second, well=_rate(recent, errors.spread.total, before.total, rules) < rules.max_rate
        )
        candidate = second.candidate
        errors = _weigh(errors, before, designs.errors, look, candidate.errors, stable.errors)
        client_errors = _weigh(
            client_errors, before, designs.client_errors, look, candidate.client_errors, stable.client_errors
        )
        if look.timed:
            latency = _weigh(latency, timed or before, designs.latency, look, candidate.slow, stable.slow)
        trial = _count(trial, rules, second, look, errors.phi)
    n = stable.requests
    errors = _learn(errors, before, n, stable.errors)
    client_errors = _learn(client_errors, before, n, stable.client_errors)
    if stable.slow != UNKNOWN:
        latency = _learn(latency, timed or before, n, stable.slow)
        timed = timed and feed_traffic(timed, n)
    elif timed is None:
        timed = before
    return Evidence(t, feed_traffic(before, n), timed, errors, client_errors, latency, recent, trial)


def _learn(metric: Metric, before: Traffic, requests: int, failed: int) -> Metric:
    """Stable's failures of one second join the history."""
    spread = feed_spread(metric.spread, before, requests, failed)
    if spread is metric.spread:
        return metric
    _, ratio, phi, bound, seconds, level, unity = metric
    return Metric(spread, ratio, phi, bound, seconds, level, unity)


class _Look(NamedTuple):
    """What all metrics of a judged second have in common."""

    t: int
    exposure: float
    requests: int
    block: tuple[int, int]
    """Requests of candidate and stable in the block of the solid bet, this second included."""
    closes: bool
    fresh: bool
    """The weight has just changed."""
    tick: bool
    """Each 5 s the dispersion is measured anew and new bets on the candidate's own share are placed."""
    timed: bool
    """Latency is judged by this second."""
    well: bool
    """Stable's own error rate is below the maximum, this second included: candidate and stable fail apart."""


def stable_rate(evidence: Evidence, rules: Rules) -> float:
    """Stable's error rate over about the last 15 s, drawn towards its long-run rate while requests are few.

    Where the long-run rate is above the maximum because of an outage that has ended, the last seconds decide.
    """
    return _rate(evidence.recent, evidence.errors.spread.total, evidence.traffic.total, rules)


def _rate(recent: tuple[float, float], failed: int, requests: int, rules: Rules) -> float:
    usual = min(failed / requests, 0.9 * rules.max_rate) if requests else 0.0
    return (recent[1] + _STABLE_PRIOR * usual) / (recent[0] + _STABLE_PRIOR)


def _look(trial: Trial, rules: Rules, second: Second, *, well: bool) -> _Look:
    fresh = trial.weight != second.weight or trial.shadow != second.shadow
    own, other = _NONE if fresh else trial.block
    own, other = own + second.candidate.requests, other + second.stable.requests
    return _Look(
        second.t,
        _exposure(_NONE if fresh else trial.shared, rules, second),
        second.candidate.requests,
        (own, other),
        own > 0 and other > 0,
        fresh,
        trial.seconds % 5 == 0,
        second.candidate.slow != UNKNOWN != second.stable.slow,
        well,
    )


def _exposure(shared: tuple[int, int], rules: Rules, second: Second) -> float:
    """The chance that a request was the candidate's, from what was known before the second.

    The attested weight, and with growing numbers the share that was really routed since it last changed; a second's own
    counts would make sparse traffic blind. With sticky routing the unit is a client and the weight is its chance. Of
    copies, so many as were really made.
    """
    own, other = shared
    share = second.weight / 1000
    if rules.sticky and not second.shadow:
        return share
    if second.shadow:
        own, other, share = own + second.candidate.requests, other + second.stable.requests, share / (1 + share)
    return (own + _PRIOR_REQUESTS * share) / (own + other + _PRIOR_REQUESTS)


def _weigh(metric: Metric, history: Traffic, bets: Bets, look: _Look, own: int, other: int) -> Metric:
    """The metric with this second's failures compared, `own` of the candidate and `other` of stable."""
    spread, ratio, phi, bound, seconds, level, unity = metric
    if look.fresh:
        ratio = drop_block(ratio)
    gained = own or (look.closes and ratio.failed[0])
    if look.tick or not phi:
        phi = dispersion(spread, history)
    if own or other:
        ratio = compare(ratio, bets.ratio, look.exposure, own, other, phi, look.t)
        if unity is not None and bets.unity is not None:
            unity = compare(unity, bets.unity, look.exposure, own, other, phi, look.t)
    if look.closes and bets.ratio.solid:
        ratio = close_block(ratio, bets.ratio, *look.block, phi)
    if level is not None and bets.level is not None and look.requests and (look.well or unity is None):
        level = advance_level(level, bets.level, look.requests, own, phi, restart=look.tick)
    if gained:
        bound = strength(ratio, bets.ratio)
        if unity is not None and bets.unity is not None:
            bound = max(bound, strength(unity, bets.unity))
    return Metric(spread, ratio, phi, bound, seconds + (own > 0), level, unity)


def _count(trial: Trial, rules: Rules, second: Second, look: _Look, phi: float) -> Trial:
    stable, candidate = second.stable, second.candidate
    own, other = _NONE if look.fresh else trial.shared
    timed = trial.timed
    if look.timed:
        timed = (timed[0] + candidate.requests, timed[1] + stable.requests)
    return Trial(
        second.weight,
        second.shadow,
        (own + candidate.requests, other + stable.requests),
        _NONE if look.closes else look.block,
        trial.seconds + (candidate.requests > 0),
        _total(trial.stable, stable, timed=look.timed),
        _total(trial.candidate, candidate, timed=look.timed),
        timed,
        (trial.well[0] + candidate.requests, trial.well[1] + candidate.errors) if look.well else trial.well,
        trial.unwell + (not look.well),
        _below(trial.below, rules.tolerance, look.exposure, candidate.errors, stable.errors, phi),
    )


def _below(
    sums: tuple[float, float, float], tolerance: float, exposure: float, own: int, other: int, phi: float
) -> tuple[float, float, float]:
    """Log-likelihood ratios of E1 turned round: the null is a ratio of at least the tolerated one.

    One second adds little, so that stable's bad moment is no proof of the candidate's worth.
    """
    if not (own or other):
        return sums
    base = log(1 + exposure * (tolerance - 1))
    first, second, third = (
        total + min(_BELOW_CAP, (own * log(m) + (own + other) * (base - log(1 + exposure * (tolerance * m - 1)))) / phi)
        for total, m in zip(sums, BELOW, strict=True)
    )
    return first, second, third


def _total(sums: Counts, counts: Counts, *, timed: bool) -> Counts:
    return Counts(
        sums.requests + counts.requests,
        sums.errors + counts.errors,
        sums.client_errors + counts.client_errors,
        sums.slow + counts.slow if timed else sums.slow,
    )
