"""The files that people copy into their GitOps tools: current, complete, and accepted by the API."""

import os
from pathlib import Path

import pytest
import yaml

from penstock.api.resource import ModelDeployment
from penstock.api.validation import validate

ROOT = Path(__file__).parents[2]
ARGO = ROOT / "docs/gitops/argo-cd"
STATES = sorted((ARGO / "testdata").glob("*.yaml"))
ACTIONS = ("pause", "resume", "promote", "promote-full", "abort", "retry")
ABOUT = """\
# Generated from health.lua and actions/ by `make golden`; do not edit.
# Merge it into Argo CD's own ConfigMap:
#   kubectl -n argocd patch configmap argocd-cm --patch-file docs/gitops/argo-cd/argocd-cm.yaml
"""


class Text(yaml.SafeDumper):
    """Scripts as blocks that people can read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Text.add_representer(str, _text)


def config_map() -> str:
    """The ConfigMap's part as text."""
    health = (ARGO / "health.lua").read_text()
    scripts = {name: (ARGO / "actions" / f"{name}.lua").read_text() for name in (*ACTIONS, "discovery")}
    actions = {
        "discovery.lua": scripts["discovery"],
        "definitions": [{"name": name, "action.lua": scripts[name]} for name in ACTIONS],
    }
    data = {
        "resource.customizations.health.penstock.dev_ModelDeployment": health,
        "resource.customizations.health.penstock.dev_Router": health,
        "resource.customizations.actions.penstock.dev_ModelDeployment": dump(actions),
    }
    return ABOUT + dump({"data": data})


def dump(value: object) -> str:
    return yaml.dump(value, Dumper=Text, sort_keys=False, width=200)


def test_the_golden_config_map_holds_the_scripts_as_they_are():
    place = ARGO / "argocd-cm.yaml"
    if os.environ.get("GOLDEN") == "write":
        place.write_text(config_map())
    assert place.read_text() == config_map()


def test_scripts_use_no_library_that_argo_cd_keeps_shut():
    for script in ARGO.rglob("*.lua"):
        text = script.read_text()
        for library in ("string.", ":sub(", ":match(", ":find(", ":gsub(", ":format(", "math.", "io."):
            assert library not in text, f"{script.name} uses {library}"


def test_every_state_and_every_action_has_its_test():
    health = yaml.safe_load((ARGO / "health_test.yaml").read_text())["tests"]
    assert {test["inputPath"] for test in health} == {f"testdata/{state.name}" for state in STATES}
    actions = yaml.safe_load((ARGO / "actions/action_test.yaml").read_text())
    assert {test["action"] for test in actions["actionTests"]} == set(ACTIONS)
    for test in (*actions["discoveryTests"], *actions["actionTests"]):
        assert (ARGO / "actions" / test["inputPath"]).exists()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.stem)
def test_the_states_are_such_as_the_operator_writes(state):
    found = ModelDeployment.parse(yaml.safe_load(state.read_text()))
    types = [item.type for item in found.status.conditions or ()]
    assert not {"Reconciling", "Stalled"} <= set(types)


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.yaml")), ids=lambda example: example.stem)
def test_examples_are_accepted(example):
    for document in yaml.safe_load_all(example.read_text()):
        if document["apiVersion"].startswith("penstock.dev/"):
            assert validate(document) == ()
