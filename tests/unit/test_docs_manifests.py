"""What people copy from the docs works: manifests, fields, chart values, commands, defaults, and what is refused."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from penstock.api.crd import custom_resource_definition, root_schema
from penstock.api.facts import RepositoryModel
from penstock.api.resource import ModelDeployment
from penstock.api.rollout import AnalysisSpec, ErrorsSpec, LatencySpec, RolloutSpec, SupervisionSpec
from penstock.api.spec import ModelDeploymentSpec, PrepareSpec
from penstock.api.validation import validate
from penstock.cli import main
from penstock.core.rollout import find_course
from penstock.core.rollout.course import chart
from tests.manifests import manifest

from .world import facts

ROOT = Path(__file__).parents[2]
NAMES = (
    "README.md",
    "docs/guide.md",
    "docs/operations.md",
    "docs/runbook.md",
    "docs/verdicts.md",
    "docs/gitops/README.md",
)
PAGES = {name: (ROOT / name).read_text() for name in NAMES}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (f"{name}:{text[: found.start()].count(chr(10)) + 1}", found[2])
    for name, text in PAGES.items()
    for found in FENCE.finditer(text)
    if found[1] == "yaml"
]
SCHEMA, VALUES = root_schema(), yaml.safe_load((ROOT / "helm/penstock/values.yaml").read_text())


def whole(block: str) -> list[dict[str, Any]]:
    """The manifests of a block: as written, or a spec, or fields of one, in the smallest manifest that has them."""
    found = []
    for part in yaml.safe_load_all(block):
        if "apiVersion" in part:
            found.append(part)
            continue
        spec = part.get("spec", part)
        made = manifest()
        made["spec"] |= {**spec, "model": {**made["spec"]["model"], **spec.get("model", {})}}
        found.append(made)
    return found


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[place for place, _ in BLOCKS])
def test_every_manifest_of_the_docs_is_accepted_and_understood(block):
    for document in whole(block):
        assert validate(document) == ()
        if document["kind"] == "ModelDeployment":
            ModelDeployment.parse(document)


def test_there_are_manifests_to_look_at():
    assert len(BLOCKS) >= 10


EXAMPLES = sorted(path for path in ROOT.glob("examples/*.yaml") if "kind: ModelDeployment" in path.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_renders_offline(example, tmp_path):
    known = facts(format="TritonRepository", models=(RepositoryModel(name="reader"),))
    known = known if "TritonRepository" in example.read_text() else facts()
    (tmp_path / "facts.json").write_text(known.model_dump_json(by_alias=True, exclude_none=True))
    for options, kinds in ((["--preparation"], {"Job"}), (["--facts", str(tmp_path / "facts.json")], {"Deployment"})):
        result = CliRunner().invoke(main, ["render", "-f", str(example), *options])
        assert result.exit_code == 0, result.output
        assert kinds <= {item["kind"] for item in yaml.safe_load_all(result.output) if item}


FIELDS = sorted({path for text in PAGES.values() for path in re.findall(r"\b((?:spec|status)(?:\.[a-z]\w+)+)", text)})


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_that_the_docs_name_exists(path):
    node = SCHEMA
    for part in path.split("."):
        if node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node:
            return
        node = node.get("items", node)
        assert part in node["properties"], f"{path}: there is no {part}"
        node = node["properties"][part]


def test_the_readme_prints_the_columns_that_kubectl_prints():
    header = re.search(r"^NAME .*PHASE.*$", PAGES["README.md"], re.MULTILINE)
    columns = custom_resource_definition()["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"].upper() for column in columns if not column.get("priority")]
    assert header is not None
    assert header[0].split() == ["NAME", *shown]


CHART = rf"`((?:{'|'.join(VALUES)})\.[A-Za-z.]+)\b"


@pytest.mark.parametrize("path", sorted({path for text in PAGES.values() for path in re.findall(CHART, text)}))
def test_every_value_of_the_chart_that_the_docs_name_exists(path):
    node = VALUES
    for part in path.split("."):
        assert part in node, f"{path}: values.yaml has no {part}"
        node = node[part]


COMMANDS = sorted(
    {
        " ".join(shlex.split(line.removeprefix("$ "), comments=True))
        for text in PAGES.values()
        for line in [
            *re.findall(r"^\$ penstock .*$", text, re.MULTILINE),
            *re.findall(r"`(penstock [a-z][^`…]*)`", text),
        ]
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_docs_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path/to/models").mkdir(parents=True)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("digits.yaml", "traffic.jsonl", "FILE", "PATH"):
        (tmp_path / name).touch()
    command, words = main, shlex.split(line)[1:]
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        context = click.Context(command, parent=context)
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no {words[0]}"
        command, words = found, words[1:]
    if words:
        with command.make_context(command.name, words, parent=context) as context:
            for value in context.params.values():
                for stream in value if isinstance(value, tuple) else (value,):
                    getattr(stream, "close", bool)()


def shown(section: str, marker: str) -> dict[str, Any]:
    """The first YAML block after a heading that has the marker."""
    text = PAGES["docs/guide.md"].partition(f"## {section}\n")[2]
    return next(yaml.safe_load(found[2]) for found in FENCE.finditer(text) if marker in found[2])


def test_the_rollout_that_the_guide_calls_the_defaults_is_what_an_empty_one_means():
    block = shown("Rollouts", "these are the defaults")["rollout"]
    said, meant = RolloutSpec.model_validate(block), chart(RolloutSpec(), routed=True)
    assert find_course(None, said, routed=True) == meant
    assert said.analysis == AnalysisSpec(errors=ErrorsSpec(), latency=LatencySpec())
    assert said.supervision == SupervisionSpec()


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("a longer `deadline`", AnalysisSpec().deadline == "30m"),
        ("3 --timeout (30m)", "30m" in CliRunner().invoke(main, ["rollout", "status", "--help"]).output),
        ("`replicas`, also by `kubectl scale", ModelDeploymentSpec.model_fields["replicas"].default == 1),
        ("`spec.prepare.resources` are those of the container", PrepareSpec().timeout == "30m"),
    ],
)
def test_numbers_in_the_text_are_those_of_the_models(sentence, found):
    assert sentence in PAGES["docs/guide.md"]
    assert found


SERVICE = {"traffic": {"provider": "Service"}}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one instance": (
        "One instance with dynamic batching is refused",
        {"server": {"instances": {"count": 1}, "batching": {"maxBatchSize": 8}}},
        "dynamic batching over a single instance",
    ),
    "a factory without trust": (
        "`entrypoint`, `trust: Code`, `inputs`",
        {"model": {"entrypoint": "net:make", "format": "SafeTensors"}},
        "set trust: Code if you trust its author",
    ),
    "a strategy without a router": (
        "no router; strategy Immediate, or BlueGreen with autoPromote: false",
        {**SERVICE, "rollout": {"strategy": "Canary"}},
        "provider: Service has no weights and no counters",
    ),
    "a longer timeout at the default fleet": (
        "A model with long requests needs one with a longer `drain`; the default drains for a minute.",
        {"traffic": {"timeout": "2m"}},
        "name a Router of your own with a longer drain",
    ),
    "refresh of pinned content": (
        "Content pinned by `digest` is never asked for.",
        {"model": {"digest": "sha256:" + "0" * 64, "refresh": "5m"}},
        "digest pins the content",
    ),
    "what cannot be mounted": (
        "mount the claim of a `pvc://` URI",
        {"model": {"delivery": "Mount"}},
        "only a PersistentVolumeClaim can be mounted",
    ),
    "a GPU that is not asked for": (
        "It is served by GPU instances only: give the server one",
        {"server": {"instances": {"kind": "GPU"}}},
        "instances on a GPU need one",
    ),
}


@pytest.mark.parametrize(("claim", "spec", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_guide_says_is_refused_is_refused_with_a_sentence(claim, spec, words):
    assert claim in re.sub(r"\s+", " ", PAGES["docs/guide.md"])
    faults = [
        str(fault) for fault in validate(manifest(spec.get("model"), **{k: v for k, v in spec.items() if k != "model"}))
    ]
    assert any(words in fault for fault in faults), faults
