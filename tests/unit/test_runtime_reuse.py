"""What was made once is found again by its inputs, and believed only as far as its digests go."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationRequest
from penstock_runtime.content import Budget, Content, collect, store
from penstock_runtime.evidence import Evidence, build_report, provenance_of, publish_evidence
from penstock_runtime.gathering import Gathered
from penstock_runtime.publish import Layout, publish
from penstock_runtime.reuse import conversion_key, find_result, result_tag
from penstock_runtime.web import Answer
from tests.unit.test_runtime_publish import FakeRegistry

REPOSITORY = "registry.penstock-system:5000/vision"
SOURCE = "sha256:" + "5" * 64
OPENED = {"tools": {"torch": "2.13.0"}, "machine": {"cpu": "x", "flags": ["avx2"], "cores": 1.0}}
REQUEST = PreparationRequest(uri="s3://m/digits.pt2", format="TorchExport", repository=REPOSITORY, max_bytes=1 << 20)
GATHERED = Gathered(Content(Path("/none"), (), SOURCE), calibration="sha256:" + "c" * 64)


class ReadableRegistry(FakeRegistry):
    """With blobs that can be read."""

    def blob(self, repository: str, digest: str) -> Answer:
        pieces = [self.blobs[digest], b""]
        response = SimpleNamespace(read=lambda size: pieces.pop(0), close=lambda: None)
        return Answer(200, {}, digest, response)


def asked(**fields: Any) -> PreparationRequest:
    return PreparationRequest.model_validate(REQUEST.model_dump(by_alias=True, exclude_none=True) | fields)


INT8 = {"precision": "INT8", "calibration": {"uri": "s3://m/c.npz"}}
AUTO = {"precision": "Auto"}


def test_the_same_inputs_have_one_name_wherever_they_were_fetched_from() -> None:
    first = conversion_key(asked(optimize=INT8), GATHERED, OPENED)
    again = asked(
        uri="gs://other/place", optimize={**INT8, "calibration": {"uri": "pvc://c/d"}}, plainHttp=["x"], maxBytes=5
    )
    assert conversion_key(again, GATHERED, OPENED) == first
    assert len(result_tag(first)) <= 128


CHANGES = {
    "source": (asked(), replace(GATHERED, content=Content(Path("/none"), (), "sha256:" + "6" * 64)), OPENED),
    "calibration": (asked(), replace(GATHERED, calibration="sha256:" + "d" * 64), OPENED),
    "parameters": (asked(optimize={"minSpeedup": "1.5"}), GATHERED, OPENED),
    "precision": (asked(optimize=AUTO), GATHERED, OPENED),
    "entrypoint": (asked(entrypoint="m:f"), GATHERED, OPENED),
    "trust": (asked(trust="Code"), GATHERED, OPENED),
    "interface": (asked(inputs=[{"name": "x", "dataType": "FP32", "dims": [-1, 4]}]), GATHERED, OPENED),
    "tools": (asked(), GATHERED, {**OPENED, "tools": {"torch": "2.14.0"}}),
}


@pytest.mark.parametrize(("request_", "gathered", "opened"), CHANGES.values(), ids=CHANGES.keys())
def test_whatever_decides_the_result_changes_the_name(request_, gathered, opened) -> None:
    assert conversion_key(request_, gathered, opened) != conversion_key(asked(), GATHERED, OPENED)


def test_the_machine_counts_where_candidates_are_timed_and_gates_where_they_choose() -> None:
    other = {**OPENED, "machine": {"flags": ["avx2", "avx512_vnni"]}}
    gates = {"parity": {"minTop1Agreement": "0.99"}, "dataset": {"uri": "s3://m/d.npz"}}
    for optimize, machine_counts, gates_count in ((None, False, False), (INT8, True, False), (AUTO, True, True)):
        plain = conversion_key(asked(optimize=optimize), GATHERED, OPENED)
        assert (conversion_key(asked(optimize=optimize), GATHERED, other) != plain) is machine_counts
        assert (conversion_key(asked(optimize=optimize, gates=gates), GATHERED, OPENED) != plain) is gates_count
    with_latency = asked(optimize=AUTO, gates={**gates, "latency": {"p95": "20ms"}})
    assert conversion_key(with_latency, GATHERED, OPENED) == conversion_key(
        asked(optimize=AUTO, gates=gates), GATHERED, OPENED
    )


def stored(
    registry: FakeRegistry, folder: Path, key: str, *, repository: str = REPOSITORY, digest: str = SOURCE
) -> Any:
    """What a preparation leaves: the layer, and evidence under the tag of its inputs."""
    files = (store([b"converted"], folder, "model.onnx", Budget(100)),)
    content = collect(folder, [file.path for file in files], digest, Budget(100))
    artifact = publish(content, Layout({"model.onnx": "model.onnx"}), repository, registry)
    facts = ModelFacts(
        format="ONNX", digest=digest, artifact=artifact, source_format="TorchExport", derived=True, batching=True
    )
    told = ({"conversion": {"format": "ONNX", "seconds": 1.5}},)
    report = build_report(REQUEST, GATHERED, OPENED, told, (), "TorchExport")
    provenance = provenance_of(REQUEST, GATHERED, OPENED, facts) | {"key": key}
    publish_evidence(Evidence(report, provenance, artifact, (result_tag(key),)), repository, registry)
    return facts


@pytest.fixture
def key() -> str:
    return conversion_key(REQUEST, GATHERED, OPENED)


def test_a_result_is_found_unpacked_and_verified(tmp_path: Path, key: str) -> None:
    registry = ReadableRegistry()
    facts = stored(registry, tmp_path / "first", key)
    found = find_result(key, REQUEST, GATHERED, registry, tmp_path / "reused")
    assert found is not None
    assert found.facts == facts
    assert found.report["conversion"]["seconds"] == 1.5
    assert (tmp_path / "reused" / "model.onnx").read_bytes() == b"converted"
    assert found.content is not None
    uploads = registry.uploads
    assert publish(found.content, Layout({"model.onnx": "model.onnx"}), REPOSITORY, registry) == facts.artifact
    assert registry.uploads == uploads, "nothing is sent again"


def test_where_there_is_none(tmp_path: Path, key: str) -> None:
    assert find_result(key, REQUEST, GATHERED, ReadableRegistry(), tmp_path / "reused") is None


def _lose_layer(registry: FakeRegistry, facts: ModelFacts) -> None:
    del registry.blobs[facts.artifact.layer]


def _damage_layer(registry: FakeRegistry, facts: ModelFacts) -> None:
    data = registry.blobs[facts.artifact.layer]
    registry.blobs[facts.artifact.layer] = data.replace(b"converted", b"conVerted")


def _lengthen_layer(registry: FakeRegistry, facts: ModelFacts) -> None:
    registry.blobs[facts.artifact.layer] += b"\0" * 1024


def _damage_provenance(registry: FakeRegistry, facts: ModelFacts) -> None:
    for digest, data in registry.blobs.items():
        if b"provenance/v1" in data:
            registry.blobs[digest] = data.replace(b"2.13.0", b"2.13.1")


@pytest.mark.parametrize("harm", [_lose_layer, _damage_layer, _lengthen_layer, _damage_provenance])
def test_a_damaged_result_is_none(tmp_path: Path, key: str, harm) -> None:
    registry = ReadableRegistry()
    harm(registry, stored(registry, tmp_path / "first", key))
    assert find_result(key, REQUEST, GATHERED, registry, tmp_path / "reused") is None
    assert not (tmp_path / "reused").exists()


def test_a_result_of_other_inputs_under_this_tag_is_none(tmp_path: Path, key: str) -> None:
    registry = ReadableRegistry()
    other = key[:32] + "0" * 32
    stored(registry, tmp_path / "first", other)
    assert result_tag(other) == result_tag(key)
    assert find_result(key, REQUEST, GATHERED, registry, tmp_path / "reused") is None


def test_a_result_of_another_source_or_repository_is_none(tmp_path: Path, key: str) -> None:
    registry = ReadableRegistry()
    stored(registry, tmp_path / "first", key, digest="sha256:" + "7" * 64)
    assert find_result(key, REQUEST, GATHERED, registry, tmp_path / "reused") is None
    registry = ReadableRegistry()
    stored(registry, tmp_path / "second", key, repository="elsewhere:5000/vision")
    assert find_result(key, REQUEST, GATHERED, registry, tmp_path / "reused") is None


def test_provenance_names_no_secret_and_holds_no_time() -> None:
    request = asked(
        optimize={**INT8, "calibration": {"uri": "s3://m/c.npz", "credentialsSecretRef": {"name": "hidden-name"}}},
        gates={"dataset": {"uri": "s3://m/d.npz", "credentialsSecretRef": {"name": "hidden-name"}}},
    )
    first, again = (provenance_of(request, GATHERED, OPENED, None) for _ in range(2))
    assert first == again
    assert "hidden-name" not in json.dumps(first)
    assert first["digests"] == {"source": SOURCE, "calibration": GATHERED.calibration}
    assert first["tools"] == OPENED["tools"]


def test_parts_of_a_report_that_break_its_schema_are_left_out() -> None:
    told = ({"conversion": {"seconds": "long"}, "optimization": {"asked": "INT8"}, "source": {"uri": "forged"}},)
    told += ({"parity": {"rows": 3, "max_absolute": float("nan")}, "serving": 5},)
    report = build_report(REQUEST, GATHERED, OPENED, told, (), "TorchExport")
    assert "conversion" not in report
    assert "serving" not in report
    assert report["optimization"] == {"asked": "INT8"}
    assert report["parity"] == {"rows": 3, "max_absolute": None}
    assert report["source"]["uri"] == REQUEST.uri
