"""The running operator: one leader watches and reconciles, every replica answers probes and metrics.

Crash-only: whatever ends unexpectedly (the watch, the lease, a worker) ends the process, and Kubernetes starts it
again; status and records are all it needs to go on.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import aiohttp

from penstock.api.resource import GROUP, PLURAL, SCHEMA_ANNOTATION, SCHEMA_VERSION
from penstock.kube.cache import Cache, DeploymentKey
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import ApiError, Fenced, Forbidden
from penstock.kube.events import EventRecorder
from penstock.kube.lease import LeaderLease
from penstock.kube.queue import KeyedQueue, QueueClosed
from penstock.telemetry import Telemetry

from .credentials import RegistryCredentials
from .garbage import PERIOD_SECONDS, ArtifactCollector
from .health import Check, Health, HealthServer, LoopTick
from .reconcile import Reconciler
from .settings import OperatorSettings
from .watch import Watch

__all__ = ["run_operator"]

log = logging.getLogger(__name__)
LEASE = "penstock"
_CRD = f"{PLURAL}.{GROUP}"
_OLDEST_TICK, _OLDEST_KEY, _OLDEST_STREAM = 30.0, 600.0, 700.0
_CRD_RETRY = 10.0


async def run_operator(settings: OperatorSettings) -> None:
    """Contend for the lease, lead while it is held, release it on SIGTERM. Raises what ended it otherwise."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connection = await Connection.open()
    try:
        await Operator(settings, connection, stop).run()
    finally:
        await connection.close()


class Operator:
    """The parts, put together."""

    def __init__(self, settings: OperatorSettings, connection: Connection, stop: asyncio.Event) -> None:
        self._settings, self._stop = settings, stop
        self._telemetry = Telemetry()
        self._plain = KubeClient(connection, observer=self._telemetry.requests)
        self._lease = LeaderLease(
            self._plain,
            namespace=settings.namespace,
            name=LEASE,
            identity=settings.identity,
            on_change=self._telemetry.leading,
        )
        self._client = KubeClient(connection, observer=self._telemetry.requests, fence=lambda: self._lease.held)
        self._cache = Cache()
        self._queue: KeyedQueue[DeploymentKey] = KeyedQueue(observer=self._telemetry.queue)
        self._listed = asyncio.Event()
        self._watch = Watch(
            self._client,
            self._cache,
            self._queue,
            self._listed,
            settings.watch_namespaces,
            observer=self._telemetry.watch,
        )
        self._events = EventRecorder(self._client, instance=settings.identity, observer=self._telemetry.events)
        self._credentials = RegistryCredentials(self._client, settings.namespace, time.time)
        self._collector = ArtifactCollector(
            self._cache, self._credentials, _url(settings), time.time, settings.watch_namespaces
        )
        self._reconciler = Reconciler(
            self._client,
            self._cache,
            settings.decisions,
            self._credentials,
            self._events,
            lambda: datetime.now(UTC).replace(microsecond=0),
        )

    async def run(self) -> None:
        """Until SIGTERM; raises the first error of any part."""
        tick = LoopTick()
        async with HealthServer(self._health(tick), self._telemetry.exposition, port=self._settings.port):
            ticking = asyncio.create_task(tick.run())
            try:
                await self._wait_for_schema()
                await self._contend()
            finally:
                ticking.cancel()

    def _health(self, tick: LoopTick) -> Health:
        checks = (
            Check("the event loop's last turn", tick.age, _OLDEST_TICK),
            Check("the oldest waiting or running key", self._queue.oldest_age, _OLDEST_KEY),
            Check("the quietest watch", self._stream_age, _OLDEST_STREAM),
        )
        return Health(checks, {"the first list of every kind": lambda: not self._lease.held or self._listed.is_set()})

    def _stream_age(self) -> float:
        return self._watch.age() if self._listed.is_set() else 0.0

    async def _wait_for_schema(self) -> None:
        """An older CRD would drop fields in silence, so no lead is taken over one; a newer one is no harm."""
        while not self._stop.is_set():
            problem = await self._schema_problem()
            if problem is None:
                return
            log.error("not leading: %s", problem)
            await _pause(self._stop, _CRD_RETRY)

    async def _schema_problem(self) -> str | None:
        try:
            crd = await self._plain.find("CustomResourceDefinition", "", _CRD)
        except ApiError as error:
            return f"CRD {_CRD} cannot be read: {error}"
        if crd is None:
            return f"CRD {_CRD} is not installed; apply the chart's CRDs"
        found = int(crd["metadata"].get("annotations", {}).get(SCHEMA_ANNOTATION, "0"))
        if found < SCHEMA_VERSION:
            return (
                f"CRD {_CRD} has schema {found}, this operator needs {SCHEMA_VERSION} or newer;"
                " upgrade the chart with its CRDs (crds.install=true), or apply crds/ of this release"
            )
        return None

    async def _contend(self) -> None:
        """Lead once the lease is ours; however leading ends, the lease is released for the next one."""
        lease = asyncio.create_task(self._lease.run(self._stop), name="lease")
        acquired = asyncio.create_task(self._lease.acquired.wait(), name="acquired")
        try:
            await asyncio.wait([lease, acquired], return_when=asyncio.FIRST_COMPLETED)
            if not lease.done():
                log.info("leading as %s", self._settings.identity)
                await self._lead(lease)
        finally:
            acquired.cancel()
            self._stop.set()
            await lease

    async def _lead(self, lease: asyncio.Task[None]) -> None:
        """Watch and work until any part ends; raises what the part raised."""
        await self._credentials.load_key()
        stop_watch = asyncio.Event()
        watch = asyncio.create_task(self._watch.run(stop_watch, on_signal=self._stop.set), name="watch")
        events = asyncio.create_task(self._events.run(), name="events")
        garbage = asyncio.create_task(self._collect_garbage(), name="garbage")
        work = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(self._settings.workers)]
        try:
            await asyncio.wait([lease, watch, events, *work], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._queue.close()
            if not self._listed.is_set():
                _cancel(work)
            await asyncio.gather(*work, return_exceptions=True)
            await self._events.flush()
            _cancel([events, garbage])
            stop_watch.set()
            await watch
        for part in (events, *work):
            if part.done() and not part.cancelled():
                part.result()

    async def _collect_garbage(self) -> None:
        """Never more than a nuisance: a registry that is away or has no catalogue is asked again next time."""
        await self._listed.wait()
        while self._settings.collect_artifacts:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self._collector.collect()
            except (aiohttp.ClientError, TimeoutError, KeyError) as error:
                log.warning("the artifact store was not looked over: %s", error)

    async def _work(self) -> None:
        await self._listed.wait()
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._reconcile(key)
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: DeploymentKey) -> None:
        with self._telemetry.reconcile(key) as outcome:
            try:
                again = await self._reconciler.reconcile(key)
            except Fenced:
                outcome.result = "fenced"
                return
            except ApiError as error:
                outcome.result = "error"
                if not (isinstance(error, Forbidden) and error.terminating):
                    pause = self._queue.add_rate_limited(key)
                    log.warning("%s/%s: %s; again in %.1f s", *key, error, pause)
                return
            except Exception:
                outcome.result = "bug"
                pause = self._queue.add_rate_limited(key)
                log.exception("%s/%s: unexpected; again in %.1f s", *key, pause)
                return
        self._queue.forget(key)
        self._telemetry.observe(key, self._cache.get_deployment(key))
        if again is not None:
            self._queue.add_after(key, again)


def _url(settings: OperatorSettings) -> str:
    registry = settings.decisions.registry
    return f"{'http' if registry in settings.decisions.plain_http else 'https'}://{registry}"


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
