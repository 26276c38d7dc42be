"""One look at Envoy at every whole second: counters to rows of the rings."""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping

from .http import Client, HttpError
from .observe import state_text
from .ring import Rings
from .state import Routes, RouteState
from .stats import BOUNDS, LOOK, Counts, Meter, cluster_of, parse, read_path
from .units import Units

__all__ = ["Admin", "Counters", "Found", "Sampler"]

_log = logging.getLogger(__name__)
_PATIENCE = 0.9
"""Seconds for all that is read in one; a second that cannot be read in time is not judged."""
_AFTERGLOW = 6
"""Readings of a model from its last change on: aborts are told when confirmed, and histograms come late."""
_MANY = 48
"""Models with traffic from which on all are read: a longer pattern costs Envoy more than the lines it saves."""
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, HttpError)
_SET_BACK = 5
"""Seconds that the clock may be set back and be waited for; after more, the rings start again."""

Found = dict[str, dict[tuple[str, bool], Counts]]
"""What ended: by the first eight characters of a uid, then by revision and whether they were copies."""


class Admin(Client):
    """Envoy's administration on loopback; behind a new connection may be another Envoy."""

    def __init__(self, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.connections = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connections += 1
        return await super()._connect()


class Counters:
    """What ended in every cluster between two readings of Envoy.

    First it looks at two counters of every cluster, which is almost free; then it reads the models that changed. The
    first reading of all tells nothing: it only says from where to count. Behind a new Envoy everything counts from 0.
    """

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._meters: dict[str, Meter] = {}
        self._seen: frozenset[bytes] = frozenset()
        self._fresh: dict[str, int] = {}
        self._connection = 0
        self._started: float | None = None
        self._based = False
        self._runtime: tuple[int, Mapping[str, int]] = (0, {})

    async def advance(self) -> Found:
        """Raises what `Admin.get` raises, and ValueError; the next call then tells what this one could not."""
        lines = frozenset((await self._admin.get(LOOK)).splitlines())
        if self._admin.connections != self._connection:
            await self._meet()
        changed = lines - self._seen
        self._forget(self._seen - lines, changed)
        self._fresh.update(dict.fromkeys((cluster_of(line)[:8] for line in changed), _AFTERGLOW))
        self._seen = lines
        if self._based and not self._fresh:
            return {}
        found = await self._read(everything=not self._based or len(self._fresh) > _MANY)
        based, self._based = self._based, True
        return found if based else {}

    async def set_runtime(self, values: Mapping[str, int]) -> None:
        """Make Envoy filter its logs by these; it forgets them when it restarts."""
        if values and (self._connection, values) != self._runtime:
            query = "&".join(f"{key}={value}" for key, value in values.items())
            await self._admin.request("POST", f"/runtime_modify?{query}")
            self._runtime = (self._connection, dict(values))

    async def _meet(self) -> None:
        """Find out whether this is another Envoy than before, by when it was started."""
        told = json.loads(await self._admin.get("/server_info"))
        started = time.monotonic() - float(told["uptime_current_epoch"].removesuffix("s"))
        if self._started is not None and started > self._started + 1:
            _log.warning("Envoy was restarted: its counters start from 0")
            self._meters.clear()
            self._seen = frozenset()
        self._started = started
        self._connection = self._admin.connections

    def _forget(self, gone: frozenset[bytes], changed: frozenset[bytes]) -> None:
        """Clusters that Envoy no longer has; made again under their names, they start from 0."""
        still = {line.partition(b": ")[0] for line in changed}
        for line in gone:
            if line.partition(b": ")[0] not in still:
                self._meters.pop(cluster_of(line), None)

    async def _read(self, *, everything: bool) -> Found:
        readings = parse(await self._admin.get(read_path(() if everything else self._fresh)))
        found: Found = {}
        busy = set()
        for cluster, reading in readings.items():
            model, revision, kind = cluster.split("/")
            shadow = kind.startswith("shadow-")
            meter = self._meters.get(cluster)
            if meter is None:
                meter = self._meters[cluster] = Meter(shadow=shadow)
            if counts := meter.advance(reading):
                clusters = found.setdefault(model, {})
                before = clusters.get((revision, shadow))
                clusters[revision, shadow] = before + counts if before else counts
            if meter.busy:
                busy.add(model)
        left = {model: count - 1 for model, count in self._fresh.items() if count > 1}
        self._fresh = left | dict.fromkeys(busy, _AFTERGLOW)
        return found


class Sampler:
    """Writes a row of every model in every second.

    A second is judged only if Envoy was read at both of its ends and one route was in force all the while. Whatever
    ended in seconds that were missed is told in the last of them, without a route; it is never spread over seconds.
    """

    def __init__(
        self,
        routes: Routes,
        rings: Rings,
        counters: Counters,
        units: Units | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._routes = routes
        self._rings = rings
        self._counters = counters
        self._units = units
        self._clock = clock
        self._read_at = 0
        """The second that was read last; 0: none, or it failed."""
        self._before: dict[str, RouteState] = {}
        self._texts: dict[str, tuple[RouteState, str | None]] = {}

    async def run(self) -> None:
        """Sample at every whole second of the wall clock, until cancelled."""
        while True:
            now = self._clock()
            await asyncio.sleep(math.floor(now) + 1 - now)
            await self.sample()

    async def sample(self) -> None:
        """Write the second that has just ended; nothing while the clock repeats seconds."""
        second = math.floor(self._clock() + 0.01)
        if second <= self._rings.last:
            if self._rings.last - second <= _SET_BACK:
                return
            _log.warning("the clock was set back by %d s: counters start anew", self._rings.last - second)
            self._rings.clear()
        before = {route.uid: route for route in self._routes.all()}
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._counters.advance()
        except _UNREADABLE as error:
            _log.log(logging.WARNING if self._read_at else logging.DEBUG, "counters cannot be read: %s", error)
            self._rings.open(second, judged=False)
            self._read_at = 0
            return
        self._rings.open(second, judged=self._read_at == second - 1)
        self._write(found)
        self._read_at, self._before = second, before
        if self._units is not None:
            with contextlib.suppress(*_UNREADABLE):
                await self._counters.set_runtime(self._units.thresholds())

    def _write(self, found: Found) -> None:
        routes = list(self._routes.all())
        if self._units is not None:
            self._units.poll(route for route in routes if route.sticky)
        for route in routes:
            counts = _of_route(route, found.get(route.uid[:8], {}))
            if route.sticky and not route.shadow and self._units is not None:
                counts = self._distinct(route.uid, counts)
            self._rings.write(route.uid, self._state(route), _text(counts))
        self._rings.tidy(frozenset(route.uid for route in routes))

    def _distinct(self, uid: str, counts: dict[str, Counts]) -> dict[str, Counts]:
        """Clients instead of requests, where these are what is to be judged; quick requests are told as they are."""
        assert self._units is not None
        for told in counts.values():
            self._units.learn(uid, told.latency)
        quick = sum(bound <= self._units.slow(uid) for bound in BOUNDS)
        units = self._units.take(uid)
        found = {}
        for revision in counts.keys() | units.keys():
            told = counts.get(revision, Counts())
            failed, asking, slow = units.get(revision, (0, 0, 0))
            latency = (*told.latency[:quick], *(0,) * (len(BOUNDS) - quick), slow)
            found[revision] = Counts(told.requests, failed, asking, told.aborted, latency)
        return found

    def _state(self, route: RouteState) -> str | None:
        """The route in force since before the reading before this one; None where it was not one and the same."""
        before = self._before.get(route.uid)
        if before is None or before.changing or before.since != route.since:
            return None
        known = self._texts.get(route.uid)
        if known is None or known[0] != route:
            known = self._texts[route.uid] = (route, state_text(route))
        return known[1]


def _of_route(route: RouteState, found: dict[tuple[str, bool], Counts]) -> dict[str, Counts]:
    """By revision; the shadowed one is what its copies say."""
    mirrored = route.shadow[0] if route.shadow else ""
    return {revision: counts for (revision, shadow), counts in found.items() if shadow == (revision == mirrored)}


def _text(counts: dict[str, Counts]) -> str:
    rows = (
        f'"{revision}":[{one.requests},{one.errors},{one.client_errors},{one.aborted},'
        f"[{','.join(map(str, one.latency))}]]"
        for revision, one in counts.items()
        if one
    )
    return f"{{{','.join(rows)}}}"
