"""Replicas by an autoscaler that really scales, and a hand-over that never passes through 1."""

import pytest

from .cluster import find, wait_for, wait_passed
from .conftest import nothing_lost
from .models import linear_model

FIRST, SECOND = linear_model(21), linear_model(22)
RESTLESS = {
    "scaleUp": {"stabilizationWindowSeconds": 0},
    "scaleDown": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 5}],
    },
}
ONLY_UP = {"scaleDown": {"selectPolicy": "Disabled"}}


def replicas(found):
    return found["spec"].get("replicas"), found["status"].get("readyReplicas", 0)


def owner_of_replicas(cluster, namespace, name):
    found = find(cluster, "deployment", name, "-n", namespace, "--show-managed-fields")
    return {
        entry["manager"]
        for entry in found["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


def test_replicas_are_handed_over_and_never_reset(cluster, namespace, deploy, store):
    handed = deploy("handed")
    handed.apply(store.push(FIRST, "scaled"), replicas=2)
    revision = handed.wait(lambda md: md["status"].get("stable", {}).get("readyReplicas") == 2)["status"]["stable"][
        "revision"
    ]
    pods = handed.serving_pods()
    assert owner_of_replicas(cluster, namespace, revision) == {"penstock"}

    autoscaling = {"min": 1, "max": 3, "target": {"cpuPercent": 1000}, "behavior": ONLY_UP}
    handed.apply(handed.get()["spec"]["model"]["uri"], replicas=1, autoscaling=autoscaling)
    scaler = wait_for(cluster, "hpa", namespace, "handed", lambda hpa: hpa["status"].get("currentReplicas") == 2)
    handed.wait_ready()

    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": revision}
    assert "penstock" not in owner_of_replicas(cluster, namespace, revision)
    assert handed.serving_pods() == pods


@pytest.mark.timeout(600)
def test_scales_with_the_load_keeps_its_size_in_a_replacement_and_shrinks_again(
    cluster, namespace, deploy, load, store
):
    busy = deploy("busy")
    first, second = store.push(FIRST, "scaled"), store.push(SECOND, "replaced")
    settings = {"autoscaling": {"min": 1, "max": 2, "target": {"cpuPercent": 40}, "behavior": RESTLESS}}
    busy.apply(first, **settings)
    revision = busy.wait_ready()["status"]["stable"]["revision"]
    busy.wait_answers_as(FIRST)

    with load(busy) as traffic:
        wait_for(cluster, "deployment", namespace, revision, lambda found: replicas(found) == (2, 2), 200)
        before = busy.get()
        busy.apply(second, **settings)
        wait_passed(cluster, before, lambda md: (md["status"].get("candidate") or {}).get("replicas") == 2)
        after = busy.wait_ready()["status"]["stable"]["revision"]
        assert after != revision
        assert replicas(find(cluster, "deployment", after, "-n", namespace)) == (2, 2)
        busy.wait_answers_as(SECOND)
        nothing_lost(traffic)

    wait_for(cluster, "deployment", namespace, after, lambda found: replicas(found) == (1, 1), 240)


def test_without_an_autoscaler_again_the_spec_decides(cluster, namespace, deploy, store):
    again = deploy("again")
    uri = store.push(FIRST, "scaled")
    again.apply(uri, autoscaling={"min": 2, "max": 2, "target": {"cpuPercent": 90}})
    revision = again.wait(lambda md: (md["status"].get("stable") or {}).get("readyReplicas") == 2)["status"]["stable"][
        "revision"
    ]

    again.apply(uri, replicas=1)

    wait_for(cluster, "deployment", namespace, revision, lambda found: replicas(found) == (1, 1))
    again.wait_ready()
    assert not find(cluster, "hpa", "again", "-n", namespace)
