"""The node cache as the chart renders it: off unless asked for, found by its own node alone, and with no rights."""

from typing import Any

import pytest

from penstock.controller.settings import read_settings
from penstock_runtime.nodecache.__main__ import Settings

from .test_chart import MATRIX, NAMESPACE, environment, helm, one, render  # noqa: F401 - helm is a fixture

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("helm")]
ON = MATRIX["a cache on every node"]
ELSEWHERE = MATRIX["a cache of a store elsewhere"]
PEERS = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
MORE: dict[str, Any] = {
    "nodeCache": {"enabled": True, "size": "10Gi", "keepFreePercent": 20, "hostPath": "/var/lib/penstock-cache"},
    "registry": {"plainHttp": ["other.example:80"]},
    "networkPolicy": {"metricsFrom": PEERS},
    "metrics": {"podMonitor": {"enabled": True}},
}
NAME = "penstock-node-cache"


def pod(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = one(render(values), "DaemonSet", NAME)["spec"]["template"]["spec"]
    return found


def settings(values: dict[str, Any]) -> Settings:
    """As the program itself reads what the chart writes."""
    return Settings.read({entry["name"]: entry["value"] for entry in pod(values)["containers"][0]["env"]})


def test_it_is_off_unless_asked_for():
    rendered = render({})
    assert [item for item in rendered if "node-cache" in item["metadata"]["name"]] == []
    assert read_settings(environment(rendered)).decisions.node_cache == ""


def test_pods_are_told_where_it_is_and_reach_that_of_their_own_node():
    rendered = render(ON)
    service = one(rendered, "Service", "node-cache")["spec"]
    assert service["internalTrafficPolicy"] == "Local"
    assert service["ports"] == [{"name": "cache", "port": 5001, "targetPort": "cache", "protocol": "TCP"}]
    assert read_settings(environment(rendered)).decisions.node_cache == f"node-cache.{NAMESPACE}:5001"
    ports = {port["name"]: port["containerPort"] for port in pod(ON)["containers"][0]["ports"]}
    assert (ports["cache"], ports["http"]) == (settings(ON).port, settings(ON).told_port)
    assert one(render(MORE), "PodMonitor", NAME)["spec"]["podMetricsEndpoints"][0]["port"] == "http"


def test_it_speaks_to_the_artifact_store_and_to_nobody_else():
    here = settings(MORE)
    assert here.stores == here.plain_http == (f"registry.{NAMESPACE}:5000",)
    elsewhere = settings(ELSEWHERE)
    assert (elsewhere.stores, elsewhere.plain_http) == (("store.example:8443",), ())


def test_it_fills_less_than_its_volume_holds():
    assert pod(ON)["volumes"] == [{"name": "cache", "emptyDir": {"sizeLimit": "20Gi"}}]
    assert (settings(ON).limit, settings(ON).keep_free) == (int(20 * 2**30 * 0.95), 0.15)
    assert (settings(MORE).limit, settings(MORE).keep_free) == (int(10 * 2**30 * 0.95), 0.2)


def test_it_may_do_nothing_in_the_cluster():
    found = pod(ON)
    assert found["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in found
    assert not [volume for volume in found["volumes"] if "secret" in volume]
    without = {(item["kind"], item["metadata"]["name"]) for item in render({})}
    assert {item["kind"] for item in render(ON) if (item["kind"], item["metadata"]["name"]) not in without} == {
        "DaemonSet", "Service", "NetworkPolicy",
    }  # fmt: skip


def test_a_folder_of_the_node_is_the_one_thing_that_needs_root():
    found = pod(MORE)
    folder = {"path": "/var/lib/penstock-cache", "type": "DirectoryOrCreate"}
    assert found["volumes"] == [{"name": "cache", "hostPath": folder}]
    (prepared,), (cache,) = found["initContainers"], found["containers"]
    assert prepared["securityContext"] == {
        "runAsUser": 0,
        "runAsNonRoot": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
    }
    assert cache["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert found["securityContext"]["runAsNonRoot"] is True


def test_serving_pods_reach_it_and_it_reaches_the_registry():
    rendered = render(ON)
    policy = one(rendered, "NetworkPolicy", NAME)["spec"]
    content, told = policy["ingress"]
    assert content["ports"] == [{"port": 5001, "protocol": "TCP"}]
    assert content["from"][0]["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/managed-by": "penstock",
        "app.kubernetes.io/component": "server",
    }
    assert (told["ports"], "from" in told) == ([{"port": 8080, "protocol": "TCP"}], False)
    _, store = policy["egress"]
    labels = one(rendered, "DaemonSet", NAME)["spec"]["template"]["metadata"]["labels"]
    peers = one(rendered, "NetworkPolicy", "penstock-registry")["spec"]["ingress"][0]["from"]
    assert store["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "registry"
    assert [peer for peer in peers if peer["podSelector"]["matchLabels"].items() <= labels.items()]


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        (ELSEWHERE, [443, 8443]),
        (ON | {"registry": {"enabled": False, "host": "store.example:443"}}, [443]),
        (ON | {"registry": {"enabled": False, "host": "models.example"}}, [443]),
        (ON | {"registry": {"enabled": True, "host": "models.example"}}, [443, 80]),
        (
            ON | {"registry": {"enabled": False, "host": "a.example", "plainHttp": ["a.example", "b.example"]}},
            [443, 80],
        ),
        (ON | {"registry": {"enabled": False, "host": "a.example", "plainHttp": ["b.example"]}}, [443]),
    ],
)
def test_a_store_elsewhere_is_reached_by_its_port(values, ports):
    policy = one(render(values), "NetworkPolicy", NAME)["spec"]
    assert [entry["port"] for entry in policy["egress"][1]["ports"]] == ports


def test_metrics_can_be_kept_to_some():
    assert one(render(MORE), "NetworkPolicy", NAME)["spec"]["ingress"][1]["from"] == PEERS
