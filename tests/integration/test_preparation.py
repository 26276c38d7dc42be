"""The three programs as Kubernetes runs them: processes, environment, files, a real registry, exit codes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationReport
from penstock.api.reasons import Reason
from penstock_runtime.registry import Registry
from penstock_runtime.web import Web
from tests.integration.servers import WebServer, running_registry, web_server


def onnx_model(nodes: list[Any] | None = None, weights: tuple[Any, ...] = (), opset: int = 17) -> bytes:
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes or [helper.make_node("Relu", ["x"], ["y"])], "g", [shape], [out], list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made.SerializeToString()


GOOD = onnx_model()


def _hungry(gib: int) -> bytes:
    """A small file that asks for much memory when it runs."""
    size = numpy_helper.from_array(np.array([gib << 28, 1], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    return onnx_model(nodes, (size,))


def _endless() -> bytes:
    """A loop that does not end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    return onnx_model([helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)], (yes,))


@dataclass
class Pod:
    """Folders of a pod, and the programs in it."""

    root: Path
    store: str
    web: WebServer
    patience: ClassVar[float] = 200

    def environment(self, **extra: str) -> dict[str, str]:
        paths = os.pathsep.join(filter(None, sys.path))
        return {**os.environ, "PYTHONPATH": paths, "PENSTOCK_ROOT": str(self.root), **extra}

    def start(self, program: str, **extra: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"penstock_runtime.{program}"]
        return subprocess.Popen(command, env=self.environment(**extra), cwd="/", stderr=subprocess.DEVNULL)

    def prepare(
        self, uri: str, env: dict[str, str] | None = None, *, alone: bool = False, **request: Any
    ) -> PreparationReport:
        """Run the preparation to its end; `alone` leaves out the inspection, which must then not be needed."""
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "work").mkdir(parents=True)
        asked = {
            "uri": uri, "repository": f"{self.store}/vision", "plainHttp": [self.store, self.web.host],
            "maxBytes": 1 << 20, **request,
        }  # fmt: skip
        extra = {"PENSTOCK_REQUEST": json.dumps(asked), **(env or {})}
        programs = [self.start(name, **extra) for name in ("transfer", "inspect")[: 1 if alone else 2]]
        codes = [program.wait(self.patience) for program in programs]
        report = PreparationReport.decode((self.root / "dev/termination-log").read_text())
        assert codes == [1 if report.error else 0, 0][: len(codes)]
        assert (self.root / "work/failed").exists() == (alone or bool(report.error or report.needs))
        return report

    def fetch(self, facts: ModelFacts, **extra: str) -> int:
        """Run the init container of a serving pod."""
        artifact = facts.artifact.model_dump_json(by_alias=True)
        environment = {
            "PENSTOCK_ARTIFACT": artifact,
            "PENSTOCK_PLAIN_HTTP": self.store,
            "PENSTOCK_SERVED_NAME": "digits",
        }
        return self.start("fetch", **{**environment, **extra}).wait(60)

    @property
    def models(self) -> dict[str, bytes]:
        folder = self.root / "models"
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WebServer]]:
    with running_registry(tmp_path_factory.mktemp("registry")) as store, web_server() as web:
        yield store, web


@pytest.fixture
def pod(servers: tuple[str, WebServer], tmp_path: Path) -> Pod:
    return Pod(tmp_path / "pod", *servers)


def facts_of(report: PreparationReport) -> ModelFacts:
    assert report.facts, report.error
    return report.facts


def refused(report: PreparationReport, reason: Reason, *words: str) -> None:
    assert report.error, report.facts
    assert report.error.reason is reason, report.error.message
    for word in words:
        assert word in report.error.message


class TestOnnx:
    def test_prepared_published_fetched(self, pod: Pod) -> None:
        pod.web.serve("/digits.onnx", GOOD)
        digest = f"sha256:{hashlib.sha256(GOOD).hexdigest()}"
        facts = facts_of(pod.prepare(f"https://{pod.web.host}/digits.onnx", digest=digest))
        assert (facts.digest, facts.batching, facts.format) == (digest, True, "ONNX")
        assert not (pod.root / "work/source").exists()
        config = pod.root / "etc/penstock/config/config.pbtxt"
        config.parent.mkdir(parents=True)
        config.write_text("name: 'digits'")
        for _ in range(2):
            assert pod.fetch(facts) == 0
            assert pod.models == {"digits/1/model.onnx": GOOD, "digits/config.pbtxt": b"name: 'digits'"}
        again = facts_of(pod.prepare(f"https://{pod.web.host}/digits.onnx", digest=digest))
        assert again == facts, "the same content gives the same facts, its evidence included"

    def test_the_request_is_checked_before_the_model_is_opened(self, pod: Pod) -> None:
        pod.web.serve("/digits.onnx", GOOD)
        uri = f"https://{pod.web.host}/digits.onnx"
        wrong = "sha256:" + "0" * 64
        report = pod.prepare(uri, digest=wrong, alone=True)
        refused(report, Reason.DIGEST_MISMATCH, wrong, hashlib.sha256(GOOD).hexdigest())
        refused(pod.prepare(uri, maxBytes=20, alone=True), Reason.TOO_LARGE, "20 bytes")
        report = pod.prepare(uri, {"PENSTOCK_CREDENTIALS": "s3-reader"}, alone=True)
        refused(report, Reason.SECRET_MISSING, "s3-reader")
        key = {"PENSTOCK_SIGNATURE_KEY": "signing/pub.pem"}
        report = pod.prepare(uri, key, verifySignature="Cosign", alone=True)
        refused(report, Reason.SECRET_MISSING, "signing", "pub.pem")
        refused(pod.prepare(f"https://{pod.web.host}/none"), Reason.SOURCE_NOT_FOUND, "404")

    @pytest.mark.parametrize(
        ("data", "env", "reason", "words"),
        [
            (GOOD[:-15], {}, Reason.INVALID_MODEL, ("upload",)),
            (onnx_model(opset=99), {}, Reason.UNSUPPORTED_OPSET, ("99",)),
            (_hungry(2), {"PENSTOCK_INSPECT_MEMORY": str(600 << 20)}, Reason.PREPARATION_OUT_OF_MEMORY, ("600 MiB",)),
            (_endless(), {"PENSTOCK_INSPECT_SECONDS": "4"}, Reason.PREPARATION_TIMEOUT, ("4 s", "batch 1, 2 and 5")),
        ],
        ids=["cut short", "newer opset", "out of memory", "endless"],
    )
    def test_models_that_fail(
        self, pod: Pod, data: bytes, env: dict[str, str], reason: Reason, words: tuple[str]
    ) -> None:
        pod.web.serve("/bad.onnx", data)
        refused(pod.prepare(f"https://{pod.web.host}/bad.onnx", env), reason, *words)

    def test_a_store_that_is_away(self, pod: Pod) -> None:
        pod.web.serve("/digits.onnx", GOOD)
        hurried, hosts = {"PENSTOCK_STORE_SECONDS": "1"}, [pod.web.host, "127.0.0.1:9"]
        uri = f"https://{pod.web.host}/digits.onnx"
        away = pod.prepare(uri, hurried, repository="127.0.0.1:9/vision", plainHttp=hosts)
        refused(away, Reason.STORE_UNAVAILABLE, "127.0.0.1:9")

    def test_an_inspection_that_dies_whole(self, pod: Pod) -> None:
        (pod.root / "work").mkdir(parents=True)
        pod.web.serve("/digits.onnx", GOOD)
        request = {
            "uri": f"https://{pod.web.host}/digits.onnx", "repository": f"{pod.store}/vision",
            "plainHttp": [pod.store, pod.web.host], "maxBytes": 1 << 20,
        }  # fmt: skip
        (pod.root / "work/inspect.lock").touch()
        transfer = pod.start("transfer", PENSTOCK_REQUEST=json.dumps(request))
        assert transfer.wait(30) == 1
        report = PreparationReport.decode((pod.root / "dev/termination-log").read_text())
        refused(report, Reason.PREPARATION_OUT_OF_MEMORY, "inspect")

    def test_many_tensors_fit_the_report_or_are_refused_in_words(self, pod: Pod) -> None:
        shapes = [
            helper.make_tensor_value_info(f"x{i}_{'n' * 200}{i * 7919}", TensorProto.FLOAT, ["N", i + 1])
            for i in range(256)
        ]
        nodes = [helper.make_node("Relu", [v.name], [f"y{i}"]) for i, v in enumerate(shapes)]
        outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["N", i + 1]) for i in range(256)]
        made = helper.make_model(
            helper.make_graph(nodes, "g", shapes, outputs), opset_imports=[helper.make_opsetid("", 17)]
        )
        made.ir_version = 8
        pod.web.serve("/wide.onnx", made.SerializeToString())
        report = pod.prepare(f"https://{pod.web.host}/wide.onnx")
        assert len(report.encode()) <= 4096
        if report.error:
            refused(report, Reason.UNSUPPORTED_MODEL, "256 inputs", "4,096 bytes")


class TestRepository:
    TREE: ClassVar = {
        "m/config.pbtxt": b'backend: "onnxruntime" max_batch_size: 8',
        "m/1/model.onnx": GOOD,
    }

    def test_served_as_it_is(self, pod: Pod) -> None:
        for path, data in self.TREE.items():
            pod.web.serve(f"/{path}", data)
        claim = pod.root.with_name("claim")
        for path, data in self.TREE.items():
            (claim / path).parent.mkdir(parents=True, exist_ok=True)
            (claim / path).write_bytes(data)
        link = {"PENSTOCK_ROOT": str(pod.root)}
        pod.root.mkdir()
        report = self._with_claim(pod, claim, link)
        facts = facts_of(report)
        assert [model.name for model in facts.models] == ["m"]
        assert pod.fetch(facts) == 0
        assert pod.models == self.TREE

    def test_mounted_it_stays_where_it_is(self, pod: Pod) -> None:
        claim = pod.root.with_name("claim")
        for path, data in self.TREE.items():
            (claim / path).parent.mkdir(parents=True, exist_ok=True)
            (claim / path).write_bytes(data)
        facts = facts_of(self._with_claim(pod, claim, {"PENSTOCK_ROOT": str(pod.root)}, delivery="Mount"))
        assert facts.mount is not None
        assert (facts.mount.claim, facts.mount.size_bytes) == ("data", sum(map(len, self.TREE.values())))
        shutil.copytree(claim, pod.root / "content")
        assert pod.fetch(facts, PENSTOCK_CLAIM="pvc://data") == 0
        assert pod.models == self.TREE
        assert all((pod.root / "models" / path).is_symlink() for path in self.TREE)
        (pod.root / "content/m/1/model.onnx").write_bytes(GOOD[:-1] + b"!")
        assert pod.fetch(facts, PENSTOCK_CLAIM="pvc://data") == 1
        told = json.loads((pod.root / "dev/termination-log").read_text())
        assert Reason(told["reason"]) is Reason.DIGEST_MISMATCH
        assert "pvc://data: m/1/model.onnx" in told["message"]

    @staticmethod
    def _with_claim(pod: Pod, claim: Path, env: dict[str, str], **more: str) -> PreparationReport:
        (pod.root / "work").mkdir(parents=True, exist_ok=True)
        shutil.copytree(claim, pod.root / "source")
        request = {
            "uri": "pvc://data",
            "repository": f"{pod.store}/vision",
            "plainHttp": [pod.store],
            "maxBytes": 1 << 20,
            **more,
        }
        extra = {"PENSTOCK_REQUEST": json.dumps(request), **env}
        programs = [pod.start(name, **extra) for name in ("transfer", "inspect")]
        assert [program.wait(60) for program in programs] == [0, 0]
        return PreparationReport.decode((pod.root / "dev/termination-log").read_text())


class TestFetch:
    @pytest.fixture
    def facts(self, pod: Pod) -> ModelFacts:
        pod.web.serve("/digits.onnx", GOOD)
        return facts_of(pod.prepare(f"https://{pod.web.host}/digits.onnx"))

    def told(self, pod: Pod) -> dict[str, str]:
        return json.loads((pod.root / "dev/termination-log").read_text())

    def test_a_lost_blob_is_missing(self, pod: Pod, facts: ModelFacts) -> None:
        lost = facts.artifact.model_copy(update={"layer": "sha256:" + "0" * 64})
        assert pod.fetch(facts.model_copy(update={"artifact": lost})) == 1
        assert Reason(self.told(pod)["reason"]) is Reason.ARTIFACT_MISSING
        assert not pod.models

    @pytest.mark.parametrize("how", ["changed", "longer", "cut"])
    def test_a_damaged_blob_is_not_served(self, pod: Pod, facts: ModelFacts, how: str) -> None:
        registry = Registry(pod.store, Web([pod.store]))
        with registry.blob("vision", facts.artifact.layer) as answer:
            data = answer.text()
        damaged = {"changed": data[:600] + b"X" + data[601:], "longer": data + b"more", "cut": data[:700]}[how]
        pod.web.serve(f"/v2/vision/blobs/{facts.artifact.layer}", damaged)
        artifact = facts.artifact.model_copy(update={"repository": f"{pod.web.host}/vision"})
        assert pod.fetch(facts.model_copy(update={"artifact": artifact}), PENSTOCK_PLAIN_HTTP=pod.web.host) == 1
        assert Reason(self.told(pod)["reason"]) is Reason.DIGEST_MISMATCH
        assert not any(name.startswith("digits") for name in pod.models)
