"""The node cache on the cluster: it serves the second pod of a model on its node, and nothing needs it."""

import urllib.request

import pytest

from .cluster import SYSTEM, items
from .models import linear_model

MODEL = linear_model(61)
PODS = "app.kubernetes.io/name=penstock,app.kubernetes.io/component=node-cache"


@pytest.fixture
def cached(cluster, chart):
    """The release with a cache on every node, also where the node's disk is nearly full; afterwards without."""
    with chart.changed(nodeCache__enabled=True, nodeCache__size="512Mi", nodeCache__keepFreePercent=0):
        ready = ("rollout", "status", "daemonset/penstock-node-cache", "-n", SYSTEM, "--timeout=180s")
        cluster.call(cluster.kubectl, *ready)
        yield


def figures(cluster):
    """Requests by outcome, over the caches of all nodes."""
    found: dict[str, int] = {}
    for pod in items(cluster, "pods", SYSTEM, PODS):
        with cluster.reach(SYSTEM, f"pod/{pod['metadata']['name']}", 8080) as address:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{address}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        for line in lines:
            name, _, value = line.rpartition(" ")
            if name.startswith("penstock_node_cache_requests_total{"):
                outcome = name.split('"')[1]
                found[outcome] = found.get(outcome, 0) + int(value)
    return found


def scaled(cluster, served, replicas):
    cluster.call(cluster.kubectl, "scale", f"md/{served.name}", "-n", served.namespace, f"--replicas={replicas}")
    served.wait(lambda md: md["status"]["stable"]["readyReplicas"] == replicas)


def test_the_second_pod_is_served_by_its_node_and_a_third_without_it(cluster, cached, deploy, store):
    served = deploy("cached")
    served.apply(store.push(MODEL, "cached"))
    served.wait_ready()
    nodes = len(items(cluster, "pods", SYSTEM, PODS))

    # of one pod more than nodes, two share one; a start may pass the cache by while NetworkPolicies do not know its pod
    for replicas in range(nodes + 1, nodes + 6):
        scaled(cluster, served, replicas)
        seen = figures(cluster)
        if seen["hit"]:
            break
    assert seen["hit"] >= 1, seen
    assert seen["miss"] <= nodes
    assert seen["failed"] == seen["refused"] == 0

    cluster.call(cluster.kubectl, "delete", "daemonset,service", "-n", SYSTEM, "-l", PODS, "--wait=true")
    scaled(cluster, served, replicas + 1)
    served.wait_answers_as(MODEL)
