"""Measuring in a real Triton: the program of the server's container, and what asks it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hack.cluster.settings import CHECKOUT
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from penstock.api.facts import ModelFacts, RepositoryModel
from penstock.api.preparation import PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.report import read_report
from penstock_runtime.data import read_dataset
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Tensor
from penstock_runtime.gates.offline import OfflineGates
from penstock_runtime.measure import main
from penstock_runtime.measurement import Given, Measurement
from penstock_runtime.meeting import ACCEPTED, FETCHED, INSPECTED, MEASURED, Meeting
from tests.integration.tritonserver import Installation, TritonUnavailable, install, lay_out_backends

SHAPE = Tensor("pixels", "FP32", (-1, 64))
NO_DIGEST = f"sha256:{'0' * 64}"
ROWS = 300


@pytest.fixture(scope="module")
def installation() -> Installation:
    try:
        return install()
    except TritonUnavailable as error:
        pytest.skip(str(error))


def digits() -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


def trained() -> Any:
    """Weights of a linear classifier, by least squares: about 94 % right."""
    images, labels = digits()
    padded = np.hstack([images[ROWS:], np.ones((len(images) - ROWS, 1), np.float32)])
    weights, *_ = np.linalg.lstsq(padded, np.eye(10, dtype=np.float32)[labels[ROWS:]], rcond=None)
    return weights.astype(np.float32)


def model(path: Path, nodes: list[Any] | None = None, constants: tuple[Any, ...] = ()) -> Path:
    weights = trained()
    constants = (numpy_helper.from_array(weights[:64], "w"), numpy_helper.from_array(weights[64], "b"), *constants)
    nodes = nodes or [helper.make_node("Gemm", ["pixels", "w", "b"], ["scores"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("pixels", TensorProto.FLOAT, ["N", 64])], [value("scores", TensorProto.FLOAT, ["N", 10])],
        list(constants),
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path


def facts() -> ModelFacts:
    return ModelFacts.model_validate(
        {
            "format": "ONNX", "digest": NO_DIGEST, "batching": True,
            "artifact": {"repository": "r", "manifest": NO_DIGEST, "layer": NO_DIGEST, "sizeBytes": 1},
            "inputs": [{"name": "pixels", "dataType": "FP32", "dims": [-1, 64]}],
            "outputs": [{"name": "scores", "dataType": "FP32", "dims": [-1, 10]}],
        }
    )  # fmt: skip


@dataclass
class Place:
    """The pod's shared folder, with the server's program running beside it."""

    work: Path
    process: subprocess.Popen[bytes]

    def dataset(self, label: bool = True, rows: int = ROWS) -> Path:
        folder = self.work / "dataset"
        folder.mkdir(exist_ok=True)
        images, labels = digits()
        arrays = {"pixels": images[:rows], **({"label": labels[:rows]} if label else {})}
        np.savez(folder / "data.npz", **arrays)
        return folder

    def measure(self, gates: dict[str, Any], path: Path, data: Path | None = None, **server: Any) -> Measurement:
        if data is not None:
            gates = {"dataset": {"uri": "https://example.org/data.npz"}, **gates}
        server.setdefault("resources", {"limits": {"cpu": "2", "memory": "1Gi"}})
        request = PreparationRequest.model_validate(
            {
                "uri": "https://example.org/m.onnx", "repository": "r", "maxBytes": 1 << 30, "servedName": "digits",
                "gates": gates, "server": server,
            }
        )  # fmt: skip
        return Measurement(request, Given(facts(), {"model.onnx": path}, data), self.work, seconds=2.0)


@pytest.fixture
def place(installation: Installation, tmp_path: Path) -> Iterator[Place]:
    backends, work = tmp_path / "backends", tmp_path / "work"
    work.mkdir()
    lay_out_backends(installation, backends, CHECKOUT)
    serve = (
        f"{sys.executable} {CHECKOUT / 'runtime/images/triton/penstock-serve'} --backend-directory={backends} "
        f"--cache-directory={installation.root / 'caches'}"
    )
    environment = {**os.environ, **installation.environment, "PENSTOCK_PROOF": str(work / "proof")}
    environment |= {"PENSTOCK_CGROUP": "/nowhere", "PENSTOCK_SERVER": serve}
    environment["PATH"] = f"{installation.root / 'bin'}:{environment['PATH']}"
    command = [sys.executable, str(CHECKOUT / "runtime/images/triton/penstock-prove")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield Place(work, process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def rows_of(measurement: Measurement) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in measurement.answer()["gates"]}


def keep_reference(place: Place, path: Path, data: Path) -> None:
    dataset = read_dataset(data, (SHAPE,))
    OfflineGates(Asked(), dataset, None, path).keep(place.work / "answers")


EASY = {
    "parity": {"minTop1Agreement": "1", "maxAbsoluteDifference": "1e-4", "maxRelativeDifference": "1e-4"},
    "accuracy": {"metric": "Top1", "minimum": "0.8"},
    "latency": {"p50": "5s", "p95": "5s", "p99": "5s", "concurrency": 4},
    "throughput": {"minPerSecond": "1", "concurrency": 4, "batchSize": 2},
    "memory": {"max": "4Gi"},
}


def test_every_gate_passes(place: Place) -> None:
    path, data = model(place.work / "prepared/model.onnx"), place.dataset()
    keep_reference(place, path, data)
    measurement = place.measure(EASY, path, data)
    measurement.run()
    rows = rows_of(measurement)
    assert [name for name, row in rows.items() if not row["passed"]] == []
    assert set(rows) == {
        "served.parity.top1", "served.parity.absolute", "served.parity.relative", "served.consistency",
        "latency.p50", "latency.p95", "latency.p99", "throughput", "memory",
    }  # fmt: skip
    serving = read_report(json.dumps({"schema": "penstock.dev/report/v1", **measurement.answer()["report"]})).serving
    assert serving is not None
    assert serving.latency is not None
    assert serving.latency.requests > 10
    assert [point.batch_size for point in serving.throughput][:2] == [1, 2]
    assert serving.memory is not None
    assert serving.memory.peak_bytes > 20 << 20
    assert not (place.work / "proof/1/repository").exists()


def test_every_gate_fails_with_its_number(place: Place) -> None:
    path, data = model(place.work / "prepared/model.onnx"), place.dataset()
    hard = {
        "latency": {"p50": "1ms", "p95": "1ms", "p99": "1ms", "concurrency": 32, "batchSize": 32},
        "throughput": {"minPerSecond": "999999", "concurrency": 2},
        "memory": {"max": "1Mi"},
    }
    measurement = place.measure(hard, path, data)
    measurement.run()
    refused = {name: row for name, row in rows_of(measurement).items() if not row["passed"]}
    assert {name: row["reason"] for name, row in refused.items()} == {
        "latency.p50": Reason.LATENCY_FAILED, "latency.p95": Reason.LATENCY_FAILED,
        "latency.p99": Reason.LATENCY_FAILED, "throughput": Reason.THROUGHPUT_FAILED, "memory": Reason.MEMORY_FAILED,
    }  # fmt: skip
    assert "requests, 32 at once, 32 rows each" in refused["latency.p95"]["sentence"]
    assert refused["throughput"]["value"] < 999999
    assert "asked: at most 1 MiB" in refused["memory"]["sentence"]


def test_answers_unlike_the_sources_are_refused_before_any_load(place: Place) -> None:
    path, data = model(place.work / "prepared/model.onnx"), place.dataset()
    other = [
        helper.make_node("Gemm", ["pixels", "w", "b"], ["right"]),
        helper.make_node("Neg", ["right"], ["scores"]),
    ]
    keep_reference(place, model(place.work / "other/model.onnx", other), data)
    measurement = place.measure({**EASY, "parity": {"minTop1Agreement": "0.99"}}, path, data)
    measurement.run()
    rows = rows_of(measurement)
    assert not rows["served.parity.top1"]["passed"]
    assert rows["served.parity.top1"]["reason"] == Reason.PARITY_FAILED
    assert "latency.p50" not in rows


def test_rows_of_other_callers_that_leak_are_found(place: Place) -> None:
    nodes = [
        helper.make_node("Gemm", ["pixels", "w", "b"], ["plain"]),
        helper.make_node("ReduceMax", ["plain"], ["top"], axes=[0], keepdims=1),
        helper.make_node("Add", ["plain", "top"], ["scores"]),
    ]
    measurement = place.measure({}, model(place.work / "prepared/model.onnx", nodes), place.dataset())
    measurement.run()
    row = rows_of(measurement)["served.consistency"]
    assert (row["passed"], row["reason"]) == (False, Reason.CONSISTENCY_FAILED)


def test_without_data_rows_are_made_up(place: Place) -> None:
    gates = {"latency": {"p95": "5s", "batchSize": 64}, "throughput": {"minPerSecond": "1"}}
    measurement = place.measure(gates, model(place.work / "prepared/model.onnx"))
    measurement.run()
    rows = rows_of(measurement)
    assert rows["served.consistency"]["passed"]
    assert rows["throughput"]["passed"]
    assert not rows["latency"]["passed"]
    assert "requests of 64 rows are not answered" in rows["latency"]["sentence"]


def test_what_triton_says_of_a_model_that_does_not_load(place: Place) -> None:
    path = place.work / "prepared/model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"no model")
    with pytest.raises(Failure, match=r"Triton could not load the model: .*onnx") as refused:
        place.measure(EASY, path, place.dataset()).run()
    assert refused.value.reason is Reason.LOAD_FAILED
    assert (place.work / "proof/1/ended").exists()


REPOSITORY = """
backend: "onnxruntime" max_batch_size: 8
input { name: "pixels" data_type: TYPE_FP32 dims: [64] }
output { name: "scores" data_type: TYPE_FP32 dims: [10] }
instance_group { count: 1 kind: KIND_CPU }
"""


def test_a_repository_served_as_it_is_is_judged_by_its_answers(place: Place) -> None:
    path, data = model(place.work / "source/digits/1/model.onnx"), place.dataset()
    config = place.work / "source/digits/config.pbtxt"
    config.write_text(REPOSITORY)
    gates = {"accuracy": {"metric": "Top1", "minimum": "0.8"}, "parity": {"minTop1Agreement": "0.9"}}
    measurement = place.measure(gates, path, data)
    known = facts().model_copy(
        update={"format": "TritonRepository", "inputs": (), "outputs": (), "models": (RepositoryModel(name="digits"),)}
    )
    files = {"digits/config.pbtxt": config, "digits/1/model.onnx": path}
    given = Given(known, files, data, folders=("digits/labels",))
    measurement = Measurement(measurement.request, given, place.work, seconds=1.0)
    measurement.run()
    rows = rows_of(measurement)
    assert rows["accuracy"]["passed"]
    assert rows["accuracy"]["rows"] == ROWS
    assert rows["served.consistency"]["passed"]
    assert not rows["parity"]["passed"]
    assert "nothing here can run this source" in rows["parity"]["sentence"]


def test_a_search_keeps_what_was_measured_best(place: Place) -> None:
    gates = {"latency": {"p95": "5s"}, "tune": {"goal": "Throughput", "trials": 2}}
    measurement = place.measure(gates, model(place.work / "prepared/model.onnx"))
    measurement.run()
    answer = measurement.answer()
    serving = read_report(json.dumps({"schema": "penstock.dev/report/v1", **answer["report"]})).serving
    assert serving is not None
    assert serving.goal == "Throughput"
    assert len(serving.trials) == 2
    assert [trial.chosen for trial in serving.trials].count(True) == 1
    chosen = next(trial for trial in serving.trials if trial.chosen)
    assert answer.get("server", {"defaults": True}) == chosen.settings
    assert (place.work / "proof/5/ended").exists()


def test_the_program_between_the_markers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = model(place.work / "prepared/model.onnx"), place.dataset()
    measurement = place.measure({"latency": {"p95": "5s"}}, path, data)
    monkeypatch.setenv("PENSTOCK_ROOT", str(place.work.parent))
    monkeypatch.setenv("PENSTOCK_REQUEST", measurement.request.model_dump_json(by_alias=True))
    monkeypatch.setenv("PENSTOCK_MEASURE_SECONDS", "1")
    meeting = Meeting(place.work, "transfer", "measure")
    meeting.write(FETCHED, {"root": str(path.parent), "dataset": NO_DIGEST})
    meeting.write(
        ACCEPTED, {"facts": facts().model_dump(mode="json", by_alias=True), "files": {"model.onnx": str(path)}}
    )
    assert main() == 0
    assert [row["passed"] for row in meeting.read(MEASURED)["gates"]] == [True, True]
    inspected = facts().model_dump(mode="json", by_alias=True, exclude={"digest", "artifact"})
    meeting.write(INSPECTED, {"facts": inspected, "prepared": {"model.onnx": "model.onnx"}, "gates": []})
    meeting.clear(MEASURED)
    path.write_bytes(b"no model")
    monkeypatch.setenv("PENSTOCK_MODE", "sequential")
    assert main() == 0
    error = meeting.read(MEASURED)["error"]
    assert error["reason"] == Reason.LOAD_FAILED
    assert "Triton could not load the model" in error["message"]
