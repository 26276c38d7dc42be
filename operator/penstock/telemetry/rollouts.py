"""Metrics of rollouts, and of the routers' pods being read while one runs."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["FleetMetrics", "RolloutMetrics"]

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LABELS = ("namespace", "name")
_OUTCOMES = ("Promoted", "RolledBack", "Aborted", "Superseded", "Failed")
Key = tuple[str, str]


class FleetMetrics:
    """Requests to the agents in router pods; an observer of `probes.router.RouterReader`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._scrapes = Counter(
            "penstock_fleet_scrapes",
            "Requests to router pods by outcome: ok, timeout, unreachable or refused.",
            ["outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "penstock_fleet_scrape_duration_seconds",
            "Seconds until a router pod had answered, or was given up.",
            buckets=_SECONDS,
            registry=registry,
        )

    def scraped(self, outcome: str, seconds: float) -> None:
        """One request ended."""
        self._scrapes.labels(outcome).inc()
        self._duration.observe(seconds)


class RolloutMetrics:
    """The candidate of each ModelDeployment that has one, for at most `limit` of them, and how rollouts ended."""

    def __init__(self, registry: CollectorRegistry, limit: int = 1000) -> None:
        self._limit = limit
        self._shown: dict[Key, list[tuple[Gauge, tuple[str, ...]]]] = {}
        self._ended: dict[Key, tuple[tuple[str, str, str], ...]] = {}
        self._phase = Gauge(
            "penstock_rollout_phase",
            "1 for each rollout, with its candidate, its stage and the phase of the ModelDeployment.",
            [*_LABELS, "revision", "stage", "phase"],
            registry=registry,
        )
        self._weight = Gauge(
            "penstock_rollout_weight",
            "Share of the requests that the candidate gets, 0 to 1.",
            _LABELS,
            registry=registry,
        )
        self._step = Gauge("penstock_rollout_step", "Step of the rollout, from 1.", _LABELS, registry=registry)
        self._verdict = Gauge(
            "penstock_rollout_verdict",
            "1 for each rollout, with what the evidence says about its candidate.",
            [*_LABELS, "verdict"],
            registry=registry,
        )
        self._evidence = Gauge(
            "penstock_rollout_evidence",
            "Evidence against the candidate by metric; it is taken back at penstock_rollout_evidence_threshold.",
            [*_LABELS, "metric"],
            registry=registry,
        )
        self._threshold = Gauge(
            "penstock_rollout_evidence_threshold",
            "Evidence at which the candidate is taken back.",
            [*_LABELS, "metric"],
            registry=registry,
        )
        self._rollouts = Counter(
            "penstock_rollouts",
            "Rollouts that ended while this replica led, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for outcome in _OUTCOMES:
            self._rollouts.labels(outcome)

    def observe(self, key: Key, status: Mapping[str, Any]) -> None:
        """What the status of a ModelDeployment says as of now."""
        self._count(key, status)
        self._hide(key)
        candidate = status.get("candidate")
        if not candidate or len(self._shown) >= self._limit:
            return
        self._shown[key] = shown = []
        for gauge, labels, value in self._values(status, candidate):
            gauge.labels(*key, *labels).set(value)
            shown.append((gauge, (*key, *labels)))

    def remove(self, key: Key) -> None:
        """The ModelDeployment is gone."""
        self._hide(key)
        self._ended.pop(key, None)

    def _values(
        self, status: Mapping[str, Any], candidate: Mapping[str, Any]
    ) -> Iterator[tuple[Gauge, tuple[str, ...], float]]:
        stage = candidate.get("stage", "")
        yield self._phase, (candidate.get("revision", ""), stage, status.get("phase", "")), 1.0
        yield self._weight, (), (_number(candidate.get("weight")) or 0.0) / 100
        yield self._step, (), float(candidate.get("step", 0))
        if candidate.get("verdict"):
            yield self._verdict, (candidate["verdict"],), 1.0
        for metric in (candidate.get("analysis") or {}).get("metrics") or ():
            for gauge, field in ((self._evidence, "evidence"), (self._threshold, "threshold")):
                value = _number(metric.get(field))
                if value is not None:
                    yield gauge, (metric["name"],), value

    def _hide(self, key: Key) -> None:
        for gauge, labels in self._shown.pop(key, ()):
            gauge.remove(*labels)

    def _count(self, key: Key, status: Mapping[str, Any]) -> None:
        """Entries of the history that are new since the last look; those of the first look are somebody else's."""
        history = tuple((item["revision"], item["outcome"], item["endTime"]) for item in status.get("history") or ())
        before = self._ended.get(key)
        self._ended[key] = history
        for entry in history if before is not None else ():
            if entry in (before or ()):
                return
            self._rollouts.labels(entry[1]).inc()


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
