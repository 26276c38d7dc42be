"""NetworkPolicies under a controller that enforces them: what is needed works, what is not is refused."""

import pytest
import yaml
from hack.cluster.settings import Settings

from .cluster import SYSTEM, apply, items, wait_for
from .disturb import wait_until
from .fleet import AGENT_PORT, Fleet
from .models import linear_model

MODEL = linear_model(51)


@pytest.fixture(scope="module")
def prober(cluster, chart, namespace):
    """A pod of no importance in a namespace of users; `connects(address)` tries from there."""
    if not chart_policies(chart):
        pytest.skip("the chart renders no NetworkPolicy")
    if cluster.local and not Settings.from_environment().network_policy:
        pytest.skip("this cluster enforces no NetworkPolicies")
    container = {
        "name": "probe",
        "image": chart.images["jobs"],
        "command": ["sleep", "3600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    metadata = {"name": "probe", "namespace": namespace}
    apply(cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    wait_for(cluster, "pods", namespace, "probe", lambda pod: pod["status"].get("phase") == "Running")

    def connects(host, port):
        program = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        answer = f"try:\n {program}\n print('yes')\nexcept OSError:\n print('no')"
        command = ("exec", "probe", "-n", namespace, "--", "python3", "-c", answer)
        return cluster.call(cluster.kubectl, *command).strip() == "yes"

    return connects


def chart_policies(chart):
    return [manifest for manifest in chart.template() if manifest["kind"] == "NetworkPolicy"]


def test_a_strangers_pod_reaches_what_it_needs_and_nothing_else(cluster, deploy, store, prober):
    open_to_all = deploy("open")
    open_to_all.apply(store.push(MODEL, "network"))
    open_to_all.wait_ready()
    agents = Fleet(cluster, open_to_all.namespace).addresses()

    wait_until(lambda: prober(f"open.{open_to_all.namespace}.svc", 8000), "clients reach the model")
    wait_until(lambda: prober("kubernetes.default.svc", 443), "the probe itself can connect")
    assert not prober(f"registry.{SYSTEM}.svc", 5000), "the registry is for the pods that Penstock makes"
    assert agents, "the model has router pods"
    for name, address in agents.items():
        wait_until(lambda at=address: not prober(at, AGENT_PORT), f"what the agent of {name} tells is the operator's")


def test_the_policies_select_what_the_chart_installs(cluster, chart):
    for policy in chart_policies(chart):
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        assert items(cluster, "pods", SYSTEM, labels), yaml.safe_dump(policy["spec"])
