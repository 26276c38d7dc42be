"""Canaries under load: promoted on evidence, taken back on evidence, and steered by people."""

import pytest
from examples.demo.faults import Fault

from .cluster import wait_gone
from .deployments import Deployed, condition
from .offered import describe, lost
from .rollouts import LONG_CANARY, QUICK_CANARY, rolled_out, stalled

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def under_load(cluster, namespace, store, tmp_path_factory):
    with rolled_out(Deployed(cluster, namespace, "canary"), store, tmp_path_factory.mktemp("load")) as rolled:
        yield rolled


@pytest.fixture
def rolled(under_load):
    under_load.settle()
    return under_load


def test_a_good_one_is_promoted_step_by_step_and_no_request_is_lost(rolled):
    before = rolled.stable
    with rolled.watch() as route:
        candidate = rolled.start(rolled.versions.good(2))
        status = rolled.wait_promoted()
        rolled.lost_nothing(at_least=1000)
        weights = [route.weights[number].get(candidate, 0) for number in sorted(route.weights)]

    seen = list(dict.fromkeys(weight for weight in weights if weight))
    assert seen == [200, 500, 1000], f"weights written: {weights}"
    assert float(status["stable"].get("weight") or 0) == 100
    assert before != candidate
    rolled.deployed.wait(lambda md: condition(md, "Ready").get("status") == "True")


TRITON_SAYS = {"Error": "none as failed", "RenamedInput": "does not count what it refuses"}
"""Of kinds of which Triton always says the same, whatever it was asked before it was taken back."""


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        (Fault("Error", 100), {"ErrorRateWorse", "ErrorRateAboveMaximum"}),
        (Fault("Error", 20), {"ErrorRateWorse", "ErrorRateAboveMaximum"}),
        (Fault("GrpcError"), {"ErrorRateWorse", "ErrorRateAboveMaximum"}),
        (Fault("RenamedInput"), {"ClientErrorRateWorse"}),
        (Fault("Hang"), {"ErrorRateWorse", "ErrorRateAboveMaximum", "LatencyWorse"}),
        (Fault("Die", after=10), {"ErrorRateWorse", "ErrorRateAboveMaximum", "Crashing"}),
    ],
    ids=lambda value: f"{value.kind}-{value.percent}" if isinstance(value, Fault) else "",
)
def test_a_bad_one_is_taken_back_with_its_reason_and_stable_loses_nothing(rolled, fault, reasons):
    stable = rolled.stable

    rolled.start(rolled.versions.faulty(fault), LONG_CANARY)
    entry = rolled.wait_taken_back()

    status = rolled.status()
    assert entry["reason"] in reasons
    assert status["stable"]["revision"] == stable
    assert status["phase"] == "RolledBack"
    assert status["failedRevision"]["revision"] == rolled.candidate
    assert any(digit.isdigit() for digit in status["failedRevision"]["message"]), "the message states numbers"
    assert stalled(status)
    rolled.all_to_stable()
    said = TRITON_SAYS.get(fault.kind, "")
    rolled.wait(lambda now: said in (now["failedRevision"].get("diagnosis") or ""))
    rolled.load.wait_settled()
    failed = lost(rolled.outcomes(), faulty=rolled.candidate)
    others = [one for one in failed if one.revision or fault.kind != "Hang"]
    assert not others, f"{len(others)} requests lost: {describe(others)}"


def test_one_that_is_merely_slow_is_taken_back(rolled):
    rolled.start(rolled.versions.faulty(Fault("Slow", seconds=0.3)), LONG_CANARY)

    entry = rolled.wait_taken_back(180)

    assert entry["reason"] == "LatencyWorse"
    rolled.lost_nothing()


def test_the_same_manifest_again_starts_nothing_and_a_new_token_tries_again(rolled):
    rolled.start(rolled.versions.faulty(Fault("Error", 100)), LONG_CANARY)
    rolled.wait_taken_back()
    failed = rolled.candidate

    rolled.change()
    status = rolled.wait(lambda now: now["phase"] == "RolledBack")
    assert not status.get("candidate")
    assert attempts(status, failed) == 1
    rolled.change(retryToken="again")
    status = rolled.wait(lambda now: attempts(now, failed) == 2)
    rolled.wait_taken_back()

    assert status["observedRetryToken"] == "again"
    rolled.lost_nothing(faulty=failed)


def attempts(status, revision):
    """How often it was tried, and the end told: what stays when an attempt is over before anybody looks."""
    return sum(entry["revision"] == revision for entry in status.get("history") or ())


def test_paused_it_stays_where_it_is_and_promoted_it_goes_live(rolled):
    candidate = rolled.start(rolled.versions.good(3), {**QUICK_CANARY, "paused": True})
    held = rolled.wait(lambda now: now["phase"] == "Paused")["candidate"]
    assert float(held.get("weight") or 0) == 0
    assert rolled.answered_by(candidate) == 0, "no client has met it yet"

    rolled.change(paused=False, promote=candidate)
    rolled.wait_promoted()

    rolled.lost_nothing()


def test_aborted_it_is_taken_back_and_stays_back(rolled):
    candidate = rolled.start(rolled.versions.good(4), LONG_CANARY)
    rolled.wait_weight()

    rolled.change(abort=candidate)
    entry = rolled.wait_taken_back(outcome="Aborted")

    assert entry["reason"] == "Aborted"
    rolled.lost_nothing()
    assert rolled.answered_by(candidate) > 0


def test_a_newer_revision_takes_the_place_of_the_one_on_its_way(rolled):
    first = rolled.start(rolled.versions.good(5), LONG_CANARY)
    rolled.wait_weight()

    second = rolled.start_next(rolled.versions.good(6), QUICK_CANARY)
    status = rolled.wait_promoted()

    outcomes = {one["revision"]: one["outcome"] for one in status["history"]}
    assert outcomes[first] == "Superseded"
    assert outcomes[second] == "Promoted"
    rolled.lost_nothing()


def test_back_to_stable_in_the_middle_of_a_rollout(rolled):
    candidate, stable = rolled.start(rolled.versions.good(7), LONG_CANARY), rolled.stable
    rolled.wait_weight()

    rolled.settle_keeping()
    status = rolled.status()

    assert status["stable"]["revision"] == stable
    assert not stalled(status)
    rolled.all_to_stable()
    rolled.lost_nothing()
    labels = f"penstock.dev/revision={candidate}"
    wait_gone(rolled.deployed.cluster, "deployments,pods", rolled.deployed.namespace, labels)
