"""Who leads: one of several, the next within seconds, and nobody over a CRD that is too old."""

import time

import pytest

from .cluster import SYSTEM, items, wait_for, watch
from .models import linear_model

MODEL = linear_model(31)
CRD = "modeldeployments.penstock.dev"
SCHEMA = "penstock.dev/schema"
OPERATORS = "app.kubernetes.io/name=penstock,app.kubernetes.io/component=operator"


def operators(cluster):
    """Name by uid of those that are not going away."""
    pods = [pod["metadata"] for pod in items(cluster, "pods", SYSTEM, OPERATORS)]
    return {pod["uid"]: pod["name"] for pod in pods if "deletionTimestamp" not in pod}


def holder(lease):
    return lease["spec"].get("holderIdentity") or ""


@pytest.fixture
def two(chart):
    """Two replicas of the operator."""
    chart.install(operator__replicas=2)
    yield
    chart.install()


def test_the_second_leads_seconds_after_the_first_was_killed(cluster, deploy, store, two):
    uri = store.push(MODEL, "led")
    # a release uninstalled before takes its rights first and leaves its lease to run out
    first = holder(
        wait_for(cluster, "lease", SYSTEM, "penstock", lambda lease: holder(lease) in operators(cluster), 90)
    )
    start = time.monotonic()

    cluster.call(cluster.kubectl, "delete", "pod", operators(cluster)[first], "-n", SYSTEM, "--wait=false")
    second = holder(wait_for(cluster, "lease", SYSTEM, "penstock", lambda lease: holder(lease) not in ("", first), 30))
    seconds = time.monotonic() - start

    assert seconds < 15, f"the lease was taken over after {seconds:.1f} s; it was released at the end"
    assert second in operators(cluster)
    led = deploy("led")
    led.apply(uri)
    led.wait_ready()


def test_nobody_leads_over_an_older_crd_and_the_log_says_why(cluster, chart, deploy, store):
    uri = store.push(MODEL, "led")
    crd = cluster.get("crd", CRD)
    schema = crd["metadata"]["annotations"][SCHEMA]
    (old,) = operators(cluster).values()

    def set_schema(value):
        cluster.call(cluster.kubectl, "annotate", "crd", CRD, f"{SCHEMA}={value}", "--overwrite")

    set_schema("0")
    try:
        cluster.call(cluster.kubectl, "delete", "pod", old, "-n", SYSTEM)
        (new,) = set(operators(cluster).values()) - {old}
        sentence = wait_for_log(cluster, new, "not leading")
        assert "schema 0" in sentence
        assert "upgrade the chart with its CRDs" in sentence
        waiting = deploy("waiting")
        waiting.apply(uri)
        seen = list(watch(cluster, CRD, waiting.namespace, "waiting", 5))
        assert seen[-1]["status"] == {"observedGeneration": -1}, "nobody has touched it"
        assert holder(cluster.get("lease", "penstock", "-n", SYSTEM)) not in operators(cluster)
    finally:
        set_schema(schema)
    waiting.wait_ready()


def wait_for_log(cluster, pod, words, seconds=60):
    """The first line of a pod's log with these words."""
    cluster.call(
        cluster.kubectl, "wait", f"pod/{pod}", "-n", SYSTEM, "--for=jsonpath={.status.phase}=Running", "--timeout=60s"
    )
    with cluster.start("logs", "-f", pod, "-n", SYSTEM, f"--request-timeout={seconds}s") as log:
        for line in log.stdout:
            if words in line:
                return line
    raise AssertionError(f"{pod} has not said {words!r} within {seconds} s")
