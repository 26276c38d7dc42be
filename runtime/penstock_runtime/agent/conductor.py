"""Takes Envoy from what it routes by to what the splits want: make before break, and attested."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .book import Book
from .clocks import Clocks
from .clusterset import ClusterSet
from .envoy import UNREACHABLE, Envoy
from .ports import PortSet
from .routetable import RouteTable
from .settings import Settings
from .state import RouteState, cluster_name

__all__ = ["Conductor"]

log = logging.getLogger("penstock.agent")

_BUSY, _UNREACHABLE, _IDLE = 0.02, 0.1, 60.0
_WARM_WITHIN = 10.0
_ASK_HEALTH = 0.5


class Conductor:
    """One loop that compares what is wanted with what is in force.

    Routes go first, since a weight that falls must not wait for anything; they name only clusters that Envoy has
    loaded. Clusters come before the routes to them and go long after. `ready` stays once it was reached, over restarts
    of the agent too: a pod that serves is not taken away because its agent, or the API server, is.
    """

    def __init__(self, settings: Settings, book: Book, envoy: Envoy, clocks: Clocks) -> None:
        self._book, self._envoy, self._clocks = book, envoy, clocks
        self._routes = RouteTable(settings, book, envoy, clocks)
        self._clusters = ClusterSet(settings, book, envoy, clocks)
        self._ports = PortSet(settings, book, envoy)
        self._mark: Path = settings.state / "ready"
        self._listed_at: float | None = None
        self._health_asked = 0.0
        self._turned_at = clocks.monotonic()
        self._trouble = ""
        self.ready = False

    def get(self, uid: str) -> RouteState | None:
        """The state of one model."""
        return self._routes.states.get(uid)

    def all(self) -> Iterable[RouteState]:
        """The states of all models."""
        return self._routes.states.values()

    async def warm(self, uids: Iterable[str]) -> dict[str, dict[str, int]]:
        """Healthy servers by uid and revision, as Envoy sees them now; nothing while it cannot be asked."""
        wanted = {
            cluster_name(uid, revision.name, "http"): (uid, revision.name)
            for uid in uids
            if (split := self._book.splits.get(uid))
            for revision in split.revisions
        }
        found: dict[str, dict[str, int]] = {}
        with contextlib.suppress(*UNREACHABLE):
            healthy = await self._envoy.healthy(wanted) if wanted else {}
            for name, count in healthy.items():
                uid, revision = wanted[name]
                found.setdefault(uid, {})[revision] = count
        return found

    def restore(self) -> None:
        """Take up the documents of an earlier process: a restart of the agent changes nothing."""
        for part in (self._routes, self._clusters, self._ports):
            part.restore()
        self.ready = self._mark.exists()

    async def run(self) -> None:
        """For ever: a turn whenever something has changed or is due."""
        while True:
            try:
                pause = await self.turn()
            except UNREACHABLE as error:
                log.debug("Envoy does not answer: %s %s", type(error).__name__, error)
                pause = _UNREACHABLE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._book.changed.wait()

    async def turn(self) -> float:
        """One look at everything; returns after how many seconds to look again. Raises one of UNREACHABLE.

        What a full disk refuses is raised at the end: a lost supervision does not wait for it.
        """
        self._book.changed.clear()
        refused = [
            self._try(self._routes.write, self._clusters.loaded),
            self._try(self._clusters.write, self._routes.named),
        ]
        due = self._book.due()
        await self._routes.attest()
        refused += [self._try(self._ports.write, frozenset(self._routes.good)), self._try(self._book.save)]
        self._routes.tell(self._ports.open, self._clusters.problems)
        if await self._clusters.look():
            self._book.changed.set()
        if not self._ports.settled:
            await self._ports.look()
            self._routes.tell(self._ports.open, self._clusters.problems)
        await self._fall_back(due)
        await self._become_ready()
        for error in filter(None, refused):
            raise error
        return self._pause(due)

    def _try(self, write: Callable[..., None], *names: frozenset[str]) -> OSError | None:
        try:
            write(*names)
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("cannot write: %s; tried again until it goes", error)
            return error
        return None

    async def _fall_back(self, due: list[str]) -> None:
        """Send models whose supervision is lost to stable, if stable can serve."""
        warm: Mapping[str, Mapping[str, int]] = await self.warm(due) if due else {}
        for uid in due:
            stable = self._book.splits[uid].stable if uid in self._book.splits else None
            if stable and warm.get(uid, {}).get(stable):
                self._book.fall_back(uid)

    async def _become_ready(self) -> None:
        """Ready when all is listed, attested and open, and every routed revision is warm or has had 10 s for it."""
        if self.ready or not self._book.listed:
            return
        now = self._clocks.monotonic()
        self._listed_at = self._listed_at or now
        if not (self._routes.is_attested and self._ports.settled) or now < self._health_asked + _ASK_HEALTH:
            return
        self._health_asked = now
        if now < self._listed_at + _WARM_WITHIN and not (self._clusters.settled and await self._is_warm()):
            return
        self.ready = True
        self._mark.touch()
        log.info("ready after %.1f s", now - self._listed_at)

    async def _is_warm(self) -> bool:
        wanted = {uid: route for uid in self._book.splits if (route := self._book.route(uid)).weights}
        warm = await self.warm(wanted)
        return (
            all(warm.get(uid, {}).get(revision) for uid, route in wanted.items() for revision in route.weights)
            and wanted.keys() <= self._routes.good.keys()
        )

    def _pause(self, due: list[str]) -> float:
        if due or not (self.ready and self._routes.is_attested and self._clusters.settled and self._ports.settled):
            return _BUSY
        moments = (self._book.next_deadline(), self._clusters.next_retirement())
        now = self._clocks.monotonic()
        return max(0.0, min([moment - now for moment in moments if moment is not None] + [_IDLE]))
