"""What has been observed of a candidate: seconds, requests, and the evidence that its sums amount to.

Status keeps all of it, and `asOf` says up to which second the routers' counters are in the sums. Both are written
together or not at all: a second is never counted twice and never lost, however often the operator dies.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Literal

from penstock.api.rollout import AnalysisSpec
from penstock.api.router import WHOLE
from penstock.api.status import AnalysisStatus, CandidateStatus
from penstock.api.traffic import StickinessSpec
from penstock.core.analysis import Evidence, Judgement, Rules, advance, begin, choose_threshold, judge, to_second
from penstock.core.fleet import Row

from .alone import judge_alone
from .route import Route

__all__ = ["Progress", "begin_progress", "gather", "judge_progress", "recall"]

Verdict = Literal["Pass", "Fail", "Undecided", "Inconclusive", "NoEvidence"]
_ON_THEIR_WAY = 2
"""Seconds that have ended at the routers and are not known here yet: one until each is asked, one until it is read."""
_AT_HAND = 512
"""Verdicts, and what they rest on: a pass asks three times, the next one reads once more, and they never change."""


@dataclass(frozen=True)
class Progress:
    """`analysis` is None until the candidate gets its first request."""

    observed_seconds: int = 0
    step_requests: int = 0
    analysis: AnalysisStatus | None = None
    verdict: Verdict | None = None
    judged_since: str | None = None

    @property
    def as_of(self) -> int:
        """The Unix second up to which counters have been used."""
        return self.analysis.as_of if self.analysis else 0

    @property
    def requests(self) -> int:
        """Requests that the candidate has answered, copies not counted."""
        return self.analysis.requests if self.analysis else 0

    def restarted(self) -> "Progress":
        """The same evidence at the beginning of another step."""
        return replace(self, observed_seconds=0, step_requests=0)


def recall(told: CandidateStatus | None) -> Progress:
    """What status remembers."""
    if told is None:
        return Progress()
    return Progress(told.observed_seconds, told.step_requests, told.analysis, told.verdict, told.judged_since)


def begin_progress(
    spec: AnalysisSpec, stickiness: StickinessSpec | None, rows: Iterable[Row], stable: str, now: datetime
) -> Progress:
    """The candidate is about to get its first request: pin the rules, and learn from stable's history.

    What is known by now and the seconds on their way here are of before: an earlier attempt of the same revision had
    the same route, and must not be counted for this one. Routers whose clocks are late lose no more than that.
    """
    rows, moment = tuple(rows), int(now.timestamp())
    newest = max((row.second for row in rows), default=moment)
    rules = Rules.of(spec, sticky=stickiness is not None)
    history = [row for row in rows if row.shadow is None and _taken(row) == {stable: WHOLE}]
    bound = choose_threshold(history, stable, rules.quantile, rules.slow_tolerance)
    evidence = begin(rules, [to_second(row, stable, None, bound) for row in history])
    analysis = AnalysisStatus(
        as_of=max(newest, min(moment, newest + _ON_THEIR_WAY)),
        slow_above_milliseconds=bound,
        rules=json.dumps(asdict(rules), separators=(",", ":")),
        sums=evidence.to_text(),
    )
    return _judged(Progress(analysis=analysis, judged_since=now.strftime("%Y-%m-%dT%H:%M:%SZ")))


def gather(progress: Progress, rows: Iterable[Row], asked: Route, candidate: str, *, alone: bool = False) -> Progress:
    """Add the seconds that are new and had exactly this route on every router pod; others never count."""
    if progress.analysis is None or asked.stable is None:
        return progress
    fresh = [row for row in rows if row.second > progress.as_of]
    if not fresh:
        return progress
    rules, evidence = _read(progress.analysis.rules, progress.analysis.sums)
    counted = [row for row in fresh if _taken(row) == asked.taken and row.shadow == asked.shadow]
    bound = progress.analysis.slow_above_milliseconds
    if bound is None:
        bound = choose_threshold(fresh, asked.stable, rules.quantile, rules.slow_tolerance)
    requests = 0
    for row in counted:
        evidence = advance(evidence, rules, to_second(row, asked.stable, candidate, bound))
        requests += row.counts[candidate].requests if candidate in row.counts else 0
    analysis = progress.analysis.model_copy(
        update={
            "as_of": fresh[-1].second,
            "requests": progress.requests + (requests if asked.shadow is None else 0),
            "slow_above_milliseconds": bound,
            "sums": evidence.to_text(),
        }
    )
    told = replace(
        progress,
        observed_seconds=progress.observed_seconds + len(counted),
        step_requests=progress.step_requests + requests,
        analysis=analysis,
    )
    return _judged(told, alone=alone)


def judge_progress(progress: Progress, *, alone: bool = False) -> Judgement | None:
    """The verdict on what has been gathered; `alone`: without a stable revision beside the candidate."""
    if progress.analysis is None:
        return None
    return _judge(progress.analysis.rules, progress.analysis.sums, alone=alone)


@lru_cache(maxsize=_AT_HAND)
def _judge(rules_text: str, sums: str, *, alone: bool) -> Judgement:
    rules, evidence = _read(rules_text, sums)
    return judge_alone(evidence, rules) if alone else judge(evidence, rules)


@lru_cache(maxsize=_AT_HAND)
def _read(rules_text: str, sums: str) -> tuple[Rules, Evidence]:
    """Rules and sums; those that another release wrote in its own form begin again, as if nothing had been seen."""
    rules = _read_rules(rules_text)
    try:
        return rules, Evidence.from_text(sums)
    except ValueError:
        return rules, begin(rules)


@lru_cache(maxsize=_AT_HAND)
def _read_rules(text: str) -> Rules:
    """What was pinned; what another release says in words of its own is as the API has it by default."""
    told, usual = {}, asdict(Rules())
    with suppress(ValueError):
        told = json.loads(text)
    known = told if isinstance(told, dict) else {}
    return Rules(**{name: known[name] if type(known.get(name)) is type(usual[name]) else usual[name] for name in usual})


def _judged(progress: Progress, *, alone: bool = False) -> Progress:
    found = judge_progress(progress, alone=alone)
    assert found is not None
    assert progress.analysis is not None
    analysis = progress.analysis.model_copy(update={"metrics": found.metrics or None})
    return replace(progress, analysis=analysis, verdict=found.verdict)


def _taken(row: Row) -> dict[str, int]:
    return {name: weight for name, weight in row.weights.items() if weight}
