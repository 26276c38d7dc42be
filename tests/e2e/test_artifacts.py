"""The artifact store: what serving pods live from, and what happens when it loses something."""

from .cluster import find, wait_passed
from .deployments import condition
from .models import linear_model
from .store import Store

MODEL = linear_model(11)


def test_a_lost_artifact_is_prepared_again_and_comes_out_the_same(cluster, namespace, deploy, store):
    lost = deploy("lost")
    lost.apply(store.push(MODEL, "lost"))
    revision = lost.wait_ready()["status"]["stable"]["revision"]
    jobs = lost.jobs()
    record = find(cluster, "controllerrevision", revision, "-n", namespace)
    layer = record["data"]["facts"]["artifact"]["layer"]
    blobs = Store(cluster, namespace, "pull", "delete")
    assert blobs.has(layer)

    blobs.delete(layer)
    assert not blobs.has(layer)
    (pod,) = lost.serving_pods()
    before = lost.get()
    labels = f"penstock.dev/revision={revision}"
    cluster.call(cluster.kubectl, "delete", "pods", "-l", labels, "-n", namespace, "--wait=false")
    told = wait_passed(cluster, before, lambda md: condition(md, "Ready").get("reason") == "ArtifactMissing")
    assert layer in condition(told, "Reconciling")["message"]

    found = lost.wait(lambda md: condition(md, "Ready").get("status") == "True", 180)
    assert found["status"]["stable"]["revision"] == revision
    assert blobs.has(layer)
    assert lost.jobs().isdisjoint(jobs), "a new preparation put it there"
    assert pod not in lost.serving_pods()
    lost.wait_answers_as(MODEL)


def test_pods_start_without_the_source(cluster, namespace, deploy, store):
    moved = deploy("moved")
    moved.apply(store.push(MODEL, "moved"))
    moved.wait_ready()
    store.push(linear_model(12), "moved")

    cluster.call(cluster.kubectl, "scale", "md/moved", "-n", namespace, "--replicas=2")
    moved.wait(lambda md: md["status"]["stable"]["readyReplicas"] == 2)

    assert all(moved.answers_as(MODEL) for _ in range(8)), "a tag that moved moves no revision"
