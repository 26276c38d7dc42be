"""Metrics under `penstock_`, with the names of controller-runtime's, so that existing dashboards and habits fit.

The classes have the shape of the observers that `kube` and the controller call; neither side imports the other.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from penstock import __version__

from .logs import log_context
from .rollouts import FleetMetrics, RolloutMetrics

__all__ = [
    "METRICS_CONTENT_TYPE",
    "ApiMetrics",
    "EventMetrics",
    "ModelMetrics",
    "Outcome",
    "QueueMetrics",
    "Telemetry",
    "WatchMetrics",
]

METRICS_CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class QueueMetrics:
    """The work queue; an observer of `kube.queue.KeyedQueue`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._depth = Gauge("penstock_workqueue_depth", "Keys ready and waiting for a worker.", registry=registry)
        self._adds = Counter("penstock_workqueue_adds", "Keys that became ready.", registry=registry)
        self._retries = Counter("penstock_workqueue_retries", "Keys put back after a failure.", registry=registry)
        self._waited = Histogram(
            "penstock_workqueue_queue_duration_seconds",
            "Seconds from ready to taken by a worker.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._worked = Histogram(
            "penstock_workqueue_work_duration_seconds",
            "Seconds a worker held a key.",
            buckets=_SECONDS,
            registry=registry,
        )

    def added(self, depth: int) -> None:
        """A key became ready."""
        self._adds.inc()
        self._depth.set(depth)

    def taken(self, depth: int, waited: float) -> None:
        """A worker took a key."""
        self._depth.set(depth)
        self._waited.observe(waited)

    def finished(self, worked: float) -> None:
        """A worker gave a key back."""
        self._worked.observe(worked)

    def retried(self) -> None:
        """A key was put back."""
        self._retries.inc()


class ApiMetrics:
    """Requests to the API server; an observer of `kube.transport.Transport`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "penstock_api_requests",
            "Requests to the API server by verb, kind and HTTP code (`error` without an answer), retries included.",
            ["verb", "kind", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "penstock_api_request_duration_seconds",
            "Seconds from sending a request to its whole answer.",
            ["verb"],
            buckets=_SECONDS,
            registry=registry,
        )

    def request(self, verb: str, kind: str, code: str, seconds: float) -> None:
        """One attempt ended."""
        self._requests.labels(verb, kind, code).inc()
        self._duration.labels(verb).observe(seconds)


class EventMetrics:
    """Kubernetes events; an observer of `kube.events.EventRecorder`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "penstock_events",
            "Kubernetes events by outcome: sent, failed, dropped or duplicate.",
            ["outcome"],
            registry=registry,
        )

    def event(self, outcome: str) -> None:
        """One event ended so."""
        self._events.labels(outcome).inc()


class WatchMetrics:
    """The watch streams."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "penstock_watch_events", "Watch events by kind and type.", ["kind", "type"], registry=registry
        )
        self._objects = Gauge("penstock_cache_objects", "Objects known, by kind.", ["kind"], registry=registry)

    def event(self, kind: str, type_: str) -> None:
        """One watch event arrived."""
        self._events.labels(kind, type_).inc()

    def objects(self, counts: Mapping[str, int]) -> None:
        """The cache's size as of now."""
        self._objects.clear()
        for kind, count in counts.items():
            self._objects.labels(kind).set(count)


class ModelMetrics:
    """One series a ModelDeployment, for at most `limit` of them; the rest is counted by phase and not named."""

    def __init__(self, registry: CollectorRegistry, limit: int = 1000) -> None:
        self._limit = limit
        self._phase_of: dict[tuple[str, str], str] = {}
        self._named: dict[tuple[str, str], tuple[str, str]] = {}
        self._tally: Tally[str] = Tally()
        self._phases = Gauge("penstock_modeldeployments", "ModelDeployments by phase.", ["phase"], registry=registry)
        self._info = Gauge(
            "penstock_model_info",
            "1 for each ModelDeployment, with its stable revision and the format of its model.",
            ["namespace", "name", "revision", "format"],
            registry=registry,
        )
        self._ready = Gauge(
            "penstock_model_ready",
            "1 while the Ready condition of the ModelDeployment is True.",
            ["namespace", "name"],
            registry=registry,
        )
        self._unnamed = Gauge(
            "penstock_models_unnamed", "ModelDeployments beyond the limit of named series.", registry=registry
        )

    def observe(
        self, namespace: str, name: str, *, phase: str, revision: str = "", format_: str = "", ready: bool = False
    ) -> None:
        """The state of one ModelDeployment as of now; an empty phase counts as Pending."""
        key = (namespace, name)
        self._set_phase(key, phase or "Pending")
        self._unname(key)
        if len(self._named) < self._limit:
            self._named[key] = (revision, format_)
            self._info.labels(namespace, name, revision, format_).set(1)
            self._ready.labels(namespace, name).set(1 if ready else 0)
        self._unnamed.set(len(self._phase_of) - len(self._named))

    def remove(self, namespace: str, name: str) -> None:
        """The ModelDeployment is gone."""
        key = (namespace, name)
        self._unname(key)
        self._set_phase(key, None)
        self._unnamed.set(len(self._phase_of) - len(self._named))

    def _unname(self, key: tuple[str, str]) -> None:
        labels = self._named.pop(key, None)
        if labels is not None:
            self._info.remove(*key, *labels)
            self._ready.remove(*key)

    def _set_phase(self, key: tuple[str, str], phase: str | None) -> None:
        before = self._phase_of.pop(key, None)
        if phase is not None:
            self._phase_of[key] = phase
            self._tally[phase] += 1
        if before is not None:
            self._tally[before] -= 1
        for changed in {before, phase} - {None}:
            self._phases.labels(changed).set(self._tally[str(changed)])


@dataclass
class Outcome:
    """How a reconcile ends; set `result` where it does not end well."""

    result: str = "success"


class Telemetry:
    """All metrics of one process, in a registry of their own; and the log context of a reconcile."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.queue = QueueMetrics(self.registry)
        self.requests = ApiMetrics(self.registry)
        self.events = EventMetrics(self.registry)
        self.watch = WatchMetrics(self.registry)
        self.models = ModelMetrics(self.registry)
        self.fleets = FleetMetrics(self.registry)
        self.rollouts = RolloutMetrics(self.registry)
        self._leader = Gauge("penstock_leader", "1 while this replica leads.", registry=self.registry)
        self._reconciles = Counter(
            "penstock_reconcile",
            "Reconciles by kind and result: success, error, fenced or bug.",
            ["kind", "result"],
            registry=self.registry,
        )
        self._reconcile_time = Histogram(
            "penstock_reconcile_time_seconds",
            "Seconds one reconcile took, requests included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._active = Gauge(
            "penstock_active_workers", "Workers that reconcile at this moment.", registry=self.registry
        )
        build = Gauge("penstock_build_info", "1, with the operator's version.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)

    def leading(self, leading: bool) -> None:  # noqa: FBT001 - a callback has no keywords
        """This replica leads, or does not."""
        self._leader.set(1 if leading else 0)

    @contextmanager
    def reconcile(self, kind: str, key: tuple[str, str]) -> Iterator[Outcome]:
        """Around one reconcile of (namespace, name): its time, its result, and the fields of its log lines."""
        outcome = Outcome()
        namespace, name = key
        with log_context(namespace=namespace, name=name), self._active.track_inprogress(), self._reconcile_time.time():
            try:
                yield outcome
            except BaseException:
                outcome.result = "error" if outcome.result == "success" else outcome.result
                raise
            finally:
                self._reconciles.labels(kind, outcome.result).inc()

    def observe(self, key: tuple[str, str], deployment: Mapping[str, Any] | None) -> None:
        """Show the state of a ModelDeployment as its status tells it; None: it is gone."""
        if deployment is None:
            self.models.remove(*key)
            self.rollouts.remove(key)
            return
        status = deployment.get("status") or {}
        conditions = status.get("conditions") or ()
        self.models.observe(
            *key,
            phase=status.get("phase", ""),
            revision=(status.get("stable") or {}).get("revision", ""),
            format_=(status.get("preparation") or {}).get("format", ""),
            ready=any(item["type"] == "Ready" and item["status"] == "True" for item in conditions),
        )
        self.rollouts.observe(key, status)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)
