"""Argo CD's own code on the scripts that we give to its users."""

import json
from pathlib import Path

import pytest
import yaml

ARGO = Path(__file__).parents[2] / "docs/gitops/argo-cd"
ACTIONS = ARGO / "actions"
HEALTH = yaml.safe_load((ARGO / "health_test.yaml").read_text())["tests"]
TESTS = yaml.safe_load((ACTIONS / "action_test.yaml").read_text())


@pytest.mark.parametrize("test", HEALTH, ids=lambda test: Path(test["inputPath"]).stem)
def test_health(argo, test):
    found = argo("health", ARGO / test["inputPath"], ARGO / "health.lua")
    assert found == test["healthStatus"]


@pytest.mark.parametrize("test", TESTS["discoveryTests"], ids=lambda test: Path(test["inputPath"]).stem)
def test_buttons(argo, test):
    found = argo("discover", ACTIONS / test["inputPath"], ACTIONS / "discovery.lua")
    assert sorted(item["name"] for item in found if not item.get("disabled")) == test["enabled"]


@pytest.mark.parametrize(
    "test", TESTS["actionTests"], ids=lambda test: f"{test['action']} {Path(test['inputPath']).stem}"
)
def test_actions(argo, test):
    found = argo("action", ACTIONS / test["inputPath"], ACTIONS / f"{test['action']}.lua")
    assert found == test["patch"]


@pytest.mark.parametrize("state", sorted((ARGO / "testdata").glob("*.yaml")), ids=lambda state: state.stem)
def test_a_manifest_in_git_is_in_sync_with_the_live_object_in_every_state(argo, tmp_path, state):
    live = yaml.safe_load(state.read_text())
    git = {key: value for key, value in live.items() if key != "status"}
    git["metadata"] = {"name": "digits"}
    if "paused" in (live["spec"].get("rollout") or {}):
        git["spec"] = {"model": live["spec"]["model"]}
    metadata = {**live["metadata"], "resourceVersion": "7", "creationTimestamp": "2026-11-21T10:00:00Z"}
    sides = {"live.json": {**live, "metadata": metadata}, "git.json": git}
    for name, content in sides.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert argo("diff", tmp_path / "live.json", tmp_path / "git.json") == "Synced"
