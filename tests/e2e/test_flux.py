"""Flux's own controllers, and the operator as released: what a GitOps user sees of real rollouts."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from tests.gitops.drift import assert_in_sync
from tests.gitops.flux import flux
from tests.gitops.kubectl import Kubectl

from .cluster import find, wait_passed
from .deployments import KIND, Deployed, condition, is_current, is_ready
from .models import linear_model

FIRST, SECOND = linear_model(71), linear_model(72)
pytestmark = pytest.mark.timeout(900)
QUIET = {"onNoTraffic": "Promote"}
"""Nobody asks these models anything: steps end by their hold."""


@pytest.fixture(scope="module")
def kubectl(cluster):
    return Kubectl(cluster.kubectl, Path(cluster.environment["KUBECONFIG"]))


@pytest.fixture(scope="module")
def controllers(cluster, chart, kubectl, tmp_path_factory):
    if not cluster.local:
        pytest.skip("Flux's controllers run on this machine and clone from it")
    with flux(kubectl, tmp_path_factory.mktemp("flux")) as running:
        yield running


class Moments:
    """Compares a ModelDeployment with Git at each of its changes."""

    def __init__(self, deployed, kubectl):
        self.seen: list[str] = []
        self.faults: list[str] = []
        self.git = None
        self._deployed, self._kubectl = deployed, kubectl

    def __enter__(self):
        where = ("-n", self._deployed.namespace, f"--field-selector=metadata.name={self._deployed.name}")
        self._watching = self._deployed.cluster.start("get", KIND, *where, "--watch", "-o", "name")
        self._kubectl_process = self._watching.__enter__()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._kubectl_process.terminate()
        self._thread.join(30)
        self._watching.__exit__(*error)

    def _follow(self):
        for _ in self._kubectl_process.stdout:
            live = find(self._deployed.cluster, KIND, self._deployed.name, "-n", self._deployed.namespace)
            if not live or not self.git or live["spec"]["model"] != self.git["spec"]["model"]:
                continue
            self.seen.append(live.get("status", {}).get("phase", "Pending"))
            try:
                assert_in_sync(self._kubectl, self.git, live)
            except AssertionError as fault:
                self.faults.append(str(fault))


class App:
    """A ModelDeployment in Git."""

    def __init__(self, deployed, synced, kubectl):
        self.deployed, self.synced = deployed, synced
        self.moments = Moments(deployed, kubectl)

    def push(self, uri, hold="3s", **rollout):
        manifest = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.deployed.name, "namespace": self.deployed.namespace},
            "spec": {
                "model": {"uri": uri},
                "traffic": {"timeout": "1s"},
                "rollout": {
                    "canary": {"steps": [{"weight": 10, "hold": hold}, {"weight": 50, "hold": hold}]},
                    "analysis": QUIET,
                    **rollout,
                },
            },
        }
        self.moments.git = manifest
        self.synced.push(digits=json.dumps(manifest))

    def wait_step(self, step, since=None):
        """Once the candidate gets the traffic of that step; also of one that is over, given a state from before it."""

        def stepping(md):
            found = md["status"].get("candidate", {})
            return is_current(md) and (found.get("stage"), found.get("step")) == ("Stepping", step)

        return wait_passed(self.deployed.cluster, since, stepping) if since else self.deployed.wait(stepping)

    def say(self, verb, *options, code=0):
        """`penstock rollout …`."""
        where = (self.deployed.name, "-n", self.deployed.namespace)
        command = [sys.executable, "-m", "penstock.cli", "rollout", verb, *where, *options]
        environment = self.deployed.cluster.environment
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def app(cluster, namespace, controllers, kubectl):
    name = f"synced-{uuid4().hex[:4]}"
    made = App(Deployed(cluster, namespace, name), controllers.sync(f"{namespace}-{name}", timeout="5m"), kubectl)
    with made.moments:
        yield made
    made.synced.remove()


def test_ready_in_progress_and_failed_as_it_is_and_no_drift_at_any_moment(app, store):
    first, second = store.push(FIRST, "flux-first"), store.push(SECOND, "flux-second")
    app.push(first)
    app.synced.wait_ready(180)
    before = app.deployed.get()
    assert is_ready(before)

    app.push(second)
    app.wait_step(1, since=before)
    app.synced.wait_ready(180)
    promoted = app.deployed.get()
    ready = app.synced.conditions()["Ready"]
    assert ready["lastTransitionTime"] >= promoted["status"]["history"][0]["endTime"], "not Ready before it was over"
    assert is_ready(promoted)
    assert promoted["status"]["stable"]["uri"] == second

    app.push(first, hold="10m")
    md = app.wait_step(1)
    app.say("abort")
    assert "stalled" in app.synced.wait_failed(180)
    taken_back = app.deployed.get()
    assert taken_back["status"]["phase"] == "RolledBack"
    assert taken_back["status"]["failedRevision"]["revision"] == md["status"]["candidate"]["revision"]

    app.synced.again()
    app.synced.wait_failed(180)
    after = app.deployed.get()
    assert after["metadata"]["generation"] == taken_back["metadata"]["generation"], "the same manifest is no change"
    assert after["status"]["failedRevision"] == taken_back["status"]["failedRevision"]
    assert "candidate" not in after["status"]

    app.push(second)
    app.deployed.wait(lambda md: is_current(md) and condition(md, "Ready").get("status") == "True", 180)
    app.synced.wait_ready(180)
    assert not app.moments.faults, app.moments.faults[0]
    assert {"Progressing", "Available"} <= set(app.moments.seen)


def test_each_command_does_what_it_says_and_survives_syncs(app, store):
    first, second = store.push(FIRST, "flux-first"), store.push(SECOND, "flux-second")
    app.push(first)
    app.synced.wait_ready(180)
    assert "ready" in app.say("status", "--wait", "--timeout", "180s")

    app.push(second, hold="10m")
    app.wait_step(1)
    app.say("pause")
    paused = app.deployed.wait(lambda md: md["status"]["phase"] == "Paused")
    assert "resume" in app.say("promote"), "it says what comes first"
    app.synced.again()
    app.say("resume")
    moved = app.wait_step(2)
    assert moved["status"]["candidate"]["revision"] == paused["status"]["candidate"]["revision"]
    assert "step 2 of 2" in app.say("status")
    app.say("promote", "--full")
    app.say("status", "--wait", "--timeout", "240s")
    app.synced.wait_ready(180)
    assert app.deployed.get()["status"]["stable"]["uri"] == second

    app.push(first, hold="10m")
    app.wait_step(1)
    app.say("abort")
    app.say("status", "--wait", "--timeout", "180s", code=1)
    app.say("retry")
    app.wait_step(1)
    app.say("promote", "--full")
    app.say("status", "--wait", "--timeout", "240s")
    app.synced.wait_ready(180)
    outcomes = [entry["outcome"] for entry in app.deployed.get()["status"]["history"]]
    assert outcomes[:3] == ["Promoted", "Aborted", "Promoted"]
    assert "Aborted" in app.say("history")
    assert not app.moments.faults, app.moments.faults[0]
