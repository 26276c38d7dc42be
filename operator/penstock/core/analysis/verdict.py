"""What the evidence comes to: one of five verdicts, its reason, and a sentence with the numbers."""

from dataclasses import dataclass
from math import ceil, exp, log
from typing import Literal, NamedTuple

from penstock.api.status import MetricEvidence

from .comparison import strength
from .dispersion import dispersion
from .evidence import METRICS, Evidence, Metric
from .fold import BELOW, GUARD_SHARE, SHARES, Bets, designs_of, stable_rate
from .rules import Rules
from .share import level_strength, proof, requests_for_proof

__all__ = [
    "CLIENT_ERROR_RATE_WORSE",
    "COLLECTING_EVIDENCE",
    "ERROR_RATE_ABOVE_MAXIMUM",
    "ERROR_RATE_PROVEN",
    "ERROR_RATE_WORSE",
    "LATENCY_WORSE",
    "NO_TRAFFIC",
    "STABLE_ABOVE_MAXIMUM",
    "Judgement",
    "is_failing",
    "judge",
]

ERROR_RATE_WORSE = "ErrorRateWorse"
CLIENT_ERROR_RATE_WORSE = "ClientErrorRateWorse"
LATENCY_WORSE = "LatencyWorse"
ERROR_RATE_ABOVE_MAXIMUM = "ErrorRateAboveMaximum"
ERROR_RATE_PROVEN = "ErrorRateProven"
STABLE_ABOVE_MAXIMUM = "StableAboveMaximum"
NO_TRAFFIC = "NoTraffic"
COLLECTING_EVIDENCE = "CollectingEvidence"

_DISTINCT_SECONDS = 3
_LATENCY_REQUESTS = 50
_UNWELL_SECONDS = 30
"""Stable has to be unwell for so long before a candidate may pass for being better than it."""


@dataclass(frozen=True)
class Judgement:
    """Pass: proven good. Fail: take it back. Undecided: go on collecting. Inconclusive: stable itself is unwell, hold.

    NoEvidence: no request has reached the candidate, hold. `requests_needed` is how many more requests of the candidate
    a Pass takes if things go on as they went; None when it would never come at this rate.
    """

    verdict: Literal["Pass", "Fail", "Undecided", "Inconclusive", "NoEvidence"]
    reason: str
    message: str
    metrics: tuple[MetricEvidence, ...] = ()
    requests_needed: int | None = None

    def seconds_needed(self, requests_per_second: float) -> float | None:
        """Time until a Pass while the candidate gets so many requests; None when it would not come."""
        if self.requests_needed is None or (self.requests_needed and requests_per_second <= 0):
            return None
        return self.requests_needed / requests_per_second if self.requests_needed else 0.0


class _Values(NamedTuple):
    """E-values of the metrics, each combined with what it is guarded by, and the parts of that of errors."""

    errors: float
    client_errors: float
    latency: float
    ratio: float
    guard: float

    def each(self) -> tuple[float, float, float]:
        return self[:3]


def is_failing(evidence: Evidence, rules: Rules) -> bool:
    """Whether the verdict is Fail; far cheaper than `judge`, and of the same opinion.

    E = 0.6 E_errors + 0.2 E_clientErrors + 0.2 E_latency >= 1/alpha. A weighted mean of e-processes is one, whatever
    their dependence (Vovk and Wang 2021, Ann. Statist. 49, section 4), so the chance that a candidate no worse than
    tolerated is ever taken back is at most alpha (Ville 1939). Splitting alpha instead would ask w_i E_i >= 1/alpha of
    one metric alone; as every E_i is at least 0, whatever that takes back the mean takes back too, and no later.
    """
    bounds = (evidence.errors.bound, evidence.client_errors.bound, evidence.latency.bound)
    if sum(share * max(bound, 1.0) for share, bound in zip(SHARES, bounds, strict=True)) < rules.fail_at:
        return False
    return _combined(_values(evidence, rules)) >= rules.fail_at


def judge(evidence: Evidence, rules: Rules) -> Judgement:
    """The verdict on all seconds so far."""
    values = _values(evidence, rules)
    metrics = _metrics(evidence, rules, values)
    if _combined(values) >= rules.fail_at:
        reason = _culprit(values)
        return Judgement("Fail", reason, _accusation(reason, evidence, rules, values), metrics)
    seen = evidence.candidate
    if not seen.requests:
        return Judgement("NoEvidence", NO_TRAFFIC, "no request has reached the candidate yet", metrics)
    phi = _measured(evidence)
    well = evidence.trial.well
    proven = proof(*well, rules.max_rate, phi) >= rules.pass_at
    unwell = stable_rate(evidence, rules) >= rules.max_rate
    lasting = unwell and evidence.trial.unwell >= _UNWELL_SECONDS
    if proven or (lasting and _better(evidence) >= rules.pass_at):
        return Judgement("Pass", ERROR_RATE_PROVEN, _praise(evidence, rules, absolute=proven), metrics, 0)
    if unwell:
        return Judgement(
            "Inconclusive", STABLE_ABOVE_MAXIMUM, _excuse(evidence, rules), metrics, _until_better(evidence, rules)
        )
    needed = requests_for_proof(*well, rules.max_rate, phi, rules.pass_at)
    return Judgement("Undecided", COLLECTING_EVIDENCE, _progress(evidence, rules, needed), metrics, needed)


def _combined(values: _Values) -> float:
    return sum(share * value for share, value in zip(SHARES, values.each(), strict=True))


def _values(evidence: Evidence, rules: Rules) -> _Values:
    """The e-values as far as their guards let them count; a guard can only lower one, so it costs no validity."""
    designs = designs_of(rules)
    errors, client_errors, latency = evidence.errors, evidence.client_errors, evidence.latency
    ratio = _guarded(errors, strength(errors.ratio, designs.errors.ratio))
    guard = _least(errors, designs.errors) if stable_rate(evidence, rules) < rules.max_rate else 1.0
    slow = _least(latency, designs.latency) if evidence.trial.timed[0] >= _LATENCY_REQUESTS else 1.0
    rejected = _guarded(client_errors, strength(client_errors.ratio, designs.client_errors.ratio))
    return _Values((1 - GUARD_SHARE) * ratio + GUARD_SHARE * guard, rejected, slow, ratio, guard)


def _least(metric: Metric, bets: Bets) -> float:
    """The smaller of two e-values, which is one against either null: no worse than stable, and a share allowed."""
    worse = strength(metric.unity, bets.unity) if metric.unity and bets.unity else strength(metric.ratio, bets.ratio)
    if metric.level is None or bets.level is None:
        return _guarded(metric, worse)
    return _guarded(metric, min(worse, level_strength(metric.level, bets.level)))


def _guarded(metric: Metric, value: float) -> float:
    """One bad second, or two, are an accident: from three on the evidence counts."""
    return value if metric.seconds >= _DISTINCT_SECONDS else min(value, 1.0)


def _measured(evidence: Evidence) -> float:
    """The dispersion for proofs: what was seen, without the caution that a short history asks of accusations."""
    return dispersion(evidence.errors.spread, evidence.traffic, wary=False)


def _better(evidence: Evidence) -> float:
    """The e-value for a candidate that fails less than `tolerance` times as often as stable: the mean of three bets."""
    return sum(exp(min(total, 460.0)) for total in evidence.trial.below) / len(BELOW)


def _until_better(evidence: Evidence, rules: Rules) -> int | None:
    """Requests until `_better` is enough, by the growth of its best bet so far."""
    best = max(evidence.trial.below)
    if best <= 0:
        return None
    return max(1, ceil(evidence.candidate.requests * (log(rules.pass_at * len(BELOW)) - best) / best))


def _culprit(values: _Values) -> str:
    """The metric that contributes most; the absolute guard only where the comparison itself says nothing."""
    parts = {
        ERROR_RATE_WORSE: SHARES[0] * (1 - GUARD_SHARE) * values.ratio,
        ERROR_RATE_ABOVE_MAXIMUM: SHARES[0] * GUARD_SHARE * values.guard,
        CLIENT_ERROR_RATE_WORSE: SHARES[1] * values.client_errors,
        LATENCY_WORSE: SHARES[2] * values.latency,
    }
    found = max(parts, key=lambda reason: parts[reason])
    return ERROR_RATE_WORSE if found == ERROR_RATE_ABOVE_MAXIMUM and values.ratio >= 1 else found


class _Row(NamedTuple):
    """One metric's counts, of stable and candidate."""

    stable: int
    stable_requests: int
    candidate: int
    candidate_requests: int


def _row(evidence: Evidence, name: str) -> _Row:
    stable, candidate = evidence.stable, evidence.candidate
    if name == "latency":
        return _Row(stable.slow, evidence.trial.timed[1], candidate.slow, evidence.trial.timed[0])
    if name == "errors":
        return _Row(stable.errors, stable.requests, candidate.errors, candidate.requests)
    return _Row(stable.client_errors, stable.requests, candidate.client_errors, candidate.requests)


def _metrics(evidence: Evidence, rules: Rules, values: _Values) -> tuple[MetricEvidence, ...]:
    """As status shows them; a threshold is what takes back by itself, whatever the other metrics contribute besides."""
    found = []
    for name, share, value in zip(METRICS, SHARES, values.each(), strict=True):
        row = _row(evidence, name)
        found.append(
            MetricEvidence(
                name=name,
                stable=_counted(row.stable, row.stable_requests),
                candidate=_counted(row.candidate, row.candidate_requests),
                evidence=_short(value),
                threshold=_short(rules.fail_at / share),
            )
        )
    return tuple(found)


def _accusation(reason: str, evidence: Evidence, rules: Rules, values: _Values) -> str:
    words = {
        ERROR_RATE_WORSE: ("errors", "failed"),
        ERROR_RATE_ABOVE_MAXIMUM: ("errors", "failed"),
        CLIENT_ERROR_RATE_WORSE: ("clientErrors", "were refused as bad (4xx)"),
        LATENCY_WORSE: ("latency", "were slow"),
    }
    name, what = words[reason]
    row = _row(evidence, name)
    asked = (
        f", above the maximum of {_percent(rules.max_rate)} while stable is below it"
        if reason == ERROR_RATE_ABOVE_MAXIMUM
        else ""
    )
    return (
        f"{_counted(row.candidate, row.candidate_requests)} requests of the candidate {what},"
        f" {_counted(row.stable, row.stable_requests)} of stable{asked}; evidence {_short(_combined(values))}"
        f" of the {_short(rules.fail_at)} that takes it back"
    )


def _praise(evidence: Evidence, rules: Rules, *, absolute: bool) -> str:
    row = _row(evidence, "errors")
    requests, failed = evidence.trial.well if absolute else (row.candidate_requests, row.candidate)
    seen = f"{_counted(failed, requests)} requests of the candidate failed"
    if absolute and requests < row.candidate_requests:
        seen += " while stable was well"
    sure = _percent(rules.confidence)
    if absolute:
        return f"{seen}: its error rate is below {_percent(rules.max_rate)} with {sure} confidence"
    times = f"{rules.tolerance:g} times stable's"
    compared = f"{_counted(row.stable, row.stable_requests)} of stable"
    return f"{seen}, {compared}: its rate is below {times} with {sure} confidence"


def _excuse(evidence: Evidence, rules: Rules) -> str:
    row = _row(evidence, "errors")
    return (
        f"stable itself fails {_percent(stable_rate(evidence, rules))} of its requests now, the maximum is"
        f" {_percent(rules.max_rate)}: perhaps something that both use is down;"
        f" {_counted(row.candidate, row.candidate_requests)} of the candidate failed, no evidence that it is worse"
    )


def _progress(evidence: Evidence, rules: Rules, needed: int | None) -> str:
    row = _row(evidence, "errors")
    seen = f"{_counted(row.candidate, row.candidate_requests)} requests of the candidate failed"
    if needed is None:
        return f"{seen}: at this rate it is not proven to be below {_percent(rules.max_rate)}"
    return f"{seen}; about {needed} more would prove it below {_percent(rules.max_rate)}"


def _counted(failed: int, requests: int) -> str:
    return f"{failed} of {requests} ({_percent(failed / requests)})" if requests else "0 of 0"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _short(value: float) -> str:
    """Three digits; what is past counting is said so."""
    return f"{value:.3g}" if value < 1e6 else ">1000000"
