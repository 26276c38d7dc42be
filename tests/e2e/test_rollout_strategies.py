"""Blue/green with a preview and an instant return, copies before any answer, and clients that stay where they are."""

import json
import time
import urllib.request
from datetime import datetime

import numpy as np
import pytest
from examples.demo.faults import Fault
from examples.demo.screen import DemoError

from .cluster import find
from .deployments import Deployed
from .disturb import wait_until
from .models import linear_model, some_rows
from .rollouts import LONG_CANARY, QUICK_CANARY, newest_entry, rolled_out

pytestmark = pytest.mark.timeout(600)
BLUE_GREEN = {
    "strategy": "BlueGreen",
    "blueGreen": {"autoPromote": False, "hold": "3s", "keepPrevious": "2m"},
    "supervision": {"timeout": "12s"},
}
USERS = 60


@pytest.fixture(scope="module")
def under_load(cluster, namespace, store, tmp_path_factory):
    with rolled_out(Deployed(cluster, namespace, "styles"), store, tmp_path_factory.mktemp("load")) as rolled:
        yield rolled


@pytest.fixture
def rolled(under_load):
    under_load.settle()
    return under_load


def ask(rolled, service, headers=()):
    """What a Service answers to one row of features."""
    rows = some_rows(1)
    tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    with rolled.deployed.cluster.reach(rolled.deployed.namespace, f"service/{service}", 8000) as address:
        url = f"http://{address}/v2/models/{rolled.deployed.name}/infer"
        return [post(url, json.dumps({"inputs": [tensor]}).encode(), header) for header in headers or ({},)]


def post(url, body, headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body, headers), timeout=30) as answer:
        (output,) = json.load(answer)["outputs"]
    return np.array(output["data"], dtype=np.float32)


def answers_of(seed):
    return linear_model(seed).answer(some_rows(1)).ravel()


def test_blue_green_is_previewed_switched_and_returned_from_in_an_instant(rolled):
    (before, first_version), green = (rolled.stable, rolled.at), rolled.versions.good(12)

    candidate = rolled.start(green, BLUE_GREEN)
    rolled.wait(lambda now: (now.get("candidate") or {}).get("stage") == "Previewing")
    preview = find(rolled.deployed.cluster, "service", "styles-preview", "-n", rolled.deployed.namespace)
    assert preview, "there is a preview Service"
    (shown,) = ask(rolled, "styles-preview")
    assert np.allclose(shown, answers_of(12), atol=1e-6)
    assert rolled.answered_by(candidate) == 0, "no client has met it yet"

    rolled.change(promote=candidate)
    rolled.wait_promoted()
    rolled.lost_nothing()
    pods = rolled.deployed.serving_pods()
    assert len(pods) == 2, "the previous revision waits with its pods"

    rolled.apply(*first_version, BLUE_GREEN)
    asked = time.time()
    rolled.wait(
        lambda now: (now.get("candidate") or {}).get("revision") == before or now["stable"]["revision"] == before
    )
    rolled.apply(*first_version, {**BLUE_GREEN, "promote": before})
    promoted = time.time()
    status = rolled.wait(lambda now: now["stable"]["revision"] == before and not now.get("candidate"))
    rolled.at = first_version
    way_back = newest_entry(status, before)
    begun, ended = (datetime.fromisoformat(way_back[end]).timestamp() for end in ("startTime", "endTime"))
    assert ended >= asked - 1, f"history does not tell of the way back: {way_back}"
    seconds = max(0, begun - asked) + max(0, ended - promoted)  # what the operator needed, kubectl's own time aside
    assert seconds < 15, f"the way back took {seconds:.1f} s"
    assert rolled.deployed.serving_pods().keys() & pods.keys() == pods.keys(), "no pod was started for it"
    rolled.lost_nothing()


def test_copies_are_judged_before_any_client_is_answered(rolled):
    shadowed = {**QUICK_CANARY, "shadow": {"percent": 50, "duration": "5s"}}
    before = rolled.deployed.get()
    with rolled.watch() as route:
        candidate = rolled.start(rolled.versions.good(13), shadowed)
        status = rolled.wait_passed(before, lambda now: (now.get("candidate") or {}).get("stage") == "Shadowing")
        rolled.wait_promoted()
        rolled.lost_nothing()

    assert float(status["candidate"].get("weight") or 0) == 0
    copied = [number for number, spec in route.specs.items() if spec.get("shadow")]
    assert copied, "nothing was copied"
    for number in copied:
        assert route.specs[number]["shadow"] == {"name": candidate, "share": 500}
        assert not route.weights[number].get(candidate)


def test_one_that_fails_on_copies_is_taken_back_and_no_client_has_met_it(rolled):
    candidate = rolled.start(
        rolled.versions.faulty(Fault("Error", 50)), {**LONG_CANARY, "shadow": {"percent": 50, "duration": "5m"}}
    )

    rolled.wait_taken_back()

    assert rolled.answered_by(candidate) == 0
    rolled.lost_nothing()


def test_one_client_stays_with_one_revision(rolled):
    sticky = {"traffic": {"stickiness": {"header": "x-user-id"}}}
    steps = {"canary": {"steps": [{"weight": 50, "hold": "10m"}]}, "supervision": {"timeout": "60s"}}
    stable_answer = ask(rolled, "styles")[0]
    rolled.start(rolled.versions.good(14), steps, **sticky)
    rolled.wait_weight()

    users = [{"x-user-id": f"user-{number}"} for number in range(USERS)]
    rounds = [ask(rolled, "styles", users) for _ in range(3)]

    news = [[not np.allclose(answer, stable_answer, atol=1e-6) for answer in answers] for answers in rounds]
    assert news[0] == news[1] == news[2], "somebody was sent to and fro"
    assert 0.25 * USERS < sum(news[0]) < 0.75 * USERS
    rolled.change(abort=rolled.candidate)
    rolled.wait_taken_back(outcome="Aborted")
    back = ask(rolled, "styles", users)
    assert all(np.allclose(answer, stable_answer, atol=1e-6) for answer in back), "nobody is left behind"
    rolled.lost_nothing()


def test_the_only_pod_changes_hands_in_a_declared_outage(rolled):
    """`capacity: Replace` with one replica: requests are refused by the routers, and by nobody else."""
    replaced = {"capacity": "Replace", "replace": {"hold": "2s"}, "supervision": {"onLoss": "Keep"}}
    before, unchanged = rolled.stable, rolled.deployed.get()
    candidate = rolled.start(rolled.versions.good(15), {**replaced, "analysis": {"mode": "Observe"}})
    rolled.wait_passed(unchanged, lambda now: "a declared outage" in (now.get("message") or ""))
    rolled.wait(lambda now: now["stable"]["revision"] == candidate or not now["stable"]["readyReplicas"])

    deadline = time.monotonic() + 120
    while rolled.status()["stable"]["revision"] == before and time.monotonic() < deadline:
        pods = rolled.deployed.serving_pods()
        assert len(pods) <= 1, f"there is room for one: {sorted(pods)}"
        time.sleep(0.5)
    rolled.wait_promoted()
    wait_until(lambda: rolled.answered_by(candidate), f"{candidate} answers")
    refused = [one for one in rolled.outcomes() if one.wrong]
    assert refused, "the outage was seen"
    assert not [one for one in refused if one.revision in (before, candidate)], "only the routers refused"
    rolled.load.forget()


def test_a_canary_without_a_router_is_refused_with_its_reason(rolled):
    other = Deployed(rolled.deployed.cluster, rolled.deployed.namespace, "plain")
    try:
        sentence = refusal_of(other, rolled.at[0].uri, traffic={"provider": "Service"}, rollout=QUICK_CANARY)
        assert "Router" in sentence
        assert "provider" in sentence
    finally:
        other.delete()


def refusal_of(deployed, uri, **spec):
    """What the API server or the operator says against it."""
    try:
        deployed.apply(uri, **spec)
    except DemoError as error:
        return str(error)
    return deployed.wait_reason("InvalidSpec")["status"]["message"]
