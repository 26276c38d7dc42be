"""The loop obeys: in the order of the plan, what takes traffic back before anything else, fenced what raises."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.api.status import CandidateStatus, ModelDeploymentStatus
from penstock.controller import reconcile
from penstock.controller.fleetwatch import Interest
from penstock.controller.reconcile import Reconciler
from penstock.core.names import MANAGED_BY, ObjectKey, key_of
from penstock.core.observed import Observed
from penstock.core.plan import Event, Join, Leave, Plan, Write
from penstock.core.servercounts import Examination
from penstock.core.settings import Settings
from penstock.kube.cache import Cache
from penstock.kube.errors import AlreadyTaken, ApiError, Conflict, FieldCause, Invalid

KEY = ("vision", "digits")
UID = "0a1b2c3d-md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Json = dict[str, Any]


def owned(kind: str, name: str, **content: Any) -> Json:
    reference = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "name": "digits", "uid": UID}
    metadata = {
        "name": name,
        "namespace": "vision",
        "labels": {"penstock.dev/deployment": "digits"},
        "ownerReferences": [{**reference, "controller": True}],
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def split(generation: int, router: str = "default") -> Json:
    spec = {"router": router, "generation": generation, "port": 20003, "deploymentUid": UID}
    return owned("TrafficSplit", "digits", spec=spec)


def stored(manifest: Json, version: int = 1, uid: str = "") -> Json:
    metadata = {**manifest["metadata"], "uid": uid or f"uid-{manifest['kind']}", "resourceVersion": str(version)}
    return {**manifest, "metadata": metadata}


def router(**labels: str) -> Json:
    metadata = {"name": "default", "namespace": "vision", "labels": labels}
    return stored({"apiVersion": "penstock.dev/v1alpha1", "kind": "Router", "metadata": metadata})


class Server:
    """Remembers what it was asked, in order; `fail` says what goes wrong."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.fail: Callable[[str, Json], ApiError | None] = lambda verb, manifest: None
        self.held: dict[ObjectKey, Json] = {}

    def _answer(self, verb: str, manifest: Json, *detail: Any) -> Json:
        self.asked.append((verb, manifest["kind"], *detail))
        error = self.fail(verb, manifest)
        if error:
            raise error
        return stored(manifest, 100 + len(self.asked))

    async def create(self, manifest: Json) -> Json:
        return self._answer("create", manifest)

    async def apply(
        self, manifest: Json, *, uid: str, resource_version: str | None = None, manager: str = "", urgent: bool = False
    ) -> Json:
        return self._answer("apply", manifest, resource_version or manager or ("urgent" if urgent else ""))

    async def replace(self, manifest: Json) -> Json:
        return self._answer("replace", manifest, manifest["metadata"]["resourceVersion"])

    async def apply_status(self, deployment: Mapping[str, Any], status: Json) -> Json:
        self.asked.append(("status", deployment["kind"]))
        return {**deployment, "status": status, "metadata": {**deployment["metadata"], "resourceVersion": "99"}}

    async def find(self, kind: str, namespace: str, name: str) -> Json | None:
        self.asked.append(("find", kind))
        return self.held.get(ObjectKey(kind, namespace, name))

    async def delete(self, kind: str, namespace: str, name: str, uid: str, **_: Any) -> None:
        self.asked.append(("delete", kind))


class Examiner:
    """Says when it was asked for something."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def follow(self, key: Any, wanted: Examination | None) -> None:
        if wanted:
            self.server.asked.append(("examine", wanted.revision))

    def findings(self, key: Any) -> None:
        return None


class Scene:
    """One ModelDeployment whose plan is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.cache = Server(), Cache()
        self.followed: list[Interest | None] = []
        self.woken: list[tuple[str, str]] = []
        self.observed: list[Observed] = []
        self.plan = Plan(ModelDeploymentStatus())
        monkeypatch.setattr(reconcile, "plan", self._decide)
        self.put(self.deployment())
        server: Any = self.server
        credentials: Any = self
        fleets: Any = self
        events: Any = self
        settings = Settings(jobs_image="j", triton_image="t")
        examiner: Any = Examiner(self.server)
        self.reconciler = Reconciler(
            server, self.cache, settings, credentials, events, fleets, self.woken.append, lambda: NOW, examiner=examiner
        )

    def deployment(self, **status: Any) -> Json:
        metadata = {"name": "digits", "namespace": "vision", "uid": UID, "generation": 1, "resourceVersion": "1"}
        spec = {"model": {"uri": "oci://models.example/digits:v1"}}
        told = {"status": status} if status else {}
        return {
            "apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec, **told
        }  # fmt: skip

    def put(self, manifest: Json) -> None:
        self.cache.put(manifest)

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(KEY)

    def _decide(self, observed: Observed, now: datetime) -> Plan:
        self.observed.append(observed)
        return self.plan

    # what stands in for other rooms
    async def ensure(self, *_: Any, **__: Any) -> None:
        self.server.asked.append(("credentials",))

    def record(self, raw: Any, reason: str, message: str, *, warning: bool) -> None:
        self.server.asked.append(("event", reason))

    def follow(self, key: Any, interest: Interest | None) -> None:
        self.followed.append(interest)

    def view(self, key: Any) -> None:
        return None


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


STATUS = ModelDeploymentStatus(phase="RolledBack")


async def test_traffic_is_taken_back_before_anything_else_is_asked(scene: Scene) -> None:
    scene.put(stored(split(3)))
    pods = owned("Deployment", "digits-1", spec={})
    scene.plan = Plan(
        STATUS, (Write(split(4)), Write(pods)), needs_credentials=True, events=(Event("Warning", "RolledBack", ""),)
    )
    await scene.reconcile()
    assert scene.server.asked == [
        ("apply", "TrafficSplit", "urgent"),
        ("credentials",),
        ("create", "Deployment"),
        ("status", "ModelDeployment"),
        ("event", "RolledBack"),
    ]


async def test_servers_are_asked_only_after_the_traffic_is_back_and_status_says_so(scene: Scene) -> None:
    scene.put(stored(split(3)))
    events = (Event("Warning", "RolledBack", ""),)
    scene.plan = Plan(STATUS, (Write(split(4)),), events=events, examine=Examination("digits-2", "now", ("10.0.0.1",)))
    await scene.reconcile()
    assert scene.server.asked == [
        ("apply", "TrafficSplit", "urgent"),
        ("status", "ModelDeployment"),
        ("event", "RolledBack"),
        ("examine", "digits-2"),
    ]


async def test_a_weight_is_raised_after_status_says_so_and_only_over_the_version_that_was_seen(scene: Scene) -> None:
    scene.put(stored(split(3), version=42))
    other = owned("ConfigMap", "gone")
    scene.put(stored(other))
    scene.plan = Plan(STATUS, raises=(Write(split(4), fenced=True),), deletes=(key_of(other),))
    await scene.reconcile()
    assert scene.server.asked == [
        ("status", "ModelDeployment"),
        ("apply", "TrafficSplit", "42"),
        ("delete", "ConfigMap"),
    ]


async def test_a_split_somebody_added_to_is_replaced_whole(scene: Scene) -> None:
    scene.put(stored(split(3), version=42))
    scene.plan = Plan(STATUS, (Write(split(4), fenced=True, whole=True),))
    await scene.reconcile()
    assert scene.server.asked[0] == ("replace", "TrafficSplit", "42")


def conflict(verb: str, manifest: Json) -> ApiError | None:
    return Conflict("the object has been modified") if manifest["kind"] == "TrafficSplit" else None


def outrun(verb: str, manifest: Json) -> ApiError | None:
    causes = (FieldCause("spec.generation", "an older generation than the stored one"),)
    return Invalid("refused", causes=causes) if manifest["kind"] == "TrafficSplit" else None


@pytest.mark.parametrize("error", [conflict, outrun])
@pytest.mark.parametrize("fenced", [True, False])
async def test_who_has_missed_a_change_looks_again(
    scene: Scene, error: Callable[[str, Json], ApiError | None], fenced: bool
) -> None:
    scene.put(stored(split(3)))
    newer = stored(split(9), version=7)
    scene.server.held[key_of(newer)] = newer
    scene.server.fail = error
    scene.plan = Plan(STATUS, (Write(split(4), fenced=fenced),))
    with pytest.raises(Conflict):
        await scene.reconcile()
    assert [item[0] for item in scene.server.asked] == ["apply", "find"]
    known = scene.cache.get(key_of(newer))
    assert known is not None
    assert known["spec"]["generation"] == 9


async def test_a_split_that_has_gone_meanwhile_is_forgotten(scene: Scene) -> None:
    scene.put(stored(split(3)))
    scene.server.fail = conflict
    scene.plan = Plan(STATUS, (Write(split(4)),))
    with pytest.raises(Conflict):
        await scene.reconcile()
    assert scene.cache.get(key_of(split(3))) is None


async def test_a_split_that_is_refused_for_another_reason_is_an_obstacle(scene: Scene) -> None:
    scene.put(stored(split(3)))
    scene.server.fail = lambda verb, manifest: Invalid("no", kind="TrafficSplit", namespace="vision", name="digits")
    scene.plan = Plan(STATUS, raises=(Write(split(4), fenced=True),), deletes=(key_of(split(3)),))
    assert await scene.reconcile() == 0.1
    assert [item[0] for item in scene.server.asked] == ["status", "apply"]
    assert await scene.reconcile() == 15.0
    assert key_of(split(3)) in scene.observed[-1].obstacles
    assert await scene.reconcile() == 15.0
    assert len(scene.observed) == 3, "a known obstacle is no reason to plan twice"
    assert key_of(split(3)) in scene.observed[-1].obstacles
    scene.server.fail = lambda verb, manifest: None
    assert await scene.reconcile() == 0.1
    await scene.reconcile()
    assert scene.observed[-1].obstacles == {}


async def test_nothing_is_raised_behind_a_blocked_write(scene: Scene) -> None:
    scene.put(stored(split(3)))
    scene.server.fail = lambda verb, manifest: AlreadyTaken("taken") if verb == "create" else None
    scene.plan = Plan(STATUS, (Write(owned("Service", "digits")),), raises=(Write(split(4), fenced=True),))
    await scene.reconcile()
    assert [item[:2] for item in scene.server.asked] == [("create", "Service"), ("status", "ModelDeployment")]


async def test_the_default_router_is_made_and_joined_by_a_manager_of_ones_own(scene: Scene) -> None:
    scene.plan = Plan(ModelDeploymentStatus(), (Join("default"),))
    await scene.reconcile()
    assert scene.server.asked[:2] == [("create", "Router"), ("apply", "Router", "penstock-0a1b2c3d")]
    scene.server.asked.clear()
    scene.put({**(made := router(**MANAGED_BY)), "metadata": {**made["metadata"], "resourceVersion": "1000"}})
    scene.plan = Plan(ModelDeploymentStatus(), (Leave("default"),))
    await scene.reconcile()
    assert scene.server.asked == [("apply", "Router", "penstock-0a1b2c3d")]


async def test_who_made_a_router_has_its_fleet_made(scene: Scene) -> None:
    """The watch brings back what the cache has by then, which is no change and wakes nobody."""
    scene.plan = Plan(ModelDeploymentStatus(), writes=(Join("default"),))
    await scene.reconcile()
    assert scene.woken == [("vision", "default")]


async def test_a_router_that_people_made_is_used_and_never_held_on_to(scene: Scene) -> None:
    scene.server.held[ObjectKey("Router", "vision", "default")] = router()
    scene.server.fail = lambda verb, manifest: AlreadyTaken("theirs") if verb == "create" else None
    scene.plan = Plan(ModelDeploymentStatus(), (Join("default"),))
    await scene.reconcile()
    assert [item[0] for item in scene.server.asked] == ["create", "find", "status"]
    await scene.reconcile()
    assert scene.observed[-1].router is not None
    assert len(scene.server.asked) == 3


async def test_pods_are_read_as_closely_as_the_plan_asks_and_counters_since_what_status_has_used(scene: Scene) -> None:
    unchanged = ModelDeploymentStatus()
    for status, used in (({}, None), ({"candidate": {"revision": "b"}}, 0), (told(17), 17)):
        scene.cache = scene.reconciler._cache = Cache()
        scene.put(scene.deployment(**status))
        scene.plan = Plan(ModelDeploymentStatus.model_validate(status) if status else unchanged, observe="slow")
        await scene.reconcile()
        assert scene.followed[-1] == Interest(UID, "default", "slow", used)
    scene.plan = Plan(scene.plan.status)
    await scene.reconcile()
    assert scene.followed[-1] is None


def told(as_of: int) -> Json:
    return {"candidate": {"revision": "b", "analysis": {"asOf": as_of}}}


async def test_the_fleet_that_is_read_is_the_one_the_split_is_at(scene: Scene) -> None:
    scene.put(stored(split(3, router="old")))
    scene.plan = Plan(ModelDeploymentStatus(), observe="fast")
    await scene.reconcile()
    assert scene.followed[-1] == Interest(UID, "old", "fast", None)
    assert scene.observed[-1].port == 20003


async def test_a_router_hears_of_its_models_candidate_and_of_splits_that_move(scene: Scene) -> None:
    scene.plan = Plan(ModelDeploymentStatus(candidate=CandidateStatus(revision="b")))
    await scene.reconcile()
    assert set(scene.woken) == {("vision", "default")}
    scene.woken.clear()
    scene.put(stored(split(3, router="old")))
    scene.plan = Plan(scene.plan.status, (Write(split(4)),))
    await scene.reconcile()
    assert scene.woken == [("vision", "old")]


async def test_what_was_just_told_is_looked_at_once_more_and_then_no_more(scene: Scene) -> None:
    scene.plan = Plan(ModelDeploymentStatus(attested_generation=3))
    assert await scene.reconcile() == 0.1
    assert await scene.reconcile() is None


async def test_a_deployment_that_is_gone_is_read_no_more(scene: Scene) -> None:
    scene.cache.forget(ObjectKey("ModelDeployment", *KEY), UID)
    assert await scene.reconcile() is None
    assert scene.followed == [None]
    assert scene.server.asked == []
