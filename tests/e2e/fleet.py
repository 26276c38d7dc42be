"""The router pods of a namespace, asked as the operator asks them, and a route followed from its object to Envoy."""

import json
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from examples.demo.cluster import Cluster

from .cluster import Object, TimedOut, apply, items

AGENT_PORT = 10091
SPLIT = "trafficsplits.penstock.dev"
ROUTER = "routers.penstock.dev"
PODS = "app.kubernetes.io/component=router"
_POLL = 0.1
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def quick_router(namespace: str, name: str = "default", **spec: Any) -> Object:
    """A fleet that drains and is replaced within seconds."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Router",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"drain": "5s", "update": {"pause": "2s"}, **spec},
    }


@dataclass(frozen=True)
class Fleet:
    """The router pods of one Router."""

    cluster: Cluster
    namespace: str
    name: str = "default"

    def shape(self, **spec: Any) -> None:
        """Have it drain quickly, and be otherwise as asked."""
        apply(self.cluster, quick_router(self.namespace, self.name, **spec))

    def pods(self) -> list[Object]:
        """Those that are not on their way out."""
        found = items(self.cluster, "pods", self.namespace, f"{PODS},penstock.dev/router={self.name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def addresses(self) -> dict[str, str]:
        """Address by name, of the Ready ones."""
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in self.pods() if is_ready(pod)}

    def wait_ready(self, seconds: float = 180) -> list[Object]:
        """Until as many pods are Ready as the Router asks for, and no other is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            wanted = self.cluster.get(ROUTER, self.name, "-n", self.namespace)["spec"].get("replicas", 2)
            found = items(self.cluster, "pods", self.namespace, f"{PODS},penstock.dev/router={self.name}")
            leaving = any("deletionTimestamp" in pod["metadata"] for pod in found)
            if len(found) == wanted and not leaving and all(map(is_ready, found)):
                return found
            time.sleep(0.3)
        raise TimedOut(f"{self.name}: the router pods are not Ready after {seconds:.0f} s")

    def observe(self, uid: str, since: int | None = None) -> dict[str, Mapping[str, Any]]:
        """What each Ready pod says of one model; a pod that does not answer is left out."""
        return observe(self.addresses(), uid, since)


def is_ready(pod: Object) -> bool:
    """Whether the pod's condition says so."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def observe(addresses: Mapping[str, str], uid: str, since: int | None = None) -> dict[str, Mapping[str, Any]]:
    """`/v1/observe` of agents by pod name; empty for a model that a pod does not know."""
    asked = f"/v1/observe?uid={uid}" + (f"&since={since}" if since is not None else "")
    found = {}
    for name, address in addresses.items():
        with suppress(OSError, ValueError), _OPENER.open(f"http://{address}:{AGENT_PORT}{asked}", timeout=2) as answer:
            found[name] = json.load(answer)["splits"].get(uid, {})
    return found


@dataclass(frozen=True)
class Sight:
    """What one router pod attested from a moment of the wall clock on."""

    time: float
    generation: int
    expired: bool


@dataclass
class RouteWatch:
    """Follows one TrafficSplit and what every router pod attests of it, from `start` to the end of the block."""

    cluster: Cluster
    namespace: str
    name: str
    weights: dict[int, Mapping[str, int]] = field(default_factory=dict)
    """By generation; in 0.1 %."""
    specs: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """What each generation says, the newest of it."""
    written: dict[int, float] = field(default_factory=dict)
    """When each generation was first seen at the API server."""
    sights: dict[str, list[Sight]] = field(default_factory=dict)
    """Changes by router pod."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _told: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _watching: Any = None

    def __enter__(self) -> Self:
        split = self.cluster.get(SPLIT, self.name, "-n", self.namespace)
        self._note(split)
        uid, fleet = split["spec"]["deploymentUid"], Fleet(self.cluster, self.namespace, split["spec"]["router"])
        for target, arguments in ((self._watch, ()), (self._ask, (uid, fleet))):
            self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
            self._threads[-1].start()
        assert self._told.wait(60), f"kubectl has told nothing of {SPLIT} {self.name} within 60 s"
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._watching:
            self._watching.terminate()
        for thread in self._threads:
            thread.join(15)

    def generation_of(self, revision: str, *, weight: int | None = None, after: int = 0) -> int | None:
        """The first generation, above `after`, that gives a revision this weight; None: any weight above 0."""
        for generation in sorted(found for found in self.weights if found > after):
            has = self.weights[generation].get(revision, 0)
            if has == weight or (weight is None and has):
                return generation
        return None

    def attested(self, generation: int) -> float | None:
        """When the last router pod of now attested it (or let go of the candidate by itself); None: not yet."""
        moments = []
        for sights in self.sights.copy().values():
            if sights and sights[-1].generation == -1:
                continue
            found = [one.time for one in sights.copy() if one.generation >= generation or one.expired]
            moments.append(min(found) if found else None)
        return None if not moments or None in moments else max(moment for moment in moments if moment is not None)

    def taken_back(self, revision: str) -> float | None:
        """When all router pods attested weight 0 of a revision that had more; None: not yet."""
        given = self.generation_of(revision)
        ended = self.generation_of(revision, weight=0, after=given) if given else None
        return self.attested(ended) if ended else None

    def _watch(self) -> None:
        arguments = (
            SPLIT,
            "-n",
            self.namespace,
            f"--field-selector=metadata.name={self.name}",
            "--watch",
            "-o",
            "json",
        )
        while not self._ended.is_set():
            with self.cluster.start("get", *arguments) as self._watching:
                text = ""
                for line in self._watching.stdout:
                    text += line
                    if line.rstrip() == "}":
                        self._note(json.loads(text))
                        self._told.set()
                        text = ""
            self._ended.wait(0.2)

    def _note(self, split: Object) -> None:
        spec = split["spec"]
        self.specs[spec["generation"]] = spec
        self.weights[spec["generation"]] = {one["name"]: one["weight"] for one in spec.get("revisions", ())}
        self.written.setdefault(spec["generation"], time.time())

    def _ask(self, uid: str, fleet: Fleet) -> None:
        listed, addresses = 0.0, {}
        while not self._ended.wait(_POLL):
            if time.monotonic() - listed > 2:
                with suppress(Exception):
                    addresses, listed = fleet.addresses(), time.monotonic()
            found = observe(addresses, uid)
            for name in self.sights.keys() - addresses.keys():
                self._sight(name, Sight(time.time(), -1, expired=False))
            for name, told in found.items():
                self._sight(name, Sight(time.time(), told.get("generation", 0), bool(told.get("expired"))))

    def _sight(self, pod: str, seen: Sight) -> None:
        before = self.sights.setdefault(pod, [])
        if not before or (before[-1].generation, before[-1].expired) != (seen.generation, seen.expired):
            before.append(seen)
