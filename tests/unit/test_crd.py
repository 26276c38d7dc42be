"""From models to CRD: current, structural, small, and harmless to revisions already made."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, Field

from penstock.api.base import ApiModel, K8s, Rule, wire
from penstock.api.crd import custom_resource_definition, custom_resource_definitions, root_schema, schema_of
from penstock.api.kinds import CRD_NAMES, DEFINITIONS, schema_problem
from penstock.api.lint import MAX_BYTES, lint_crd, lint_schema
from penstock.api.model import ModelSpec
from penstock.api.resource import SCHEMA_ANNOTATION, SCHEMA_VERSION
from penstock.api.spec import ModelDeploymentSpec, PodSpec, ServerSpec
from penstock.api.validation import BY_CEL
from penstock.cli import main
from penstock.cli.generate import generated_files
from tests.manifests import ACCEPTED

ROOT = Path(__file__).parents[2]
CRD = custom_resource_definition()
CRDS = custom_resource_definitions()
SPEC = root_schema()["properties"]["spec"]["properties"]


def nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for value in schema.get("properties", {}).values():
        yield from nodes(value)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key])


def test_generated_files_are_what_the_models_say() -> None:
    result = CliRunner().invoke(main, ["generate", "--check", "--root", str(ROOT)])
    assert result.exit_code == 0, result.output


def test_check_names_a_stale_file_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "operator" / "penstock").mkdir(parents=True)
    result = CliRunner().invoke(main, ["generate", "--check", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "crds/penstock.dev_modeldeployments.yaml" in result.output
    assert not (tmp_path / "crds").exists()
    assert CliRunner().invoke(main, ["generate", "--root", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(main, ["generate", "--check", "--root", str(tmp_path)]).exit_code == 0


def test_generation_elsewhere_says_where_it_should_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["generate", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not the root of the repository" in result.output


@pytest.mark.parametrize("plural", ["modeldeployments", "routers", "trafficsplits"])
def test_the_chart_keeps_its_crds_and_nobody_else_does(plural: str) -> None:
    files = {path: text for path, text in generated_files().items() if path.name == f"penstock.dev_{plural}.yaml"}
    texts = {path.parts[0]: text for path, text in files.items()}
    assert "helm.sh/resource-policy: keep" in texts["helm"]
    assert texts["helm"].replace("    helm.sh/resource-policy: keep\n", "") == texts["crds"]


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_crd_is_structural_bounded_and_small(kind: str) -> None:
    assert lint_crd(CRDS[kind]) == ()
    assert len(json.dumps(CRDS[kind])) < MAX_BYTES
    assert CRDS[kind]["metadata"]["annotations"][SCHEMA_ANNOTATION] == str(SCHEMA_VERSION)
    assert CRDS[kind]["spec"]["names"]["categories"] == ["ai"]


def test_the_command_prints_every_crd() -> None:
    printed = yaml.safe_load_all(CliRunner().invoke(main, ["crd"]).output)
    assert list(printed) == list(CRDS.values())
    assert tuple(crd["metadata"]["name"] for crd in CRDS.values()) == CRD_NAMES


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({SCHEMA_ANNOTATION: str(SCHEMA_VERSION)}, None),
        ({SCHEMA_ANNOTATION: str(SCHEMA_VERSION + 1)}, None),
        ({SCHEMA_ANNOTATION: "1"}, "has schema 1, this operator needs"),
        ({}, "has schema 0"),
        (None, "is not installed"),
    ],
)
def test_an_older_schema_is_told_and_a_newer_one_is_no_harm(annotations: dict[str, str] | None, words: str) -> None:
    crd = None if annotations is None else {"metadata": {"annotations": annotations}}
    problem = schema_problem("routers.penstock.dev", crd)
    assert (problem is None) == (words is None)
    assert words is None or f"CRD routers.penstock.dev {words}" in (problem or "")


PRINTED = {
    "ModelDeployment": ["Phase", "Stable", "Candidate", "Weight", "Verdict", "Ready", "Age"],
    "Router": ["Replicas", "Ready", "Models", "Age"],
    "TrafficSplit": ["Generation", "Stable", "Port", "Age"],
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_columns_are_those_of_the_contract_and_read_fields_that_exist(kind: str) -> None:
    version = CRDS[kind]["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == PRINTED[kind]
    for column in columns:
        node = version["schema"]["openAPIV3Schema"]
        for part in column["jsonPath"].split("[")[0].removeprefix(".").split("."):
            node = node["properties"].get(part, {"properties": {"creationTimestamp": {}}})


def test_a_split_has_no_status_and_a_router_cannot_be_scaled() -> None:
    assert "subresources" not in CRDS["TrafficSplit"]["spec"]["versions"][0]
    assert CRDS["Router"]["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_a_model_deployment_can_be_scaled() -> None:
    version = CRD["spec"]["versions"][0]
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_only_replicas_and_status_have_defaults() -> None:
    """A default below model or server would enter the hash of a revision."""
    found = {kind: [node["default"] for node in nodes(root_schema(kind)) if "default" in node] for kind in DEFINITIONS}
    unseen = {"observedGeneration": -1}
    assert found == {"ModelDeployment": [1, unseen], "Router": [unseen], "TrafficSplit": []}


def test_every_rule_has_a_twin_and_a_message_and_every_twin_is_used() -> None:
    roots = [root_schema(kind) for kind in DEFINITIONS]
    used = [rule for root in roots for node in nodes(root) for rule in node.get("x-kubernetes-validations", ())]
    assert {rule["rule"] for rule in used} == set(BY_CEL)
    assert all(len(rule["message"]) > 20 for rule in used)


WRITTEN = [
    (model, case, manifest["spec"][key])
    for case, manifest in ACCEPTED.items()
    for key, model in (("model", ModelSpec), ("server", ServerSpec), ("pod", PodSpec))
    if manifest["kind"] == "ModelDeployment" and manifest["spec"].get(key) and "null" not in case
]


@pytest.mark.parametrize(("model", "case", "written"), WRITTEN)
def test_a_field_that_a_later_release_adds_changes_no_hash(model: type[ApiModel], case: str, written: Any) -> None:
    """What is hashed is `wire()` of what the user wrote: a field nobody wrote says nothing."""
    later = type(f"Later{model.__name__}", (model,), {"__annotations__": {"invented": str | None}, "invented": None})
    assert wire(later.model_validate(written)) == wire(model.model_validate(written))


def models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models_below(inner)


@pytest.mark.parametrize(
    "model", [*models_below(ModelSpec), *models_below(ServerSpec)], ids=lambda model: model.__name__
)
def test_nothing_that_is_hashed_has_a_default_but_none(model: type[BaseModel]) -> None:
    assert [
        name for name, field in model.model_fields.items() if not field.is_required() and field.default is not None
    ] == []


def test_every_field_of_the_spec_has_a_type_the_generator_knows() -> None:
    assert schema_of(ModelDeploymentSpec)["required"] == ["model"]
    assert SPEC["server"]["properties"]["config"] == {
        "description": "Extra fields of Triton's ModelConfig in its own names; those Penstock owns are refused.",
        "type": "object",
        "maxProperties": 64,
        "x-kubernetes-preserve-unknown-fields": True,
    }


def test_marks_add_up_and_the_outer_one_wins() -> None:
    inner, outer = Rule("a", bool, "inner"), Rule("b", bool, "outer")
    short = Annotated[str, K8s(max_length=5, pattern="^a", rules=(inner,))]
    schema = schema_of(Annotated[short, Field(min_length=2), K8s(max_length=3, rules=(outer,))] | None)
    assert [rule["rule"] for rule in schema.pop("x-kubernetes-validations")] == ["a", "b"]
    assert schema == {"type": "string", "pattern": "^a", "minLength": 2, "maxLength": 3}


@pytest.mark.parametrize("unknown", [float, int | str, list[str], dict[int, str], Literal[1, 2], tuple[int, str], Any])
def test_a_type_without_a_structural_form_is_an_error_and_no_guess(unknown: Any) -> None:
    with pytest.raises(TypeError):
        schema_of(unknown)


def _set(path: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        node = schema
        for part in path.split("."):
            node = node[part]
        node.update(values)

    return change


GOOD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "size": {"x-kubernetes-int-or-string": True, "maxLength": 10},
        "items": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "key": {"type": "string", "maxLength": 5},
                    "at": {"type": "string", "format": "date-time"},
                },
                "required": ["key"],
            },
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["key"],
        },
        "labels": {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string", "maxLength": 9}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
FORBIDDEN: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
    **{
        key: (_set("properties.name", **{key: value}), "name", f"`{key}` has no place")
        for key, value in {
            "$ref": "#/x",
            "const": "a",
            "anyOf": [],
            "oneOf": [],
            "allOf": [],
            "not": {},
            "title": "Name",
            "examples": [],
            "discriminator": {},
            "uniqueItems": True,
            "deprecated": True,
        }.items()
    },
    "$defs": (_set("properties", name={"type": "string", "maxLength": 3, "$defs": {}}), "name", "`$defs` has no place"),
    "prefixItems": (_set("properties.items", prefixItems=[]), "items", "`prefixItems` has no place"),
    "a closed object": (_set("properties.labels", additionalProperties=False), "labels", "not true, false"),
    "an open object": (_set("properties.labels", additionalProperties=True), "labels", "not true, false"),
    "a null default": (_set("properties.name", default=None), "name", "default of null"),
    "a numeric exclusive bound": (
        _set("properties", n={"type": "integer", "exclusiveMinimum": 3}),
        "n",
        "is a boolean beside",
    ),
    "no type": (_set("properties", n={"maxLength": 3}), "n", "type None"),
    "a float": (_set("properties", n={"type": "number"}), "n", "written as an integer or a string"),
    "two types": (_set("properties.size", type="string"), "size", "no type of its own"),
    "an endless string": (_set("properties", n={"type": "string"}), "n", "no maxLength"),
    "an endless list": (
        _set("properties", n={"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"}),
        "n",
        "no maxItems",
    ),
    "an endless map": (
        _set("properties", n={"type": "object", "additionalProperties": {"type": "integer"}}),
        "n",
        "no maxProp",
    ),
    "a list of anything": (_set("properties", n={"type": "array", "maxItems": 1}), "n", "one schema for its items"),
    "a list merged who knows how": (
        _set("properties.items", **{"x-kubernetes-list-type": None}),
        "items",
        "atomic, set or map",
    ),
    "a set of objects": (_set("properties.items", **{"x-kubernetes-list-type": "set"}), "items", "scalar items"),
    "a map without keys": (_set("properties.items", **{"x-kubernetes-list-map-keys": []}), "items", "names its keys"),
    "a map by a field that is not": (
        _set("properties.items", **{"x-kubernetes-list-map-keys": ["id"]}),
        "items",
        "no scalar",
    ),
    "a map by an optional field": (_set("properties.items.items", required=[]), "items", "must be required"),
    "an object of nothing": (_set("properties", n={"type": "object"}), "n", "pruned to nothing"),
    "fields and any field": (
        _set("properties.labels", properties={"a": {"type": "integer"}}),
        "labels",
        "exclude each other",
    ),
    "a required stranger": (_set("", required=["nobody"]), "", "is required and not a property"),
    "snake case": (_set("properties", max_size={"type": "integer"}), "max_size", "camelCase"),
    "a rule without a way out": (
        _set("properties.name", **{"x-kubernetes-validations": [{"rule": "true"}]}),
        "name",
        "no message",
    ),
    "an unguarded rule": (
        _set("", **{"x-kubernetes-validations": [{"rule": "self.name == 'self.size'", "message": "no"}]}),
        "",
        "without has(self.name)",
    ),
}


def test_the_linter_is_content_with_a_good_schema() -> None:
    assert lint_schema(GOOD) == ()


@pytest.mark.parametrize("case", FORBIDDEN)
def test_the_linter_finds_each_forbidden_construct(case: str) -> None:
    change, path, words = FORBIDDEN[case]
    schema = {"": copy.deepcopy(GOOD)}
    change(schema if case in ("a required stranger", "an unguarded rule") else schema[""])
    findings = lint_schema(schema[""])
    assert any(finding.path == path and words in finding.message for finding in findings), findings


def test_a_crd_too_large_for_client_side_apply_is_found() -> None:
    large = copy.deepcopy(CRD)
    large["metadata"]["annotations"]["essay"] = "x" * MAX_BYTES
    assert "at most 150000 fit" in lint_crd(large)[0].message
