"""Whole preparations through real containers' programs: reuse, sequential pods, data, mounts, and what is published."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationReport
from penstock.api.reasons import Reason
from penstock.api.report import Report, read_report
from penstock_runtime.publish import EMPTY_DIGEST, MANIFEST_TYPE, digest_of
from penstock_runtime.registry import Registry
from penstock_runtime.web import Web
from tests.integration.servers import WebServer, running_registry, web_server
from tests.integration.test_hostile import Hostile
from tests.integration.test_preparation import GOOD, Pod, facts_of, refused

ROWS = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
DATA = {"x": ROWS, "label": np.argmax(ROWS, axis=1)}
LIGHTGBM = (
    b"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=1\n"
    b"objective=regression\nfeature_names=a b\nfeature_infos=[0:1] [0:1]\ntree_sizes=10\n\nTree=0\n"
)
GATES = {"parity": {"minTop1Agreement": "0.9"}, "size": {"max": "1Mi"}}


def npz(**arrays: Any) -> bytes:
    raw = io.BytesIO()
    np.savez(raw, **arrays)
    return raw.getvalue()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WebServer]]:
    with running_registry(tmp_path_factory.mktemp("registry")) as store, web_server() as web:
        yield store, web


@pytest.fixture
def pod(servers: tuple[str, WebServer], tmp_path: Path) -> Pod:
    pod = Pod(tmp_path / "pod", *servers)
    pod.web.serve("/digits.onnx", GOOD)
    pod.web.serve("/data.npz", npz(**DATA))
    return pod


def uri(pod: Pod, name: str = "digits.onnx") -> str:
    return f"https://{pod.web.host}/{name}"


def evidence(pod: Pod, report: PreparationReport) -> tuple[dict[str, Any], dict[str, Any], Report]:
    """Manifest, provenance and report, as somebody finds them who knows the digest."""
    assert report.report
    registry = Registry(pod.store, Web([pod.store]))
    manifest = registry.manifest("vision", report.report).data
    with registry.blob("vision", manifest["config"]["digest"]) as answer:
        provenance = json.loads(answer.text())
    with registry.blob("vision", manifest["layers"][0]["digest"]) as answer:
        return manifest, provenance, read_report(answer.text())


class TestEvidence:
    def test_of_a_model_that_passed(self, pod: Pod) -> None:
        report = pod.prepare(uri(pod), gates={"dataset": {"uri": uri(pod, "data.npz")}, **GATES})
        facts = facts_of(report)
        manifest, provenance, told = evidence(pod, report)
        assert facts.report == report.report
        assert manifest["subject"]["digest"] == facts.artifact.manifest
        assert provenance["digests"]["source"] == facts.digest
        assert provenance["digests"]["dataset"] == f"sha256:{hashlib.sha256(npz(**DATA)).hexdigest()}"
        assert {gate.name for gate in report.gates} == {gate.name for gate in told.gates}
        assert {"size", "parity.top1"} <= {gate.name for gate in report.gates}
        assert told.passed
        assert (told.source.format, told.tools["onnxruntime"] != "") == ("ONNX", True)

    def test_of_a_model_that_was_refused(self, pod: Pod) -> None:
        report = pod.prepare(uri(pod), gates={"size": {"max": "10"}})
        refused(report, Reason.SIZE_FAILED)
        manifest, provenance, told = evidence(pod, report)
        assert "subject" not in manifest
        assert provenance["facts"] is None
        assert told.error is not None
        assert told.error.reason == "SizeFailed"
        assert [gate.passed for gate in report.gates if gate.name == "size"] == [False]


class TestReuse:
    @pytest.fixture
    def pod(self, servers: tuple[str, WebServer], tmp_path: Path) -> Hostile:
        return Hostile(tmp_path / "pod", *servers)

    def test_the_same_inputs_are_converted_once(self, pod: Hostile) -> None:
        facts = facts_of(pod.attack("return good(out)", source=b"once"))
        never = "raise AssertionError('converted again')"
        report = pod.attack(never, source=b"once")
        again = facts_of(report)
        assert again.artifact == facts.artifact
        assert again.model_copy(update={"report": facts.report}) == facts
        assert evidence(pod, report)[2].conversion is not None, "how it was made is still told"
        for change in ({"entrypoint": "m:f"}, {"inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}]}):
            refused(pod.attack(never, source=b"once", **change), Reason.INVALID_MODEL, "converted again")
        refused(pod.attack(never, source=b"another"), Reason.INVALID_MODEL, "converted again")

    def test_a_changed_gate_runs_the_gates_alone(self, pod: Hostile) -> None:
        facts = facts_of(pod.attack("return good(out)", source=b"gated"))
        never = "raise AssertionError('converted again')"
        passed = pod.attack(never, source=b"gated", gates={"size": {"max": "1Mi"}})
        assert facts_of(passed).artifact == facts.artifact
        assert [gate.name for gate in passed.gates if gate.passed][:1] == ["size"]
        refused(pod.attack(never, source=b"gated", gates={"size": {"max": "10"}}), Reason.SIZE_FAILED)

    def test_what_a_failed_gate_refused_is_not_kept(self, pod: Hostile) -> None:
        refused(pod.attack("return good(out)", source=b"small", gates={"size": {"max": "10"}}), Reason.SIZE_FAILED)
        refused(pod.attack("raise AssertionError('again')", source=b"small"), Reason.INVALID_MODEL, "again")


class TestData:
    def test_failures_name_the_field(self, pod: Pod) -> None:
        pod.web.serve("/wrong.npz", npz(z=ROWS))
        for gates, reason, words in (
            ({"uri": uri(pod, "none.npz")}, Reason.SOURCE_NOT_FOUND, ("spec.gates.dataset", "404")),
            (
                {"uri": uri(pod, "data.npz"), "digest": "sha256:" + "0" * 64},
                Reason.DIGEST_MISMATCH,
                ("spec.gates.dataset.digest",),
            ),
            ({"uri": uri(pod, "wrong.npz")}, Reason.DATA_INVALID, ("spec.gates.dataset", "named x")),
        ):
            refused(pod.prepare(uri(pod), gates={"dataset": gates, **GATES}), reason, *words)
        secret = {"PENSTOCK_DATASET_CREDENTIALS": "reader"}
        report = pod.prepare(uri(pod), secret, gates={"dataset": {"uri": uri(pod, "data.npz")}, **GATES})
        refused(report, Reason.SECRET_MISSING, "spec.gates.dataset.credentialsSecretRef", "reader")
        calibration = {"precision": "INT8", "calibration": {"uri": uri(pod, "none.npz")}}
        refused(pod.prepare(uri(pod), optimize=calibration), Reason.SOURCE_NOT_FOUND, "spec.optimize.calibration")

    def test_each_source_has_credentials_of_its_own(self, pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(pod.root, ignore_errors=True)
        removed = shutil.rmtree
        for folder, token in (("credentials", "model-token"), ("dataset-credentials", "data-token")):
            place = pod.root / "etc/penstock" / folder
            place.mkdir(parents=True)
            (place / "token").write_text(token)
        monkeypatch.setattr(shutil, "rmtree", lambda path, **options: None if path == pod.root else removed(path))
        named = {"PENSTOCK_CREDENTIALS": "a", "PENSTOCK_DATASET_CREDENTIALS": "b"}
        (pod.root / "work").mkdir()
        monkeypatch.setattr(Path, "mkdir", _forgiving(Path.mkdir))
        facts_of(pod.prepare(uri(pod), named, gates={"dataset": {"uri": uri(pod, "data.npz")}, **GATES}))
        assert pod.web.authorizations("/digits.onnx")[-1] == "Bearer model-token"
        assert pod.web.authorizations("/data.npz")[-1] == "Bearer data-token"


def _forgiving(mkdir: Any) -> Any:
    return lambda path, **options: mkdir(path, **{**options, "exist_ok": True})


class TestSequential:
    """Containers that run one after the other, where a person's own come between ours."""

    def run(self, pod: Pod, values: dict[str, float] | None = None, **request: Any) -> list[int]:
        """The exit codes of fetch, inspect and publish, as far as they come."""
        shutil.rmtree(pod.root, ignore_errors=True)
        (pod.root / "work").mkdir(parents=True)
        asked = {
            "uri": uri(pod), "repository": f"{pod.store}/vision", "plainHttp": [pod.store, pod.web.host],
            "maxBytes": 1 << 20, **request,
        }  # fmt: skip
        codes = []
        for program, mode in (("transfer", "fetch"), ("inspect", "sequential"), ("transfer", "publish")):
            if mode == "publish":
                for folder, value in (values or {}).items():
                    (pod.root / "work" / folder / "value.json").write_text(json.dumps({"value": value}))
            extra = {"PENSTOCK_REQUEST": json.dumps(asked), "PENSTOCK_MODE": mode}
            codes.append(pod.start(program, **extra).wait(pod.patience))
            if codes[-1]:
                break
        return codes

    def told(self, pod: Pod) -> PreparationReport:
        return PreparationReport.decode((pod.root / "dev/termination-log").read_text())

    def gates(self, pod: Pod, **accuracy: str) -> dict[str, Any]:
        return {
            "dataset": {"uri": uri(pod, "data.npz")},
            "accuracy": {"image": "metric:1", "minimum": "0.9", **accuracy},
        }

    def test_the_metric_of_a_person_s_own_decides(self, pod: Pod) -> None:
        assert self.run(pod, {"metric": 0.97}, gates=self.gates(pod)) == [0, 0, 0]
        facts_of(self.told(pod))
        with np.load(pod.root / "work/metric/predictions.npz") as seen:
            assert np.allclose(seen["y"], np.maximum(ROWS, 0))
            assert np.array_equal(seen["label"], DATA["label"])
        assert self.run(pod, {"metric": 0.5}, gates=self.gates(pod)) == [0, 0, 1]
        refused(self.told(pod), Reason.ACCURACY_FAILED, "0.5", "0.9")
        asked = self.gates(pod, maxDropPercent="1")
        assert self.run(pod, {"metric": 0.97, "metric-source": 0.99}, gates=asked) == [0, 0, 1]
        refused(self.told(pod), Reason.ACCURACY_FAILED, "0.99")
        assert self.run(pod, gates=self.gates(pod)) == [0, 0, 1]
        refused(self.told(pod), Reason.ACCURACY_FAILED, "value.json")

    def test_what_stops_it_early_is_said_by_the_container_that_met_it(self, pod: Pod) -> None:
        assert self.run(pod, digest="sha256:" + "0" * 64) == [1]
        refused(self.told(pod), Reason.DIGEST_MISMATCH)
        pod.web.serve("/bad.onnx", GOOD[:-15])
        assert self.run(pod, uri=uri(pod, "bad.onnx")) == [0, 1]
        refused(self.told(pod), Reason.INVALID_MODEL)
        pod.web.serve("/model.txt", LIGHTGBM)
        assert self.run(pod, uri=uri(pod, "model.txt")) == [1]
        needs = self.told(pod).needs
        assert needs is not None
        assert (needs.format, needs.opener, needs.size_bytes) == ("LightGBM", "Convert", len(LIGHTGBM))


def test_resolve_asks_the_source_alone(pod: Pod) -> None:
    artifact = facts_of(pod.prepare(uri(pod))).artifact
    shutil.rmtree(pod.root)
    place = f"oci://{pod.store}/vision:sha256-{artifact.layer[7:39]}"
    asked = {"uri": place, "repository": f"{pod.store}/vision", "plainHttp": [pod.store], "maxBytes": 1}
    code = pod.start("transfer", PENSTOCK_REQUEST=json.dumps(asked), PENSTOCK_MODE="resolve").wait(pod.patience)
    report = PreparationReport.decode((pod.root / "dev/termination-log").read_text())
    assert (code, report.resolved, report.facts) == (0, artifact.manifest, None)


def test_a_preparation_says_what_its_uri_meant_when_it_is_asked(pod: Pod) -> None:
    artifact = facts_of(pod.prepare(uri(pod))).artifact
    registry = Registry(pod.store, Web([pod.store]))
    layer = {"mediaType": "application/octet-stream", "digest": f"sha256:{hashlib.sha256(GOOD).hexdigest()}"}
    registry.upload("people", layer["digest"], len(GOOD), lambda: [GOOD])
    registry.upload("people", EMPTY_DIGEST, 2, lambda: [b"{}"])
    titled = {**layer, "size": len(GOOD), "annotations": {"org.opencontainers.image.title": "digits.onnx"}}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY_DIGEST, "size": 2}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [titled]}
    ).encode()
    registry.put_manifest("people", "v1", manifest, MANIFEST_TYPE)
    report = pod.prepare(f"oci://{pod.store}/people:v1", resolve=True)
    assert facts_of(report).artifact.layer == artifact.layer
    assert report.resolved == digest_of(manifest)


class TestMount:
    def prepare(self, pod: Pod, source: str = "pvc://data/m", **request: Any) -> PreparationReport:
        shutil.rmtree(pod.root, ignore_errors=True)
        (pod.root / "work").mkdir(parents=True)
        claim = pod.root / "source"
        (claim / "m" / "data").mkdir(parents=True)
        (claim / "m" / "model.onnx").write_bytes(GOOD)
        (claim / "other.txt").write_text("of somebody else")
        (claim / "linked").mkdir()
        (claim / "linked" / "model.onnx").symlink_to("../m/model.onnx")
        asked = {
            "uri": source, "repository": f"{pod.store}/vision", "plainHttp": [pod.store], "maxBytes": 10,
            "delivery": "Mount", **request,
        }  # fmt: skip
        extra = {"PENSTOCK_REQUEST": json.dumps(asked)}
        for program in [pod.start(name, **extra) for name in ("transfer", "inspect")]:
            program.wait(pod.patience)
        return PreparationReport.decode((pod.root / "dev/termination-log").read_text())

    def checksums(self, pod: Pod, facts: ModelFacts) -> dict[str, Any]:
        assert pod.fetch(facts) == 0
        (text,) = pod.models.values()
        files: dict[str, Any] = json.loads(text)["files"]
        return files

    @pytest.mark.parametrize(
        ("source", "path", "named"),
        [("pvc://data/m", "m", "model.onnx"), ("pvc://data/m/model.onnx", "m/model.onnx", "")],
    )
    def test_nothing_is_copied(self, pod: Pod, source: str, path: str, named: str) -> None:
        facts = facts_of(self.prepare(pod, source))
        assert facts.mount is not None
        assert (facts.mount.claim, facts.mount.path, facts.mount.size_bytes) == ("data", path, len(GOOD))
        assert (facts.format, facts.batching, facts.derived) == ("ONNX", True, False)
        assert not (pod.root / "work/source").exists()
        wanted = {"source": named, "size": len(GOOD), "sha256": hashlib.sha256(GOOD).hexdigest()}
        assert self.checksums(pod, facts) == {"model.onnx": wanted}

    def test_links_and_changes_are_refused(self, pod: Pod) -> None:
        refused(self.prepare(pod, "pvc://data/linked"), Reason.INVALID_MODEL, "links", "delivery: Copy")
        refused(self.prepare(pod, "pvc://data/none"), Reason.SOURCE_NOT_FOUND)
