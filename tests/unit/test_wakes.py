"""Who is looked at after a change: no one too few, and no namespace full for a mere status."""

from typing import Any

import pytest

from penstock.controller.wakes import Wakes, wanted_router
from penstock.kube.cache import Cache, DeploymentKey, RouterKey
from penstock.kube.queue import KeyedQueue

Json = dict[str, Any]
MODEL, SPLIT, ROUTER = "ModelDeployment", "TrafficSplit", "Router"


def thing(kind: str, name: str, labels: dict[str, str] | None = None, **content: Any) -> Json:
    metadata: Json = {"name": name, "namespace": "ns", "uid": f"{kind}-{name}", "labels": labels or {}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def model(name: str, **traffic: Any) -> Json:
    return thing(MODEL, name, spec={"model": {}, "traffic": traffic})


class Scene:
    def __init__(self, *known: Json) -> None:
        self.cache = Cache()
        for version, item in enumerate(known, 1):
            self.cache.put({**item, "metadata": {**item["metadata"], "resourceVersion": str(version)}})
        self.models: KeyedQueue[DeploymentKey] = KeyedQueue()
        self.routers: KeyedQueue[RouterKey] = KeyedQueue()
        self.fleets: list[RouterKey] = []
        fleets: Any = self
        self.changed = Wakes(self.cache, self.models, self.routers, fleets).changed

    def wake(self, fleet: RouterKey) -> None:
        self.fleets.append(fleet)

    def woken(self) -> tuple[set[str], set[str]]:
        """Names of ModelDeployments and of Routers."""
        return _names(self.models), _names(self.routers)


def _names(queue: KeyedQueue[tuple[str, str]]) -> set[str]:
    found = set()
    while (key := queue.take()) is not None:
        found.add(key[1])
        queue.done(key)
    return found


@pytest.mark.parametrize(
    ("traffic", "router"),
    [
        ({}, "default"),
        ({"provider": "Router"}, "default"),
        ({"router": {"name": "own"}}, "own"),
        ({"provider": "Service"}, None),
    ],
)
def test_the_router_that_a_spec_asks_for(traffic: Json, router: str | None) -> None:
    assert wanted_router(model("a", **traffic)) == router


OF_A = {"penstock.dev/deployment": "a"}
OF_FLEET = {"penstock.dev/router": "default"}


@pytest.mark.parametrize(
    ("before", "after", "models", "routers"),
    [
        (None, model("a"), {"a"}, {"default"}),
        (model("a", router={"name": "old"}), model("a", router={"name": "new"}), {"a"}, {"old", "new"}),
        (model("a", provider="Service"), None, {"a"}, set()),
        (None, thing(SPLIT, "a", OF_A, spec={"router": "own"}), {"a"}, {"own"}),
        (thing(SPLIT, "a", OF_A, spec={"router": "own"}), thing(SPLIT, "a", spec={}), {"a"}, {"own"}),
        (None, thing("Pod", "p", OF_A), {"a"}, set()),
        (None, thing("ConfigMap", "c", OF_FLEET), set(), {"default"}),
        (None, thing("ConfigMap", "c"), set(), set()),
    ],
)
def test_a_change_wakes_whom_it_concerns(
    before: Json | None, after: Json | None, models: set[str], routers: set[str]
) -> None:
    scene = Scene()
    scene.changed(before, after)
    assert scene.woken() == (models, routers)


def router(*members: str, replicas: int = 2, **status: Any) -> Json:
    found = thing(ROUTER, "default", spec={"replicas": replicas}, status=status)
    found["metadata"]["ownerReferences"] = [{"kind": MODEL, "name": name, "uid": name} for name in members]
    return found


@pytest.mark.parametrize(
    ("before", "after", "models"),
    [
        (None, router(), {"a", "b"}),
        (router(), None, {"a", "b"}),
        (router(replicas=1), router(replicas=2), {"a", "b"}),
        (router("a", replicas=2), router("a", "b"), set()),
        (router("a"), router("a", readyReplicas=1), set()),
        (router("a", "b"), router("b"), {"a"}),
    ],
)
def test_a_router_wakes_its_models_only_when_they_have_to_do_something(
    before: Json | None, after: Json | None, models: set[str]
) -> None:
    scene = Scene(model("a"), model("b"), model("other", router={"name": "own"}))
    scene.changed(before, after)
    assert scene.woken() == (models, {"default"})


def test_a_fleet_that_is_replaced_wakes_the_other_fleets_of_its_namespace() -> None:
    scene = Scene(router(), thing(ROUTER, "own", spec={}))
    scene.changed(None, thing("Deployment", "penstock-router-own", {"penstock.dev/router": "own"}))
    assert scene.woken() == (set(), {"default", "own"})


def test_a_router_pod_wakes_the_models_that_are_read_there() -> None:
    scene = Scene()
    scene.changed(None, thing("Pod", "p", OF_FLEET))
    assert scene.fleets == [("ns", "default")]
    assert scene.woken() == (set(), {"default"})
