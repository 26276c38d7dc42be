"""`penstock upgrade-runtime`: it writes the image that the operator would choose, over no image of the user's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from click.testing import Result

from penstock.api.facts import ModelFacts, RepositoryModel
from penstock.api.resource import ModelDeployment
from penstock.core.revision import RevisionRecord, record_manifest
from penstock.kube.connection import Response

from .fakeapi import FakeConnection, answered, run_command
from .test_cli_rollout import GIT, OLD, PROMOTED, condition, hold
from .world import facts, manifest

CHART = {
    "PENSTOCK_IMAGE_JOBS": "jobs:2",
    "PENSTOCK_IMAGE_TRITON": "triton:2",
    "PENSTOCK_IMAGE_TRITON_PYTORCH": "torch:2",
}
REPOSITORY = (RepositoryModel(name="pre", backend="python"), RepositoryModel(name="net", backend="pytorch"))


@dataclass
class Answers(FakeConnection):
    """An API server with a deployment, the record of its revision and the operator's Deployment."""

    facts: ModelFacts = field(default_factory=facts)
    image: str | None = None
    manager: str = ""
    status: dict[str, Any] = field(default_factory=lambda: {**PROMOTED, "preparation": {"key": "k", "revision": OLD}})
    chart: dict[str, str] = field(default_factory=lambda: dict(CHART))
    record: dict[str, Any] | None = None
    applied: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, method: str, path: str, *, query=(), body=None, content_type="") -> Response:
        if method == "PATCH":
            self.applied.append(body)
            return answered(200, self._deployment())
        found = {
            "/modeldeployments/digits": self._deployment(),
            f"/controllerrevisions/{OLD}": self.record or _record(self.facts),
            "/penstock-system/deployments/penstock": self._operator(),
        }
        answer = next((value for end, value in found.items() if path.endswith(end)), None)
        return answered(200, answer) if answer else answered(404, {"message": f"not found: {path}"})

    def _deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "metadata": {"name": "digits", "namespace": "vision", "uid": "u1", "generation": 3, "managedFields": []},
            "spec": {"model": {"uri": "s3://models/digits/8"}},
            "status": self.status,
        }
        if self.image:
            found["spec"]["server"] = {"image": self.image}
            for manager in self.manager.split(","):
                hold(found, manager, {"f:server": {"f:image": {}}})
        return found

    def _operator(self) -> dict[str, Any]:
        of_pod = [{"name": "PENSTOCK_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]
        given = [{"name": name, "value": value} for name, value in self.chart.items()]
        return {"spec": {"template": {"spec": {"containers": [{"name": "operator", "env": of_pod + given}]}}}}


def _record(about: ModelFacts) -> dict[str, Any]:
    deployment = ModelDeployment.parse(manifest())
    record = RevisionRecord(
        name=OLD,
        preparation="k",
        model=deployment.spec.model,
        facts=about,
        served_name="digits",
        server={},
        resources={},
        env=(),
        runtime_class=None,
        server_image="triton:1",
        fetch_image="jobs:1",
        plain_http=(),
        image_pull_secrets=(),
    )
    return record_manifest(deployment.metadata, record)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def invoke(answers: Answers, *arguments: str) -> Result:
        return run_command(monkeypatch, answers, "upgrade-runtime", "digits", "-n", "vision", *arguments)

    return invoke


@pytest.mark.parametrize(
    ("about", "image"),
    [
        ({}, "triton:2"),
        ({"format": "TorchScript"}, "torch:2"),
        ({"format": "XGBoost"}, "triton:2"),
        ({"format": "TritonRepository", "models": REPOSITORY}, "torch:2"),
    ],
)
def test_the_image_has_the_backend_that_the_model_needs(run, about, image):
    answers = Answers(facts(**about))
    result = run(answers)
    assert result.exit_code == 0, result.output
    assert answers.applied[0]["spec"] == {"server": {"image": image}}
    assert yaml.safe_load(result.output)["spec"] == {"server": {"image": image}}


def test_an_installation_without_the_backend_is_named_and_nothing_is_written(run):
    answers = Answers(facts(format="OpenVINO"))
    result = run(answers)
    assert result.exit_code == 1
    assert "images.tritonOpenVINO" in result.output
    assert not answers.applied


def test_an_image_of_the_users_own_stays_unless_another_is_named(run):
    answers = Answers(image="mine:1", manager=GIT)
    result = run(answers)
    assert result.exit_code == 1
    assert all(word in result.output for word in ("mine:1", GIT, "--image"))
    assert not answers.applied
    assert run(answers, "--image", "triton:3").exit_code == 0
    assert answers.applied[0]["spec"] == {"server": {"image": "triton:3"}}


@pytest.mark.parametrize("manager", ["penstock-cli", f"{GIT},penstock-cli"])
def test_what_the_command_wrote_before_it_renews_also_where_it_has_gone_to_git(run, manager):
    answers = Answers(image="triton:1", manager=manager)
    result = run(answers)
    assert result.exit_code == 0, result.output
    assert answers.applied[0]["spec"] == {"server": {"image": "triton:2"}}


def test_the_releases_image_is_nobodys_own(run):
    answers = Answers(image="triton:2", manager=GIT)
    assert run(answers).exit_code == 0
    assert answers.applied[0]["spec"] == {"server": {"image": "triton:2"}}


def test_a_model_that_nobody_has_looked_into_yet_is_left_alone(run):
    status = {"conditions": [condition("Prepared", "False", "Preparing", "the preparation Job is running")]}
    answers = Answers(status={**PROMOTED, **status, "preparation": {"key": "k"}})
    result = run(answers)
    assert result.exit_code == 1
    assert "the preparation Job is running" in result.output
    assert not answers.applied


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chart": {"PENSTOCK_IMAGE_JOBS": "jobs:2"}}, "PENSTOCK_IMAGE_TRITON"),
        ({"status": {}}, "no revision"),
        ({"record": {"metadata": {"name": OLD}, "data": {"version": 99}}}, "record version 99"),
    ],
)
def test_what_cannot_be_read_is_named(run, changes, words):
    answers = Answers(**changes)
    result = run(answers)
    assert result.exit_code == 1
    assert words in result.output
    assert "--image" in result.output
    assert not answers.applied
