"""What a second review found about rollouts: orders that were not heard, old evidence, clocks, and other releases."""

import json
from datetime import timedelta

import pytest

from penstock.api.facts import Tensor
from penstock.api.preparation import PreparationReport

from .cramped import cramped
from .test_pd_cases import CANARY, at_step, command, serving_world
from .world import DIRECT, V2, facts

AFTER_A_PERSON = {"strategy": "BlueGreen", "blueGreen": {"autoPromote": False}}


@pytest.mark.parametrize("rollout", [{}, AFTER_A_PERSON], ids=["at once", "after a preview"])
def test_a_paused_rollout_behind_a_service_is_not_promoted(rollout):
    world = serving_world(traffic=DIRECT, rollout=rollout)
    before = world.selected()
    command(world, paused=True)
    world.point_to(V2)
    world.run(5)
    command(world, promote=world.candidate()["revision"])
    world.run(5)
    assert world.selected() == before
    assert world.status["phase"] == "Paused"
    assert "spec.rollout.paused" in world.status["message"]
    command(world, paused=False)
    world.run(5)
    assert world.selected() != before


def test_leaving_the_router_promotes_no_paused_candidate():
    world = serving_world()
    at_step(world, 1)
    command(world, paused=True)
    world.edit(traffic=DIRECT)
    world.run(5)
    assert world.status["phase"] == "Paused"
    assert world.outcomes() == ["Promoted"]


def test_a_candidate_with_evidence_against_it_gets_nothing_when_it_is_warm_again():
    """It turned bad while nobody enforced anything; then the routers went to stable by themselves."""
    steps = {"steps": [{"weight": 10, "hold": "10m"}]}
    world = serving_world(rollout={"canary": steps, "analysis": {"mode": "Observe"}})
    name = at_step(world, 1)
    world.errors[V2] = 0.5
    world.run_until(lambda w: w.candidate()["verdict"] == "Fail")
    world.now += timedelta(minutes=2)
    world.step()
    world.run_until(lambda w: w.candidate()["stage"] == "Warming")
    command(world, analysis={"mode": "Enforce"})
    world.run_until(given_or_gone(name))
    assert name not in world.weights()
    assert world.status["failedRevision"]["reason"] == "ErrorRateWorse"


def given_or_gone(name: str):
    return lambda world: not world.candidate() or name in world.weights()


def test_nobody_is_taken_back_for_lack_of_requests_that_nobody_could_count():
    analysis = {"onNoTraffic": "Rollback", "deadline": "10s"}
    world = serving_world(rate=0, rollout={**CANARY, "analysis": analysis, "supervision": {"onLoss": "Keep"}})
    at_step(world, 1)
    world.counters = False
    for pod in world.routers.values():
        pod.deaf = True
    world.run(40)
    assert world.candidate()["stage"] == "Stepping"
    assert world.condition("Ready")["reason"] in ("NoEvidence", "Paused")


def test_counters_of_a_time_to_come_are_not_fresh():
    """A router pod's clock was an hour ahead and is right again: nothing newer counts for an hour."""
    world = serving_world()
    at_step(world, 1)
    world.run(2)
    told = world.deployment["status"]["candidate"]["analysis"]
    told["asOf"] += 3600
    renewed = world.split()["supervision"]["renewTime"]
    world.run(16)
    assert world.split()["supervision"]["renewTime"] == renewed, "a blind operator renews nothing"
    assert world.condition("Ready")["reason"] == "NoEvidence"


@pytest.mark.parametrize("rules", ['{"tolerance": 2.0, "fromTheFuture": 1}', "{}", "", "[1]", '{"alpha": "0.01"}'])
def test_rules_that_another_release_wrote_stop_nothing(rules):
    world = serving_world()
    name = at_step(world, 1)
    world.deployment["status"]["candidate"]["analysis"]["rules"] = rules
    world.errors[V2] = 0.5
    world.run_until(lambda w: not w.candidate())
    assert world.status["failedRevision"]["revision"] == name
    assert json.dumps(world.status["history"][0]["outcome"]) == '"RolledBack"'


@pytest.mark.parametrize("failures", [8, 9, 10, 11, 13])
def test_the_revision_before_keeps_its_pods_for_a_drain_however_many_have_failed_since(failures):
    world = serving_world(traffic=DIRECT, rollout={"strategy": "Immediate"})
    old = world.status["stable"]["revision"]
    for number in range(failures):
        bad = f"oci://models.example/digits:bad{number}"
        world.broken[bad], world.reports[bad] = "no", PreparationReport(facts=facts(bad))
        world.point_to(bad)
        world.settle()
    world.point_to(V2)
    world.run_until(lambda w: w.status["stable"]["revision"] != old)
    world.reconcile()
    assert old in world.names("Deployment")
    assert len(world.status["history"]) == min(10, failures + 2)


def test_leave_for_another_interface_is_not_asked_again_when_supervision_was_lost():
    steps = {"steps": [{"weight": 10, "hold": "30s"}]}
    leave = {"allowInterfaceChange": True}
    world = serving_world(rollout={"canary": steps, "analysis": leave})
    wider = (Tensor(name="X", data_type="FP32", dims=(-1, 65)),)
    world.reports[V2] = PreparationReport(facts=facts(V2, inputs=wider))
    at_step(world, 1)
    world.run(3)
    command(world, analysis={})
    for pod in world.routers.values():
        pod.expired = True
    world.run_until(lambda w: w.candidate().get("stage") == "Warming")
    world.run(3)
    assert world.candidate()["stage"] == "Stepping"
    assert world.outcomes() == ["Promoted"]


def test_a_paused_exchange_of_pods_is_not_taken_back_for_having_none_overnight():
    world = cramped(replicas=3, replace={"hold": "30s"})
    rollout = {**world.deployment["spec"]["rollout"], "analysis": {"deadline": "60s"}}
    world.edit(rollout=rollout)
    world.settle()
    world.point_to(V2)
    world.run_until(lambda w: (w.candidate().get("stage"), w.candidate().get("step")) == ("Stepping", 1))
    world.edit(rollout={**rollout, "paused": True}, replicas=0)
    world.run(150)
    assert world.outcomes() == ["Promoted"]
    assert world.candidate()
