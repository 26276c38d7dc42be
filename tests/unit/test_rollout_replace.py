"""`capacity: Replace`: pods change hands, and never more of them exist than there is room for."""

import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.rollout import RolloutSpec
from penstock.core.names import ObjectKey
from penstock.core.plan import Write, plan
from penstock.core.rollout import find_course
from penstock.core.rollout.exchange import count_steps, handed_over, share_between

from .cramped import Cramped, cramped
from .test_rollout_properties import EXAMPLES, act
from .world import START, V1, V2, V3, Crash, copied, killed_at_writes


def stable(world: Cramped) -> str:
    name: str = world.status["stable"]["revision"]
    return name


def settled(world: Cramped) -> Cramped:
    world.settle()
    world.now += timedelta(seconds=100)
    world.settle()
    return world


def until_stage(world: Cramped, stage: str, step: int = 1) -> str:
    world.run_until(lambda w: (w.candidate().get("stage"), w.candidate().get("step")) == (stage, step))
    name: str = world.candidate()["revision"]
    return name


def command(world: Cramped, **changes: Any) -> None:
    world.edit(rollout={**world.deployment["spec"]["rollout"], **changes})


# the arithmetic


@given(st.integers(1, 1000))
def test_pods_change_hands_in_growing_steps_and_never_all_before_the_end(total):
    steps = count_steps(total)
    handed = [handed_over(total, step) for step in range(steps + 1)]
    assert (handed[0], steps <= 20) == (0, True)
    assert handed == sorted(set(handed)), "each step hands over at least one"
    assert handed[-1] < total or total == 1


@pytest.mark.parametrize(
    ("total", "weights", "between"),
    [(1, ["100"], [0]), (2, ["50"], [0]), (3, ["33.3", "66.7"], [0, 500]), (4, ["25", "50", "75"], [0, 333, 667])],
)
def test_a_step_has_the_share_of_its_pods(total, weights, between):
    spec = RolloutSpec.model_validate({"capacity": "Replace", "replace": {"hold": "7s"}})
    course = find_course(None, spec, routed=True, size=total)
    assert [step.weight for step in course.steps] == weights
    assert {step.hold_seconds for step in course.steps} == {7}
    assert [share_between(total, step + 1) for step in range(len(weights))] == between


# pod by pod


def test_a_good_revision_takes_over_pod_by_pod_and_nothing_is_lost():
    world = cramped(replicas=3)
    old = stable(world)
    world.point_to(V2)
    settled(world)
    new = stable(world)
    assert world.status["stable"]["uri"] == V2
    assert world.shares == [
        {old: 1000},
        {new: 333, old: 667},
        {new: 500, old: 500},
        {new: 667, old: 333},
        {new: 1000},
    ]
    assert (world.lost, world.unanswered, world.most) == (0, 0, 3)
    assert world.count(new) == 3
    assert world.names("Deployment") == [new]
    assert [reason for reason, _ in world.events].count("PodReplaced") == 2


def test_traffic_leaves_before_a_pod_does():
    world = cramped(replicas=3)
    old = stable(world)
    world.point_to(V2)
    until_stage(world, "Replacing", 2)
    new = world.candidate()["revision"]
    key = ObjectKey("Deployment", "vision", old)
    assert world.weights() == {new: 500, old: 500}
    assert world.objects[key]["spec"]["replicas"] == 2
    for pod in world.routers.values():
        pod.cut = True
    world.run(5)
    assert world.objects[key]["spec"]["replicas"] == 2, "the routers have not followed yet"
    for pod in world.routers.values():
        pod.cut = False
    world.run(3)
    assert world.objects[key]["spec"]["replicas"] == 1


def test_one_that_fails_gives_the_traffic_back_at_once_and_its_pods_one_after_the_other():
    world = cramped(replicas=3, replace={"hold": "10s"})
    old = stable(world)
    world.errors[V2] = 0.5
    world.point_to(V2)
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    assert world.weights() == {old: 1000}
    assert world.status["stable"]["readyReplicas"] == 2
    world.run_until(lambda w: "2 of 3 pods back" in w.status["message"], 10)
    settled(world)
    assert (world.count(old), world.names("Deployment"), world.lost) == (3, [old], 0)
    assert "pods back" not in world.status["message"]


def test_an_abort_in_the_middle_of_an_exchange_goes_back():
    world = cramped(replicas=4)
    old = stable(world)
    world.point_to(V2)
    new = until_stage(world, "Replacing", 3)
    command(world, abort=new)
    world.reconcile()
    assert world.weights() == {old: 1000}
    settled(world)
    assert (world.outcomes()[-1], world.count(old), world.lost) == ("Aborted", 4, 0)


def test_promote_hurries_and_still_exchanges_pod_by_pod():
    world = cramped(replicas=3, replace={"hold": "1h"})
    world.point_to(V2)
    new = until_stage(world, "Stepping", 1)
    command(world, promote=new)
    settled(world)
    assert (stable(world), world.most, world.lost) == (new, 3, 0)
    assert world.status["history"][0]["by"] == "spec.rollout.promote"


def test_paused_holds_before_the_next_pod_and_never_in_the_middle_of_an_exchange():
    world = cramped(replicas=2)
    command(world, paused=True)
    world.point_to(V2)
    world.run(10)
    assert (world.candidate()["stage"], world.status["phase"]) == ("Starting", "Paused")
    command(world, paused=False)
    until_stage(world, "Replacing", 1)
    command(world, paused=True)
    until_stage(world, "Stepping", 1)
    world.run(20)
    assert (world.candidate()["stage"], world.status["phase"]) == ("Stepping", "Paused")


# the only pod


def test_the_only_pod_changes_hands_in_a_declared_outage():
    world = cramped()
    old = stable(world)
    world.point_to(V2)
    new = until_stage(world, "Replacing", 1)
    assert world.weights() == {}
    message = world.status["message"]
    assert "a declared outage (capacity: Replace, 1 replica)" in message
    assert "503 with Retry-After" in message
    assert "0 of 1 replicas ready" in message
    assert world.condition("Ready")["reason"] == "OutageDeclared"
    assert any(reason == "OutageDeclared" for reason, _ in world.events)
    world.run(2)
    assert world.condition("Available")["status"] == "False"
    until_stage(world, "Stepping", 1)
    world.run(2)
    assert world.weights() == {new: 1000}
    assert world.condition("Available")["status"] == "True"
    assert [item["name"] for item in world.split()["revisions"]] == sorted([old, new])
    assert world.split()["supervision"]["onLoss"] == "Keep"
    settled(world)
    assert world.shares == [{old: 1000}, {}, {new: 1000}]
    assert (stable(world), world.most, world.names("Deployment")) == (new, 1, [new])
    assert 3 <= world.unanswered <= 12, "pod gone, pod ready, and little more"


def test_the_only_pod_that_fails_is_taken_back_by_the_reverse_outage():
    world = cramped()
    old = stable(world)
    world.errors[V2] = 0.3
    world.point_to(V2)
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    assert world.weights() == {}, "stable has no pod yet"
    failed = world.status["failedRevision"]
    assert failed["reason"] == "ErrorRateAboveMaximum"
    assert "no stable revision serves beside it" in failed["message"]
    world.reconcile()
    assert f"{old} has 0 of 1 pods back; until it is ready requests get 503" in world.status["message"]
    settled(world)
    assert world.shares == [{old: 1000}, {}, {failed["revision"]: 1000}, {}, {old: 1000}]
    assert (world.status["phase"], world.count(old), world.names("Deployment")) == ("RolledBack", 1, [old])


def test_slow_answers_of_the_only_pod_take_it_back_by_stables_history():
    world = cramped()
    world.slowness[V2] = 0.6
    world.point_to(V2)
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    assert world.status["failedRevision"]["reason"] == "LatencyWorse"
    assert "slow by stable's history" in world.status["failedRevision"]["message"]


def test_a_stable_that_was_above_the_maximum_itself_accuses_nobody():
    world = cramped(analysis={"deadline": "20s"})
    world.errors.update({V1: 0.05, V2: 0.05})
    world.run(60)
    world.point_to(V2)
    until_stage(world, "Stepping", 1)
    world.run(25)
    assert world.candidate()["verdict"] == "Inconclusive"
    assert world.status["phase"] == "Paused", "past the deadline, never taken back by it"


@pytest.mark.parametrize("mode", ["Enforce", "Observe"])
def test_one_that_cannot_load_gives_the_room_back_at_once(mode):
    world = cramped(analysis={"mode": mode})
    old = stable(world)
    world.broken[V2] = "failed to load"
    world.point_to(V2)
    settled(world)
    assert (world.status["phase"], world.status["failedRevision"]["reason"]) == ("RolledBack", "LoadFailed")
    assert world.weights() == {old: 1000}
    assert world.unanswered < 25


def test_one_that_is_not_ready_by_the_deadline_gives_the_room_back():
    world = cramped(analysis={"deadline": "30s"})
    old = stable(world)
    world.slow.add(V2)
    world.point_to(V2)
    settled(world)
    assert world.status["failedRevision"]["reason"] == "StartDeadlineExceeded"
    assert "0 of 1 replicas ready after 30s" in world.status["failedRevision"]["message"]
    assert world.weights() == {old: 1000}


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_that_loses_its_pods_has_nothing_until_it_is_ready_again(replicas):
    world = cramped(replicas=replicas, replace={"hold": "20s"})
    old = stable(world)
    world.point_to(V2)
    new = until_stage(world, "Stepping", 1)
    world.run(3)
    world.slow.add(V2)
    world.step()
    world.reconcile()
    assert world.weights() == ({old: 1000} if replicas > 1 else {})
    assert world.candidate()["stage"] == "Replacing"
    world.slow.clear()
    settled(world)
    assert (stable(world), world.most) == (new, replicas)


def test_a_capacity_edited_on_the_way_counts_for_the_next_rollout():
    world = cramped(replicas=2, capacity="Surge")
    world.room = 4
    world.point_to(V2)
    new = until_stage(world, "Stepping", 1)
    command(world, capacity="Replace")
    settled(world)
    assert stable(world) == new
    assert world.count(new) == 2


def test_one_that_fits_nowhere_says_so_with_the_schedulers_words():
    world = cramped()
    world.slow.add(V2)
    world.point_to(V2)
    new = until_stage(world, "Replacing", 1)
    world.run_until(lambda w: w.count(new) == 1, 20)
    problem = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient gpu"}
    world.pods_of(new)[0]["status"] = {"conditions": [problem]}
    world.reconcile()
    assert world.condition("Ready")["reason"] == "Unschedulable"
    assert "Insufficient gpu" in world.status["message"]


def test_a_next_revision_takes_the_room_in_its_turn():
    world = cramped()
    world.point_to(V2)
    until_stage(world, "Stepping", 1)
    world.point_to(V3)
    world.reconcile()
    assert world.weights() == {}
    settled(world)
    assert (world.status["stable"]["uri"], world.most) == (V3, 1)


def test_going_back_in_the_middle_brings_stable_back():
    world = cramped()
    old = stable(world)
    world.point_to(V2)
    until_stage(world, "Stepping", 1)
    world.point_to(V1)
    settled(world)
    assert (world.status["phase"], world.weights(), world.count(old)) == ("Available", {old: 1000}, 1)


def replicas_of(world: Cramped, revision: str) -> int:
    asked: int = world.objects[ObjectKey("Deployment", "vision", revision)]["spec"]["replicas"]
    return asked


def test_one_that_is_tried_again_at_once_gives_the_pods_of_its_last_attempt_back_first():
    """Step 1 is judged beside a stable with the pods of its share, not with what the last attempt left of it."""
    world = cramped(replicas=3, replace={"hold": "15s"})
    old = stable(world)
    world.point_to(V2)
    new = until_stage(world, "Stepping", 2)
    world.errors[V2] = 0.5
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    world.errors.clear()
    command(world, retryToken="2")
    until_stage(world, "Stepping", 1)
    world.run(12)
    assert world.candidate()["step"] == 1
    assert (replicas_of(world, old), replicas_of(world, new)) == (2, 1)
    settled(world)
    assert (stable(world), world.most, world.lost) == (new, 3, 0)


@pytest.mark.parametrize("replicas", [1, 3])
def test_another_router_in_the_middle_has_a_whole_stable_first(replicas):
    """Until the routers have changed nobody but stable can have the requests, so the exchange begins again there."""
    world = cramped(replicas=replicas, replace={"hold": "10s"})
    old = stable(world)
    world.point_to(V2)
    until_stage(world, "Stepping", replicas - 1 or 1)
    own = {"metadata": {"name": "own", "namespace": "vision", "labels": {}}, "spec": {}, "kind": "Router"}
    world.edit(traffic={"timeout": "1s", "router": {"name": "own"}})
    world.run(30)
    assert (replicas_of(world, old), world.ready(old)) == (replicas, replicas)
    while stable(world) == old or world.watching:
        world.router = world.router or own
        world.run(0)
        world.step()
        assert world.now < START + timedelta(minutes=10)
    settled(world)
    assert world.selected_router() == "own"
    declared = 2 * 12 * world.rate if replicas == 1 else 0
    assert world.lost <= declared, "pod gone, pod ready: there and back, and nobody else waits"


def test_an_outage_is_entered_behind_status_and_fenced():
    """A leader of yesterday must not take stable's requests away; what takes a candidate back needs nothing."""
    world = cramped()
    old = stable(world)
    world.point_to(V2)
    while world.weights() == {old: 1000}:
        found = plan(world.observe(), world.now)
        assert not [w for w in found.writes if isinstance(w, Write) and w.manifest["kind"] == "TrafficSplit"]
        if found.raises and not any(item["weight"] for item in found.raises[0].manifest["spec"]["revisions"]):
            assert found.raises[0].fenced
        world.reconcile()
        world.step()
    new = until_stage(world, "Stepping", 1)
    world.run(3)
    command(world, abort=new)
    found = plan(world.observe(), world.now)
    assert isinstance(found.writes[0], Write)
    assert found.writes[0].manifest["kind"] == "TrafficSplit"
    assert not found.writes[0].fenced


def test_a_placement_change_needs_no_room_for_one_more():
    world = cramped()
    strategy = world.objects[ObjectKey("Deployment", "vision", stable(world))]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_pass_in_the_middle_of_an_exchange_writes_nothing_while_nothing_differs():
    world = cramped(analysis={"deadline": "1h"})
    world.slow.add(V2)
    world.point_to(V2)
    until_stage(world, "Replacing", 1)
    world.run(15)
    before = world.writes
    world.run(30)
    assert world.writes == before


# whenever the operator dies, and whatever people do


STRIDE = int(os.environ.get("KILL_STRIDE", "15"))
"""Killed after every fifteenth write of two lives; KILL_STRIDE=1 for all of four."""
PASSES = 60
"""After which such a life has ended."""


ENDINGS = [(1, "RolledBack"), (2, "Promoted"), (1, "Promoted"), (2, "RolledBack")]


@pytest.mark.parametrize(("replicas", "ending"), ENDINGS if STRIDE == 1 else ENDINGS[:2])
def test_killed_after_any_write_the_end_is_the_same(replicas, ending):
    start = cramped(replicas=replicas, replace={"hold": "1s"})
    start.errors[V2] = 0.0 if ending == "Promoted" else 0.5
    start.point_to(V2)
    start.writes = 0
    undisturbed = copied(start)
    for _ in range(PASSES):
        undisturbed.reconcile()
        undisturbed.step()
    assert undisturbed.outcomes()[-1] == ending
    ends = dict(killed_at_writes(start, PASSES, range(replicas, undisturbed.writes, STRIDE)))
    assert ends
    for fuse, world in ends.items():
        assert world.outcomes() == undisturbed.outcomes(), fuse
        assert world.shares == undisturbed.shares, fuse
        assert world.objects.keys() == undisturbed.objects.keys(), fuse
        assert world.most == replicas


FAULTS = ["crash", "break", "bad", "slow", "mend", "blind", "forget"]
COMMANDS = ["pause", "go", "promote", "abort", "retry"]
ACTIONS = st.sampled_from([V1, V2, V3, "step", "steps", "steps", "steps", *FAULTS, *COMMANDS])


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(st.integers(1, 4), st.lists(ACTIONS, min_size=4, max_size=12))
def test_never_more_pods_than_room_and_no_weight_without_a_pod(replicas, actions):
    """`Cramped` itself checks both at every pass and every second."""
    world = cramped(replicas=replicas)
    for action in actions:
        try:
            act(world, action)
            world.reconcile()
            check(world)
        except Crash:
            pass
    world.fuse = None
    act(world, "mend")
    world.errors.clear()
    world.edit(model={"uri": V3}, pod={"env": [{"name": "LAST", "value": "1"}]})
    command(world, paused=False, promote=None, abort=None, analysis={"mode": "Observe"})
    settled(world)
    assert world.status["phase"] == "Available", world.status
    assert world.weights() == {stable(world): 1000}
    assert world.count(stable(world)) == replicas


def check(world: Cramped) -> None:
    for item in world.split()["revisions"]:
        assert not item["weight"] or world.ready(item["name"]), item
