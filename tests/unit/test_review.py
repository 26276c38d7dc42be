"""What a review found: objects touched from outside, lags and deaths at bad moments, and namesakes."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.reasons import Reason
from penstock.controller.credentials import PULL_SECRET, RegistryCredentials
from penstock.controller.reconcile import Reconciler
from penstock.core.names import DEPLOYMENT_LABEL, MANAGED_BY, REVISION_LABEL, ObjectKey, key_of
from penstock.core.pipeline import preparation_outcome
from penstock.core.server import serving_failure
from penstock.kube.cache import Cache
from penstock.kube.errors import AlreadyTaken, Conflict, Forbidden

from .test_failures import JOB, MISSING, ended, pod
from .test_plan import serving_world
from .world import DIRECT, SETTINGS, V1, V2, Crash, World, failing, manifest

AUTOSCALING = {"min": 2, "max": 5, "target": {"cpuPercent": 70}}
HANDS = ("ControllerRevision", "Job", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget")
READY = ({"type": "Ready", "status": "True"},)


def drop(world: World, *kinds: str) -> None:
    """Somebody deletes all objects of these kinds by hand."""
    world.objects = {key: item for key, item in world.objects.items() if key.kind not in kinds}


# records


@pytest.mark.parametrize("spec", [{}, {"autoscaling": AUTOSCALING}])
def test_a_serving_revision_whose_record_is_gone_keeps_pods_and_traffic(spec):
    world = serving_world(**spec)
    revision = world.status["stable"]["revision"]
    before = world.names("Deployment"), world.names("HorizontalPodAutoscaler"), world.names("PodDisruptionBudget")
    drop(world, "ControllerRevision", "Job")
    for _ in range(3):
        world.reconcile()
        after = world.names("Deployment"), world.names("HorizontalPodAutoscaler"), world.names("PodDisruptionBudget")
        assert after == before
        assert world.selected() == revision
        assert world.status["stable"]["revision"] == revision
        assert world.condition("Available")["status"] == "True"
        world.step()
    world.settle()
    assert world.names("ControllerRevision") == [revision]
    assert world.status["phase"] == "Available"


def test_a_lost_record_does_not_take_the_traffic_when_the_spec_cannot_be_prepared():
    world = serving_world()
    revision = world.status["stable"]["revision"]
    drop(world, "ControllerRevision", "Job")
    world.reports[V2] = failing(Reason.UNSUPPORTED_MODEL)
    world.point_to(V2)
    world.settle()
    assert world.selected() == revision
    assert world.names("Deployment") == [revision]
    assert world.condition("Stalled")["reason"] == "UnsupportedModel"


def test_a_lost_record_is_followed_by_the_next_revision():
    world = serving_world()
    drop(world, "ControllerRevision", "Job")
    world.point_to(V2)
    world.settle()
    world.now += timedelta(minutes=2)
    world.settle()
    assert world.names("Deployment") == [world.status["stable"]["revision"]] == [world.selected()]
    assert world.status["stable"]["uri"] == V2


def test_a_record_of_a_newer_release_stops_nothing():
    world = serving_world()
    revision = world.status["stable"]["revision"]
    world.objects[ObjectKey("ControllerRevision", "vision", revision)]["data"]["version"] = 2
    drop(world, "Job")
    world.reconcile()
    assert world.selected() == revision
    assert world.names("Deployment") == [revision]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([V1, V2, *HANDS, "wait", "step", "step", "crash", "scaler", "fixed", "slow", "fast"])))
def test_whatever_people_delete_traffic_stays_and_the_end_is_as_asked(actions):
    world = World(manifest(V1, traffic=DIRECT))
    for action in actions:
        touch(world, action)
        before = world.status.get("stable")
        with suppress(Crash):
            world.reconcile()
        world.fuse = None
        if before and world.names("Service"):
            assert world.selected() in world.names("Deployment")
            assert world.status["stable"]["revision"] in world.names("Deployment")
    world.slow.clear()
    world.settle()
    world.now += timedelta(minutes=2)
    world.settle()
    assert world.status["phase"] == "Available"
    assert world.status["stable"]["uri"] == world.deployment["spec"]["model"]["uri"]
    assert world.names("Deployment") == [world.selected()] == [world.status["stable"]["revision"]]


def touch(world: World, action: str) -> None:
    match action:
        case str() if action.startswith("oci"):
            world.point_to(action)
        case "wait":
            world.now += timedelta(seconds=50)
        case "step":
            world.step()
        case "crash":
            world.fuse = 2
        case "scaler":
            world.edit(autoscaling=AUTOSCALING)
        case "fixed":
            world.edit(autoscaling=None)
        case "slow":
            world.slow.add(V2)
        case "fast":
            world.slow.clear()
        case kind:
            drop(world, kind)


def test_a_deployment_deleted_by_hand_is_not_called_scaled_to_zero():
    world = serving_world()
    drop(world, "Deployment")
    world.reconcile()
    assert world.condition("Ready")["reason"] == "NotServing"
    assert "none of 1 replicas is ready" in world.condition("Ready")["message"]
    world.settle()
    assert world.status["phase"] == "Available"


# failures


LEAVING = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "item",
    [
        pod(last=ended(reason="OOMKilled"), restarts=1, conditions=READY),
        pod("fetch", last=ended(message=MISSING), conditions=READY),
        pod(state=ended(137, "The container could not be located", "ContainerStatusUnknown"), phase="Failed"),
        {**pod(state=ended(1, "Interrupted while loading")), "metadata": {"labels": {}, "deletionTimestamp": LEAVING}},
    ],
    ids=["crashed once, ready again", "fetched at the second try", "evicted", "being deleted"],
)
def test_a_pod_that_serves_or_is_replaced_is_no_failure(item):
    assert serving_failure({}, (item,)) is None


def test_a_missing_artifact_is_seen_behind_other_trouble():
    unplaced = pod(conditions=({"type": "PodScheduled", "status": "False", "message": "no room"},))
    assert serving_failure({}, (unplaced, pod("fetch", state=ended(message=MISSING)))).artifact_missing


def test_a_preparation_pod_that_is_deleted_says_less_than_its_job():
    late = {"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}
    item = pod("transfer", state=ended(143))
    item["metadata"]["deletionTimestamp"] = LEAVING
    found = preparation_outcome({**JOB, "status": {"conditions": [late]}}, (item,))
    assert found.reason is Reason.PREPARATION_TIMEOUT


def test_the_pod_of_an_earlier_job_says_nothing_about_this_one():
    world = World(manifest(V1, traffic=DIRECT))
    world.reports[V1] = failing(Reason.SECRET_MISSING)
    for _ in range(3):
        world.reconcile()
        world.step()
    assert world.status["preparation"]["attempt"] == 1
    left = {name: item for name, item in world.pods.items() if "prepare" in name}
    world.now += timedelta(seconds=10)
    world.reconcile()
    world.pods.update({f"old-{name}": item for name, item in left.items()})
    world.reconcile()
    world.reconcile()
    assert world.names("Job")
    assert world.status["preparation"]["attempt"] == 1


def test_a_failure_is_remembered_before_its_pods_are_taken_away():
    world = serving_world()
    world.broken[V2] = "cannot load"
    world.point_to(V2)
    world.run_until(lambda w: w.candidate())
    world.be_away(2)
    world.fuse = 2
    with pytest.raises(Crash):
        world.reconcile()
    world.log.clear()
    world.settle()
    assert world.condition("Stalled")["reason"] == "LoadFailed"
    assert not [line for line in world.log if line.startswith("apply")]


# scaling


def test_going_back_under_a_new_autoscaler_keeps_the_size_while_draining():
    world = serving_world(replicas=3)
    first = ObjectKey("Deployment", "vision", world.status["stable"]["revision"])
    world.point_to(V2)
    for _ in range(10):
        world.reconcile()
        world.step()
    assert world.status["stable"]["uri"] == V2
    assert first in world.objects
    world.edit(model={"uri": V1}, autoscaling=AUTOSCALING)
    world.log.clear()
    world.reconcile()
    assert world.status["stable"]["uri"] == V1
    assert world.log.index(f"hand over {first.name} 3") < world.log.index(f"apply Deployment {first.name}")


def test_an_autoscaler_starts_a_deployment_that_was_scaled_to_zero():
    world = serving_world(replicas=0)
    world.edit(autoscaling=AUTOSCALING)
    world.settle()
    live = world.objects[ObjectKey("Deployment", "vision", world.status["stable"]["revision"])]
    assert live["spec"]["replicas"] == 2


def test_the_disruption_budget_counts_the_pods_that_serve():
    world = serving_world()
    old = world.status["stable"]["revision"]
    world.slow.add(V2)
    world.point_to(V2)
    for _ in range(5):
        world.reconcile()
        world.step()
    assert world.status["candidate"]
    budget = world.objects[ObjectKey("PodDisruptionBudget", "vision", "digits")]["spec"]
    assert budget["selector"]["matchLabels"][REVISION_LABEL] == old
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_pull_secret_named_twice_is_written_once():
    world = World(manifest(V1, traffic=DIRECT, pod={"imagePullSecrets": [{"name": "pull"}, {"name": "mine"}]}))
    world.settings = type(SETTINGS)(jobs_image="j", triton_image="t", image_pull_secrets=("pull",))
    world.settle()
    live = world.objects[ObjectKey("Deployment", "vision", world.status["stable"]["revision"])]
    assert live["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "pull"}, {"name": "mine"}]


# the reconcile loop


class Api:
    """The part of the API client that a reconcile uses; `stored` is what the API server holds."""

    def __init__(self) -> None:
        self.stored: dict[ObjectKey, dict[str, Any]] = {}
        self.log: list[str] = []
        self.version = 100
        self.refuse: dict[str, Exception] = {}

    def store(self, item: dict[str, Any], uid: str) -> dict[str, Any]:
        self.version += 1
        item = json.loads(json.dumps(item))
        item["metadata"].update(uid=uid, resourceVersion=str(self.version), generation=1)
        self.stored[key_of(item)] = item
        return item

    def write(self, verb: str, item: dict[str, Any], uid: str) -> dict[str, Any]:
        if item["kind"] in self.refuse:
            raise self.refuse[item["kind"]]
        self.log.append(f"{verb} {item['kind']} {item['metadata']['name']}")
        return self.store(item, uid)

    async def create(self, item):
        found = self.stored.get(key_of(item))
        if found is None:
            return self.write("create", item, f"uid-{self.version}")
        owners = [owner["uid"] for owner in found["metadata"].get("ownerReferences", ())]
        if owners != [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]:
            where = {"kind": item["kind"], "namespace": "vision", "name": item["metadata"]["name"]}
            raise AlreadyTaken("an object of this name exists that Penstock did not make", **where)
        return found

    async def apply(self, item, *, uid):
        assert self.stored[key_of(item)]["metadata"]["uid"] == uid
        return self.write("apply", item, uid)

    async def apply_status(self, raw, status):
        return self.store({**raw, "status": status}, raw["metadata"]["uid"])

    async def delete(self, kind, namespace, name, uid):
        self.log.append(f"delete {kind} {name}")
        self.stored.pop(ObjectKey(kind, namespace, name))


class Silent:
    refusal: Exception | None = None
    verified = 0

    async def ensure(self, *_: Any, verify: bool) -> None:
        self.verified += verify
        if self.refusal:
            raise self.refusal

    def record(self, *_: Any, **__: Any) -> None: ...

    def follow(self, *_: Any) -> None: ...

    def view(self, *_: Any) -> None: ...

    def findings(self, *_: Any) -> None: ...


class Loop:
    """A reconciler over a cache and an API server of plain dictionaries."""

    def __init__(self) -> None:
        self.api, self.cache, self.credentials = Api(), Cache(), Silent()
        clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
        quiet = Silent()
        self.reconciler = Reconciler(
            self.api, self.cache, SETTINGS, self.credentials, quiet, quiet, lambda _: None, clock, examiner=quiet
        )
        self.watch(self.api.store(manifest(V1, traffic=DIRECT), "md-uid-1"))

    def watch(self, item: dict[str, Any]) -> None:
        self.cache.put(item)

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(("vision", "digits"))

    def condition(self, kind: str) -> dict[str, Any] | None:
        status = self.api.stored[ObjectKey("ModelDeployment", "vision", "digits")]["status"]
        return next((c for c in status["conditions"] if c["type"] == kind), None)


def service(owner: dict[str, Any] | None) -> dict[str, Any]:
    labels = {**MANAGED_BY, DEPLOYMENT_LABEL: "another"}
    metadata = {"name": "digits", "namespace": "vision", "labels": labels}
    if owner:
        metadata["ownerReferences"] = [{"kind": "ModelDeployment", "controller": True, **owner}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"theirs": "1"}}}


@pytest.mark.parametrize("owner", [None, {"name": "another", "uid": "md-2"}])
async def test_an_object_with_our_label_that_is_not_ours_is_left_alone_and_named(owner):
    loop = Loop()
    loop.watch(loop.api.store(service(owner), "svc-1"))
    await loop.reconcile()
    assert loop.api.stored[ObjectKey("Service", "vision", "digits")]["spec"] == {"selector": {"theirs": "1"}}
    assert loop.condition("Stalled")["reason"] == "NameTaken"


async def test_what_an_earlier_deployment_of_the_name_left_is_waited_for():
    loop = Loop()
    loop.watch(loop.api.store(service({"name": "digits", "uid": "md-0"}), "svc-1"))
    with pytest.raises(Conflict, match="earlier owner"):
        await loop.reconcile()
    assert loop.api.log == []


async def test_an_object_of_ours_that_the_watch_has_lost_is_corrected():
    loop = Loop()
    lost = service({"name": "digits", "uid": "md-uid-1"})
    loop.api.store(lost, "svc-1")
    await loop.reconcile()
    assert loop.api.log[:1] == ["apply Service digits"]
    found = loop.api.stored[ObjectKey("Service", "vision", "digits")]
    assert found["metadata"]["labels"][DEPLOYMENT_LABEL] == "digits"


async def test_credentials_that_cannot_be_written_are_told():
    loop = Loop()
    where = {"kind": "Secret", "namespace": "vision", "name": PULL_SECRET}
    loop.credentials.refusal = Forbidden("exceeded quota: q, requested: count/secrets=1", **where)
    assert await loop.reconcile() < 1, "what status has told is looked at once more"
    assert await loop.reconcile() == 15
    assert loop.condition("Stalled")["reason"] == "QuotaExceeded"
    assert PULL_SECRET in loop.condition("Stalled")["message"]
    loop.credentials.refusal = None
    await loop.reconcile()
    assert loop.condition("Stalled") is None


async def test_credentials_are_looked_at_while_pods_wait_to_start():
    loop = Loop()
    for _ in range(3):
        await loop.reconcile()
    before = loop.credentials.verified
    await loop.reconcile()
    assert loop.credentials.verified == before
    labels = {**MANAGED_BY, DEPLOYMENT_LABEL: "digits"}
    waiting = {"name": "digits-x", "namespace": "vision", "labels": labels}
    loop.watch({"apiVersion": "v1", "kind": "Pod", "metadata": waiting, "status": {"phase": "Pending"}})
    await loop.reconcile()
    assert loop.credentials.verified == before + 1


async def test_nothing_is_told_about_a_namespace_that_is_going_away():
    loop = Loop()
    loop.api.refuse["Service"] = Forbidden("unable to create new content because it is being terminated")
    with pytest.raises(Forbidden):
        await loop.reconcile()


# the artifact store


async def test_a_new_signing_key_renews_the_tokens_of_the_old_one():
    now = lambda: 1_000_000.0  # noqa: E731

    class Store(Api):
        async def find(self, kind, namespace, name):
            return self.stored.get(ObjectKey(kind, namespace, name))

    api = Store()
    for _ in range(2):
        api.stored.pop(ObjectKey("Secret", "penstock-system", "penstock-registry-keys"), None)
        credentials = RegistryCredentials(api, "penstock-system", now)
        await credentials.ensure("vision", frozenset(), frozenset({("digits", "md-uid-1")}))
        token = api.stored[ObjectKey("Secret", "vision", PULL_SECRET)]["data"]["token"]
        header = json.loads(base64.b64decode(base64.b64decode(token).split(b".")[0] + b"=="))
        assert header["kid"] == (await credentials.load_key()).id


def test_a_reason_that_a_newer_release_wrote_stops_nothing():
    world = World(manifest(V1, traffic=DIRECT))
    world.reports[V1] = failing(Reason.INVALID_MODEL)
    world.settle()
    world.deployment["status"]["preparation"]["reason"] = "FromTheFuture"
    world.reconcile()
    assert world.condition("Stalled")["reason"] == "PreparationFailed"


@pytest.mark.parametrize("spec", [{}, {"replicas": "many"}], ids=["alone", "beside a spec that cannot be read"])
async def test_a_status_that_a_newer_release_wrote_is_told_and_left_alone(spec):
    loop, told = Loop(), []
    loop.credentials.record = lambda raw, reason, message, *, warning: told.append((reason, message))
    loop.reconciler._events = loop.credentials
    live = loop.api.stored[ObjectKey("ModelDeployment", "vision", "digits")]
    changed = {**live, "spec": {**live["spec"], **spec}, "status": {"phase": "FromTheFuture"}}
    loop.watch(loop.api.store(changed, "md-uid-1"))
    assert await loop.reconcile() is None
    assert loop.api.log == []
    assert loop.api.stored[ObjectKey("ModelDeployment", "vision", "digits")]["status"] == {"phase": "FromTheFuture"}
    ((reason, message),) = told
    assert reason == "InvalidSpec"
    assert "status.phase" in message
    assert "upgrade the operator" in message
