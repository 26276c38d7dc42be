"""Passes over Routers: what the plan is shown, and that it is obeyed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.api.router import RouterStatus
from penstock.controller import routers
from penstock.controller.routers import RouterReconciler
from penstock.core.names import ObjectKey
from penstock.core.router import Fleet, FleetPlan
from penstock.core.settings import Settings
from penstock.kube.cache import Cache
from penstock.kube.errors import AlreadyTaken

from .test_reconcile import Server, stored

KEY = ("ns", "default")
MADE = {"app.kubernetes.io/managed-by": "penstock"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Json = dict[str, Any]


def thing(kind: str, name: str, labels: Json | None = None, owner: str = "", **content: Any) -> Json:
    metadata: Json = {"name": name, "namespace": "ns", "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"kind": "Router", "name": "default", "uid": owner, "controller": True}]
    return stored({"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}, uid=f"{kind}-{name}")


def wanted() -> Json:
    """A manifest as a plan renders it."""
    found = thing("ServiceAccount", "penstock-router-default", owner="Router-default")
    return {**found, "metadata": {key: found["metadata"][key] for key in ("name", "namespace", "ownerReferences")}}


def model(name: str, router: str | None = None, **status: Any) -> Json:
    traffic = {"router": {"name": router}} if router else {}
    return thing("ModelDeployment", name, spec={"model": {}, "traffic": traffic}, status=status)


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.cache, self.seen = Server(), Cache(), list[Fleet]()
        self.plan = FleetPlan(RouterStatus())
        monkeypatch.setattr(routers, "plan_fleet", self._decide)
        server: Any = self.server
        settings = Settings(jobs_image="j", triton_image="t")
        self.reconcile = RouterReconciler(server, self.cache, settings, lambda: NOW).reconcile

    def _decide(self, fleet: Fleet, now: datetime) -> FleetPlan:
        self.seen.append(fleet)
        return self.plan

    def put(self, *manifests: Json) -> None:
        for manifest in manifests:
            self.cache.put(manifest)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def test_the_plan_is_shown_the_fleet_and_who_depends_on_it(scene: Scene) -> None:
    fleet = {"penstock.dev/router": "default"}
    scene.put(
        thing("Router", "default", MADE, spec={}),
        thing("Deployment", "penstock-router-default", fleet, owner="Router-default", spec={}),
        thing("ConfigMap", "foreign", fleet, owner="another"),
        thing("Pod", "p", fleet),
        model("a"),
        model("b", candidate={"revision": "b-2"}),
        model("moved", "other"),
        model("moving", "other", candidate={"revision": "m-2"}),
        thing("TrafficSplit", "moving", spec={"router": "default"}),
    )
    await scene.reconcile(KEY)
    (seen,) = scene.seen
    assert seen.made
    assert seen.users == ("a", "b", "moving")
    assert seen.rolling_out == ("b", "moving")
    assert [key.kind for key in seen.objects] == ["Deployment"]
    assert [pod["metadata"]["name"] for pod in seen.pods] == ["p"]
    assert seen.moving == ""


async def test_another_fleet_that_is_being_replaced_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "is_moving", lambda deployment, pods: deployment is not None)
    scene.put(
        thing("Router", "default", spec={}),
        thing("Router", "other", spec={}),
        thing("Deployment", "penstock-router-other", {"penstock.dev/router": "other"}, spec={}),
    )
    await scene.reconcile(KEY)
    assert (scene.seen[0].moving, scene.seen[0].made) == ("other", False)


async def test_writes_then_status_then_the_router_itself_as_it_was_seen(scene: Scene) -> None:
    scene.put(thing("Router", "default", MADE, spec={}))
    scene.plan = FleetPlan(RouterStatus(models=1), (wanted(),), (ObjectKey("Router", *KEY),))
    assert await scene.reconcile(KEY) is None
    assert [item[:2] for item in scene.server.asked] == [
        ("create", "ServiceAccount"), ("status", "Router"), ("delete", "Router"),
    ]  # fmt: skip


async def test_a_pass_that_finds_all_as_asked_says_nothing(scene: Scene) -> None:
    scene.put(thing("Router", "default", spec={}))
    await scene.reconcile(KEY)
    scene.server.asked.clear()
    await scene.reconcile(KEY)
    assert scene.server.asked == []


async def test_what_is_in_the_way_is_shown_to_the_plan_and_tried_again(scene: Scene) -> None:
    scene.put(thing("Router", "default", spec={}))
    place = {"kind": "ServiceAccount", "namespace": "ns", "name": "penstock-router-default"}
    scene.server.fail = lambda verb, manifest: AlreadyTaken("theirs", **place) if verb == "create" else None  # type: ignore[arg-type]
    scene.plan = FleetPlan(
        RouterStatus(), (thing("ServiceAccount", "penstock-router-default", owner="Router-default"),)
    )
    assert await scene.reconcile(KEY) == 15.0
    assert [key.kind for key in scene.seen[-1].obstacles] == ["ServiceAccount"]


@pytest.mark.parametrize("router", [None, {"deletionTimestamp": "2026-01-01T00:00:00Z"}])
async def test_a_router_that_goes_is_left_alone(scene: Scene, router: Json | None) -> None:
    if router:
        known = thing("Router", "default", spec={})
        scene.put({**known, "metadata": {**known["metadata"], **router}})
    assert await scene.reconcile(KEY) is None
    assert scene.seen == []


async def test_a_router_of_a_newer_release_keeps_its_fleet(scene: Scene) -> None:
    scene.put(thing("Router", "default", spec={"replicas": "many"}))
    assert await scene.reconcile(KEY) is None
    assert (scene.seen, scene.server.asked) == ([], [])
