"""From apply to a prediction, from one revision to the next, and to nothing at all."""

import json
import time

import pytest

from .cluster import find, items, wait_for, wait_gone
from .conftest import nothing_lost
from .deployments import KIND, OWNED, condition
from .disturb import wait_until
from .models import linear_model

FIRST, SECOND = linear_model(1), linear_model(2)


@pytest.fixture(scope="module")
def first(store):
    return store.push(FIRST, "first")


@pytest.fixture(scope="module")
def second(store):
    return store.push(SECOND, "second")


def test_applied_prepared_and_answering_as_onnxruntime(deploy, first):
    digits = deploy("plain")
    digits.apply(first)

    found = digits.wait_ready()

    assert found["status"]["phase"] == "Available"
    assert found["status"]["url"] == f"http://plain.{digits.namespace}.svc:8000"
    assert condition(found, "Available")["status"] == condition(found, "Prepared")["status"] == "True"
    digits.wait_answers_as(FIRST)
    record = find(digits.cluster, "controllerrevision", found["status"]["stable"]["revision"], "-n", digits.namespace)
    assert record["data"]["facts"]["digest"] == found["status"]["stable"]["digest"]
    budget = find(digits.cluster, "pdb", "plain", "-n", digits.namespace)
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["status"]["expectedPods"] == 1


def test_the_users_object_is_never_written(deploy, first):
    digits = deploy("untouched")
    digits.apply(first)

    found = digits.wait_ready()

    text = digits.cluster.call(
        digits.cluster.kubectl, "get", KIND, "untouched", "-n", digits.namespace, "-o", "json", "--show-managed-fields"
    )
    entries = json.loads(text)["metadata"]["managedFields"]
    assert {entry.get("subresource") for entry in entries if entry["manager"] != "e2e"} == {"status"}
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    assert found["metadata"]["generation"] == 1


def test_a_changed_model_goes_live_when_ready_and_loses_no_request(deploy, load, first, second):
    digits = deploy("changed")
    digits.apply(first)
    before = digits.wait_ready()["status"]["stable"]["revision"]
    digits.wait_answers_as(FIRST)

    with load(digits) as traffic:
        traffic.wait_for(100)
        digits.apply(second)
        found = digits.wait_ready()
        digits.wait_answers_as(SECOND)
        wait_gone(digits.cluster, "deployments,pods", digits.namespace, f"penstock.dev/revision={before}")
        nothing_lost(traffic, at_least=500)

    after = found["status"]["stable"]["revision"]
    assert after != before
    assert [entry["outcome"] for entry in found["status"]["history"]] == ["Promoted", "Promoted"]
    records = {item["metadata"]["name"] for item in digits.owned("controllerrevisions")}
    assert {before, after} <= records


def test_a_server_setting_makes_a_revision_without_a_preparation(deploy, first):
    digits = deploy("settings")
    digits.apply(first)
    before, jobs = digits.wait_ready(), digits.jobs()

    digits.apply(first, server={"warmup": "None"})
    after = digits.wait_ready()

    assert after["status"]["stable"]["revision"] != before["status"]["stable"]["revision"]
    assert after["status"]["stable"]["digest"] == before["status"]["stable"]["digest"]
    assert digits.jobs() == jobs


def test_a_revision_comes_back_without_a_preparation(deploy, first, second):
    digits = deploy("back")
    digits.apply(first)
    revision = digits.wait_ready()["status"]["stable"]["revision"]
    digits.apply(second)
    digits.wait_ready()
    jobs = digits.jobs()

    digits.apply(first)
    found = digits.wait_ready()

    assert found["status"]["stable"]["revision"] == revision
    assert digits.jobs() == jobs
    digits.wait_answers_as(FIRST)


def test_scaled_through_the_scale_subresource(deploy, first):
    digits = deploy("scaled")
    digits.apply(first)
    revision = digits.wait_ready()["status"]["stable"]["revision"]
    (kept,) = digits.serving_pods()

    def scale(count):
        digits.cluster.call(digits.cluster.kubectl, "scale", "md/scaled", "-n", digits.namespace, f"--replicas={count}")

    scale(2)
    found = digits.wait(lambda md: md["status"].get("stable", {}).get("readyReplicas") == 2)
    told = json.loads(
        digits.cluster.call(
            digits.cluster.kubectl, "get", "md/scaled", "-n", digits.namespace, "--subresource=scale", "-o", "json"
        )
    )

    assert told["spec"]["replicas"] == told["status"]["replicas"] == 2
    selected = items(digits.cluster, "pods", digits.namespace, told["status"]["selector"])
    assert {pod["metadata"]["uid"] for pod in selected} == set(digits.serving_pods())
    assert len(selected) == 2
    assert kept in digits.serving_pods()
    assert found["status"]["stable"]["revision"] == revision

    scale(0)
    found = digits.wait(lambda md: condition(md, "Available").get("status") == "False")
    assert "scaled to 0" in condition(found, "Available")["message"]
    assert condition(found, "Ready")["status"] == "True", "nothing was asked for, and nothing runs"

    scale(1)
    digits.wait(lambda md: condition(md, "Available").get("status") == "True")
    digits.wait_answers_as(FIRST)


def test_deleted_without_a_trace_and_the_secrets_go_with_the_last(deploy, first):
    one, other = deploy("one"), deploy("other")
    for deployed in (one, other):
        deployed.apply(first)
    for deployed in (one, other):
        deployed.wait_ready()
    secrets = ("penstock-registry-pull", "penstock-registry-push")
    for left in items(one.cluster, KIND, one.namespace):
        if left["metadata"]["name"] not in ("one", "other"):
            one.cluster.call(one.cluster.kubectl, "delete", KIND, left["metadata"]["name"], "-n", one.namespace)

    one.delete()
    wait_gone(one.cluster, OWNED, one.namespace, "penstock.dev/deployment=one")
    assert all(find(one.cluster, "secret", name, "-n", one.namespace) for name in secrets)
    other.wait_answers_as(FIRST)

    other.delete()
    wait_gone(one.cluster, OWNED, one.namespace, "app.kubernetes.io/managed-by=penstock")
    for name in secrets:
        wait_until(lambda name=name: not find(one.cluster, "secret", name, "-n", one.namespace), f"{name} is gone")


def test_one_that_is_deleted_while_it_is_prepared_leaves_nothing(deploy, first):
    digits = deploy("hasty")
    digits.apply(first, {"servedName": "hasty"})
    wait_until(digits.jobs, "its preparation has begun")

    digits.delete()

    wait_gone(digits.cluster, OWNED, digits.namespace, "penstock.dev/deployment=hasty")
    quiet_until = time.monotonic() + 3
    while time.monotonic() < quiet_until:
        assert not digits.owned("jobs,deployments,services"), "made again after the deletion"
        time.sleep(0.5)


def test_history_is_kept_and_not_for_ever(deploy, first):
    """Without replicas a revision goes live at once: it has all the pods it asks for."""
    digits = deploy("history")
    names = []
    for number in range(8):
        digits.apply(first, replicas=0, pod={"env": [{"name": "ROUND", "value": str(number)}]})
        names.append(digits.wait_ready()["status"]["stable"]["revision"])

    def records():
        return {item["metadata"]["name"] for item in digits.owned("controllerrevisions")}

    assert len(set(names)) == 8
    wait_until(lambda: not records() & set(names[:2]), "the oldest are gone")
    assert records() == set(names[2:]), "the one that serves, and five before it"


def test_a_route_edited_by_hand_is_put_right_and_goes_when_it_is_not_asked_for(deploy, first):
    digits = deploy("edited")
    digits.apply(first, traffic={"timeout": "1s"})
    digits.wait_ready()
    split = ("trafficsplits.penstock.dev", digits.namespace, "edited")
    strange = json.dumps({"spec": {"stickiness": {"header": "x-strange"}}})

    digits.cluster.call(
        digits.cluster.kubectl, "patch", split[0], "edited", "-n", digits.namespace, "--type=merge", "-p", strange
    )
    wait_for(digits.cluster, *split, lambda found: "stickiness" not in found["spec"])

    digits.apply(first, traffic={"timeout": "1s", "provider": "Service"})
    digits.wait_ready()
    wait_gone(digits.cluster, split[0], digits.namespace, "penstock.dev/deployment=edited", 180)
    digits.wait_answers_as(FIRST)
