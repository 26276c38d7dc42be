"""A URI that comes to mean something else: asked for each refresh, prepared, rolled out; and nothing without news."""

import time

import pytest

from .cluster import items
from .deployments import is_ready
from .models import linear_model

FIRST, SECOND = linear_model(21), linear_model(22)
pytestmark = pytest.mark.timeout(600)


def questions(cluster, namespace) -> set[str]:
    jobs = items(cluster, "jobs", namespace, "app.kubernetes.io/component=resolve")
    return {job["metadata"]["uid"] for job in jobs if job.get("status", {}).get("succeeded")}


def test_a_tag_that_moved_is_a_new_revision(cluster, namespace, deploy, store):
    moving = deploy("moving")
    moving.apply(store.push(FIRST, "moving"), model={"refresh": "1m"})
    before = moving.wait_ready()["status"]
    assert before["preparation"]["resolved"] == before["stable"]["digest"]
    deadline = time.monotonic() + 240
    while not questions(cluster, namespace):
        assert time.monotonic() < deadline, "nobody has asked the source"
        time.sleep(1)
    now = moving.get()["status"]
    assert (now["preparation"], now["stable"]["revision"]) == (before["preparation"], before["stable"]["revision"])

    store.push(SECOND, "moving")
    after = moving.wait(lambda md: md["status"]["stable"]["revision"] != before["stable"]["revision"], 240)["status"]
    assert after["preparation"]["resolved"] == after["stable"]["digest"] != before["stable"]["digest"]
    moving.wait(is_ready)
    moving.wait_answers_as(SECOND)
