"""Reads the router pods of the models that are being judged, and of no others.

Each fleet with such models is asked once a second, just after the agents' second has closed, or five times a second
for models whose plan waits for a route to be attested. After each round the models' keys go onto the queue. Counters
stay here until status says that they are used; those before are fetched from the agents' rings, so that nothing is
lost with this process.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Any, Literal, Protocol

from penstock.core.fleet import FleetView, RouterPodView
from penstock.core.pods import is_leaving, is_ready
from penstock.kube.cache import Cache, DeploymentKey, RouterKey
from penstock.probes.answers import PodAnswer, PodSplit
from penstock.probes.history import History

__all__ = ["HISTORY_SECONDS", "FleetReader", "FleetWatch", "Interest", "Pace"]

log = logging.getLogger(__name__)
HISTORY_SECONDS = 900
"""Of stable alone, before a candidate gets its first request."""
_FRESH_SECONDS = 5.0
_RECENT_SECONDS = 30
_MODELS_A_REQUEST = 50
_PATIENCE = 1.0
"""Seconds of a round after which a pod is asked nothing more, or one that is mute would keep all models waiting."""


class FleetReader(Protocol):
    """What asks one router pod; see probes.router."""

    async def observe(self, address: str, uids: list[str], since: int | None) -> PodAnswer | None:
        """Its answer, or None."""


@dataclass(frozen=True)
class Pace:
    """Seconds between rounds, and how long after a full second the slow ones begin."""

    slow: float = 1.0
    fast: float = 0.2
    lag: float = 0.15


@dataclass(frozen=True)
class Interest:
    """What is to be read for one model."""

    uid: str
    router: str
    mode: Literal["slow", "fast"]
    used: int | None = None
    """The last second whose counters status has used, 0 for none of them; None: counters are of no use now."""


@dataclass
class _Model:
    interest: Interest
    history: History | None = None
    told: dict[str, tuple[float, PodSplit]] = field(default_factory=dict)
    """By uid of the pod: when it answered, and what."""
    tried: dict[str, float] = field(default_factory=dict)
    """By uid of the pod: when it was asked last; who was asked longest ago is asked first."""
    asked: float | None = None
    answered: float | None = None
    """When the last round began, and ended."""


class FleetWatch:
    """One task for each fleet that is read; none while nothing is judged. Belongs to one event loop."""

    def __init__(
        self,
        cache: Cache,
        reader: FleetReader,
        wake: Callable[[DeploymentKey], None],
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._reader, self._wake, self._clock = cache, reader, wake, clock
        self._pace = pace or Pace()
        self._models: dict[DeploymentKey, _Model] = {}
        self._tasks: dict[RouterKey, asyncio.Task[None]] = {}
        self._changed: dict[RouterKey, asyncio.Event] = {}

    def follow(self, key: DeploymentKey, interest: Interest | None) -> None:
        """Read for this model from now on, or no more."""
        if interest is None:
            self._models.pop(key, None)
            return
        model = self._models.get(key)
        if model is None or (model.interest.uid, model.interest.router) != (interest.uid, interest.router):
            model = self._models[key] = _Model(interest)
        hurried = model.asked is None or interest.mode != model.interest.mode
        model.history = self._history(model, interest.used)
        model.interest = interest
        fleet = (key[0], interest.router)
        if fleet not in self._tasks:
            self._changed[fleet] = asyncio.Event()
            self._tasks[fleet] = asyncio.create_task(self._read(fleet), name=f"fleet {fleet[0]}/{fleet[1]}")
        elif hurried:
            self._changed[fleet].set()

    def view(self, key: DeploymentKey) -> FleetView | None:
        """The fleet as it answered for this model; None without a round in the last 5 s."""
        model = self._models.get(key)
        if model is None or model.answered is None or not self._is_fresh(model.answered):
            return None
        pods = {pod["metadata"]["uid"]: pod for pod in self._ready((key[0], model.interest.router))}
        return FleetView(
            pods=tuple(self._pod_view(pod["metadata"]["name"], model.told.get(uid)) for uid, pod in pods.items()),
            rows=model.history.rows(pods.keys()) if model.history else (),
        )

    def wake(self, fleet: RouterKey) -> None:
        """Router pods came or went: every model that is read there has to be looked at."""
        for key in self._keys(fleet):
            self._wake(key)

    async def close(self) -> None:
        """End all reading."""
        self._models.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _history(self, model: _Model, used: int | None) -> History | None:
        if used is None:
            return None
        known = model.history
        begun_anew = known is not None and used < (model.interest.used or 0)
        if known is None or begun_anew:
            return History(used or floor(self._clock()) - HISTORY_SECONDS)
        known.use(used)
        return known

    def _is_fresh(self, moment: float) -> bool:
        """Of the last seconds; a moment still to come is none of them: the clock was set back since."""
        return abs(self._clock() - moment) <= _FRESH_SECONDS

    def _keys(self, fleet: RouterKey) -> Iterator[DeploymentKey]:
        namespace, router = fleet
        return (
            key for key, model in list(self._models.items()) if key[0] == namespace and model.interest.router == router
        )

    def _ready(self, fleet: RouterKey) -> list[Mapping[str, Any]]:
        pods = (item for key, item in self._cache.fleet(fleet).items() if key.kind == "Pod")
        return [pod for pod in pods if is_ready(pod) and not is_leaving(pod)]

    def _pod_view(self, name: str, told: tuple[float, PodSplit] | None) -> RouterPodView:
        if told is None:
            return RouterPodView(name, answered=False)
        when, split = told
        return RouterPodView(
            name,
            answered=self._is_fresh(when),
            generation=split.generation,
            expired=split.expired,
            warm=split.warm,
            rejected=split.rejected,
        )

    async def _read(self, fleet: RouterKey) -> None:
        try:
            while models := [self._models[key] for key in self._keys(fleet)]:
                changed = self._changed[fleet]
                await _wait(changed, min(self._due(model) for model in models) - self._clock())
                changed.clear()
                try:
                    await self._round(fleet)
                except Exception:
                    log.exception("fleet %s/%s: unexpected; read again in the next round", *fleet)
        finally:
            del self._tasks[fleet], self._changed[fleet]

    def _due(self, model: _Model) -> float:
        """When this model's next round begins."""
        pace = self._pace
        if model.asked is None or model.asked > self._clock() + _FRESH_SECONDS:
            return 0.0
        if model.interest.mode == "fast":
            return model.asked + pace.fast
        return (floor((model.asked - pace.lag) / pace.slow) + 1) * pace.slow + pace.lag

    async def _round(self, fleet: RouterKey) -> None:
        now = self._clock()
        due = {key: self._models[key] for key in self._keys(fleet) if self._due(self._models[key]) <= now}
        for model in due.values():
            model.asked = now
        pods = self._ready(fleet)
        await asyncio.gather(*(self._ask(pod, list(due.values())) for pod in pods))
        uids = {pod["metadata"]["uid"] for pod in pods}
        for key, model in due.items():
            model.told = {uid: told for uid, told in model.told.items() if uid in uids}
            model.tried = {uid: when for uid, when in model.tried.items() if uid in uids}
            model.answered = self._clock()
            self._wake(key)

    async def _ask(self, pod: Mapping[str, Any], models: list[_Model]) -> None:
        uid, address = pod["metadata"]["uid"], pod["status"].get("podIP")
        if not address:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        due = list(_requests(uid, models, floor(self._clock())))
        for since, group in sorted(due, key=lambda item: min(model.tried.get(uid, 0.0) for model in item[1])):
            if loop.time() >= until:
                return
            for model in group:
                model.tried[uid] = loop.time()
            answer = await self._reader.observe(address, [model.interest.uid for model in group], since)
            if answer is not None:
                for model in group:
                    self._take(uid, model, answer, since)

    def _take(self, pod: str, model: _Model, answer: PodAnswer, since: int | None) -> None:
        split = answer.splits.get(model.interest.uid)
        model.told[pod] = (self._clock(), split or PodSplit())
        if model.history is not None and since is not None:
            model.history.take(pod, split, answer.now, since)


def _requests(pod: str, models: Iterable[_Model], now: int) -> Iterator[tuple[int | None, list[_Model]]]:
    """What to ask a pod: models without counters, those with recent ones, and each that needs a long history alone."""
    plain, recent = list[_Model](), list[tuple[int, _Model]]()
    for model in models:
        since = model.history.since(pod) if model.history else None
        if since is None:
            plain.append(model)
        elif since >= now - _RECENT_SECONDS:
            recent.append((since, model))
        else:
            yield since, [model]
    for group in _chunks(plain):
        yield None, group
    for pairs in _chunks(recent):
        yield min(since for since, _ in pairs), [model for _, model in pairs]


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    return (items[start : start + _MODELS_A_REQUEST] for start in range(0, len(items), _MODELS_A_REQUEST))


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    """For the event or the time, whichever is first."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await changed.wait()
    except TimeoutError:
        return
