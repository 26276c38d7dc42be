"""One thing at a time goes wrong while a canary has traffic: nobody's request is lost, and the outcome is the same."""

import json
import time
from dataclasses import dataclass
from datetime import datetime

import pytest
from examples.demo.screen import DemoError

from .cluster import OPERATORS, SYSTEM, items, the_only_operator, wait_for, wait_gone
from .deployments import Deployed
from .disturb import component, container_pids, frozen, kill, packets_dropped, processes, wait_until
from .fleet import AGENT_PORT
from .rollouts import LONG_CANARY, QUICK_CANARY, rolled_out

pytestmark = pytest.mark.timeout(600)
SUPERVISION = 12
PATIENT = {**LONG_CANARY, "supervision": {"timeout": "60s"}}


@pytest.fixture(scope="module")
def under_load(cluster, namespace, store, tmp_path_factory):
    if not cluster.local:
        pytest.skip("processes and packets of the cluster can be reached on the local one only")
    with rolled_out(Deployed(cluster, namespace, "steady"), store, tmp_path_factory.mktemp("load")) as rolled:
        yield rolled


@pytest.fixture
def rolled(under_load):
    under_load.settle()
    return under_load


@pytest.fixture
def on_its_way(rolled):
    """A good candidate that has its traffic, and stays at its step."""
    rolled.start(rolled.versions.good(21), LONG_CANARY)
    rolled.wait_weight()
    rolled.load.forget()
    return rolled


def operator_pod(cluster):
    (name,) = the_only_operator(cluster).values()
    return cluster.get("pod", name, "-n", SYSTEM)


def scale_operator(cluster, replicas):
    cluster.call(cluster.kubectl, "scale", "deployment/penstock", "-n", SYSTEM, f"--replicas={replicas}")


def goes_live(rolled):
    """The candidate on its way is promoted when asked to: everything works again."""
    rolled.change(promote=rolled.candidate)
    rolled.wait_promoted()


def test_a_dead_operator_leaves_no_canary_behind(on_its_way, cluster):
    rolled = on_its_way
    scale_operator(cluster, 0)
    try:
        wait_gone(cluster, "pods", SYSTEM, OPERATORS)
        dead = time.time()
        seconds = rolled.all_to_stable(dead)
        assert seconds <= SUPERVISION + 3
        rolled.lost_nothing()
    finally:
        scale_operator(cluster, 1)
    wait_until(lambda: rolled.fresh(rolled.candidate) or not rolled.status().get("candidate"), "it goes on")
    if rolled.status().get("candidate"):
        goes_live(rolled)
    rolled.lost_nothing()


def test_an_api_server_that_is_away_for_20_s_changes_nothing(rolled):
    rolled.start(rolled.versions.good(22), PATIENT)
    rolled.wait_weight()
    rolled.load.forget()

    with frozen(component("kube-apiserver")):
        late = time.time() + 17
        time.sleep(20)
        wait_until(lambda: answered_since(rolled, late), "the canary has kept its share", 20)

    rolled.lost_nothing(at_least=1500)
    goes_live(rolled)
    rolled.lost_nothing()


def answered_since(rolled, moment):
    """Whether the candidate has answered a request that was due after that moment."""
    return any(one.revision == rolled.candidate for one in rolled.outcomes() if one.due > moment)


def test_an_api_server_that_is_away_for_long_sends_everything_to_stable(on_its_way):
    rolled = on_its_way
    with frozen(component("kube-apiserver")):
        seconds = rolled.all_to_stable(time.time())
        assert seconds <= SUPERVISION + 3

    wait_until(rolled.reachable, "the API server answers again")
    rolled.lost_nothing()


def test_a_killed_agent_is_back_at_once_and_nothing_is_lost(on_its_way):
    rolled = on_its_way
    for pod in rolled.fleet.pods():
        kill(*container_pids(pod, "agent")[1:] or container_pids(pod, "agent"))

    time.sleep(2)
    rolled.fleet.wait_ready()
    goes_live(rolled)
    rolled.lost_nothing(at_least=500)


def test_a_hung_agent_takes_nothing_out_of_service(on_its_way):
    rolled = on_its_way
    pod = rolled.fleet.pods()[0]
    with frozen(*container_pids(pod, "agent")):
        time.sleep(8)

    goes_live(rolled)
    rolled.lost_nothing(at_least=900)


def test_a_killed_envoy_loses_what_was_in_it_until_it_is_back_and_no_more(on_its_way):
    rolled = on_its_way
    pod = rolled.fleet.pods()[0]
    before, killed = restarts_of(rolled, pod, "envoy"), time.time()
    kill(*processes(pod, "envoy", "envoy"))

    wait_until(lambda: restarts_of(rolled, pod, "envoy") > before, "Envoy is started again")
    rolled.fleet.wait_ready()
    back = time.time() + 3  # a gRPC client waits that long before it connects again
    goes_live(rolled)
    rolled.lost_nothing(at_least=500, but=(killed, back))


def restarts_of(rolled, pod, container):
    """How often a container of a router pod was started again."""
    (now,) = [one for one in rolled.fleet.pods() if one["metadata"]["uid"] == pod["metadata"]["uid"]]
    (state,) = [one for one in now["status"]["containerStatuses"] if one["name"] == container]
    return state["restartCount"]


def test_a_router_pod_that_is_deleted_drains(on_its_way, cluster):
    rolled = on_its_way
    name = rolled.fleet.pods()[0]["metadata"]["name"]
    cluster.call(cluster.kubectl, "delete", "pod", name, "-n", rolled.deployed.namespace, "--wait=false")

    rolled.fleet.wait_ready()
    goes_live(rolled)
    rolled.lost_nothing(at_least=500)


@pytest.mark.parametrize("which", ["candidate", "stable"])
def test_a_deleted_serving_pod_is_served_for_by_its_successor(on_its_way, cluster, which):
    rolled = on_its_way
    revision = rolled.candidate if which == "candidate" else rolled.stable
    (pod,) = items(cluster, "pods", rolled.deployed.namespace, f"penstock.dev/revision={revision}")
    cluster.call(
        cluster.kubectl, "delete", "pod", pod["metadata"]["name"], "-n", rolled.deployed.namespace, "--wait=false"
    )

    rolled.load.wait_count(1500)
    assert rolled.status()["candidate"]["revision"] == rolled.candidate, "nobody is to blame for a deleted pod"
    rolled.lost_nothing(at_least=1500)


def test_without_dns_a_rollout_goes_on(rolled):
    rolled.start(rolled.versions.good(23), {**QUICK_CANARY, "paused": True})
    rolled.wait(lambda now: (now.get("candidate") or {}).get("readyReplicas") == 1)

    with frozen(component("coredns")):
        rolled.change(paused=False)
        rolled.wait_promoted()
    rolled.lost_nothing()


def test_unreadable_counters_hold_and_then_everything_goes_to_stable(on_its_way):
    rolled = on_its_way
    with packets_dropped(AGENT_PORT):
        begun = time.time()
        seconds = rolled.all_to_stable(begun)
        assert SUPERVISION - 5 <= seconds <= SUPERVISION + 8
        status = rolled.status()
        seen = begun - datetime.fromisoformat(status["candidate"]["judgedSince"]).timestamp()
        assert status["candidate"]["observedSeconds"] <= seen + 1, "time that nobody saw does not count"
        assert status["candidate"].get("verdict") not in ("Fail", "Pass")
    rolled.lost_nothing()
    wait_until(lambda: rolled.fresh(rolled.candidate), "the canary gets traffic again")
    goes_live(rolled)
    rolled.lost_nothing()


def test_an_older_route_written_late_is_refused(on_its_way, cluster):
    rolled = on_its_way
    late = rolled.split()
    late["metadata"].pop("managedFields", None)
    rolled.change(abort=rolled.candidate)
    rolled.wait_taken_back(outcome="Aborted")
    operator = f"--as=system:serviceaccount:{SYSTEM}:penstock"

    with pytest.raises(DemoError, match=r"(?i)conflict|modified"):
        cluster.call(cluster.kubectl, "replace", operator, "-f", "-", stdin=json.dumps(late))
    forced = ("apply", operator, "--server-side", "--field-manager=penstock", "--force-conflicts", "-f", "-")
    unversioned = {name: late["metadata"][name] for name in ("name", "namespace", "labels")}
    with pytest.raises(DemoError, match="generation"):
        cluster.call(cluster.kubectl, *forced, stdin=json.dumps({**late, "metadata": unversioned}))

    assert rolled.split()["spec"]["generation"] > late["spec"]["generation"]
    rolled.all_to_stable()
    rolled.lost_nothing()


def test_an_operator_killed_again_and_again_comes_to_the_same_end(rolled, cluster):
    seen = [Sighting(time.monotonic(), time.monotonic(), 0, 0)]
    rolled.start(rolled.versions.good(24), QUICK_CANARY)
    ended = time.monotonic() + 60
    while rolled.status().get("candidate") and time.monotonic() < ended:
        kill(*container_pids(operator_pod(cluster), "operator")[1:])
        end = time.monotonic() + 8
        while time.monotonic() < end and (sighting := look(rolled)):
            seen.append(sighting)
            time.sleep(0.5)

    rolled.wait_promoted(240)
    rolled.lost_nothing()
    for one in seen[1:]:
        begun = max((other.asked for other in seen if other.step < one.step), default=seen[0].asked)
        assert one.observed <= one.told - begun + 2, f"more seconds counted than there were: {one} of {seen}"


@dataclass(frozen=True)
class Sighting:
    """A step and its seconds as status told them, between two moments."""

    asked: float
    told: float
    step: int
    observed: int


def look(rolled):
    """None when no candidate is left."""
    asked, found = time.monotonic(), rolled.status().get("candidate")
    return found and Sighting(asked, time.monotonic(), found.get("step", 0), found.get("observedSeconds", 0))


def test_the_fleet_takes_a_new_pod_template_without_losing_a_request(rolled, cluster):
    before = {pod["metadata"]["uid"] for pod in rolled.fleet.pods()}

    rolled.fleet.shape(pod={"annotations": {"e2e": "changed"}})

    wait_for(
        cluster,
        "deployment",
        rolled.deployed.namespace,
        "penstock-router-default",
        lambda found: found["spec"]["template"]["metadata"].get("annotations", {}).get("e2e") == "changed",
    )
    wait_until(lambda: not before & {pod["metadata"]["uid"] for pod in rolled.fleet.pods()}, "all are new", 240)
    rolled.fleet.wait_ready()
    rolled.lost_nothing(at_least=800)
