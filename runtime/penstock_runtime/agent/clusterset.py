"""The clusters: those that splits want, and those that may still be in use."""

import logging
from collections.abc import Mapping

from .book import Book
from .clocks import Clocks
from .endpoints import Endpoint
from .envoy import Envoy
from .files import Document
from .render.clusters import revision_clusters, shadow_clusters
from .render.document import compact, resources_document
from .settings import Settings
from .split import Revision, Split

__all__ = ["ClusterSet"]

log = logging.getLogger("penstock.agent.clusters")

_GIVE_UP = 10.0

_Key = tuple[object, ...]


class ClusterSet:
    """All clusters in one document; `loaded` are those that Envoy can route to.

    They are added at once and taken away only when no route has named them for as long as any request may last: the
    drain of the fleet, which no model's timeout exceeds. While Envoy still warms the clusters of the last change the
    next one waits, 10 s at most.
    """

    def __init__(self, settings: Settings, book: Book, envoy: Envoy, clocks: Clocks) -> None:
        self._settings, self._book, self._envoy, self._clocks = settings, book, envoy, clocks
        self._document = Document(settings.envoy / "cds" / "cds.json", settings.state / "cds.json", resources_document)
        self._rendered: dict[str, tuple[_Key, dict[str, str]]] = {}
        self._retire: dict[str, float] = {}
        self._written_at = 0.0
        self.settled = False
        self.loaded: frozenset[str] = frozenset()
        self.problems: dict[str, str] = {}

    def restore(self) -> None:
        """Take up what an earlier process wrote; Envoy had loaded it."""
        self._document.restore()
        self.loaded = frozenset(self._document.parts)
        self._written_at = self._clocks.monotonic()

    def write(self, named: frozenset[str]) -> None:
        """Put the wanted clusters in place, and those that routes have `named` not long enough ago."""
        now = self._clocks.monotonic()
        if not self._book.listed or (not self.settled and now < self._written_at + _GIVE_UP and self._document.parts):
            return
        parts = self._document.parts
        wanted = self._wanted()
        leaving = {name: self._leaves_at(name, now, named) for name in parts.keys() - wanted.keys()}
        self._retire = {name: at for name, at in leaving.items() if at is not None and now < at}
        wanted |= {name: parts[name] for name, at in leaving.items() if at is None or now < at}
        if wanted != parts or not self._document.whole:
            self._document.write(wanted)
            self.loaded &= wanted.keys()
            self._written_at, self.settled = now, False

    async def look(self) -> bool:
        """Ask Envoy which clusters it has loaded; True if that changed."""
        if self.settled:
            return False
        refused = await self._envoy.was_refused("cds")
        taken = await self._envoy.clusters_version() == self._document.version
        if not taken and not refused:
            return False
        warming = await self._envoy.clusters("warming")
        active = await self._envoy.clusters("active")
        written = frozenset(self._document.parts)
        self.problems = {} if taken else self._missing(written - active - warming)
        self.settled = not warming
        before, self.loaded = self.loaded, written & active
        return self.loaded != before or self.settled

    def next_retirement(self) -> float | None:
        """When the next cluster goes, on the monotonic clock."""
        return min(self._retire.values(), default=None)

    def _leaves_at(self, name: str, now: float, named: frozenset[str]) -> float | None:
        """When a cluster that no split wants goes; None while a route names it."""
        return None if name in named else self._retire.get(name, now + self._settings.drain)

    def _wanted(self) -> dict[str, str]:
        endpoints = self._book.endpoints()
        wanted: dict[str, str] = {}
        for uid, split in self._book.splits.items():
            key = _key(split, endpoints)
            known = self._rendered.get(uid)
            if known is None or known[0] != key:
                self._rendered[uid] = known = (key, _render(split, endpoints))
            wanted.update(known[1])
        for uid in self._rendered.keys() - self._book.splits.keys():
            del self._rendered[uid]
        return wanted

    def _missing(self, names: frozenset[str]) -> dict[str, str]:
        """Messages by uid for clusters that Envoy refused; the others of the document are in place."""
        problems = {}
        for uid in self._book.splits:
            if lacking := sorted(name for name in names if name.startswith(f"{uid[:8]}/")):
                problems[uid] = f"Envoy refuses the cluster {lacking[0]}; the log of the container envoy says why"
                log.error("%s: %s", uid, problems[uid])
        return problems


def _key(split: Split, endpoints: Mapping[str, tuple[Endpoint, ...]]) -> _Key:
    """Everything that the clusters of a split depend on."""
    revisions = tuple((one.name, one.model, endpoints.get(one.name, ())) for one in split.revisions)
    return (revisions, split.shadow and split.shadow.name, split.max_concurrent, split.timeout)


def _render(split: Split, endpoints: Mapping[str, tuple[Endpoint, ...]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for revision in split.revisions:
        found |= _texts(split, revision, endpoints.get(revision.name, ()))
    return found


def _texts(split: Split, revision: Revision, endpoints: tuple[Endpoint, ...]) -> dict[str, str]:
    clusters = revision_clusters(split, revision, endpoints)
    if split.shadow and split.shadow.name == revision.name:
        clusters |= shadow_clusters(split, revision, endpoints)
    return {name: compact(cluster) for name, cluster in clusters.items()}
