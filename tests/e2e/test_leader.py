"""Who leads: one of several, the next within seconds, and nobody over a CRD that is too old."""

import time
from datetime import datetime

import pytest

from .cluster import OPERATORS, SYSTEM, items, the_only_operator, wait_for, watch
from .models import linear_model

MODEL = linear_model(31)
CRD = "modeldeployments.penstock.dev"
SCHEMA = "penstock.dev/schema"


def operators(cluster):
    """Name by uid of those that are not going away."""
    pods = [pod["metadata"] for pod in items(cluster, "pods", SYSTEM, OPERATORS)]
    return {pod["uid"]: pod["name"] for pod in pods if "deletionTimestamp" not in pod}


def holder(lease):
    return lease["spec"].get("holderIdentity") or ""


@pytest.fixture
def two(chart):
    """Two replicas of the operator."""
    with chart.changed(operator__replicas=2):
        yield


def test_the_second_leads_seconds_after_the_first_was_killed(cluster, deploy, store, two):
    uri = store.push(MODEL, "led")
    # a release uninstalled before takes its rights first and leaves its lease to run out
    first = holder(
        wait_for(cluster, "lease", SYSTEM, "penstock", lambda lease: holder(lease) in operators(cluster), 120)
    )
    cluster.call(cluster.kubectl, "delete", "pod", operators(cluster)[first], "-n", SYSTEM, "--wait=false")
    killed = time.time()
    lease = wait_for(cluster, "lease", SYSTEM, "penstock", lambda lease: holder(lease) not in ("", first))
    second, seconds = holder(lease), datetime.fromisoformat(lease["spec"]["acquireTime"]).timestamp() - killed

    assert seconds < 15, f"the lease was taken over after {seconds:.1f} s; it was released at the end"
    assert second in operators(cluster)
    led = deploy("led")
    led.apply(uri)
    led.wait_ready()


def test_nobody_leads_over_an_older_crd_and_the_log_says_why(cluster, chart, deploy, store):
    uri = store.push(MODEL, "led")
    crd = cluster.get("crd", CRD)
    schema = crd["metadata"]["annotations"][SCHEMA]
    (old,) = the_only_operator(cluster).values()

    def set_schema(value):
        cluster.call(cluster.kubectl, "annotate", "crd", CRD, f"{SCHEMA}={value}", "--overwrite")

    set_schema("0")
    try:
        cluster.call(cluster.kubectl, "delete", "pod", old, "-n", SYSTEM)
        (new,) = the_only_operator(cluster, after=old).values()
        sentence = wait_for_log(cluster, new, "not leading")
        assert "schema 0" in sentence
        assert "upgrade the chart with its CRDs" in sentence
        waiting = deploy("waiting")
        waiting.apply(uri)
        for seen in (*watch(cluster, CRD, waiting.namespace, "waiting", 5), waiting.get()):
            assert seen["status"] == {"observedGeneration": -1}, "nobody has touched it"
        assert holder(cluster.get("lease", "penstock", "-n", SYSTEM)) not in operators(cluster)
    finally:
        set_schema(schema)
    waiting.wait_ready()


def wait_for_log(cluster, pod, words, seconds=120):
    """The first line of a pod's log with these words."""
    cluster.call(
        cluster.kubectl, "wait", f"pod/{pod}", "-n", SYSTEM, "--for=jsonpath={.status.phase}=Running", "--timeout=120s"
    )
    with cluster.start("logs", "-f", pod, "-n", SYSTEM, f"--request-timeout={seconds}s") as log:
        for line in log.stdout:
            if words in line:
                return line
    raise AssertionError(f"{pod} has not said {words!r} within {seconds} s")
