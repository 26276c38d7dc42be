"""kopf as the watch engine and nothing else: watch events go into the cache, and who they concern is told.

kopf lists and watches each kind, reconnects and re-lists; its handlers that store progress on objects, its finalizers,
timers, peering and events are not used, so nothing but our own client ever writes. Three things kopf leaves open are
added here. It never says when a list was complete, nor what a watch missed that had to start anew: each of its list
requests is therefore followed by one of ours, whose answer adds what is missing, drops what is gone, and makes the
kind ready. Its stop ends all tasks of the loop, so its tasks are run one by one. And it takes the process's signals.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, cast

import aiohttp
import kopf

from penstock.core.names import MANAGED_BY, key_of
from penstock.kube.cache import Cache
from penstock.kube.client import KubeClient, Listing
from penstock.kube.connection import USER_AGENT
from penstock.kube.errors import ApiError
from penstock.kube.objects import WATCHED, Kind

__all__ = ["Changed", "Watch", "WatchEnded", "WatchObserver"]

log = logging.getLogger(__name__)

SERVER_TIMEOUT_SECONDS = 300
"""A whole number: kopf sends it as it is, and the API server refuses `300.0`."""
OWNED = ",".join(f"{key}={value}" for key, value in sorted(MANAGED_BY.items()))
RETRY_SECONDS = 5.0
BATCH = 200
"""Objects taken in from a list before other tasks get their turn."""
Changed = Callable[[Mapping[str, Any] | None, Mapping[str, Any] | None], None]
"""Told of an object before and after a change that decisions may depend on; None where there was or is none."""


class WatchEnded(Exception):
    """The watch engine stopped by itself; the process must end and be started again."""


class WatchObserver(Protocol):
    """What the watch tells to metrics."""

    def event(self, kind: str, type_: str) -> None:
        """One watch event arrived."""

    def objects(self, counts: Mapping[str, int]) -> None:
        """The cache's size as of now."""


class _Silent:
    def event(self, kind: str, type_: str) -> None: ...
    def objects(self, counts: Mapping[str, int]) -> None: ...


class Watch:
    """The streams of all watched kinds, and when each last showed life."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        changed: Changed,
        ready: asyncio.Event,
        namespaces: tuple[str, ...] = (),
        *,
        kinds: tuple[Kind, ...] = WATCHED,
        name: str = "",
        observer: WatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kinds` must be served when it runs; `name` narrows all of them to objects of that name."""
        self._client = client
        self._cache = cache
        self._kinds, self._name = kinds, name
        self._changed = changed
        self._ready = ready
        self._namespaces = namespaces
        self._observer: WatchObserver = _Silent() if observer is None else observer
        self._clock = clock
        self._streams: dict[str, tuple[Kind, str | None]] = {
            kind.path(namespace): (kind, namespace) for kind in kinds for namespace in (namespaces or (None,))
        }
        self._unlisted = set(self._streams)
        self._alive = dict.fromkeys(self._streams, clock())
        self._resyncs: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._failed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    def age(self) -> float:
        """Seconds since the quietest stream last asked the API server for anything.

        A healthy stream asks at least every 300 s; one whose task has died never does, and one that cannot reach the
        API server keeps asking.
        """
        return self._clock() - min(self._alive.values())

    async def run(self, stop: asyncio.Event, *, on_signal: Callable[[], None] | None = None) -> None:
        """Watch until `stop`; all namespaces, or only those named. Raises WatchEnded when the engine ends by itself.

        From the start of the engine on SIGTERM and SIGINT call `on_signal` (by default `stop.set`), if this is the
        main thread; handlers that were on the loop before are lost to kopf.
        """
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(self._kinds, self._name),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            standalone=True,
            identity=cast("Any", "penstock"),  # else kopf asks who the user is, and a container has none
        )
        _take_signals(on_signal or stop.set)
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._failed)]
        try:
            await asyncio.wait([*ends, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            error = await _cancelled([*ends, *self._resyncs.values(), *tasks])
            if self._session is not None:
                await self._session.close()
        if not stop.is_set():
            raise WatchEnded("the watch engine ended by itself; the process must be started again") from error

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind in self._kinds:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(self._on_event)
        return registry

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """Called at the start, and again whenever the API server has refused the credentials."""
        connection = self._client.connection
        if self._session is not None:
            await connection.rebuild(connection.generation)
            await self._session.close()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.ssl_context),
            headers={"User-Agent": f"{USER_AGENT} (watch)"},
            middlewares=(self._follow,),
        )
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=self._session)

    async def _follow(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Around each of kopf's requests: current credentials go out, lists and signs of life are noted."""
        authorization = await self._client.connection.authorization()
        if authorization:
            request.headers["Authorization"] = authorization
        path = request.url.path
        if path in self._alive:
            self._alive[path] = self._clock()
        response = await handler(request)
        if path in self._alive and response.status == 200 and "watch" not in request.url.query:
            self._start_resync(path)
        return response

    async def _on_event(self, event: Mapping[str, Any], **_: Any) -> None:
        manifest = event["object"]
        self._observer.event(manifest["kind"], (event["type"] or "LISTED").lower())
        self._take(manifest, deleted=event["type"] == "DELETED")

    def _take(self, manifest: Mapping[str, Any], *, deleted: bool = False) -> None:
        key = key_of(dict(manifest))
        before = self._cache.get(key)
        if self._cache.drop(manifest) if deleted else self._cache.put(manifest):
            self._changed(before, self._cache.get(key))

    def _start_resync(self, path: str) -> None:
        """One at a time for each stream; asked for again meanwhile, it runs once more."""
        if path in self._resyncs:
            self._again.add(path)
            return
        task = asyncio.create_task(self._resync(path), name=f"watch: resync {path}")
        task.add_done_callback(self._note_failure)
        self._resyncs[path] = task

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failed.set()

    async def _resync(self, path: str) -> None:
        kind, namespace = self._streams[path]
        done = False
        while not done:
            self._again.discard(path)
            try:
                listing = await self._client.list(
                    kind.name, namespace, labels=OWNED if kind.labelled else "", object_name=self._name
                )
            except ApiError as problem:
                log.warning("%s could not be listed and is tried again: %s", kind.plural, problem)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._take_in(kind, namespace, listing)
            done = path not in self._again
        del self._resyncs[path]
        self._unlisted.discard(path)
        self._observer.objects(self._cache.counts())
        if not self._unlisted:
            self._ready.set()

    async def _take_in(self, kind: Kind, namespace: str | None, listing: Listing) -> None:
        for index, manifest in enumerate(listing.items):
            self._take(manifest)
            if index % BATCH == BATCH - 1:
                await asyncio.sleep(0)
        uids = {manifest["metadata"]["uid"] for manifest in listing.items}
        for gone in self._cache.retain(kind.name, namespace, uids, listing.resource_version, name=self._name):
            self._changed(gone, None)


def _settings(kinds: tuple[Kind, ...], name: str) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = SERVER_TIMEOUT_SECONDS + 30
    settings.watching.connect_timeout = 10.0
    settings.watching.inactivity_timeout = 70.0
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60.0
    for kind in kinds:
        place = kind.group, kind.version, kind.plural
        if kind.labelled:
            settings.watching.label_selectors[place] = OWNED
        if name:
            settings.watching.field_selectors[place] = f"metadata.name={name}"
    return settings


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> Exception | None:
    """End the tasks and return the first error among them, if any."""
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return next((result for result in results if isinstance(result, Exception)), None)


def _take_signals(handler: Callable[[], None]) -> None:
    """kopf has put its own handlers on the loop; ours take their place."""
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, handler)
