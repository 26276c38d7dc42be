"""Router pods without Envoy: real servers on loopback addresses of their own, which follow the live TrafficSplits.

Each answers `GET /v1/observe` as an agent does. Requests are made up: `rate` a second for each model, given to the
revisions by their weights, failing as often as the model behind a revision is said to. The first route with any
traffic is taken to have been there for ever, so that there is a history to compare with.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import floor, inf
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from penstock.core.names import REVISION_LABEL, ROUTER_LABEL
from penstock.core.server import METRICS_PORT
from penstock.probes.router import AGENT_PORT

__all__ = ["FakeRouters"]

_PODS = 2
_BOUNDS = (10, 50)
_RING_SECONDS = 1800
_numbers = itertools.count(1)


@dataclass(frozen=True)
class _State:
    generation: int
    weights: Mapping[str, int]
    shadow: tuple[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        shadow = {"shadow": list(self.shadow)} if self.shadow else {}
        return {"generation": self.generation, "weights": self.weights, **shadow}


@dataclass
class _Model:
    """One split over time: from when which state was in force."""

    spec: dict[str, Any]
    states: list[tuple[float, _State]] = field(default_factory=list)
    renewed: float = 0.0
    """When supervision was last seen renewed."""
    expired: bool = False

    def follow(self, spec: dict[str, Any], now: float) -> None:
        """A new version of the split has come."""
        self.expire(now)
        fresh = not self.states
        if fresh or spec.get("supervision") != self.spec.get("supervision"):
            self.renewed = now
        if fresh or spec["generation"] > self.spec["generation"]:
            self.expired = False
            untold = not any(weight for _, state in self.states for weight in state.weights.values())
            if untold:
                self.states.clear()
            self.states.append((-inf if untold else now, _state_of(spec)))
        self.spec = spec

    def expire(self, now: float) -> None:
        """Without a renewal in time everything goes to stable."""
        supervision = self.spec.get("supervision")
        if not supervision or self.expired or supervision.get("onLoss") == "Keep" or "stable" not in self.spec:
            return
        end = self.renewed + supervision["timeoutSeconds"]
        if now > end:
            self.expired = True
            self.states.append((end, _State(self.spec["generation"], {self.spec["stable"]: 1000})))

    def state_at(self, second: int) -> int | None:
        """Index of the state that was in force for all of the second that ends then."""
        begun = max(index for index, (since, _) in enumerate(self.states) if since <= second)
        return begun if self.states[begun][0] <= second - 1 else None


def _state_of(spec: Mapping[str, Any]) -> _State:
    weights = {item["name"]: item["weight"] for item in spec["revisions"]}
    shadow = spec.get("shadow")
    return _State(spec["generation"], weights, (shadow["name"], shadow["share"]) if shadow else None)


class FakeRouters:
    """All router pods of a cluster; an async context."""

    def __init__(self) -> None:
        self.rate = 1000.0
        """Requests a second for each model."""
        self.failing: dict[str, float] = {}
        """Digest of a model -> share of its requests that fail."""
        self.scrapes: Counter[str] = Counter()
        """Requests by namespace."""
        self.examined: Counter[str] = Counter()
        """Requests for Triton's metrics by namespace."""
        self.silent: set[str] = set()
        """Namespaces whose routers do not answer."""
        self._models: dict[str, dict[str, _Model]] = {}
        self._servers: dict[tuple[str, str], web.AppRunner] = {}
        self._ready: dict[tuple[str, str], tuple[str, str]] = {}
        """(namespace, pod) -> its revision, and the digest of its model."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._servers.values():
            await runner.cleanup()

    # what the kubelet tells
    async def start(self, pod: Mapping[str, Any]) -> str:
        """A router pod has been made; the address it answers at."""
        namespace, router = pod["metadata"]["namespace"], pod["metadata"]["labels"][ROUTER_LABEL]

        async def observe(request: web.Request) -> web.Response:
            return self._answer(namespace, router, request)

        return await self._listen(pod, AGENT_PORT, "/v1/observe", observe)

    async def start_counting(self, pod: Mapping[str, Any], text: bytes) -> str:
        """A server pod that tells what Triton has counted; the address it answers at."""
        namespace = pod["metadata"]["namespace"]

        async def metrics(_: web.Request) -> web.Response:
            self.examined[namespace] += 1
            return web.Response(body=text)

        return await self._listen(pod, METRICS_PORT, "/metrics", metrics)

    async def _listen(
        self, pod: Mapping[str, Any], port: int, path: str, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> str:
        number = next(_numbers)
        address = f"127.{10 + os.getpid() % 200}.{number // 250}.{number % 250 + 1}"
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()
        self._servers[pod["metadata"]["namespace"], pod["metadata"]["name"]] = runner
        return address

    def serves(self, pod: Mapping[str, Any], digest: str) -> None:
        """A server pod is ready."""
        metadata = pod["metadata"]
        self._ready[metadata["namespace"], metadata["name"]] = (metadata["labels"][REVISION_LABEL], digest)

    async def stop(self, pod: Mapping[str, Any]) -> None:
        """A pod of any kind is gone."""
        place = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._ready.pop(place, None)
        runner = self._servers.pop(place, None)
        if runner is not None:
            await runner.cleanup()

    def follow(self, split: Mapping[str, Any], *, deleted: bool = False) -> None:
        """A TrafficSplit as the watch tells it."""
        known, spec = self._models.setdefault(split["metadata"]["namespace"], {}), split["spec"]
        if deleted:
            known.pop(spec["deploymentUid"], None)
        else:
            known.setdefault(spec["deploymentUid"], _Model(spec)).follow(spec, time.time())

    # what is seen
    def weights(self, namespace: str) -> list[dict[str, int]]:
        """All routes of the namespace's one model so far, in order of time, those without any traffic aside."""
        return [route for _, route in self.changes(namespace)]

    def changes(self, namespace: str) -> list[tuple[float, dict[str, int]]]:
        """The same, each with the moment when it came into force."""
        (model,) = self._models[namespace].values()
        routes = [(since, {name: n for name, n in state.weights.items() if n}) for since, state in model.states]
        return [next(group) for _, group in itertools.groupby(routes, lambda change: change[1])]

    def _answer(self, namespace: str, router: str, request: web.Request) -> web.Response:
        self.scrapes[namespace] += 1
        if namespace in self.silent:
            return web.Response(status=500)
        now, since = time.time(), request.query.get("since")
        found = {}
        for uid in request.query["uid"].split(","):
            model = self._models.get(namespace, {}).get(uid)
            if model is not None and model.spec["router"] == router:
                model.expire(now)
                found[uid] = self._split(namespace, model, now, None if since is None else int(since))
        return web.json_response({"now": now, "splits": found})

    def _split(self, namespace: str, model: _Model, now: float, since: int | None) -> dict[str, Any]:
        warm = Counter(revision for (place, _), (revision, _) in self._ready.items() if place == namespace)
        found: dict[str, Any] = {
            "generation": model.spec["generation"],
            "expired": model.expired,
            "warm": warm,
            "rejected": "",
            "bounds": _BOUNDS,
            "from": floor(now) - _RING_SECONDS,
        }
        if since is None:
            return found
        digests = {revision: digest for (place, _), (revision, digest) in self._ready.items() if place == namespace}
        first = max(since + 1, floor(now) - _RING_SECONDS)
        rows = [self._row(model, digests, second) for second in range(first, floor(now) + 1)]
        return {**found, "states": [state.to_json() for _, state in model.states], "rows": rows}

    def _row(self, model: _Model, digests: Mapping[str, str], second: int) -> list[Any]:
        index = model.state_at(second)
        if index is None:
            return [second, -1, {}]
        counts = {}
        for revision, weight in model.states[index][1].weights.items():
            requests = _whole(second, self.rate / _PODS * weight / 1000)
            errors = _whole(second, requests * self.failing.get(digests.get(revision, ""), 0.0))
            if requests:
                counts[revision] = [requests, errors, 0, 0, [requests, 0, 0]]
        return [second, index, counts]


def _whole(second: int, rate: float) -> int:
    """A rate as whole numbers whose sum over the seconds follows it."""
    return floor((second + 1) * rate) - floor(second * rate)
