"""The real kustomize-controller judges ModelDeployments whose operator is played by the test (api.md, "Conditions")."""

import time
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from .flux import flux, is_true

DOCS = Path(__file__).parents[2] / "docs/gitops"
KIND = "modeldeployments.penstock.dev"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def controllers(kubectl, tmp_path_factory):
    with flux(kubectl, tmp_path_factory.mktemp("flux")) as running:
        yield running


class App:
    """The manifest of docs/gitops/flux in a namespace of its own, synced by Flux."""

    def __init__(self, controllers, kubectl, timeout="90s"):
        self.kubectl = kubectl
        self.namespace = f"app-{uuid4().hex[:6]}"
        kubectl.run("create", "namespace", self.namespace)
        self.synced = controllers.sync(self.namespace, timeout)

    def push(self, tag="v1", **rollout):
        """What Git holds from now on; returns once the API server has it."""
        manifest = yaml.safe_load((DOCS / "flux/modeldeployment.yaml").read_text())
        manifest["metadata"]["namespace"] = self.namespace
        manifest["spec"]["model"]["uri"] = f"oci://registry.penstock-system:5000/models/digits:{tag}"
        if rollout:
            manifest["spec"]["rollout"] = rollout
        self.synced.push(digits=yaml.safe_dump(manifest))
        deadline = time.monotonic() + 120
        while self.spec() != {**manifest["spec"]}:
            assert time.monotonic() < deadline, "Flux has not applied it"
            time.sleep(0.1)

    def get(self):
        return self.kubectl.get(KIND, self.namespace, "digits")

    def spec(self):
        found = self.kubectl.run("get", KIND, "digits", "-n", self.namespace, "-o", "json", "--ignore-not-found")
        return yaml.safe_load(found)["spec"] if found else None

    def enter(self, state):
        """The operator writes this state of the present generation."""
        status = yaml.safe_load((DOCS / f"argo-cd/testdata/{state}.yaml").read_text())["status"]
        live = self.get()
        generation = live["metadata"]["generation"]
        conditions = [{**item, "observedGeneration": generation} for item in status["conditions"]]
        self.kubectl.set_status(live, {**status, "observedGeneration": generation, "conditions": conditions})

    def stays_in_progress(self, seconds=4.0):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.synced.conditions()
            assert not is_true(found, "Ready"), found
            assert found.get("Ready", {}).get("reason") != "HealthCheckFailed", found
            time.sleep(0.4)


@pytest.fixture
def app(controllers, kubectl):
    return App(controllers, kubectl)


def test_a_deployment_that_no_operator_has_seen_is_in_progress_and_then_ready(app):
    app.push()
    app.stays_in_progress()
    app.enter("progressing")
    app.stays_in_progress()
    app.enter("available")
    app.synced.wait_ready()


def test_a_revision_that_is_taken_back_fails_the_sync_at_once_and_a_revert_mends_it(app):
    app.push("v1")
    app.enter("available")
    app.synced.wait_ready()
    app.push("v2")
    app.stays_in_progress(2)
    began = time.monotonic()
    app.enter("rolled-back")
    told = app.synced.wait_failed()
    assert time.monotonic() - began < 60, "not at the timeout, which is 90 s"
    assert "stalled" in told
    app.push("v1")
    app.enter("available")
    app.synced.wait_ready()


def test_a_rollout_that_waits_for_a_person_fails_at_the_timeout_only_and_is_ready_when_it_ends(controllers, kubectl):
    app = App(controllers, kubectl, timeout="30s")
    app.push()
    app.enter("paused")
    began = time.monotonic()
    told = app.synced.wait_failed()
    assert time.monotonic() - began > 15
    assert "InProgress" in told
    app.enter("available")
    app.synced.wait_ready()


def test_commands_and_syncs_of_the_same_manifest_leave_each_other_alone(app, kubectl):
    app.push()
    app.enter("available")
    app.synced.wait_ready()
    patch = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"}}
    patch["metadata"]["namespace"] = app.namespace
    kubectl.run(
        "apply", "--server-side", "--field-manager=penstock-cli", "--validate=false", "-f", "-",
        stdin=yaml.safe_dump({**patch, "spec": {"rollout": {"paused": True}}}),
    )  # fmt: skip
    generation = app.get()["metadata"]["generation"]
    app.enter("available")
    synced = app.synced.conditions()["Ready"]["lastTransitionTime"]
    app.synced.again()
    time.sleep(3)
    app.synced.wait_ready()
    assert app.synced.conditions()["Ready"]["lastTransitionTime"] >= synced
    assert app.get()["spec"]["rollout"] == {"paused": True}
    assert app.get()["metadata"]["generation"] == generation
