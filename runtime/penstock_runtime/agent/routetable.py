"""The route table: what is wanted, what Envoy attested, and what is told of it."""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from .book import Book
from .clocks import Clocks
from .envoy import Envoy
from .files import Document
from .render.document import NOTE, compact, routes_document
from .render.routes import Route, route_clusters, virtual_host
from .settings import Settings
from .state import WHOLE, RouteState, cluster_name

__all__ = ["RouteTable"]

log = logging.getLogger("penstock.agent.routes")

_PATIENCE, _LONG_PATIENCE = 1.0, 10.0
_READ_BY_NOW = 0.05
_SERVED = ("http", "grpc")
_COPIED = ("shadow-http", "shadow-grpc")


class RouteTable:
    """The routes of all models in one document.

    `good` is what Envoy attested last: virtual hosts by uid. A route that Envoy refuses is found by trying each change
    alone; its model keeps its last good one, and the document on disk is always one that a restarted Envoy takes.
    """

    def __init__(self, settings: Settings, book: Book, envoy: Envoy, clocks: Clocks) -> None:
        self._book, self._envoy, self._clocks = book, envoy, clocks
        self._document = Document(settings.envoy / "rds" / "rds.json", settings.state / "rds.json", routes_document)
        self._rendered: dict[str, tuple[Route, str]] = {}
        self._refused: dict[str, tuple[str | None, str]] = {}
        self._written_at = 0.0
        self._attested = -1
        self.good: dict[str, str] = {}
        self.states: dict[str, RouteState] = {}

    def restore(self) -> None:
        """Take up what an earlier process wrote."""
        self._document.restore()
        self.good = dict(self._document.parts)

    @property
    def is_attested(self) -> bool:
        """Whether Envoy routes by what was written last."""
        return self._attested == self._document.version

    @property
    def named(self) -> frozenset[str]:
        """Clusters that a route names which may be in force."""
        hosts = {*self._document.parts.items(), *self.good.items()}
        return frozenset[str]().union(*(_clusters_of(uid, text) for uid, text in hosts))

    def write(self, loaded: frozenset[str]) -> None:
        """Put the wanted routes in place, if they differ from what is there."""
        for uid in (self._rendered.keys() | self._refused.keys()) - self._book.splits.keys():
            self._rendered.pop(uid, None)
            self._refused.pop(uid, None)
        parts = self._document.parts
        wanted = {uid: text for uid in self._book.splits if (text := self._wanted(uid, loaded)) is not None}
        if not self._book.splits_listed:
            wanted = {**parts, **wanted}
        if wanted == parts and self._document.whole:
            return
        for uid in wanted.keys() | parts.keys():
            if wanted.get(uid) != parts.get(uid):
                self.states[uid] = replace(self.states.get(uid) or RouteState(uid), changing=True)
        self._put(wanted)

    async def attest(self) -> None:
        """Wait until Envoy routes by the table, a second at most and no longer than until something new is wanted."""
        if self._attested < 0:
            await self._envoy.was_refused("rds")
        until = self._clocks.monotonic() + _PATIENCE
        while not self.is_attested:
            taken = await self._is_taken()
            if taken is False:
                await self._sort_out()
            if taken is not None or self._book.changed.is_set() or self._clocks.monotonic() > until:
                return
            await asyncio.sleep(0.001)

    def tell(self, listening: frozenset[str], problems: Mapping[str, str]) -> None:
        """Publish what is attested; a model is routed once its port is open. `problems` are other messages by uid."""
        if not self.is_attested:
            return
        now = self._clocks.wall()
        known = {*self._book.splits, *self._book.refused}
        for uid in self.states.keys() - known - self.good.keys():
            del self.states[uid]
        for uid in known | self.good.keys():
            text = self.good.get(uid)
            state = _state(uid, text) if text and uid in listening else RouteState(uid)
            refused = self._refused.get(uid, (None, ""))[1]
            state = replace(state, rejected=self._book.refused.get(uid) or refused or problems.get(uid, ""))
            before = self.states.get(uid)
            same = before is not None and replace(state, since=before.since, rejected=before.rejected) == before
            self.states[uid] = replace(state, since=before.since if same and before else now)

    def _wanted(self, uid: str, loaded: frozenset[str]) -> str | None:
        """The virtual host of a model; what it has while its clusters are missing or its new one is refused."""
        route = settle(self._book.route(uid), loaded)
        if route is None:
            return self._document.parts.get(uid)
        known = self._rendered.get(uid)
        if known is None or known[0] != route:
            self._rendered[uid] = known = (route, compact(virtual_host(route)))
        if uid in self._refused:
            if self._refused[uid][0] == known[1]:
                return self.good.get(uid)
            del self._refused[uid]
        return known[1]

    def _put(self, parts: Mapping[str, str]) -> None:
        self._document.write(parts)
        self._written_at = self._clocks.monotonic()

    async def _is_taken(self) -> bool | None:
        """True once Envoy answers by the table, False once it has read it and does not, None before."""
        if await self._answers():
            return True
        if self._clocks.monotonic() < self._written_at + _READ_BY_NOW:
            return None
        if not await self._envoy.was_refused("rds"):
            return None
        return await self._answers()

    async def _answers(self) -> bool:
        version = self._document.version
        if await self._envoy.attested() != version or version != self._document.version:
            return False
        self._attested, self.good = version, dict(self._document.parts)
        return True

    async def _sort_out(self) -> None:
        """Try each change alone, on top of those that were taken."""
        wanted, good = dict(self._document.parts), dict(self.good)
        for uid in [uid for uid in {**wanted, **good} if wanted.get(uid) != good.get(uid)]:
            trial = {**good, uid: wanted[uid]} if uid in wanted else {k: v for k, v in good.items() if k != uid}
            self._put(trial)
            until = self._clocks.monotonic() + _LONG_PATIENCE
            while (taken := await self._is_taken()) is None and self._clocks.monotonic() < until:  # noqa: ASYNC110 - Envoy only answers
                await asyncio.sleep(0.002)
            if taken:
                good = trial
                continue
            message = "Envoy refuses this route; the log of the container envoy of a router pod says why"
            log.error("%s: %s", uid, message)
            self._refused[uid] = (wanted.get(uid), message)
        self.good = good
        self._put(good)
        self._book.changed.set()


def settle(route: Route, loaded: frozenset[str]) -> Route | None:
    """The route without clusters that are not loaded yet, stable in their place; None where stable is not either."""
    if route.clusters <= loaded:
        return route
    split = route.split

    def has(revision: str, kinds: Iterable[str]) -> bool:
        return all(cluster_name(split.uid, revision, kind) in loaded for kind in kinds)

    if not split.stable or not has(split.stable, _SERVED):
        return None
    weights = {name: weight for name, weight in route.weights.items() if name != split.stable and has(name, _SERVED)}
    if rest := WHOLE - sum(weights.values()):
        weights[split.stable] = rest
    shadow = route.shadow if route.shadow and has(route.shadow.name, _COPIED) else None
    return replace(route, weights=weights, shadow=shadow, settled=False)


@lru_cache(maxsize=2048)
def _note(text: str) -> Mapping[str, Any]:
    """What a virtual host says of itself."""
    note: Mapping[str, Any] = json.loads(text)["metadata"]["filter_metadata"][NOTE]
    return note


@lru_cache(maxsize=2048)
def _clusters_of(uid: str, text: str) -> frozenset[str]:
    note = _note(text)
    return route_clusters(uid, note["weights"], note["shadow"] and note["shadow"][0])


def _state(uid: str, text: str) -> RouteState:
    note = _note(text)
    return RouteState(
        uid=uid,
        generation=note["generation"],
        weights=note["weights"],
        shadow=(note["shadow"][0], note["shadow"][1]) if note["shadow"] else None,
        expired=note["expired"],
        sticky=note["sticky"],
    )
