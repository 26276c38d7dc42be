"""What plan() decides, told as sequences in a made-up cluster."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.preparation import PreparationReport
from penstock.api.reasons import RETRYABLE, Reason
from penstock.core.names import ObjectKey
from penstock.core.plan import Plan, plan

from .world import DIRECT, V1, V2, V3, Crash, World, copied, facts, failing, killed, manifest


def serving_world(**spec) -> World:
    """A deployment that serves through a Service alone: what is told here holds without a router."""
    return copied(_serving_world(json.dumps({"traffic": DIRECT, **spec})))


@cache
def _serving_world(spec: str) -> World:
    world = World(manifest(V1, **json.loads(spec)))
    world.settle()
    assert world.status["phase"] == "Available", world.status
    return world


def test_a_new_deployment_ends_available_with_one_of_everything():
    world = serving_world()
    revision = world.status["stable"]["revision"]
    assert world.selected() == revision
    assert world.names("Deployment") == [revision]
    assert world.names("ControllerRevision") == [revision]
    assert world.names("ConfigMap") == [revision]
    assert world.names("Service") == ["digits", revision]
    assert world.names("PodDisruptionBudget") == ["digits"]
    assert world.status["url"] == "http://digits.vision.svc:8000"
    assert world.status["observedGeneration"] == 1
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Reconciling") is None
    assert world.condition("Stalled") is None


def test_a_pass_over_a_settled_world_decides_nothing():
    world = serving_world()
    world.now += timedelta(hours=5)
    found = plan(world.observe(), world.now)
    assert (found.writes, found.deletes, found.events) == ((), (), ())
    assert found.wake is None
    before = world.writes
    world.reconcile()
    assert world.writes == before


def test_the_record_is_written_before_what_it_describes_and_traffic_moves_after_capacity():
    world = serving_world()
    world.log.clear()
    world.point_to(V2)
    world.settle()
    new = world.status["stable"]["revision"]
    order = [
        world.log.index(f"apply {what}")
        for what in (f"ControllerRevision {new}", f"Deployment {new}", "Service digits")
    ]
    assert order == sorted(order)


def test_the_old_revision_serves_until_the_new_one_is_ready_and_drains_before_it_goes():
    world = serving_world()
    old = world.status["stable"]["revision"]
    world.point_to(V2)
    seen = set()
    while world.status["stable"]["revision"] == old:
        world.reconcile()
        seen.add(world.selected())
        world.step()
    new = world.status["stable"]["revision"]
    assert seen == {old, new}
    assert set(world.names("Deployment")) == {old, new}
    world.now += timedelta(seconds=20)
    world.reconcile()
    assert old in world.names("Deployment")
    world.now += timedelta(seconds=20)
    world.reconcile()
    assert world.names("Deployment") == [new]
    assert world.names("ControllerRevision") == sorted([old, new])


def test_a_revision_that_cannot_load_leaves_stable_alone_and_says_why():
    world = serving_world()
    old = world.status["stable"]["revision"]
    world.broken[V2] = "failed to load 'digits': Invalid argument: unexpected inference input"
    world.point_to(V2)
    world.settle()
    assert world.selected() == old
    assert world.names("Deployment") == [old]
    assert world.condition("Stalled")["reason"] == "LoadFailed"
    assert "unexpected inference input" in world.condition("Stalled")["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.status["failedRevision"]["reason"] == "LoadFailed"
    world.point_to(V1)
    world.settle()
    assert world.status["phase"] == "Available"
    assert world.condition("Stalled") is None
    assert "failedRevision" not in world.status


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_a_failure_the_world_can_mend_is_tried_again_with_growing_pauses(reason):
    world = World(manifest(V1, traffic=DIRECT))
    world.reports[V1] = failing(reason, "seen this, expected that")
    for _ in range(3):
        world.reconcile()
        world.step()
    assert world.condition("Stalled")["reason"] == reason
    assert "seen this" in world.condition("Stalled")["message"]
    first = world.status["preparation"]["attempt"]
    for _ in range(40):
        world.reconcile()
        world.step()
        assert world.condition("Stalled")["reason"] == reason
    assert first < world.status["preparation"]["attempt"] <= 4
    world.reports.clear()
    world.now += timedelta(minutes=15)
    world.settle()
    assert world.status["phase"] == "Available"


@pytest.mark.parametrize("reason", [Reason.DIGEST_MISMATCH, Reason.SIGNATURE_INVALID, Reason.UNSUPPORTED_MODEL])
def test_a_failure_of_the_content_waits_for_a_change_of_the_spec(reason):
    world = World(manifest(V1, traffic=DIRECT))
    world.reports[V1] = failing(reason)
    world.settle()
    writes = world.writes
    world.now += timedelta(hours=3)
    world.settle()
    assert world.writes == writes
    assert world.condition("Stalled")["reason"] == reason
    world.point_to(V2)
    world.settle()
    assert world.status["phase"] == "Available"


def test_the_same_inputs_never_run_twice():
    world = serving_world()
    world.point_to(V2)
    world.settle()
    world.objects = {key: item for key, item in world.objects.items() if key.kind != "Job"}
    world.log.clear()
    world.point_to(V1)
    world.settle()
    assert world.status["stable"]["uri"] == V1
    assert not [line for line in world.log if "Job" in line]


def test_another_uri_with_the_same_content_is_the_same_revision():
    world = serving_world()
    revision = world.status["stable"]["revision"]
    world.reports[V2] = PreparationReport(facts=facts(V1))
    world.point_to(V2)
    world.settle()
    world.objects = {key: item for key, item in world.objects.items() if key.kind != "Job"}
    world.log.clear()
    world.settle()
    assert world.status["stable"]["revision"] == revision
    assert world.log == []


@pytest.mark.parametrize(
    ("change", "new_revision"),
    [
        ({"replicas": 3}, False),
        ({"pod": {"nodeSelector": {"zone": "a"}}}, False),
        ({"traffic": {"timeout": "10s", **DIRECT}}, False),
        ({"autoscaling": {"min": 1, "max": 3, "target": {"cpuPercent": 70}}}, False),
        ({"server": {"instances": {"threads": 2}}}, True),
        ({"server": {"image": "triton:2"}}, True),
        ({"pod": {"env": [{"name": "A", "value": "b"}]}}, True),
        ({"pod": {"runtimeClassName": "nvidia"}}, True),
    ],
)
def test_what_makes_a_revision(change, new_revision):
    world = serving_world()
    before = world.status["stable"]["revision"]
    world.edit(**change)
    world.settle()
    assert (world.status["stable"]["revision"] != before) is new_revision
    assert world.status["phase"] == "Available"


def test_a_new_release_with_new_images_and_defaults_moves_nobody():
    world = serving_world()
    template = world.objects[ObjectKey("Deployment", "vision", world.status["stable"]["revision"])]["spec"]["template"]
    world.settings = type(world.settings)(
        jobs_image="jobs:2", triton_image="triton:2", registry="elsewhere:5000", image_pull_secrets=("pull",)
    )
    world.log.clear()
    world.settle()
    assert world.log == ["status"]
    revision = world.status["stable"]["revision"]
    assert world.objects[ObjectKey("Deployment", "vision", revision)]["spec"]["template"] == template
    assert "upgrade-runtime digits" in world.condition("RuntimeOutdated")["message"]
    world.edit(server={"image": "triton:2"})
    world.settle()
    assert world.status["stable"]["revision"] != revision
    assert world.condition("RuntimeOutdated") is None


ADOPTED = "`penstock upgrade-runtime digits` rolls it out like any change"


@pytest.mark.parametrize(
    ("server", "about", "images", "sentence"),
    [
        ({}, {}, {"triton_image": "triton:2"}, f"runs triton:1, this release brings triton:2; {ADOPTED}"),
        (
            {},
            {"format": "OpenVINO"},
            {"triton_image": "triton:2", "server_images": {"openvino": "openvino:2"}},
            f"runs openvino:1, this release brings openvino:2; {ADOPTED}",
        ),
        ({}, {"format": "OpenVINO"}, {"server_images": {}}, "runs openvino:1, this release brings none for it; "),
        ({}, {}, {"server_images": {}}, None),
        ({}, {}, {"jobs_image": "jobs:2"}, f"fetches its model with jobs:1, this release brings jobs:2; {ADOPTED}"),
        ({"image": "mine:1"}, {}, {"triton_image": "triton:2"}, None),
        (
            {"image": "mine:1"},
            {},
            {"triton_image": "triton:2", "jobs_image": "jobs:2"},
            "fetches its model with jobs:1, this release brings jobs:2, which the next revision takes; no release",
        ),
    ],
)
def test_what_is_said_of_older_images(server, about, images, sentence):
    world = World(manifest(V1, traffic=DIRECT, **({"server": server} if server else {})))
    world.reports[V1] = PreparationReport(facts=facts(**about))
    world.settle()
    assert world.status["phase"] == "Available", world.status
    world.settings = replace(world.settings, **images)
    world.settle()
    found = world.condition("RuntimeOutdated")
    assert (found and found["message"].startswith(f"{world.status['stable']['revision']} {sentence}")) == (
        True if sentence else None
    ), found


def test_the_command_is_named_only_where_it_is_stable_that_it_would_roll_out():
    world = serving_world()
    world.reports[V2] = failing(Reason.INVALID_MODEL)
    world.point_to(V2)
    world.settings = replace(world.settings, triton_image="triton:2")
    world.settle()
    message = world.condition("RuntimeOutdated")["message"]
    assert message.endswith("runs triton:1, this release brings triton:2, which the next revision takes")


def test_a_field_taken_away_from_the_spec_is_taken_away_from_the_pods():
    world = serving_world(pod={"nodeSelector": {"zone": "a"}})
    world.edit(pod={})
    world.settle()
    live = world.objects[ObjectKey("Deployment", "vision", world.status["stable"]["revision"])]
    assert "nodeSelector" not in live["spec"]["template"]["spec"]


def test_replicas_are_handed_over_before_they_are_dropped():
    world = serving_world(replicas=3)
    world.log.clear()
    world.edit(autoscaling={"min": 1, "max": 5, "target": {"cpuPercent": 70}})
    world.settle()
    revision = world.status["stable"]["revision"]
    assert world.log.index(f"hand over {revision} 3") < world.log.index(f"apply Deployment {revision}")
    assert world.objects[ObjectKey("Deployment", "vision", revision)]["spec"]["replicas"] == 3
    assert world.names("HorizontalPodAutoscaler") == ["digits"]


def test_under_an_autoscaler_a_candidate_starts_at_the_size_of_stable():
    world = serving_world(autoscaling={"min": 1, "max": 5, "target": {"cpuPercent": 70}})
    old = ObjectKey("Deployment", "vision", world.status["stable"]["revision"])
    world.objects[old]["spec"]["replicas"] = 4
    world.step()
    world.point_to(V2)
    world.settle()
    new = world.status["stable"]["revision"]
    assert world.objects[ObjectKey("Deployment", "vision", new)]["spec"]["replicas"] == 4
    scaler = world.objects[ObjectKey("HorizontalPodAutoscaler", "vision", "digits")]
    assert scaler["spec"]["scaleTargetRef"]["name"] == new
    world.edit(autoscaling=None, replicas=2)
    world.settle()
    assert world.names("HorizontalPodAutoscaler") == []
    assert world.objects[ObjectKey("Deployment", "vision", new)]["spec"]["replicas"] == 2


def test_zero_replicas_are_as_asked_but_not_available():
    world = serving_world(replicas=0)
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Available")["status"] == "False"
    assert "scaled to 0" in world.condition("Available")["message"]


def test_a_lost_status_is_found_again_in_the_records_and_the_service():
    world = serving_world()
    revision = world.status["stable"]["revision"]
    del world.deployment["status"]
    world.log.clear()
    world.settle()
    assert world.status["stable"]["revision"] == revision
    assert world.log == ["status"]


def test_a_superseded_candidate_leaves_at_once():
    world = serving_world()
    world.slow.add(V2)
    world.point_to(V2)
    for _ in range(3):
        world.reconcile()
        world.step()
    candidate = world.status["candidate"]["revision"]
    world.point_to(V3)
    world.settle()
    assert world.status["stable"]["uri"] == V3
    assert candidate not in world.names("Deployment")


def test_events_tell_transitions_once():
    world = serving_world()
    world.settle()
    world.settle()
    assert [reason for reason, _ in world.events] == ["Preparing", "RolloutInProgress", "RevisionPromoted"]


def test_history_of_records_is_bounded_and_never_forgets_what_serves():
    world = serving_world()
    for number in range(12):
        world.point_to(f"oci://models.example/digits:n{number}")
        world.settle()
        world.now += timedelta(minutes=2)
    assert len(world.names("ControllerRevision")) <= world.settings.revision_history + 2
    assert world.status["stable"]["revision"] in world.names("ControllerRevision")
    assert len(world.status["history"]) == 10


def test_a_deleted_deployment_is_left_to_the_garbage_collector():
    world = serving_world()
    world.deployment["metadata"]["deletionTimestamp"] = "2026-01-01T13:00:00Z"
    found = plan(world.observe(), world.now)
    assert (found.writes, found.deletes) == ((), ())


SCENARIOS = {
    "create": [],
    "update": [lambda world: world.point_to(V2)],
    "failing update": [lambda world: (world.broken.update({V2: "cannot load"}), world.point_to(V2))],
    "back and forth": [lambda world: world.point_to(V2), lambda world: world.point_to(V1)],
    "autoscaled": [
        lambda world: world.edit(autoscaling={"min": 2, "max": 4, "target": {"cpuPercent": 50}}),
        lambda world: world.point_to(V2),
    ],
}


@dataclass
class Recorded(World):
    """Keeps what it was before each pass that wrote something, with the number of writes."""

    eves: "list[tuple[Recorded, int]] | None" = field(default_factory=list)

    def reconcile(self) -> Plan:
        if self.eves is None:
            return super().reconcile()
        eve = copied(replace(self, eves=None))
        found = super().reconcile()
        if self.writes > eve.writes:
            self.eves.append((eve, self.writes - eve.writes))
        return found


def after_two_minutes(world: World) -> None:
    world.now += timedelta(minutes=2)


def stages_of(scenario: str) -> list[Callable[[World], object]]:
    actions = ([], *([action] for action in SCENARIOS[scenario]))
    return [stage for action in actions for stage in (*action, World.settle, after_two_minutes, World.settle)]


def killed_at_each_write(undisturbed: Recorded, stages: list[Callable[[World], object]]) -> Iterator[World]:
    """`undisturbed` goes through its stages; each world that was killed on the way goes on by itself."""
    for number, stage in enumerate(stages, 1):
        undisturbed.eves = []
        stage(undisturbed)
        for eve, writes in undisturbed.eves:
            for world in killed(eve, range(writes)):
                world.be_away()
                for later in (World.settle, *stages[number:]):
                    later(world)
                yield world


def shape(world: World) -> dict:
    """What must be the same however often the operator died: every object but its times and versions."""
    found = {}
    for key, item in world.objects.items():
        if key.kind != "Job":
            found[key] = (item.get("spec"), item.get("data"), item["metadata"]["labels"])
    found["history"] = [(entry["revision"], entry["outcome"]) for entry in world.status["history"]]
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_after_any_write_it_converges_to_the_same_objects(scenario):
    undisturbed = Recorded(manifest(V1, traffic=DIRECT))
    ends = list(killed_at_each_write(undisturbed, stages_of(scenario)))
    assert len(ends) == undisturbed.writes
    for fuse, world in enumerate(ends):
        assert shape(world) == shape(undisturbed), f"killed after write {fuse}"
        assert world.status["phase"] == undisturbed.status["phase"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([V1, V2, V3]),
            st.integers(0, 4),
            st.sampled_from(["wait", "break", "mend", "crash", "step"]),
        ),
        max_size=14,
    )
)
def test_whatever_happens_stable_is_never_without_pods_and_the_end_is_as_asked(actions):
    world = World(manifest(V1, traffic=DIRECT))
    for action in actions:
        match action:
            case str() if action.startswith("oci"):
                world.point_to(action)
            case int():
                world.edit(replicas=action)
            case "wait":
                world.now += timedelta(seconds=50)
            case "break":
                world.broken[V2] = "cannot load"
            case "mend":
                world.broken.clear()
            case "crash":
                world.fuse = 2
            case "step":
                world.step()
        with suppress(Crash):
            world.reconcile()
        stable = world.status.get("stable")
        if stable:
            assert stable["revision"] in world.names("Deployment")
            assert stable["revision"] in world.names("ControllerRevision")
    world.fuse = None
    world.broken.clear()
    world.edit(pod={"env": [{"name": "LAST", "value": "1"}]})
    world.settle()
    assert world.status["phase"] == "Available"
    assert world.status["stable"]["uri"] == world.deployment["spec"]["model"]["uri"]
    assert world.selected() == world.status["stable"]["revision"]
