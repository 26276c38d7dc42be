"""`penstock rollout` against a real API server: who holds which field afterwards, and what a sync makes of it."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from .drift import assert_in_sync, write_sides

DATA = Path(__file__).parents[2] / "docs/gitops/argo-cd/testdata"
KIND = "modeldeployments.penstock.dev"
FLUX = "kustomize-controller"
NEW = "digits-7c9f41d2"


class Deployed:
    """A ModelDeployment as a GitOps tool applied it, in a state that a test writes."""

    def __init__(self, kubectl):
        self.kubectl = kubectl
        self.namespace = f"cli-{uuid4().hex[:6]}"
        kubectl.run("create", "namespace", self.namespace)

    def sync(self, manager=FLUX, **rollout):
        """Apply what Git holds."""
        manifest = self.git
        if rollout:
            manifest["spec"]["rollout"] = rollout
        self.kubectl.apply(manifest, manager=manager)
        return self

    def enter(self, state):
        """Status as the operator writes it in this state."""
        status = yaml.safe_load((DATA / f"{state}.yaml").read_text())["status"]
        live = self.get()
        generation = live["metadata"]["generation"]
        conditions = [{**item, "observedGeneration": generation} for item in status["conditions"]]
        self.kubectl.set_status(live, {**status, "observedGeneration": generation, "conditions": conditions})
        return self

    def get(self, *more):
        return self.kubectl.get(KIND, self.namespace, "digits", *more)

    @property
    def rollout(self):
        return self.get()["spec"].get("rollout")

    @property
    def git(self):
        """What Git holds where nobody has written anything of `rollout`."""
        return {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": self.namespace},
            "spec": {"model": {"uri": "s3://models/digits/8"}},
        }

    def say(self, *arguments, code=0):
        """`penstock rollout …`; what it printed."""
        verb, *more = arguments
        command = [sys.executable, "-m", "penstock.cli", "rollout", verb, "digits", "-n", self.namespace, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.kubectl.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def digits(kubectl):
    return Deployed(kubectl)


def test_a_command_survives_syncs_and_changes_nothing_else(digits):
    digits.sync().enter("progressing")
    digits.say("pause")
    paused = digits.get()["metadata"]["generation"]
    digits.sync()
    assert digits.rollout == {"paused": True}
    assert digits.get()["metadata"]["generation"] == paused, "a sync of the same manifest is not a change"


def test_resume_leaves_no_trace_of_pause(digits):
    digits.sync().enter("progressing")
    digits.say("pause")
    digits.say("resume")
    assert digits.rollout in (None, {})
    managers = {entry["manager"] for entry in digits.get("--show-managed-fields")["metadata"]["managedFields"]}
    assert "penstock-cli" not in managers


def test_commands_add_up_under_one_manager(digits):
    digits.sync().enter("progressing")
    digits.say("pause")
    digits.say("promote")
    digits.say("abort")
    assert digits.rollout == {"paused": True, "promote": f"{NEW}/1", "abort": NEW}
    digits.enter("rolled-back")
    digits.say("retry")
    assert digits.rollout == {"paused": True, "retryToken": "5"}


def test_a_field_that_git_holds_is_not_taken(digits):
    digits.sync(paused=True).enter("paused")
    told = digits.say("resume", code=1)
    assert "nothing was changed. Held from Git: spec.rollout.paused by kustomize-controller" in told
    assert digits.rollout == {"paused": True}
    assert digits.say("resume", "--force").startswith("# the rollout goes on: applied as penstock-cli\n")
    assert digits.rollout == {"paused": False}
    digits.sync(paused=True)
    assert digits.rollout == {"paused": True}, "the next sync has it back"


def test_a_field_that_a_person_holds_is_taken_and_named(digits):
    digits.sync().enter("progressing")
    patch = '{"spec":{"rollout":{"paused":true}}}'
    digits.kubectl.run("patch", KIND, "digits", "-n", digits.namespace, "--type=merge", "-p", patch)
    assert "spec.rollout.paused was kubectl-patch's and is taken over" in digits.say("resume")
    assert digits.rollout == {"paused": False}


def test_one_look_and_history_on_a_real_object(digits):
    digits.sync().enter("progressing")
    told = digits.say("status", "--no-rings")
    assert f"{NEW} at 10 % (step 1 of 2), 412 requests, no evidence against it" in told
    assert "Router default has no pods" in digits.say("status")
    assert NEW in digits.say("history")


@pytest.mark.parametrize(("state", "code"), [("available", 0), ("rolled-back", 1), ("progressing", 3)])
def test_wait_ends_as_the_rollout_did(digits, state, code):
    digits.sync().enter(state)
    digits.say("status", "--wait", "--timeout", "0s", code=code)


@pytest.mark.parametrize("verb", ["pause", "abort", "promote"])
def test_what_the_command_prints_is_what_git_needs(digits, verb):
    digits.sync().enter("progressing")
    printed = yaml.safe_load(digits.say(verb))
    before = digits.get()["metadata"]["generation"]
    digits.sync(**printed["spec"]["rollout"])
    assert digits.get()["metadata"]["generation"] == before


def test_nothing_of_a_rollout_makes_git_and_the_live_object_differ(digits, argo, tmp_path):
    digits.sync()
    for state in ("preparing", "progressing", "holding", "rolled-back", "available"):
        digits.enter(state)
        assert_in_sync(digits.kubectl, digits.git, digits.get())
    digits.enter("progressing").say("pause")
    assert_in_sync(digits.kubectl, digits.git, digits.get())
    assert argo("diff", *write_sides(tmp_path, digits.git, digits.get())) == "Synced"
