"""The acceptance cases PD-01 to PD-28 (progressive-delivery.md), one test or more for each, in the made-up cluster."""

import copy
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest

from penstock.api.facts import GateResult
from penstock.api.preparation import PreparationReport
from penstock.api.reasons import Reason
from penstock.core.conditions import MESSAGE, timestamp
from penstock.core.history import remember
from penstock.core.names import ObjectKey
from penstock.core.plan import Write, plan
from penstock.core.refreshing import REFRESH_FAILURE

from .world import DIRECT, START, V1, V2, V3, Crash, World, copied, facts, failing, killed_at_writes, manifest

STEPS = {"steps": [{"weight": 10, "hold": "5s"}, {"weight": 50, "hold": "5s"}]}
CANARY = {"canary": STEPS}
PASSES = 30
"""After which a rollout of PD-08 has ended."""
QUICK = {"canary": {"steps": [{"weight": 10, "hold": "2s"}, {"weight": 50, "hold": "2s"}]}}
BLUE_GREEN = {"strategy": "BlueGreen", "blueGreen": {"hold": "5s", "keepPrevious": "2m", "autoPromote": False}}


def serving_world(rate: int = 2000, **spec: Any) -> World:
    """V1 serves through routers that have a minute of its history."""
    return copied(_serving_world(rate, json.dumps({"rollout": CANARY, **spec})))


@cache
def _serving_world(rate: int, spec: str) -> World:
    world = World(manifest(V1, **json.loads(spec)), rate=rate)
    world.settle()
    assert world.status["phase"] == "Available", world.status
    for _ in range(60):
        world.step()
    world.log.clear()
    world.events.clear()
    return world


def at_step(world: World, step: int, uri: str = V2) -> str:
    """Run until the candidate of `uri` is at a step, in force; its name."""
    if world.deployment["spec"]["model"]["uri"] != uri:
        world.point_to(uri)
    world.run_until(
        lambda w: w.candidate().get("uri") == uri[:320] and w.candidate().get("step") == step and in_force(w)
    )
    name: str = world.candidate()["revision"]
    return name


def in_force(world: World) -> bool:
    return world.status.get("attestedGeneration") == world.split().get("generation")


def command(world: World, **changes: Any) -> None:
    world.edit(rollout={**world.deployment["spec"].get("rollout", {}), **changes})


def outcome(world: World, revision: str) -> dict[str, Any]:
    return next(entry for entry in world.status["history"] if entry["revision"] == revision)


def stable(world: World) -> str:
    name: str = world.status["stable"]["revision"]
    return name


def test_a_good_revision_goes_all_the_way():
    world = serving_world()
    old = stable(world)
    world.point_to(V2)
    seen: list[int] = []
    while stable(world) == old:
        world.reconcile()
        weight = 1000 - world.weights().get(old, 0)
        if not seen or seen[-1] != weight:
            seen.append(weight)
        world.step()
    assert seen == [0, 100, 500, 1000]
    world.settle()
    assert (world.status["phase"], world.lost, world.outcomes()) == ("Available", 0, ["Promoted", "Promoted"])
    world.now += timedelta(seconds=40)
    world.settle()
    assert world.names("Deployment") == [stable(world)]
    assert [item["name"] for item in world.split()["revisions"]] == [stable(world)]
    assert "supervision" not in world.split()


def test_pd_01_a_new_revision_starts_over_and_no_evidence_is_mixed():
    """PD-01: v3 while v2 is in canary: v2's weight to 0 first, then v3 from the beginning, on its own counts."""
    world = serving_world()
    old = stable(world)
    second = at_step(world, 2)
    world.point_to(V3)
    world.log.clear()
    world.reconcile()
    assert world.log[0] == "apply TrafficSplit digits"
    assert world.weights() == {old: 1000}
    assert outcome(world, second)["outcome"] == "Superseded"
    third = at_step(world, 1, V3)
    assert world.weights() == {old: 900, third: 100}
    assert world.candidate()["analysis"]["requests"] <= 400
    world.settle()
    assert stable(world) == third
    assert world.lost == 0


def test_pd_02_an_unverified_revision_does_not_pass_an_open_gate():
    """PD-02: v3 between promote and cut-over of a blue/green v2: the gate is v2's alone."""
    world = serving_world(rollout=BLUE_GREEN)
    world.point_to(V2)
    world.run_until(lambda w: w.candidate().get("stage") == "Previewing")
    assert "digits-preview" in world.names("Service")
    command(world, promote=world.candidate()["revision"])
    world.reconcile()
    world.point_to(V3)
    world.run(20)
    assert (world.candidate()["uri"], world.candidate()["stage"]) == (V3, "Previewing")
    assert world.weights() == {stable(world): 1000}


def test_pd_03_going_back_to_stable_takes_one_pass():
    """PD-03: the spec goes back to stable in the middle of a canary: everything to stable at once, no analysis."""
    world = serving_world()
    old, new = stable(world), at_step(world, 2)
    world.point_to(V1)
    world.reconcile()
    assert world.weights() == {old: 1000}
    assert (world.status["phase"], world.condition("Ready")["status"]) == ("Available", "True")
    assert outcome(world, new)["outcome"] == "Superseded"
    world.settle()
    world.now += timedelta(seconds=40)
    world.settle()
    assert world.names("Deployment") == [old]
    assert world.lost == 0


def test_pd_04_the_course_is_pinned_when_it_begins():
    """PD-04: editing the strategy on the way changes nothing before the next rollout."""
    world = serving_world()
    at_step(world, 1)
    plan_before, rules = world.candidate()["plan"], world.candidate()["analysis"]["rules"]
    world.edit(rollout={"strategy": "Immediate", "analysis": {"falseRollback": "0.5"}})
    world.run(3)
    assert world.candidate()["plan"] == plan_before
    assert world.candidate()["analysis"]["rules"] == rules
    assert world.weights()[world.candidate()["revision"]] == 100
    world.settle()
    assert stable(world) != ""
    world.point_to(V3)
    world.run_until(lambda w: w.status["stable"]["uri"] == V3, 20)


def test_pd_05_an_aborted_revision_stays_aborted_whatever_git_says_again():
    """PD-05: after an abort the same spec, synced again, starts nothing."""
    world = serving_world()
    old, new = stable(world), at_step(world, 1)
    command(world, abort=new)
    world.reconcile()
    assert world.weights() == {old: 1000}
    assert (world.status["phase"], world.condition("Stalled")["reason"]) == ("RolledBack", "RolledBack")
    assert world.status["failedRevision"]["reason"] == "Aborted"
    assert outcome(world, new)["outcome"] == "Aborted"
    world.settle()
    writes = world.writes
    for _ in range(3):
        world.edit()
        world.now += timedelta(minutes=10)
        world.settle()
    assert world.outcomes().count("Aborted") == 1
    assert not [line for line in world.log[writes:] if "Deployment" in line]
    command(world, abort=None)
    world.settle()
    assert world.status["phase"] == "RolledBack"


def test_pd_06_a_new_token_tries_again_from_the_beginning():
    """PD-06: retryToken, and nothing else, retries; a token of before the failure is spent."""
    world = serving_world()
    world.errors[V2] = 0.5
    command(world, retryToken="1")
    world.reconcile()
    new = at_step(world, 1)
    world.settle()
    assert world.status["phase"] == "RolledBack"
    command(world, promote=new)
    world.settle()
    assert world.status["phase"] == "RolledBack"
    command(world, promote=None, retryToken="2")
    world.errors.clear()
    world.settle()
    assert stable(world) == new
    assert world.status["observedRetryToken"] == "2"


def test_pd_06_what_the_last_attempt_showed_does_not_speak_against_the_next():
    """PD-06: a token that comes at once, before the routers tell of a second with all requests at stable."""
    world = serving_world()
    world.errors[V2] = 1.0
    new = at_step(world, 1)
    world.run_until(lambda world: world.status["phase"] == "RolledBack")
    world.errors.clear()
    command(world, retryToken="2")
    for _ in range(6):
        world.reconcile()
    world.settle()
    assert stable(world) == new, world.status["failedRevision"]["message"]
    assert world.outcomes()[-2:] == ["RolledBack", "Promoted"]


@pytest.mark.parametrize(("ending", "skew"), [("Promoted", 0), ("Promoted", 5), ("RolledBack", 0), ("RolledBack", 5)])
def test_pd_06_a_crash_of_the_last_attempt_does_not_end_the_next(ending, skew):
    """PD-06: a token that comes while the pod that could not load is still there, waiting to be started again.

    That its end is dated later than the token, by a node whose clock is ahead, makes it no end of the new attempt.
    """
    world = serving_world()
    world.skew = skew
    new = at_step(world, 1)
    world.broken[V2] = "failed to load"
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    world.now += timedelta(seconds=3)
    command(world, retryToken="2")
    world.reconcile()
    assert world.candidate()["revision"] == new
    assert "failed to load" in world.status["message"]
    if ending == "Promoted":
        world.broken.clear()
    world.settle()
    assert world.outcomes()[-2:] == ["RolledBack", "Promoted" if ending == "Promoted" else "Failed"]


def test_pd_06_abort_stands_above_retry():
    """PD-06: while abort names the revision a new token waits."""
    world = serving_world()
    new = at_step(world, 1)
    command(world, abort=new)
    world.settle()
    command(world, retryToken="2")
    world.settle()
    assert world.status["phase"] == "RolledBack"
    command(world, abort=None)
    world.settle()
    assert stable(world) == new


def test_pd_07_a_new_revision_after_a_failure_is_seen_though_stable_is_unready():
    """PD-07: a change that arrives while the last one has failed and stable is unready for a moment is not lost."""
    world = serving_world()
    world.errors[V2] = 0.5
    at_step(world, 1)
    world.settle()
    assert world.status["phase"] == "RolledBack"
    world.slow.add(V1)
    world.rate = 0
    world.step()
    world.point_to(V3)
    world.run(5)
    world.slow.clear()
    world.rate = 2000
    world.settle()
    assert world.status["stable"]["uri"] == V3


@pytest.mark.parametrize("seconds", [1, 3, 6])
def test_pd_08_a_restart_neither_shortens_nor_repeats_a_step(seconds):
    """PD-08: an operator that was away reads what the routers have kept, and only seconds that were observed count."""
    undisturbed, world = serving_world(), serving_world()
    for each in (undisturbed, world):
        at_step(each, 1)
    began = world.now
    for _ in range(seconds):
        world.step()
    world.watching = ""
    for each in (undisturbed, world):
        each.run_until(lambda w: w.candidate()["step"] == 2)
        assert (each.now - began).total_seconds() >= 5
    assert world.weights() == undisturbed.weights()


@pytest.mark.parametrize("ending", ["Promoted", "RolledBack"])
def test_pd_08_killed_after_any_write_the_end_is_the_same(ending):
    """PD-08: killed after the n-th write, for every n: the same end, no weight raised twice, no step shortened."""
    steps = QUICK if ending == "Promoted" else {"canary": {"steps": [{"weight": 10, "hold": "20s"}]}}
    start = Watched(manifest(V1, rollout=steps, traffic={"timeout": "1s"}), rate=2000)
    start.settle()
    start.errors[V2] = 0.0 if ending == "Promoted" else 0.5
    start.point_to(V2)
    start.writes = 0
    undisturbed = copied(start)
    for _ in range(PASSES):
        undisturbed.reconcile()
        undisturbed.step()
    assert undisturbed.outcomes()[-1] == ending
    ends = dict(killed_at_writes(start, PASSES))
    assert len(ends) == undisturbed.writes
    for fuse, world in ends.items():
        assert world.outcomes() == undisturbed.outcomes(), fuse
        assert world.raised == undisturbed.raised, fuse
        assert world.objects.keys() == undisturbed.objects.keys(), fuse
        assert world.split()["revisions"] == undisturbed.split()["revisions"]
        assert world.lost == 0


@pytest.mark.parametrize("attempt", [1, 2])
def test_pd_08_killed_before_it_could_tell_of_a_candidate_that_cannot_start(attempt):
    """PD-08: the pod ends while nobody leads; that the successor hears of the candidate only then excuses nothing."""
    world = serving_world()
    world.broken[V2] = "failed to load"
    if attempt == 2:
        world.point_to(V2)
        world.settle()
        command(world, retryToken="again")
    else:
        world.point_to(V2)
        world.run_until(lambda w: w.names("Job"))
    started = len(world.names("Deployment")) + 1
    while len(world.names("Deployment")) < started:
        world.step()
        world.fuse = 1
        with suppress(Crash):
            world.reconcile()
    world.fuse = None
    world.be_away()
    assert not world.candidate()
    for _ in range(5):
        world.reconcile()
    assert world.status["failedRevision"]["reason"] == "LoadFailed"
    assert world.outcomes() == ["Promoted", *["Failed"] * attempt]


@pytest.mark.parametrize("found", ["lowered", "gone", "unreadable"])
def test_pd_08_an_operator_that_knows_nothing_yet_raises_nothing(found):
    """PD-08: killed between taking back and saying so, it must not give again before it has read the counters."""
    world = serving_world()
    old = stable(world)
    at_step(world, 1)
    if found == "lowered":
        for item in world.split()["revisions"]:
            item["weight"] = 1000 if item["name"] == old else 0
    elif found == "unreadable":
        world.split()["port"] = 1
    else:
        del world.objects[ObjectKey("TrafficSplit", "vision", "digits")]
    world.watching = ""
    world.reconcile()
    assert world.weights() == {old: 1000}
    assert world.watching == "fast"
    world.settle()
    assert world.status["stable"]["uri"] == V2
    assert world.lost == 0


@dataclass
class Watched(World):
    """Remembers the weights that the split has had."""

    raised: list[dict[str, int]] = field(default_factory=list)

    def reconcile(self) -> Any:
        try:
            return super().reconcile()
        finally:
            weights = self.weights()
            if not self.raised or self.raised[-1] != weights:
                self.raised.append(weights)


def test_pd_09_and_19_only_what_gives_a_candidate_more_is_fenced():
    """PD-09, PD-19: raising carries a version and stands behind status; taking back is one unconditional write."""
    world = serving_world()
    old = stable(world)
    world.point_to(V2)
    raised = 0
    for _ in range(60):
        found = plan(world.observe(), world.now)
        early = [w for w in found.writes if isinstance(w, Write) and w.manifest["kind"] == "TrafficSplit"]
        assert early == []
        for write in found.raises:
            given = {item["name"]: item["weight"] for item in write.manifest["spec"]["revisions"] if item["weight"]}
            assert write.fenced is (given != {old: 1000}) or not world.candidate()
            raised += write.fenced
        world.reconcile()
        if world.candidate().get("step") == 2:
            break
        world.step()
    assert raised >= 2
    command(world, abort=world.candidate()["revision"])
    for pod in world.routers.values():
        pod.deaf = True
    world.watching = ""
    found = plan(world.observe(), world.now)
    first = found.writes[0]
    assert isinstance(first, Write)
    assert (first.manifest["kind"], first.fenced, first.whole) == ("TrafficSplit", False, False)
    assert found.raises == ()


def test_pd_10_a_plan_from_an_old_snapshot_raises_nothing_new():
    """PD-10: what was written a moment ago and is not seen yet: the old snapshot asks for what it asked before."""
    world = serving_world()
    world.point_to(V2)
    world.run_until(lambda w: w.candidate().get("stage") == "Warming")
    world.step()
    old = world.observe()
    first, again = plan(old, world.now), plan(old, world.now)
    assert first == again
    assert all(write.fenced for write in first.raises)


@pytest.mark.parametrize(
    "case", ["PD-11 rate 0/0", "PD-12 empty answer", "PD-13 provider down", "PD-15 no verdict yet"]
)
def test_pd_11_12_13_15_absence_of_data_holds(case):
    """PD-11, PD-12, PD-13, PD-15: without data nothing is promoted and nothing taken back, for as long as it takes."""
    world = serving_world()
    old, new = stable(world), at_step(world, 1)
    if case in ("PD-11 rate 0/0", "PD-15 no verdict yet"):
        world.rate = 0
    elif case == "PD-12 empty answer":
        world.counters = False
    else:
        for pod in world.routers.values():
            pod.deaf = True
    before = world.candidate()["step"]
    world.run(50)
    assert stable(world) == old
    assert world.candidate()["step"] == before
    assert world.condition("Ready")["reason"] == "NoEvidence"
    assert world.condition("Reconciling")["status"] == "True"
    assert world.outcomes() == ["Promoted"]
    world.rate, world.counters = 2000, True
    for pod in world.routers.values():
        pod.deaf = False
    world.settle()
    assert stable(world) == new


@pytest.mark.parametrize(
    ("policy", "ends"),
    [("Hold", ["Promoted"]), ("Promote", ["Promoted"] * 2), ("Rollback", ["Promoted", "RolledBack"])],
)
def test_pd_14_a_candidate_that_nobody_asks_anything(policy, ends):
    """PD-14: onNoTraffic says what becomes of it; Hold is paused at the deadline, never taken back."""
    world = serving_world(rollout={**CANARY, "analysis": {"onNoTraffic": policy, "deadline": "1m"}})
    world.rate = 0
    world.point_to(V2)
    world.run(90)
    assert world.outcomes() == ends
    if policy == "Hold":
        assert (world.status["phase"], world.condition("Ready")["reason"]) == ("Paused", "Paused")
        assert "deadline" in world.status["message"]
    if policy == "Rollback":
        assert world.status["failedRevision"]["reason"] == "NoTraffic"


def test_pd_16_what_breaks_both_takes_nobody_back():
    """PD-16: a shared dependency is down: the candidate is innocent, whatever the absolute rates are."""
    world = serving_world(rate=200)
    new = at_step(world, 1)
    world.outage = 0.3
    world.run(60)
    assert "RolledBack" not in world.outcomes()
    world.outage = 0.0
    world.settle()
    assert stable(world) == new


def test_pd_17_a_good_candidate_goes_forward_past_a_bad_stable():
    """PD-17: stable fails, the candidate does not: forward it goes."""
    world = serving_world()
    world.errors[V1] = 0.4
    world.run(10)
    world.point_to(V2)
    world.settle()
    assert world.status["stable"]["uri"] == V2


def test_pd_17_nothing_is_taken_back_onto_a_stable_without_pods():
    """PD-17: evidence against the candidate waits while stable has no pod that could take its requests."""
    world = serving_world()
    world.errors[V2] = 0.3
    new = at_step(world, 1)
    world.cold.add(stable(world))
    world.run(15)
    assert new in world.weights()
    world.cold.clear()
    world.run_until(lambda w: w.status["phase"] == "RolledBack", 60)


def test_pd_18_an_abort_does_not_wait_for_stable_to_be_whole():
    """PD-18: abort while a part of stable is missing: the weights go at once."""
    world = serving_world(replicas=3)
    old, new = stable(world), at_step(world, 2)
    key = ObjectKey("Deployment", "vision", old)
    world.objects[key]["status"]["readyReplicas"] = 1
    command(world, abort=new)
    world.reconcile()
    assert world.weights() == {old: 1000}


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split["revisions"][0].update(weight=300) or split["revisions"][1].update(weight=700),
        lambda split: split.update(shadow={"name": split["stable"], "share": 500}),
        lambda split: split.pop("supervision"),
        lambda split: split.update(timeoutMilliseconds=1),
        lambda split: split.update(revisions=[{"name": split["stable"], "model": "digits", "weight": 1000}]),
        lambda split: split.update(port=1),
    ],
    ids=["weights", "shadow", "supervision", "timeout", "revision gone", "unreadable"],
)
def test_pd_20_a_split_edited_by_hand_is_put_right_in_one_pass(change):
    """PD-20: status is the truth; a weight edited out of band is re-asserted within one event, as a new generation."""
    world = serving_world()
    at_step(world, 1)
    before = copy.deepcopy(world.split())
    change(world.split())
    found = plan(world.observe(), world.now)
    assert found.raises[0].whole
    world.reconcile()
    after = world.split()
    assert after["generation"] == before["generation"] + 1
    for volatile in ("generation", "supervision"):
        before.pop(volatile)
    assert {key: value for key, value in after.items() if key in before} == before
    assert after["supervision"]["timeoutSeconds"] == 60
    world.settle()
    assert world.status["stable"]["uri"] == V2


def test_pd_20_a_service_edited_by_hand_leads_to_the_router_again():
    """PD-20: the same for the client Service, once the routers are seen to have the route."""
    world = serving_world()
    service = world.service()
    before = dict(service["selector"])
    service["selector"] = {"theirs": "1"}
    world.settle()
    assert world.service()["selector"] == before


def test_pd_21_without_replicas_there_is_nothing_to_compare():
    """PD-21: replicas 0: the version is exchanged without analysis, and history says that it was skipped."""
    world = serving_world(replicas=0)
    world.point_to(V2)
    world.settle()
    assert world.status["stable"]["uri"] == V2
    assert world.status["history"][0]["reason"] == "Skipped"
    world.edit(replicas=2)
    world.settle()
    assert world.status["stable"]["readyReplicas"] == 2


@pytest.mark.parametrize("held", ["paused", "gate", "gate from the start"])
def test_pd_21_scaled_to_nothing_a_candidate_still_waits_for_a_person(held):
    """PD-21: scaling to 0 overnight opens no gate and ends no pause; the person's word promotes it then."""
    world = serving_world(rollout=CANARY if held == "paused" else BLUE_GREEN)
    old = stable(world)
    if held == "paused":
        at_step(world, 1)
        command(world, paused=True)
    elif held == "gate":
        world.point_to(V2)
        world.run_until(lambda w: w.candidate().get("stage") == "Previewing")
    world.edit(replicas=0)
    world.point_to(V2)
    world.run(20)
    assert (stable(world), world.status["phase"]) == (old, "Paused")
    command(world, **({"paused": False} if held == "paused" else {"promote": world.candidate()["revision"]}))
    world.settle()
    assert (stable(world) != old, world.status["history"][0]["reason"]) == (True, "Skipped")


def test_pd_22_each_revision_has_a_size_of_its_own():
    """PD-22: replicas change together with the model: stable follows the spec, the candidate its share of it."""
    world = serving_world(replicas=2)
    old = stable(world)
    world.edit(model={"uri": V2}, replicas=8)
    new = at_step(world, 1)
    replicas = lambda name: world.objects[ObjectKey("Deployment", "vision", name)]["spec"]["replicas"]  # noqa: E731
    assert (replicas(old), replicas(new)) == (8, 1)
    at_step(world, 2)
    assert (replicas(old), replicas(new)) == (8, 4)
    world.run_until(lambda w: w.candidate().get("stage") == "Promoting")
    assert (replicas(old), replicas(new)) == (8, 8)


def test_pd_23_an_autoscaler_never_has_a_candidate_and_never_shrinks_stable_beside_one():
    """PD-23: it scales stable alone, from no less than the largest size seen; an aborted revision goes away."""
    world = serving_world(autoscaling={"min": 1, "max": 10, "target": {"cpuPercent": 70}})
    old = ObjectKey("Deployment", "vision", stable(world))
    scaler = ObjectKey("HorizontalPodAutoscaler", "vision", "digits")
    world.objects[old]["spec"]["replicas"] = 4
    world.step()
    new = at_step(world, 1)
    assert world.objects[scaler]["spec"]["minReplicas"] == 4
    world.objects[old]["spec"]["replicas"] = 6
    world.run(2)
    found = world.objects[scaler]["spec"]
    assert (found["minReplicas"], found["scaleTargetRef"]["name"]) == (6, old.name)
    command(world, abort=new)
    world.settle()
    world.now += timedelta(seconds=40)
    world.settle()
    found = world.objects[scaler]["spec"]
    assert (found["minReplicas"], found["scaleTargetRef"]["name"]) == (1, old.name)
    assert world.names("Deployment") == [old.name]


def test_pd_24_a_deleted_deployment_needs_no_farewell():
    """PD-24: no finalizer: deleted in the middle of a canary, the garbage collector takes all by ownerReference."""
    world = serving_world()
    at_step(world, 1)
    world.deployment["metadata"]["deletionTimestamp"] = "2026-01-01T13:00:00Z"
    found = plan(world.observe(), world.now)
    assert (found.writes, found.raises, found.deletes) == ((), (), ())
    owners = {item["metadata"]["ownerReferences"][0]["uid"] for item in world.objects.values()}
    assert owners == {"md-uid-1"}
    assert "finalizers" not in str(world.objects)


def test_pd_25_a_cluster_rebuilt_from_git_begins_with_the_initial_revision():
    """PD-25: rollout.initial is made stable first, and the model of the spec follows as its candidate."""
    world = World(manifest(V2, rollout={**CANARY, "initial": {"uri": V1}}), rate=2000)
    world.run_until(lambda w: w.status.get("stable", {}).get("uri") == V1)
    new = at_step(world, 1)
    assert world.weights()[new] == 100
    world.settle()
    assert world.status["stable"]["uri"] == V2
    world.settle()
    assert world.outcomes() == ["Promoted", "Promoted"]


def test_pd_25_the_first_revision_is_not_live_before_the_routers_reach_it():
    """PD-25: a policy of the network or a slow one between routers and pods: no word of it being available."""
    world = World(manifest(V1, rollout=CANARY))
    world.run_until(lambda w: w.names("Deployment"))
    (first,) = world.names("Deployment")
    world.cold.add(first)
    world.run(60)
    assert world.weights() == {first: 1000}
    assert world.status["phase"] == "Progressing"
    assert "the routers reach 0 of 1 pods" in world.status["message"]
    world.cold.clear()
    world.run_until(lambda w: w.status["phase"] == "Available", 5)
    assert stable(world) == first


class Hindsight(World):
    """Its routers have not noticed yet that pods are not ready any more."""

    def _view(self, pod):
        return replace(super()._view(pod), warm=dict.fromkeys(self.names("Deployment"), 1))


def test_pd_25_a_revision_that_goes_live_without_a_ready_pod_is_not_called_ready():
    """PD-25: the only pod fails its probe in the second of the promotion."""
    world = Hindsight(manifest(V1, rollout=CANARY))
    world.run_until(lambda w: w.candidate().get("stage") == "Promoting")
    world.slow.add(V1)
    world.run_until(lambda w: w.status.get("stable"))
    assert world.status["stable"]["readyReplicas"] == 0
    assert world.condition("Ready")["reason"] == "NotServing"
    world.slow.clear()
    world.settle()
    assert world.condition("Ready")["status"] == "True"


def test_pd_26_shadow_then_steps_each_with_its_own_route():
    """PD-26: the route is a function of status: copies end where the first step begins, and come back after a loss."""
    world = serving_world(rollout={**CANARY, "shadow": {"percent": 20, "duration": "5s"}})
    old = stable(world)
    world.point_to(V2)
    world.run_until(lambda w: w.candidate().get("stage") == "Shadowing" and in_force(w))
    assert world.split()["shadow"] == {"name": world.candidate()["revision"], "share": 200}
    assert world.weights() == {old: 1000}
    new = at_step(world, 1)
    assert "shadow" not in world.split()
    assert world.weights() == {old: 900, new: 100}
    world.settle()
    assert stable(world) == new


def test_pd_27_evidence_is_gathered_while_a_person_is_waited_for():
    """PD-27: a candidate that turns bad while the rollout is paused is taken back; status tells the routed weight."""
    world = serving_world()
    old, new = stable(world), at_step(world, 1)
    command(world, paused=True)
    world.run(20)
    assert (world.status["phase"], world.condition("Ready")["reason"]) == ("Paused", "Paused")
    assert (world.status["stable"]["weight"], world.candidate()["weight"]) == ("90", "10")
    assert world.weights() == {old: 900, new: 100}
    world.errors[V2] = 0.3
    world.run_until(lambda w: w.status["phase"] == "RolledBack", 30)
    assert world.weights() == {old: 1000}


@pytest.mark.parametrize("where", ["start", "step"])
def test_pd_28_a_candidate_that_cannot_run_fails_at_once_with_tritons_words(where):
    """PD-28: not at a deadline; in the middle of a canary the same takes it back."""
    world = serving_world()
    old = stable(world)
    if where == "step":
        at_step(world, 1)
    world.broken[V2] = "failed to load 'digits': unexpected input"
    world.point_to(V2)
    world.run_until(lambda w: w.condition("Stalled") is not None, 12)
    assert world.weights() == {old: 1000}
    assert "unexpected input" in world.condition("Stalled")["message"]
    assert world.condition("Stalled")["reason"] == ("LoadFailed" if where == "start" else "RolledBack")


# what the issue asks besides


def test_lost_supervision_goes_back_to_where_it_was():
    world = serving_world(rollout={**CANARY, "supervision": {"timeout": "20s"}})
    old, new = stable(world), at_step(world, 1)
    world.run(2)
    for _ in range(25):
        world.step()
    assert [pod.weights for pod in world.routers.values()] == [{old: 1000}] * 2
    generation = world.split()["generation"]
    world.reconcile()
    assert world.split()["generation"] == generation + 1
    assert world.candidate()["stage"] == "Warming"
    assert "SupervisionLost" in [reason for reason, _ in world.events]
    world.settle()
    assert stable(world) == new
    assert world.lost == 0


def test_supervision_is_renewed_four_times_within_its_timeout_and_not_for_the_bad():
    world = serving_world(rate=200, rollout={"canary": {"steps": [{"weight": 10, "hold": "10m"}]}})
    at_step(world, 1)
    world.run(1)
    world.log.clear()
    world.run(120)
    assert world.log.count("apply TrafficSplit digits") in (7, 8, 9)
    assert world.log.count("status") <= 13
    for pod in world.routers.values():
        pod.deaf = True
    world.log.clear()
    world.run(50)
    assert "apply TrafficSplit digits" not in world.log


def test_a_promoted_revision_needs_no_supervision_and_is_not_watched():
    world = serving_world()
    at_step(world, 1)
    world.settle()
    world.now += timedelta(minutes=5)
    world.settle()
    writes = world.writes
    world.now += timedelta(hours=5)
    found = world.reconcile()
    assert (world.writes, found.observe, found.wake) == (writes, "", None)


def test_blue_green_keeps_the_previous_one_warm_and_returns_in_one_pass():
    world = serving_world(rollout={**BLUE_GREEN, "blueGreen": {"hold": "5s", "keepPrevious": "2m"}})
    old = stable(world)
    new = at_step(world, 1)
    assert world.weights() == {old: 50, new: 950}
    world.settle()
    assert stable(world) == new
    world.now += timedelta(seconds=60)
    world.settle()
    assert sorted(world.names("Deployment")) == sorted([old, new])
    world.point_to(V1)
    world.reconcile()
    world.reconcile()
    assert stable(world) == old
    assert world.weights() == {old: 1000}
    world.settle()
    world.now += timedelta(minutes=3)
    world.settle()
    world.settle()
    assert world.names("Deployment") == [old]
    assert world.lost == 0


def test_blue_green_does_not_return_at_once_to_one_that_was_taken_back_since():
    """It was kept warm, came back under a pause and failed then: the next time it is judged like any other."""
    world = serving_world(rollout={**BLUE_GREEN, "blueGreen": {"hold": "5s", "keepPrevious": "10m"}})
    at_step(world, 1)
    world.settle()
    new = stable(world)
    command(world, paused=True)
    world.point_to(V1)
    world.run(5)
    world.errors[V1] = 0.5
    command(world, paused=False)
    world.run_until(lambda w: w.status["phase"] == "RolledBack", 60)
    world.settle()
    command(world, retryToken="2")
    world.settle()
    assert world.outcomes()[-2:] == ["RolledBack", "RolledBack"]
    assert stable(world) == new


def test_a_preview_stays_while_the_strategy_is_edited_for_the_next_rollout():
    world = serving_world(rollout=BLUE_GREEN)
    world.point_to(V2)
    world.run_until(lambda w: w.candidate().get("stage") == "Previewing")
    command(world, strategy="Canary")
    world.run(3)
    assert world.candidate()["stage"] == "Previewing"
    assert "digits-preview" in world.names("Service")


def test_blue_green_waits_for_a_person_and_still_judges_the_switch():
    world = serving_world(rollout=BLUE_GREEN)
    world.errors[V2] = 0.3
    world.point_to(V2)
    world.run(20)
    assert (world.status["phase"], world.candidate()["stage"]) == ("Paused", "Previewing")
    assert world.watching == ""
    command(world, promote=world.candidate()["revision"])
    world.run_until(lambda w: w.status["phase"] == "RolledBack", 60)
    assert "digits-preview" not in world.names("Service")


def test_blue_green_without_a_router_has_a_preview_and_a_command():
    rollout = {"strategy": "BlueGreen", "blueGreen": {"autoPromote": False, "keepPrevious": "1m"}}
    world = serving_world(rollout=rollout, traffic=DIRECT)
    old = stable(world)
    world.point_to(V2)
    world.run(10)
    assert (world.status["phase"], world.selected()) == ("Paused", old)
    assert "digits-preview" in world.names("Service")
    new = world.candidate()["revision"]
    command(world, promote=new)
    world.run(3)
    assert (stable(world), world.selected()) == (new, new)
    assert "digits-preview" not in world.names("Service")
    world.now += timedelta(seconds=30)
    world.point_to(V1)
    world.run(3)
    assert world.selected() == old
    assert world.names("TrafficSplit") == []
    assert world.router is None


@pytest.mark.parametrize("value", ["{}", "{}/1"])
def test_promote_skips_what_is_left_and_ends_one_step(value):
    world = serving_world(rollout={"canary": {"steps": [{"weight": 10, "hold": "10m"}, {"weight": 50, "hold": "10m"}]}})
    new = at_step(world, 1)
    command(world, promote=value.format(new))
    world.run(6)
    if value == "{}":
        assert stable(world) == new
        assert world.status["history"][0]["by"] == "spec.rollout.promote"
    else:
        assert world.candidate()["step"] == 2
        world.run(20)
        assert world.candidate()["step"] == 2


def test_paused_stands_above_promote():
    world = serving_world()
    new = at_step(world, 1)
    command(world, paused=True, promote=new)
    world.run(10)
    assert world.weights()[new] == 100
    command(world, paused=False)
    world.settle()
    assert stable(world) == new


def test_observe_takes_nothing_back():
    world = serving_world(rollout={**CANARY, "analysis": {"mode": "Observe"}})
    world.errors[V2] = 0.5
    new = at_step(world, 2)
    world.run(1)
    assert world.candidate()["verdict"] == "Fail"
    world.settle()
    assert stable(world) == new


def test_a_changed_interface_gets_no_traffic_unless_that_is_meant():
    world = serving_world()
    known = facts(V2)
    world.reports[V2] = PreparationReport(
        facts=known.model_copy(update={"inputs": (known.inputs[0].model_copy(update={"name": "pixels"}),)})
    )
    world.point_to(V2)
    world.settle()
    assert world.condition("Stalled")["reason"] == "InterfaceChanged"
    assert "pixels" in world.condition("Stalled")["message"]
    assert len(world.names("Deployment")) == 1
    assert world.outcomes() == ["Promoted", "Failed"]
    command(world, analysis={"allowInterfaceChange": True})
    world.settle()
    assert world.status["stable"]["uri"] == V2


def test_leave_for_another_interface_that_is_taken_back_on_the_way_counts_for_the_next_rollout():
    world = serving_world(rollout={**CANARY, "analysis": {"allowInterfaceChange": True}})
    known = facts(V2)
    world.reports[V2] = PreparationReport(
        facts=known.model_copy(update={"inputs": (known.inputs[0].model_copy(update={"name": "pixels"}),)})
    )
    new = at_step(world, 1)
    command(world, analysis={})
    world.settle()
    assert (stable(world), world.outcomes()) == (new, ["Promoted", "Promoted"])
    world.point_to(V3)
    world.settle()
    assert world.condition("Stalled")["reason"] == "InterfaceChanged"


def test_failures_do_not_push_what_serves_out_of_history():
    world = serving_world()
    promoted = world.status["history"][0]
    for number in range(12):
        bad = f"oci://models.example/digits:bad{number}"
        world.broken[bad] = "cannot load"
        world.point_to(bad)
        world.settle()
    assert len(world.status["history"]) == 10
    assert [entry for entry in world.status["history"] if entry["outcome"] == "Promoted"] == [promoted]


def test_nothing_has_ended_before_it_began_whichever_clock_dated_that():
    (entry,) = remember((), "digits-1", "Aborted", Reason.ABORTED, timestamp(START + timedelta(seconds=5)), START)
    assert entry.start_time == entry.end_time == timestamp(START)


def test_what_a_slow_candidate_does_is_seen():
    world = serving_world(rollout={"canary": {"steps": [{"weight": 10, "hold": "1m"}]}})
    world.slowness[V2] = 0.8
    world.point_to(V2)
    world.run_until(lambda w: w.status["phase"] == "RolledBack", 200)
    assert world.status["failedRevision"]["reason"] == "LatencyWorse"


def test_a_rollback_is_written_before_anything_else_and_pods_go_after_the_drain():
    world = serving_world()
    world.errors[V2] = 0.5
    new = at_step(world, 1)
    world.log.clear()
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    last = len(world.log) - world.log[::-1].index("apply TrafficSplit digits") - 1
    assert world.log[last:] == ["apply TrafficSplit digits", "status"]
    world.run(20)
    assert new in world.names("Deployment")
    assert new in [item["name"] for item in world.split()["revisions"]]
    world.run(25)
    assert new not in world.names("Deployment")
    assert new not in [item["name"] for item in world.split()["revisions"]]
    split = len(world.log) - world.log[::-1].index("apply TrafficSplit digits")
    assert f"delete Deployment {new}" in world.log[split:]


def test_a_revision_that_was_live_before_drains_as_the_candidate_that_it_was_since():
    """Forward, back, and forward again: its requests end, though its time as the former stable one is long over."""
    world = serving_world()
    old = stable(world)
    world.point_to(V2)
    world.settle()
    world.now += timedelta(minutes=5)
    world.settle()
    assert world.names("Deployment") == [stable(world)]
    at_step(world, 1, V1)
    world.point_to(V2)
    world.run(20)
    assert old in world.names("Deployment")
    assert old in [item["name"] for item in world.split()["revisions"]]
    world.run(25)
    assert world.names("Deployment") == [stable(world)]


def test_a_router_pod_that_has_not_followed_keeps_the_pods():
    world = serving_world()
    new = at_step(world, 1)
    world.routers["router-1"].cut = True
    command(world, abort=new)
    world.run(120)
    assert new in world.names("Deployment")
    assert world.condition("TrafficSynced")["status"] == "False"
    assert "router-1" in world.condition("TrafficSynced")["message"]
    world.routers["router-1"].cut = False
    world.settle()
    assert new not in world.names("Deployment")
    assert world.condition("TrafficSynced")["status"] == "True"


def test_a_release_without_routers_is_adopted_without_a_lost_request():
    world = serving_world(traffic=DIRECT)
    old = stable(world)
    del world.deployment["spec"]["traffic"]
    world.settle()
    assert world.selected_router() == "default"
    world.point_to(V2)
    world.settle()
    assert stable(world) != old
    assert world.lost == 0


def test_a_candidate_waits_until_requests_come_through_the_router():
    world = serving_world(traffic=DIRECT)
    old = stable(world)
    world.fleet_size = 0
    world.edit(traffic={}, model={"uri": V2})
    world.run(30)
    assert world.selected() == old
    assert world.candidate()["stage"] == "Warming"
    assert "no router pod is Ready" in world.status["message"]
    world.fleet_size = 2
    world.settle()
    assert world.status["stable"]["uri"] == V2
    assert world.lost == 0


@pytest.mark.parametrize(
    ("rollout", "shares"),
    [(CANARY, [100, 500]), (CANARY | {"strategy": "Canary"}, [100, 500]), (BLUE_GREEN, [950])],
    ids=["by default", "canary", "blue/green"],
)
def test_a_candidate_that_comes_back_to_the_router_begins_again_and_skips_no_step(rollout, shares):
    """Out to the Service and back in the middle of a rollout: it has steps again, and their time is their own."""
    world = serving_world(replicas=4, rollout=rollout)
    old = stable(world)
    world.point_to(V2)
    world.run_until(lambda w: w.candidate().get("stage") in ("Stepping", "Previewing"))
    world.run(4)
    world.edit(traffic=DIRECT)
    world.reconcile()
    world.edit(traffic={})
    command(world, promote=world.candidate()["revision"] if rollout is BLUE_GREEN else None)
    seen: dict[int, int] = {}
    for _ in range(120):
        world.reconcile()
        if world.candidate():
            share = 1000 - world.weights()[old] if old in world.weights() else 1000
            seen[share] = seen.get(share, 0) + 1
        world.step()
    assert stable(world) != old
    assert [share for share in seen if share] == [*shares, 1000]
    assert all(seen[share] >= 5 for share in shares), "each step is held for its time"


@pytest.mark.parametrize("elsewhere", [DIRECT, {"router": {"name": "own"}}])
def test_leaving_a_router_outlives_the_connections_that_clients_keep(elsewhere):
    world = serving_world()
    old = stable(world)
    world.edit(traffic=elsewhere)
    world.reconcile()
    assert world.selected() == old
    assert world.split()["router"] == "default"
    world.run(30)
    assert world.names("TrafficSplit") == ["digits"]
    world.run(40)
    assert "leave default" in world.log
    assert world.names("TrafficSplit") == []
    if elsewhere != DIRECT:
        assert world.condition("Stalled")["reason"] == "RouterNotFound"
        world.edit(traffic={})
    else:
        assert world.status["phase"] == "Available"
        assert world.condition("TrafficSynced") is None
    assert world.lost == 0


def test_a_router_that_is_left_a_second_time_is_not_left_since_the_first():
    """Nobody could write between the two that clients had come back; what status tells of the first is over."""
    world = serving_world()
    world.deployment["status"]["leavingSince"] = timestamp(world.now - timedelta(minutes=5))
    world.edit(traffic=DIRECT)
    world.run(50)
    assert world.names("TrafficSplit") == ["digits"]
    world.run(20)
    assert world.names("TrafficSplit") == []


def test_an_empty_status_is_rebuilt_from_split_and_records():
    world = serving_world()
    old, new = stable(world), at_step(world, 2)
    del world.deployment["status"]
    world.reconcile()
    assert stable(world) == old
    assert world.candidate()["revision"] == new
    assert world.weights() == {old: 1000}
    world.settle()
    assert stable(world) == new
    assert world.lost == 0


def test_a_failing_preparation_in_the_middle_takes_the_candidate_back_too():
    world = serving_world()
    old, new = stable(world), at_step(world, 1)
    world.reports[V3] = failing(Reason.INVALID_MODEL)
    world.point_to(V3)
    world.settle()
    assert world.weights() == {old: 1000}
    assert outcome(world, new)["outcome"] == "Superseded"
    assert world.condition("Stalled")["reason"] == "InvalidModel"


def test_the_deadline_pauses_with_an_outlook_and_never_takes_back():
    rollout = {"canary": {"steps": [{"weight": 10, "hold": "5s"}]}, "analysis": {"deadline": "30s"}}
    world = serving_world(rate=40, rollout=rollout)
    new = at_step(world, 1)
    world.run(60)
    assert (world.status["phase"], world.condition("Ready")["reason"]) == ("Paused", "Paused")
    assert "more requests" in world.status["message"]
    assert "minutes" in world.status["message"]
    world.rate = 2000
    world.settle()
    assert stable(world) == new


def test_under_an_autoscaler_a_candidate_grows_with_its_share():
    world = serving_world(autoscaling={"min": 1, "max": 10, "target": {"cpuPercent": 70}})
    old = ObjectKey("Deployment", "vision", stable(world))
    world.objects[old]["spec"]["replicas"] = 5
    world.step()
    new = ObjectKey("Deployment", "vision", at_step(world, 1))
    assert world.objects[new]["spec"]["replicas"] == 1
    at_step(world, 2)
    assert world.objects[new]["spec"]["replicas"] == 3
    world.settle()
    assert world.objects[new]["spec"]["replicas"] == 5
    assert world.objects[ObjectKey("HorizontalPodAutoscaler", "vision", "digits")]["spec"]["minReplicas"] == 1
    assert world.lost == 0


def test_a_full_status_stays_below_16_kib():
    long = "oci://models.example/" + "a" * 2000
    steps = [{"weight": f"{n}.{n % 10}", "hold": "10m"} for n in range(1, 21)]
    world = serving_world(rollout={"canary": {"steps": steps}})
    for number in range(10):
        world.broken[f"{long}{number}"] = "x" * 3000
        world.point_to(f"{long}{number}")
        world.run(3)
    last = facts("last", warnings=("w" * 300,) * 8, source_format="f" * 20, precision="INT8")
    result = {"asked": "a" * 64, "measured": "m" * 160, "passed": True}
    gates = tuple(GateResult(name=f"throughput.batch{n:02}", **result) for n in range(16))
    world.reports[long] = PreparationReport(facts=last, gates=gates, report=last.digest, resolved="r" * 256)
    world.errors[V1] = 0.004
    world.outage = 0.002
    at_step(world, 1, long)
    world.run(30)
    status = world.deployment["status"]
    sums = status["candidate"]["analysis"]["sums"]
    status["candidate"]["analysis"]["sums"] = ""
    assert len(sums) <= 6144
    longest = {"message": "m" * MESSAGE}
    conditions = [{**condition, **longest} for condition in status["conditions"][:2]] + status["conditions"][2:]
    preparation = {**status["preparation"], "refreshFailure": "x" * REFRESH_FAILURE}
    assert len(preparation["gates"]) == 16
    full = {**status, **longest, "conditions": conditions, "preparation": preparation}
    assert len(status["history"]) == 10
    assert len(json.dumps(full, separators=(",", ":"))) + 6144 < 16 * 1024


def test_the_users_limit_of_records_counts():
    world = serving_world(traffic={**DIRECT, "timeout": "1s"}, rollout={"revisionHistoryLimit": 1})
    for number in range(5):
        world.point_to(f"oci://models.example/digits:n{number}")
        world.settle()
        world.now += timedelta(minutes=2)
        world.settle()
    assert len(world.names("ControllerRevision")) == 2
