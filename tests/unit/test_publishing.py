"""Models on Gateways: the routes, what their controllers say of them, and that nothing else depends on it."""

import copy
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.api.reasons import Reason
from penstock.api.resource import Metadata
from penstock.api.traffic import ROUTE_KINDS, TrafficSpec
from penstock.controller.publishing import RETRY, Publisher
from penstock.controller.wakes import Wakes
from penstock.core.names import ObjectKey
from penstock.core.plan import Write
from penstock.core.router import routes
from penstock.kube.cache import Cache
from penstock.kube.errors import AlreadyTaken, ApiError, Conflict, Forbidden, Invalid, NotFound
from penstock.kube.queue import KeyedQueue

from .world import DIRECT, V1, V2, World, manifest

Json = dict[str, Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "routers"
OWNER = Metadata(name="digits", namespace="vision", uid="0aa1b2c3-md")
CONTOUR = "projectcontour.io/gateway-controller"
HTTP, GRPC = ObjectKey("HTTPRoute", "vision", "digits"), ObjectKey("GRPCRoute", "vision", "digits-grpc")
PUBLIC = {"name": "public", "namespace": "infra"}
BOTH = {"parentRefs": [PUBLIC], "hostnames": ["digits.example.com"], "grpcHostnames": ["digits-grpc.example.com"]}
CASES = {
    "published": BOTH,
    "published-on-listeners": {
        "parentRefs": [{"name": "own"}, {**PUBLIC, "sectionName": "https", "port": 443}],
        "hostnames": ["digits.example.com", "*.digits.example.com"],
        "timeout": "1500ms",
    },
    "published-for-grpc": {"parentRefs": [PUBLIC], "grpcHostnames": ["digits.example.com"], **DIRECT},
}


class Plain(yaml.SafeDumper):
    """The same value twice is written twice: golden files are read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("case", CASES)
def test_golden_routes(case: str) -> None:
    rendered = routes(OWNER, TrafficSpec.model_validate(CASES[case]))
    text = yaml.dump_all(rendered, Dumper=Plain, sort_keys=True, width=120)
    place = GOLDEN / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        place.write_text(text)
    assert text == place.read_text(), "rendered objects changed; if that is meant, run `make golden` and read the diff"


# what plan() decides


def published_world(traffic: Json | None = None, served: tuple[str, ...] = ROUTE_KINDS, **spec: Any) -> World:
    world = World(manifest(V1, traffic=traffic or {**BOTH, **DIRECT}, **spec), served=frozenset(served))
    world.settle()
    return world


def answer(world: World, key: ObjectKey, *words: Json, parent: Json | None = None, generation: int | None = None):
    """A controller looks at a route; `words` are its conditions."""
    live = world.objects[key]
    seen = live["metadata"]["generation"] if generation is None else generation
    conditions = [{"observedGeneration": seen, "message": "", **word} for word in words or (ACCEPTED, RESOLVED)]
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", **(parent or PUBLIC)}
    entry = {"controllerName": CONTOUR, "parentRef": reference, "conditions": conditions}
    live.setdefault("status", {}).setdefault("parents", []).append(entry)


ACCEPTED = {"type": "Accepted", "status": "True", "reason": "Accepted"}
RESOLVED = {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs"}
NOT_ALLOWED = {
    "type": "Accepted",
    "status": "False",
    "reason": "NotAllowedByListeners",
    "message": "no listener admits namespace vision",
}
PARTIAL = {"type": "PartiallyInvalid", "status": "True", "reason": "UnsupportedValue", "message": "half of it"}


def test_routes_are_written_once_and_a_settled_world_writes_nothing():
    world = published_world()
    assert world.objects[HTTP]["metadata"]["ownerReferences"][0]["uid"] == "md-uid-1"
    assert [HTTP in world.objects, GRPC in world.objects] == [True, True]
    for key in (HTTP, GRPC):
        answer(world, key)
    world.settle()
    assert world.condition("Published")["status"] == "True"
    before = world.writes
    found = world.reconcile()
    assert (found.routes, found.events, world.writes) == ((), (), before)


@pytest.mark.parametrize("provider", ["Router", "Service"])
def test_publishing_changes_nothing_else(provider):
    plain, open_ = World(manifest(V1, traffic={"provider": provider})), published_world({**BOTH, "provider": provider})
    plain.settle()
    spare = {"HTTPRoute digits", "GRPCRoute digits-grpc"}
    assert [line for line in open_.log if line.removeprefix("apply ") not in spare] == plain.log
    assert open_.objects.keys() - plain.objects.keys() == {HTTP, GRPC}


@pytest.mark.parametrize(
    ("words", "status", "reason", "part"),
    [
        pytest.param((), "False", "RoutePending", "nobody has answered for it yet", id="nobody"),
        pytest.param((ACCEPTED, RESOLVED), "True", "Published", f"accepted by {CONTOUR}", id="accepted"),
        pytest.param((ACCEPTED,), "False", "RoutePending", "has not looked at generation 1", id="half an answer"),
        pytest.param(
            ({**ACCEPTED, "status": "Unknown", "reason": "Pending", "message": "wait"}, RESOLVED),
            "False",
            "RoutePending",
            "Accepted is Unknown, Pending: wait",
            id="undecided",
        ),
        pytest.param(
            (NOT_ALLOWED, RESOLVED),
            "False",
            "RouteNotAccepted",
            f"HTTPRoute digits on Gateway infra/public: {CONTOUR} says Accepted is False, NotAllowedByListeners:"
            " no listener admits namespace vision",
            id="not allowed",
        ),
        pytest.param(
            (ACCEPTED, {**RESOLVED, "status": "False", "reason": "BackendNotFound", "message": "no Service digits"}),
            "False",
            "RouteNotAccepted",
            "ResolvedRefs is False, BackendNotFound: no Service digits",
            id="no backend",
        ),
        pytest.param((ACCEPTED, RESOLVED, PARTIAL), "False", "RouteNotAccepted", "half of it", id="in parts"),
    ],
)
def test_the_condition_says_what_the_controller_says(words, status, reason, part):
    world = published_world({**BOTH, **DIRECT, "grpcHostnames": []})
    if words:
        answer(world, HTTP, *words)
    world.settle()
    told = world.condition("Published")
    assert (told["status"], told["reason"]) == (status, reason)
    assert part in told["message"]
    assert world.condition("Ready")["status"] == "True", "a Gateway is somebody else's"


def test_an_answer_to_an_older_generation_is_none():
    world = published_world({**BOTH, **DIRECT, "grpcHostnames": []})
    answer(world, HTTP)
    world.settle()
    world.edit(traffic={**BOTH, **DIRECT, "hostnames": ["new.example.com"], "grpcHostnames": []})
    world.settle()
    assert world.condition("Published")["reason"] == "RoutePending"
    assert "has not looked at generation 2" in world.condition("Published")["message"]
    world.objects[HTTP]["status"]["parents"].clear()
    answer(world, HTTP)
    world.settle()
    assert world.condition("Published")["status"] == "True"
    assert [reason for reason, _ in world.events].count("RouteDrift") == 0


def test_all_parents_of_all_routes_have_to_accept():
    two = [PUBLIC, {"name": "own", "sectionName": "http"}]
    world = published_world({**BOTH, **DIRECT, "parentRefs": two})
    for key in (HTTP, GRPC):
        answer(world, key)
    world.settle()
    assert "HTTPRoute digits on Gateway vision/own, listener http" in world.condition("Published")["message"]
    answer(world, HTTP, parent=two[1])
    answer(world, GRPC, NOT_ALLOWED, RESOLVED, parent={**two[1], "namespace": "vision"})
    world.settle()
    told = world.condition("Published")
    assert told["reason"] == "RouteNotAccepted"
    assert told["message"].startswith("GRPCRoute digits-grpc on Gateway vision/own, listener http")


def test_the_word_of_a_controller_of_yesterday_does_not_count_against_todays():
    world = published_world({**BOTH, **DIRECT, "grpcHostnames": []})
    answer(world, HTTP, NOT_ALLOWED, RESOLVED)
    answer(world, HTTP)
    world.settle()
    assert world.condition("Published")["status"] == "True"


def test_without_the_gateway_api_the_spec_is_accepted_and_the_condition_says_what_is_missing():
    world = published_world(served=())
    told = world.condition("Published")
    assert (told["status"], told["reason"]) == ("False", "GatewayAPIMissing")
    assert "gateway.networking.k8s.io/v1" in told["message"]
    assert world.status["phase"] == "Available"
    found = world.reconcile()
    assert (found.routes, found.wake, found.events) == ((), None, ()), "nobody asks again and again"
    world.point_to(V2)
    world.settle()
    assert world.status["stable"]["uri"] == V2

    world.served = frozenset(ROUTE_KINDS)
    world.settle()
    assert HTTP in world.objects
    assert world.condition("Published")["reason"] == "RoutePending"
    assert [reason for reason, _ in world.events].count("GatewayAPIMissing") == 1


def test_one_kind_that_is_missing_does_not_keep_the_other_back():
    world = published_world(served=("HTTPRoute",))
    assert (HTTP in world.objects, GRPC in world.objects) == (True, False)
    assert "does not serve GRPCRoute" in world.condition("Published")["message"]


FOREIGN_EDITS = {
    "a filter": lambda spec: spec["rules"][0].update(filters=[{"type": "RequestMirror"}]),
    "a rule": lambda spec: spec["rules"].insert(0, {"backendRefs": [{"name": "elsewhere"}]}),
    "another backend": lambda spec: spec["rules"][0]["backendRefs"][0].update(name="elsewhere"),
    "a weight": lambda spec: spec["rules"][0]["backendRefs"][0].update(weight=50),
    "a hostname": lambda spec: spec["hostnames"].append("other.example.com"),
    "a Gateway": lambda spec: spec["parentRefs"].clear(),
}


@pytest.mark.parametrize("edit", FOREIGN_EDITS)
def test_a_foreign_edit_is_put_back_and_told(edit):
    world = published_world({**BOTH, **DIRECT, "grpcHostnames": []})
    asked = copy.deepcopy(world.objects[HTTP]["spec"])
    FOREIGN_EDITS[edit](world.objects[HTTP]["spec"])
    world.settle()
    assert world.objects[HTTP]["spec"] == asked
    (sentence,) = [message for reason, message in world.events if reason == "RouteDrift"]
    assert sentence.startswith("HTTPRoute digits was changed by somebody else")


HELD = {"f:parentRefs": {}, "f:hostnames": {}, "f:rules": {}}


def filled_in(world: World, fields: Json, manager: str = "penstock") -> Json:
    """What the API server makes of a route: a field of another release, and who holds which of them."""
    live = world.objects[HTTP]
    live["spec"]["rules"][0]["manner"] = "Usual"
    live["metadata"]["managedFields"] = [{"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": fields}}]
    return live


def test_what_the_server_fills_in_is_no_edit():
    """By a default of another release of the Gateway API or by a webhook, it would be there again after each write."""
    world = published_world()
    filled_in(world, HELD)
    answer(world, HTTP)
    answer(world, GRPC)
    world.settle()
    assert world.condition("Published")["status"] == "True"
    assert world.reconcile().routes == ()
    assert "RouteDrift" not in [reason for reason, _ in world.events]


@pytest.mark.parametrize(
    ("fields", "manager"),
    [
        ({"f:parentRefs": {}, "f:hostnames": {}}, "penstock"),
        ({**HELD, "f:rules": {'k:{"name":"theirs"}': {}}}, "penstock"),
        (HELD, "kubectl"),
        (HELD, "penstock-status"),
    ],
)
def test_a_field_that_is_not_held_whole_was_edited(fields, manager):
    """Whoever writes a list takes it over."""
    world = published_world()
    asked = copy.deepcopy(world.objects[HTTP]["spec"])
    filled_in(world, fields, manager)
    (write,) = world.reconcile().routes
    assert (write.manifest["spec"], world.events[-1][0]) == (asked, "RouteDrift")


def test_what_was_filled_in_hides_no_change_of_the_spec():
    world = published_world()
    filled_in(world, HELD)
    world.edit(traffic={**BOTH, **DIRECT, "timeout": "5s"})
    assert [write.manifest["kind"] for write in world.reconcile().routes] == ["HTTPRoute"]


def test_a_label_taken_away_comes_back_without_a_word():
    world = published_world()
    del world.objects[HTTP]["metadata"]["labels"]["app.kubernetes.io/part-of"]
    world.settle()
    assert "app.kubernetes.io/part-of" in world.objects[HTTP]["metadata"]["labels"]
    assert "RouteDrift" not in [reason for reason, _ in world.events]


def test_what_the_server_adds_beside_ours_is_no_edit():
    world = published_world()
    world.objects[HTTP]["spec"]["useDefaultGateways"] = "None"
    assert world.reconcile().routes == ()


def test_routes_that_are_no_longer_asked_for_go_and_the_condition_with_them():
    world = published_world()
    world.edit(traffic={**BOTH, **DIRECT, "grpcHostnames": []})
    world.settle()
    assert (HTTP in world.objects, GRPC in world.objects) == (True, False)
    world.edit(traffic=DIRECT)
    world.settle()
    assert HTTP not in world.objects
    assert world.condition("Published") is None


@pytest.mark.parametrize("reason", [Reason.NAME_TAKEN, Reason.ROUTE_REFUSED])
def test_a_route_that_cannot_be_written_stalls_what_is_done_and_no_rollout(reason):
    world = published_world()
    world.unpublished = {HTTP: (reason, "HTTPRoute vision/digits: it is not ours")}
    del world.objects[HTTP]
    world.reconcile()
    assert world.condition("Stalled")["reason"] == reason.value
    assert world.condition("Published")["message"] == "HTTPRoute vision/digits: it is not ours"
    assert world.condition("Available")["status"] == "True"
    world.point_to(V2)
    world.reconcile()
    assert world.condition("Stalled") is None
    assert world.condition("Reconciling")["reason"] == "Preparing"
    for _ in range(60):
        world.reconcile()
        world.step()
    assert world.status["stable"]["uri"] == V2


def test_transitions_are_told_once():
    world = published_world({**BOTH, **DIRECT, "grpcHostnames": []})
    answer(world, HTTP, NOT_ALLOWED, RESOLVED)
    world.settle()
    world.objects[HTTP]["status"]["parents"].clear()
    answer(world, HTTP)
    world.settle()
    told = [reason for reason, _ in world.events if reason in ("RouteNotAccepted", "Published", "RoutePending")]
    assert told == ["RouteNotAccepted", "Published"]


# the controller's part


class Scribe:
    """A writer that fails as told."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.errors: dict[str, ApiError] = {}

    async def write(self, manifest: Json) -> None:
        self.written.append(manifest["kind"])
        if manifest["kind"] in self.errors:
            raise self.errors[manifest["kind"]]


class Desk:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.scribe = Scribe()
        scribe: Any = self.scribe
        self.publisher = Publisher(scribe, lambda: self.now)
        self.routes = tuple(Write(item) for item in routes(OWNER, TrafficSpec.model_validate(BOTH)))

    async def publish(self) -> bool:
        return await self.publisher.publish(KEY, self.routes)


KEY = ("vision", "digits")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AlreadyTaken("it is another's"), Reason.NAME_TAKEN),
        (Invalid("spec.rules: too many"), Reason.ROUTE_REFUSED),
        (Forbidden("admission says no"), Reason.ROUTE_REFUSED),
        (NotFound("no such kind"), Reason.GATEWAY_API_MISSING),
    ],
)
async def test_one_route_in_the_way_keeps_no_other_back_and_is_tried_again_in_a_while(error, reason):
    desk = Desk()
    desk.scribe.errors = {"HTTPRoute": error}
    assert await desk.publish(), "something new is in the way"
    assert desk.scribe.written == ["HTTPRoute", "GRPCRoute"]
    assert desk.publisher.obstacles(KEY) == {HTTP: (reason, f"HTTPRoute vision/digits: {error.message}")}
    assert not await desk.publish()
    assert len(desk.scribe.written) == 2, "a rollout that is looked at each second asks no more"
    desk.now += RETRY
    assert not await desk.publish(), "the same is in the way"
    assert len(desk.scribe.written) == 4
    desk.scribe.errors, desk.now = {}, desk.now + RETRY
    assert await desk.publish()
    assert desk.publisher.obstacles(KEY) == {}


async def test_other_routes_are_tried_at_once_and_none_leave_nothing_in_the_way():
    desk = Desk()
    desk.scribe.errors = {"HTTPRoute": Invalid("no")}
    await desk.publish()
    desk.routes = desk.routes[:1]
    desk.now += timedelta(seconds=1)
    await desk.publish()
    assert desk.scribe.written == ["HTTPRoute", "GRPCRoute", "HTTPRoute"]
    desk.routes = ()
    assert await desk.publish()
    assert desk.publisher.obstacles(KEY) == {}
    await desk.publish()
    desk.publisher.forget(KEY)


@pytest.mark.parametrize(
    "error", [Conflict("look again"), Forbidden("refused because it is being terminated")], ids=["conflict", "end"]
)
async def test_what_trying_again_mends_is_raised(error):
    desk = Desk()
    desk.scribe.errors = {"GRPCRoute": error}
    with pytest.raises(type(error)):
        await desk.publish()


def test_models_on_gateways_are_woken_when_the_gateway_api_comes_and_no_others():
    cache, queue = Cache(), KeyedQueue[tuple[str, str]]()
    nobody: Any = None
    for name, traffic in (("plain", {}), ("direct", DIRECT), ("open", BOTH), ("closed", {"parentRefs": []})):
        raw = manifest(V1, traffic=traffic)
        cache.put({**raw, "metadata": {**raw["metadata"], "name": name, "uid": name, "resourceVersion": "1"}})
    Wakes(cache, queue, KeyedQueue(), nobody).published()
    assert queue.take() == ("vision", "open")
    assert queue.take() is None
