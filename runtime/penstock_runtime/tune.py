"""The search for settings: few trials in the real server, two visits each, kept only for a difference that is real.

Only what `spec.server` leaves open is varied. The visits go through all candidates and back again, so that a machine
that becomes slower meanwhile is slower for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from penstock.api.facts import ModelFacts, Tuned
from penstock.api.spec import BatchingSpec, InstancesSpec, ServerSpec
from penstock.core.modelrepo import ServerSettings, resolve_settings

from .failure import Failure, shorten

__all__ = ["Search", "Trial", "candidates"]

_DELAYS = ("1ms", "5ms")
_REAL = 1.03
"""A candidate must be this much better than the defaults, and each of its visits better than all of theirs."""


@dataclass
class Trial:
    """One candidate: what its visits measured, seconds or rows per second."""

    tuned: Tuned
    values: list[float] = field(default_factory=list)
    why: str = ""

    def settings(self) -> dict[str, Any]:
        """What it changes, for the report."""
        return self.tuned.model_dump(mode="json", by_alias=True, exclude_none=True) or {"defaults": True}


def candidates(spec: ServerSpec | None, facts: ModelFacts, cpu_limit: Fraction, most: int) -> list[Tuned]:
    """The defaults first, then what may be better, the likelier the earlier; at most `most`, none twice."""
    spec = spec or ServerSpec()
    instances, batching = spec.instances or InstancesSpec(), spec.batching or BatchingSpec()
    if facts.format == "TritonRepository":
        return [Tuned()]
    cores = max(1, int(cpu_limit))
    counts = [instances.count] if instances.count else sorted({1, 2, cores, 2 * cores})
    found = [Tuned()]
    for count in counts:
        threads = [instances.threads] if instances.threads else sorted({max(1, cores // count), 1, cores})
        found.extend(_tuned(instances, count, each) for each in threads)
    if facts.batching and batching.max_queue_delay is None and batching.max_batch_size != 0:
        several = [count for count in counts if count > 1]
        for delay in _DELAYS:
            for count in several[:2]:
                share = instances.threads or max(1, cores // count)
                found.append(_tuned(instances, count, share).model_copy(update={"max_queue_delay": delay}))
    return _different(found, spec, facts, cpu_limit)[:most]


def _different(found: Sequence[Tuned], spec: ServerSpec, facts: ModelFacts, cpu_limit: Fraction) -> list[Tuned]:
    """Those that can be served, one of each that come to the same settings."""
    by_settings: dict[ServerSettings, Tuned] = {}
    for tuned in found:
        settings = resolve_settings(spec, facts.model_copy(update={"tuned": tuned}), cpu_limit)
        if not settings.refusals:
            by_settings.setdefault(settings, tuned)
    return list(by_settings.values()) or [Tuned()]


def _tuned(instances: InstancesSpec, count: int, threads: int) -> Tuned:
    return Tuned(
        instances=None if instances.count else count,
        threads=None if instances.threads else threads,
    )


class Search:
    """`visit` serves with a candidate and measures it once; what is lower is better where `lower` says so."""

    def __init__(self, found: Sequence[Tuned], visit: Callable[[Tuned], float], *, lower: bool) -> None:
        self.trials = [Trial(tuned) for tuned in found]
        self._visit, self._lower = visit, lower

    def run(self) -> Tuned:
        """Visit all there and back; the best, or the defaults where nothing is clearly better."""
        for trial in (*self.trials, *reversed(self.trials)):
            if trial.why:
                continue
            try:
                trial.values.append(self._visit(trial.tuned))
            except Failure as failure:
                trial.why = shorten(failure.message, 300)
        return self._choose()

    def _choose(self) -> Tuned:
        measured = [trial for trial in self.trials if trial.values and not trial.why]
        if not measured:
            return Tuned()
        best = min(measured, key=self._cost)
        defaults = self.trials[0]
        if defaults in measured and best is not defaults and not self._is_clear(best, defaults):
            best.why = "not clearly better than the defaults"
            best = defaults
        best.why = best.why or "the best of all"
        self.chosen = best
        return best.tuned

    def _is_clear(self, best: Trial, defaults: Trial) -> bool:
        """Whether a difference is more than what visits of the same settings differ by."""
        apart = max(best.values) < min(defaults.values) if self._lower else min(best.values) > max(defaults.values)
        return apart and self._cost(best) * _REAL <= self._cost(defaults)

    def _cost(self, trial: Trial) -> float:
        """The mean of the visits as something to make small."""
        value = sum(trial.values) / len(trial.values)
        return value if self._lower else 1 / max(value, 1e-9)

    def report(self) -> dict[str, Any]:
        """The section of the report."""
        chosen = getattr(self, "chosen", None)
        scale = 1000.0 if self._lower else 1.0
        trials = [
            {
                "settings": trial.settings(),
                **({"value": scale * sum(trial.values) / len(trial.values)} if trial.values else {}),
                "chosen": trial is chosen,
                "why": trial.why,
            }
            for trial in self.trials
        ]
        return {"goal": "Latency" if self._lower else "Throughput", "trials": trials}
