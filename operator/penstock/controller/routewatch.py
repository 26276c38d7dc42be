"""Watches the routes of the Gateway API where a cluster serves them; its CRDs may come and go at any time.

For each kind one stream says whether its CRD is there, and by that a second one begins and ends. Both are the ordinary
watch: nothing is asked again and again, and a cluster without the Gateway API costs two quiet streams.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from penstock.core.names import ObjectKey
from penstock.kube.cache import Cache
from penstock.kube.client import KubeClient
from penstock.kube.objects import OPTIONAL, Kind, kind_of

from .watch import Changed, Watch, WatchEnded, WatchObserver

__all__ = ["RouteWatch"]

log = logging.getLogger(__name__)
CRD = "CustomResourceDefinition"
_PATIENCE_SECONDS = 10.0
"""A kind is found by discovery within moments of its CRD being established; a stream that was too early begins anew."""
_RETRY_SECONDS = 2.0


class RouteWatch:
    """The streams of the optional kinds. Belongs to one event loop."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        changed: Changed,
        served_changed: Callable[[], None],
        namespaces: tuple[str, ...] = (),
        *,
        kinds: tuple[Kind, ...] = OPTIONAL,
        observer: WatchObserver | None = None,
    ) -> None:
        """`served_changed` is told when another kind is served, or one no longer."""
        self._client, self._cache, self._namespaces, self._kinds = client, cache, namespaces, kinds
        self._changed, self._served_changed, self._observer = changed, served_changed, observer
        self._served: set[str] = set()
        self._unknown = {kind.name for kind in kinds}
        self._watches: dict[str, Watch] = {}
        self.known = asyncio.Event()
        """Set once each kind is known with all its objects, or known to be missing or unreadable."""

    @property
    def served(self) -> frozenset[str]:
        """The kinds whose objects are known."""
        return frozenset(self._served)

    def age(self) -> float:
        """Seconds since the quietest stream last asked the API server for anything."""
        return max((watch.age() for watch in self._watches.values()), default=0.0)

    async def run(self, stop: asyncio.Event, *, on_signal: Callable[[], None] | None = None) -> None:
        """Watch until `stop`. Raises WatchEnded when a stream of CRDs ends by itself."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for kind in self._kinds:
                    tasks.create_task(self._follow(kind, stop, on_signal), name=f"routes: {kind.plural}")
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None

    async def _follow(self, kind: Kind, stop: asyncio.Event, on_signal: Callable[[], None] | None) -> None:
        """One kind: its CRD all the time, its objects while it is served."""
        listed, moved = asyncio.Event(), asyncio.Event()

        def changed(*_: Mapping[str, Any] | None) -> None:
            moved.set()

        definitions = Watch(
            self._client, self._cache, changed, listed, kinds=(kind_of(CRD),), name=kind.crd, observer=self._observer
        )
        watching = asyncio.create_task(self._stream(kind.crd, definitions, stop, on_signal))
        objects: asyncio.Task[None] | None = None
        ends = asyncio.Event()
        try:
            await _first(listed.wait(), watching)
            while not watching.done():
                moved.clear()
                installed = self._is_installed(kind)
                if installed and objects is None:
                    ends = asyncio.Event()
                    objects = asyncio.create_task(self._watch_objects(kind, ends, on_signal))
                elif not installed:
                    await _end(objects, ends)
                    objects = None
                    self._forget(kind)
                await _first(moved.wait(), watching)
        finally:
            await _end(objects, ends)
            await watching

    async def _stream(self, name: str, watch: Watch, stop: asyncio.Event, on_signal: Callable[[], None] | None) -> None:
        self._watches[name] = watch
        try:
            await watch.run(stop, on_signal=on_signal)
        finally:
            del self._watches[name]

    def _is_installed(self, kind: Kind) -> bool:
        """Whether its CRD is established and serves the version that is written here."""
        crd = self._cache.get(ObjectKey(CRD, "", kind.crd))
        if crd is None:
            return False
        established = any(item["status"] == "True" for item in crd["status"]["conditions"])
        return established and {"name": kind.version, "served": True} in crd["spec"]["versions"]

    async def _watch_objects(self, kind: Kind, ends: asyncio.Event, on_signal: Callable[[], None] | None) -> None:
        """Until the end is asked for; a stream that ends by itself or never begins is begun again."""
        while not ends.is_set():
            listed, over = asyncio.Event(), asyncio.Event()
            watch = Watch(
                self._client,
                self._cache,
                self._changed,
                listed,
                self._namespaces,
                kinds=(kind,),
                observer=self._observer,
            )
            stream = asyncio.create_task(self._stream(kind.plural, watch, over, on_signal))
            try:
                await _first(listed.wait(), ends.wait(), stream, seconds=_PATIENCE_SECONDS)
                if listed.is_set():
                    self._settle(kind, served=True)
                    await _first(ends.wait(), stream)
                elif kind.name in self._unknown:
                    log.warning("%s cannot be listed: models are not published by it until it can", kind.plural)
                    self._settle(kind, served=False)
            finally:
                over.set()
                await _ended(kind, stream)
            if not ends.is_set():
                await _first(ends.wait(), seconds=_RETRY_SECONDS)

    def _forget(self, kind: Kind) -> None:
        """Its CRD is gone, and all its objects with it; or it serves another version for a while, and they stay."""
        for lost in self._cache.lose_sight(kind.name):
            self._changed(lost, None)
        self._settle(kind, served=False)

    def _settle(self, kind: Kind, *, served: bool) -> None:
        before = self.served
        (self._served.add if served else self._served.discard)(kind.name)
        self._unknown.discard(kind.name)
        if not self._unknown:
            self.known.set()
        if self.served != before:
            log.info("%s (%s) is %s", kind.name, kind.api_version, "served" if served else "no longer served")
            self._served_changed()


async def _first(*waits: Any, seconds: float | None = None) -> None:
    """Until one of them is over; tasks go on, mere waits end."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


async def _end(task: asyncio.Task[None] | None, ends: asyncio.Event) -> None:
    ends.set()
    if task is not None:
        await task


async def _ended(kind: Kind, stream: asyncio.Task[None]) -> None:
    try:
        await stream
    except WatchEnded as problem:
        log.warning("the watch of %s has ended and begins anew: %s", kind.plural, problem.__cause__ or problem)
