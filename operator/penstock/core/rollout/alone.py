"""A verdict on a candidate that has no stable revision beside it: the only pod has changed hands.

Nothing can be compared, so a fault of something that both depend on looks like the candidate's own. What is left is
the candidate's own share of failed and slow requests, against bounds that were known before: `errors.maxPercent`, as
long as stable was below it by its history, and the time that stable's history calls slow.
"""

from dataclasses import replace

from penstock.api.status import MetricEvidence
from penstock.core.analysis import Evidence, Judgement, Rules, judge
from penstock.core.analysis.evidence import Metric
from penstock.core.analysis.fold import SHARES, Bets, designs_of
from penstock.core.analysis.share import level_strength
from penstock.core.analysis.verdict import ERROR_RATE_ABOVE_MAXIMUM, LATENCY_WORSE

__all__ = ["judge_alone"]

_DISTINCT_SECONDS = 3
_TIMED_REQUESTS = 50
_WORDS = "no stable revision serves beside it, so nothing is compared"


def judge_alone(evidence: Evidence, rules: Rules) -> Judgement:
    """As `judge`, with Fail from the absolute bounds alone.

    E = 0.6 E_errors + 0.2 + 0.2 E_latency >= 1/alpha, both being e-processes against "at most the bound" (E3): the
    chance to take back a candidate within its bounds stays at most alpha, as with the comparison (Ville 1939).
    """
    found, designs, (errors_share, middle, latency_share) = judge(evidence, rules), designs_of(rules), SHARES
    failed = _level(evidence.errors, designs.errors) if _usual_rate(evidence) < rules.max_rate else 1.0
    slow = _level(evidence.latency, designs.latency) if evidence.trial.timed[0] >= _TIMED_REQUESTS else 1.0
    combined = errors_share * failed + middle + latency_share * slow
    metrics = _metrics(found.metrics, {"errors": failed, "latency": slow})
    if combined < rules.fail_at or found.verdict == "Fail":
        return replace(found, message=f"{found.message}; {_WORDS}", metrics=metrics)
    by_errors = errors_share * failed >= latency_share * slow
    reason = ERROR_RATE_ABOVE_MAXIMUM if by_errors else LATENCY_WORSE
    return Judgement("Fail", reason, _accusation(evidence, rules, by_errors=by_errors), metrics)


def _level(metric: Metric, bets: Bets) -> float:
    if metric.level is None or bets.level is None or metric.seconds < _DISTINCT_SECONDS:
        return 1.0
    return level_strength(metric.level, bets.level)


def _usual_rate(evidence: Evidence) -> float:
    """Stable's error rate over its history."""
    return evidence.errors.spread.total / evidence.traffic.total if evidence.traffic.total else 0.0


def _metrics(metrics: tuple[MetricEvidence, ...], values: dict[str, float]) -> tuple[MetricEvidence, ...]:
    return tuple(
        metric.model_copy(update={"evidence": f"{min(values[metric.name], 1e6):.3g}"})
        if metric.name in values
        else metric
        for metric in metrics
    )


def _accusation(evidence: Evidence, rules: Rules, *, by_errors: bool) -> str:
    seen, usual = evidence.candidate, f"{100 * _usual_rate(evidence):.3g} %"
    if by_errors:
        share = f"{seen.errors} of {seen.requests} ({100 * seen.errors / seen.requests:.3g} %)"
        bound = f"above the maximum of {100 * rules.max_rate:.3g} %; stable failed {usual} before"
        return f"{share} requests of the candidate failed, {bound}; {_WORDS}"
    timed = evidence.trial.timed[0]
    share = f"{seen.slow} of {timed} ({100 * seen.slow / timed:.3g} %)"
    allowed = f"{100 * (1 - rules.quantile):.3g} %"
    return f"{share} requests of the candidate were slow by stable's history, {allowed} are allowed; {_WORDS}"
