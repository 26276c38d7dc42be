"""`penstock validate`: what it refuses and what it does not. The API server's own answers: tests/integration."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from penstock.api.validation import validate
from penstock.cli import main
from tests.manifests import ACCEPTED, RULES, TYPES, UNKNOWN, manifest, parse, router, split

REFUSED = {**RULES, **TYPES, **UNKNOWN}


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_named_by_its_path_and_a_sentence(case: str) -> None:
    refused, path, words = REFUSED[case]
    faults = validate(refused)
    assert [fault.path for fault in faults] == [path] * len(faults)
    assert any(words in fault.message for fault in faults), faults


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_the_api_server_accepts_is_valid_and_can_be_read_by_the_operator(case: str) -> None:
    accepted = json.loads(json.dumps(ACCEPTED[case]))
    assert validate(accepted) == ()
    accepted["metadata"].setdefault("name", "generated")
    if "null" not in case:
        parse(accepted)


@pytest.mark.parametrize(
    "other", [None, 1, "text", [], {}, {"apiVersion": "penstock.dev/v1", "kind": "ModelDeployment"}]
)
def test_what_is_no_model_deployment_is_refused_whole(other: object) -> None:
    assert [fault.path for fault in validate(other)] == [""]


def test_faults_of_several_fields_are_told_at_once() -> None:
    broken = manifest({"format": "onnx", "uri": "x"}, replicas="2", repliccas=1)
    assert {fault.path for fault in validate(broken)} == {
        "spec.model.format", "spec.model.uri", "spec.replicas", "spec.repliccas",
    }  # fmt: skip


def run(tmp_path: Path, text: str, *options: str) -> tuple[int, str]:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["validate", "-f", str(file), *options])
    return result.exit_code, result.output.replace(str(tmp_path), "")


def test_the_command_passes_over_other_kinds_and_says_what_is_valid(tmp_path: Path) -> None:
    text = yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Secret"}, None, manifest(), manifest(name="d" * 41)])
    code, output = run(tmp_path, text)
    assert code == 1
    assert output.startswith("/x.yaml: digits is valid\n")
    assert "metadata.name: the name becomes part" in output


def test_the_command_checks_every_kind_of_the_group(tmp_path: Path) -> None:
    text = yaml.safe_dump_all([manifest(), router(replicas=0), split()])
    code, output = run(tmp_path, text)
    assert code == 1
    assert output.splitlines() == [
        "/x.yaml: digits is valid",
        "/x.yaml: edge: spec.replicas: 0 given, at least 1 needed",
        "/x.yaml: digits is valid",
    ]


def test_the_command_speaks_json(tmp_path: Path) -> None:
    code, output = run(tmp_path, yaml.safe_dump(manifest(replcas=2)), "-o", "json")
    assert code == 1
    assert [(entry["name"], entry["path"]) for entry in json.loads(output)] == [("digits", "spec.replcas")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("kind: A\nkind: B\n", "key 'kind' is given twice"),
        ("apiVersion: v1\nkind: Secret\n", "there is nothing of Penstock"),
    ],
)
def test_the_command_says_what_it_cannot_read(tmp_path: Path, text: str, words: str) -> None:
    code, output = run(tmp_path, text)
    assert code == 1
    assert words in output


def test_a_flag_that_only_the_operator_refuses_is_refused_too(tmp_path: Path) -> None:
    code, output = run(tmp_path, yaml.safe_dump(manifest(server={"flags": {"http-port": "80"}})))
    assert code == 1
    assert "spec.server.flags['http-port']: this flag cannot be set here" in output


def test_a_date_stays_text_as_it_does_for_kubectl(tmp_path: Path) -> None:
    text = yaml.safe_dump(manifest(pod={"annotations": {"since": "X"}})).replace("since: X", "since: 2026-01-01")
    assert run(tmp_path, text)[0] == 0


TENSORS = {
    "inputs": [{"name": "image", "dataType": "FP32", "dims": [-1, 64]}],
    "outputs": [{"name": "probabilities", "dataType": "FP32", "dims": [-1, 10]}],
}


def test_render_shows_the_preparation_as_well(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    model = {"format": "TorchScript", "convert": "Never"}
    file.write_text(yaml.safe_dump(manifest(model, gates={"latency": {"p95": "20ms"}})))
    result = CliRunner().invoke(main, ["render", "--preparation", "-f", str(file)])
    assert result.exit_code == 0, result.output
    policy, job = yaml.safe_load_all(result.output)
    pod = job["spec"]["template"]["spec"]
    images = {item["name"]: item["image"] for item in (*pod["initContainers"], *pod["containers"])}
    assert (policy["kind"], images["server"], images["inspect"]) == (
        "NetworkPolicy",
        "penstock/triton-torch:local",
        "penstock/convert:local",
    )


def rendered(tmp_path: Path, **spec: object) -> tuple[str, dict[str, dict[str, Any]]]:
    """What is said about the model, and the objects by kind and name."""
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(manifest(TENSORS, **spec)))
    result = CliRunner().invoke(main, ["render", "-f", str(file)])
    assert result.exit_code == 0, result.output
    found = list(yaml.safe_load_all(result.output))
    said = "".join(line for line in result.output.splitlines(keepends=True) if line.startswith("# "))
    return said, {f"{item['kind']} {item['metadata']['name']}": item for item in found}


def test_render_shows_the_route_and_the_fleet(tmp_path: Path) -> None:
    said, objects = rendered(tmp_path, traffic={"stickiness": {"header": "x-user-id"}, "timeout": "1m"})
    assert "Router default: 2 pods of penstock/router:local" in said
    split = objects["TrafficSplit digits"]
    assert validate(split) == ()
    assert [item["weight"] for item in split["spec"]["revisions"]] == [1000]
    assert split["spec"]["stickiness"] == {"header": "x-user-id"}
    assert split["spec"]["timeoutMilliseconds"] == 60_000
    assert objects["Service digits"]["spec"]["selector"]["penstock.dev/router"] == "default"
    assert "Router default" not in objects


def test_render_names_a_router_of_ones_own(tmp_path: Path) -> None:
    said, objects = rendered(tmp_path, traffic={"router": {"name": "edge"}, "timeout": "10m"})
    assert "Router edge, which has to exist" in said
    assert objects["TrafficSplit digits"]["spec"]["router"] == "edge"


def test_render_without_a_router_points_at_the_revision(tmp_path: Path) -> None:
    said, objects = rendered(tmp_path, traffic={"provider": "Service"})
    assert "Router" not in said
    assert "TrafficSplit digits" not in objects
    assert objects["Service digits"]["spec"]["selector"]["penstock.dev/revision"].startswith("digits-")
