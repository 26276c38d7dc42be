"""From what training left to a proven server, for every format; and a model that fails each gate, for every gate.

A model is trained here (tests/models/zoo.py), pushed, prepared, proven against its own framework's answers on rows it
has not seen, served, and asked again. Rows of build/e2e/model-path.json say what was seen. Without PENSTOCK_FULL a few
of each; `make e2e-model-path` is all of them.
"""

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .cluster import apply, wait_for
from .deployments import Deployed, condition
from .modelpath import Rows, predict
from .models import CLASSES, WIDTH, linear_model

zoo = pytest.importorskip("tests.models.zoo", reason="make venv-models")
packaged = pytest.importorskip("tests.models.zoo_packaged", reason="make venv-models")

FULL = bool(os.environ.get("PENSTOCK_FULL"))
FORMATS = (*zoo.NAMES, "saved-model")
FEW_FORMATS = ("sklearn-skops", "xgboost-forest")
NOT_COMPARED = ("openvino", "treelite")
"""Served as they are, and no image has their framework beside the server: compared here alone."""
FEW_GATES = ("accuracy",)
PATIENCE = 540
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def in_tensorflow(cluster, chart, namespace) -> Callable[[str, str], str]:
    """Runs a program in the image that has TensorFlow; what it printed."""

    def run(program: str, argument: str) -> str:
        container = {
            "name": "train",
            "image": chart.images["tensorflow"],
            "command": ["python3", "-c", program, argument],
            "resources": {"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "100m", "memory": "512Mi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "securityContext": security, "automountServiceAccountToken": False}
        metadata = {"name": "train", "namespace": namespace}
        apply(cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                        "spec": {**spec, "containers": [container]}})  # fmt: skip
        wait_for(cluster, "pods", namespace, "train", _has_ended, 300)
        printed = cluster.call(cluster.kubectl, "logs", "train", "-n", namespace)
        cluster.call(cluster.kubectl, "delete", "pod", "train", "-n", namespace, "--wait=false")
        return printed

    return run


def _has_ended(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def push(store, made: "zoo.Specimen", tag: str) -> tuple[str, str]:
    """The model's uri and its dataset's."""
    store.push_files(made.files, tag)
    store.push_files({"dataset.npz": zoo.dataset(made)}, f"{tag}-data")
    return store.uri(tag), store.uri(f"{tag}-data")


@pytest.mark.parametrize("name", FORMATS if FULL else FEW_FORMATS)
def test_each_format_is_served_with_the_answers_of_its_framework(name, deploy, store, rows, request):
    with rows.row("formats", "format", name) as row:
        made = (
            packaged.saved_model(request.getfixturevalue("in_tensorflow"))
            if name == "saved-model"
            else zoo.specimen(name)
        )
        uri, data = push(store, made, name)
        parity = {"minTop1Agreement": "1", "maxAbsoluteDifference": f"{made.tolerance:g}"}
        gates = {"dataset": {"uri": data}} | ({} if name in NOT_COMPARED else {"parity": parity})
        served = deploy(name)

        served.apply(uri, dict(made.model), gates=gates)
        preparation = served.wait_ready(PATIENCE)["status"]["preparation"]

        row.update(source_format=preparation.get("sourceFormat", preparation["format"]), served=preparation["format"])
        row.update(gates={gate["name"]: gate["measured"] for gate in preparation.get("gates", ())})
        row.update(predict(served, made.rows).against(made.answers, made.tolerance))
        assert row["source_format"] == made.format
        assert row["served"] == made.served
        assert all(gate["passed"] for gate in preparation.get("gates", ()))
        told = {gate["name"] for gate in preparation.get("gates", ())}
        assert {"parity.top1", "served.parity.top1"} & told or name in NOT_COMPARED, told


def test_precision_auto_serves_what_was_measured_faster_and_answers_as_before(deploy, store, rows):
    """INT8 on a quiet machine; whatever a busy one chooses, the held-out images get the same digits."""
    made = zoo.specimen("torch-export")
    with rows.row("formats", "format", "torch-export-auto") as row:
        store.push_files(made.files, "auto")
        store.push_files({"dataset.npz": zoo.dataset(made, len(made.rows))}, "auto-data")
        data = {"uri": store.uri("auto-data")}
        auto = deploy("auto")

        auto.apply(
            store.uri("auto"),
            optimize={"precision": "Auto", "calibration": data},
            gates={
                "dataset": data,
                "parity": {"minTop1Agreement": "0.99"},
                "accuracy": {"metric": "Top1", "minimum": "0.95", "maxDropPercent": "1"},
            },
        )
        preparation = auto.wait_ready(PATIENCE)["status"]["preparation"]

        row.update(source_format=preparation["sourceFormat"], served=preparation["format"])
        row.update(precision=preparation.get("precision"), size_bytes=preparation["sizeBytes"])
        row.update(gates={gate["name"]: gate["measured"] for gate in preparation["gates"]})
        row.update(predict(auto, made.rows).against(made.answers, 5.0, 0.99))
        assert preparation.get("precision") in (None, "INT8")
        assert all(gate["passed"] for gate in preparation["gates"]), preparation


def test_a_pickle_is_refused_until_its_author_is_trusted(deploy, store):
    pickled = deploy("pickled")
    pickled.apply(push(store, zoo.specimen("sklearn-pickle"), "pickled")[0])

    found = pickled.wait_refused("CodeNotTrusted", seconds=180)

    assert "trust: Code" in condition(found, "Stalled")["message"]


@dataclass(frozen=True)
class Failing:
    """A model, what is asked of it, and the reason why it is refused."""

    reason: str
    row: str
    """How the row of status.preparation.gates begins."""
    model: Callable[[], dict[str, bytes]]
    gates: dict[str, Any]
    data: Callable[[], dict[str, bytes]] | None = None
    spec: dict[str, Any] = field(default_factory=dict)


@cache
def slow_model(width: int = 1024, layers: int = 40) -> bytes:
    """Forty dense layers of one matrix: tens of milliseconds a row."""
    chance = np.random.default_rng(0)
    arrays = {
        "first": chance.standard_normal((WIDTH, width), dtype=np.float32) / width,
        "matrix": chance.standard_normal((width, width), dtype=np.float32) / width,
    }
    names = ["features", *(f"h{number}" for number in range(layers)), "scores"]
    nodes = [
        helper.make_node("MatMul", [before, "first" if before == "features" else "matrix"], [after])
        for before, after in itertools.pairwise(names)
    ]
    return _model(nodes, ["N", width], arrays)


def uneven_model() -> bytes:
    """What exceeds a hundred is taken off as the batch's mean: made-up rows do not show it, the user's do."""
    nodes = [
        helper.make_node("Sub", ["features", "hundred"], ["above"]),
        helper.make_node("Relu", ["above"], ["excess"]),
        helper.make_node("ReduceMean", ["excess"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["features", "mean"], ["scores"]),
    ]
    return _model(nodes, ["N", WIDTH], {"hundred": np.array(100, np.float32)})


def _model(nodes, shape, arrays) -> bytes:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def some_data(scale: float = 1.0) -> dict[str, bytes]:
    """Rows with labels that no model knows."""
    chance = np.random.default_rng(1)
    features = chance.standard_normal((100, WIDTH), dtype=np.float32) * np.float32(scale)
    return {"dataset.npz": zoo.npz({"features": features, "label": chance.integers(0, CLASSES, 100)})}


def network() -> dict[str, bytes]:
    return dict(zoo.specimen("torch-export").files)


def digits() -> dict[str, bytes]:
    return {"dataset.npz": zoo.dataset(zoo.specimen("torch-export"))}


def dim_digits() -> dict[str, bytes]:
    """The same images a hundred times too dark: what everybody does once."""
    made = zoo.specimen("torch-export")
    return {"dataset.npz": zoo.dataset(replace(made, rows=made.rows / 100))}


def onnx_file(data: bytes) -> dict[str, bytes]:
    return {"model.onnx": data}


GATES = {
    "parity": Failing(
        "ParityFailed", "parity", network, {"parity": {"maxAbsoluteDifference": "0.01"}}, digits,
        {"optimize": {"precision": "INT8"}},
    ),
    "accuracy": Failing(
        "AccuracyFailed", "accuracy", lambda: onnx_file(linear_model(52).data),
        {"accuracy": {"metric": "Top1", "minimum": "0.9"}}, some_data,
    ),
    "latency": Failing(
        "LatencyFailed", "latency", lambda: onnx_file(slow_model()), {"latency": {"p95": "1ms", "concurrency": 2}}
    ),
    "throughput": Failing(
        "ThroughputFailed", "throughput", lambda: onnx_file(slow_model()),
        {"throughput": {"minPerSecond": "100000", "concurrency": 4}},
    ),
    "size": Failing(
        "SizeFailed", "size", lambda: onnx_file(linear_model(53, padding=2 * 2**20).data), {"size": {"max": "1Mi"}}
    ),
    "memory": Failing(
        "MemoryFailed", "memory", lambda: onnx_file(linear_model(54, padding=2**20).data), {"memory": {"max": "32Mi"}}
    ),
    "consistency": Failing(
        "ConsistencyFailed", "consistency", lambda: onnx_file(uneven_model()), {}, lambda: some_data(1000),
    ),
}  # fmt: skip
STABLE = linear_model(51)


@pytest.fixture(scope="module")
def steady(cluster, namespace, store) -> Deployed:
    """What serves while candidates are refused."""
    deployed = Deployed(cluster, namespace, "steady")
    deployed.apply(store.push(STABLE, "steady"))
    deployed.wait_ready()
    deployed.wait_answers_as(STABLE)
    return deployed


@pytest.mark.parametrize("name", GATES if FULL else FEW_GATES)
def test_one_that_fails_a_gate_is_refused_with_the_number_and_stable_serves_on(name, steady, store, rows):
    case = GATES[name]
    pods, stable = steady.serving_pods(), steady.get()["status"]["stable"]
    with rows.row("gates", "gate", name) as row:
        store.push_files(case.model(), f"gate-{name}")
        spec, gates = json.loads(json.dumps(case.spec)), dict(case.gates)
        if case.data:
            store.push_files(case.data(), f"gate-{name}-data")
            gates["dataset"] = {"uri": store.uri(f"gate-{name}-data")}
            if "optimize" in spec:
                spec["optimize"]["calibration"] = gates["dataset"]

        steady.apply(store.uri(f"gate-{name}"), **spec, **({"gates": gates} if gates else {}))
        found = steady.wait_refused(case.reason, seconds=PATIENCE)

        told = condition(found, "Stalled")
        row.update(reason=told["reason"], message=told["message"])
        failed = [gate for gate in found["status"]["preparation"].get("gates", ()) if not gate["passed"]]
        assert failed, found["status"]["preparation"]
        assert failed[0]["name"].startswith((case.row, f"served.{case.row}")), failed
        row.update(asked=failed[0].get("asked", ""), measured=failed[0]["measured"])
        row["stable_untouched"] = (
            steady.serving_pods() == pods
            and steady.answers_as(STABLE)
            and found["status"]["stable"]["revision"] == stable["revision"]
        )
        assert row["stable_untouched"]
        assert any(character.isdigit() for character in told["message"]), told
        assert found["status"]["phase"] == "Failed", found["status"]


@pytest.mark.skipif(not FULL, reason="make e2e-model-path")
def test_calibration_images_a_hundred_times_too_dark_are_told(deploy, store):
    store.push_files(network(), "dim")
    store.push_files(digits(), "dim-data")
    store.push_files(dim_digits(), "dim-calibration")
    dim = deploy("dim")
    optimize = {"precision": "INT8", "calibration": {"uri": store.uri("dim-calibration")}}
    gates = {"dataset": {"uri": store.uri("dim-data")}, "parity": {"minTop1Agreement": "0.99"}}
    dim.apply(store.uri("dim"), optimize=optimize, gates=gates)

    found = dim.wait_refused("DataInvalid", seconds=PATIENCE)

    assert "from 0 to 0.16 in spec.optimize.calibration" in condition(found, "Stalled")["message"]


@pytest.mark.skipif(not FULL, reason="make e2e-model-path")
def test_a_plan_of_tensorrt_waits_for_a_gpu_and_says_so(chart, deploy, store, rows):
    """As far as no GPU allows: found by content, rendered, and not scheduled here."""
    with rows.row("formats", "format", "tensorrt") as row:
        store.push_files({"model.plan": b"ptrt" + bytes(4096)}, "plan")
        tensors = {
            "inputs": [{"name": "image", "dataType": "FP32", "dims": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "dataType": "FP32", "dims": [-1, 10]}],
        }
        limits = {"cpu": "1", "memory": "256Mi", "nvidia.com/gpu": "1"}
        server = {"instances": {"kind": "GPU"}, "resources": {"limits": limits}, "image": chart.images["triton"]}
        planned = deploy("planned")
        planned.apply(store.uri("plan"), tensors, server=server)

        found = planned.wait_reason("Unschedulable", PATIENCE)

        told = condition(found, "Ready")["message"]
        row.update(source_format="TensorRT", served=found["status"]["preparation"]["format"], told=told)
        assert row["served"] == "TensorRT"
        assert "nvidia.com/gpu" in told
