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

from penstock.api.kinds import CRD_NAMES, schema_problem
from penstock.api.resource import KIND
from penstock.api.router import ROUTER_KIND
from penstock.kube.cache import Cache, DeploymentKey, RouterKey
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import ApiError
from penstock.kube.events import EventRecorder
from penstock.kube.lease import LeaderLease
from penstock.kube.queue import KeyedQueue
from penstock.probes.router import RouterReader
from penstock.probes.triton import TritonReader
from penstock.telemetry import Telemetry

from .credentials import RegistryCredentials
from .examiner import Examiner
from .fleetwatch import FleetWatch
from .garbage import PERIOD_SECONDS, ArtifactCollector
from .health import Check, Health, HealthServer, LoopTick
from .reconcile import Reconciler
from .routers import RouterReconciler
from .routewatch import RouteWatch
from .settings import OperatorSettings
from .wakes import Wakes
from .watch import Watch
from .workers import Workers

__all__ = ["run_operator"]

log = logging.getLogger(__name__)
LEASE = "penstock"
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
        self._routers: KeyedQueue[RouterKey] = KeyedQueue()
        self._reader = RouterReader(observer=self._telemetry.fleets.scraped)
        self._fleets = FleetWatch(self._cache, self._reader, lambda key: self._queue.add(key, urgent=True))
        self._servers = TritonReader()
        self._examiner = Examiner(self._servers, self._queue.add)
        self._listed = asyncio.Event()
        self._watched = asyncio.Event()
        wakes = Wakes(self._cache, self._queue, self._routers, self._fleets)
        self._watch = Watch(
            self._client,
            self._cache,
            wakes.changed,
            self._watched,
            settings.watch_namespaces,
            observer=self._telemetry.watch,
        )
        self._routes = RouteWatch(
            self._client,
            self._cache,
            wakes.changed,
            wakes.published,
            settings.watch_namespaces,
            observer=self._telemetry.watch,
        )
        self._events = EventRecorder(self._client, instance=settings.identity, observer=self._telemetry.events)
        self._credentials = RegistryCredentials(self._client, settings.namespace, time.time)
        self._collector = ArtifactCollector(
            self._cache, self._credentials, _url(settings), time.monotonic, settings.watch_namespaces
        )
        self._workers = self._deployment_workers(), self._router_workers()

    def _deployment_workers(self) -> Workers:
        reconciler = Reconciler(
            self._client,
            self._cache,
            self._settings.decisions,
            self._credentials,
            self._events,
            self._fleets,
            self._routers.add,
            _now,
            examiner=self._examiner,
            served=lambda: self._routes.served,
        )
        return Workers(KIND, self._queue, reconciler.reconcile, self._telemetry.reconcile, self._show)

    def _router_workers(self) -> Workers:
        reconciler = RouterReconciler(self._client, self._cache, self._settings.decisions, _now)
        return Workers(ROUTER_KIND, self._routers, reconciler.reconcile, self._telemetry.reconcile)

    def _show(self, key: DeploymentKey) -> None:
        self._telemetry.observe(key, self._cache.get_deployment(key))

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
            Check("the oldest waiting or running Router", self._routers.oldest_age, _OLDEST_KEY),
            Check("the quietest watch", self._stream_age, _OLDEST_STREAM),
        )
        return Health(checks, {"the first list of every kind": lambda: not self._lease.held or self._listed.is_set()})

    def _stream_age(self) -> float:
        return max(self._watch.age(), self._routes.age()) if self._listed.is_set() else 0.0

    async def _wait_for_schema(self) -> None:
        """An older CRD would drop fields in silence, so no lead is taken over one; a newer one is no harm."""
        while not self._stop.is_set():
            problem = await self._schema_problem()
            if problem is None:
                return
            log.error("not leading: %s", problem)
            await _pause(self._stop, _CRD_RETRY)

    async def _schema_problem(self) -> str | None:
        for name in CRD_NAMES:
            try:
                problem = schema_problem(name, await self._plain.find("CustomResourceDefinition", "", name))
            except ApiError as error:
                problem = f"CRD {name} cannot be read: {error}"
            if problem:
                return problem
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
        routes = asyncio.create_task(self._routes.run(stop_watch, on_signal=self._stop.set), name="routes")
        listing = asyncio.create_task(self._list_all(), name="listing")
        events = asyncio.create_task(self._events.run(), name="events")
        garbage = asyncio.create_task(self._collect_garbage(), name="garbage")
        deployments, routers = self._workers
        work = [*deployments.start(self._settings.workers, self._listed), *routers.start(1, self._listed)]
        try:
            await asyncio.wait([lease, watch, routes, events, *work], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._queue.close()
            self._routers.close()
            if not self._listed.is_set():
                _cancel(work)
            await asyncio.gather(*work, return_exceptions=True)
            await self._fleets.close()
            await self._reader.close()
            await self._examiner.close()
            await self._servers.close()
            await self._events.flush()
            _cancel([events, garbage, listing])
            stop_watch.set()
            await asyncio.gather(watch, routes)
        for part in (events, *work):
            if part.done() and not part.cancelled():
                part.result()

    async def _list_all(self) -> None:
        """Nothing is decided before everything is known, the routes of the Gateway API included where there are any."""
        await self._watched.wait()
        await self._routes.known.wait()
        self._listed.set()

    async def _collect_garbage(self) -> None:
        """Never more than a nuisance: a registry that is away or has no catalogue is asked again next time."""
        await self._listed.wait()
        while self._settings.collect_artifacts:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self._collector.collect()
            except (aiohttp.ClientError, TimeoutError, KeyError) as error:
                log.warning("the artifact store was not looked over: %s", error)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


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
