"""The Triton image's own parts, the wrapper and the onnxruntime backend, with the real server."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hack.cluster.settings import CHECKOUT
from onnx import TensorProto, helper

from tests.integration.servers import free_port
from tests.integration.tritonserver import Installation, TritonUnavailable, install, lay_out_backends

BATCHED = """
backend: "onnxruntime" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "label" data_type: TYPE_INT64 dims: [1] reshape { } }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 2 kind: KIND_CPU }
dynamic_batching { default_queue_policy { max_queue_size: 64 } }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
optimization { graph { level: 2 } }
model_warmup { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } } }
"""
TEXT = """
backend: "onnxruntime" max_batch_size: 0
input { name: "s" data_type: TYPE_STRING dims: [-1, 1] }
output { name: "t" data_type: TYPE_STRING dims: [-1, 1] }
instance_group { count: 1 kind: KIND_CPU }
"""


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path.parent.mkdir(parents=True)
    path.write_bytes(made.SerializeToString())


def repository(folder: Path, batched: str = BATCHED) -> Path:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [value("label", TensorProto.INT64, ["N"]), value("y", TensorProto.FLOAT, ["N", 4])]
    save(folder / "m/1/model.onnx", nodes, [value("x", TensorProto.FLOAT, ["N", 4])], outputs)
    shape = ["N", 1]
    texts = [value("s", TensorProto.STRING, shape)], [value("t", TensorProto.STRING, shape)]
    save(folder / "text/1/model.onnx", [helper.make_node("Identity", ["s"], ["t"])], *texts)
    (folder / "m/config.pbtxt").write_text(batched)
    (folder / "text/config.pbtxt").write_text(TEXT)
    return folder


@dataclass
class Served:
    """A started wrapper."""

    process: subprocess.Popen[str]
    port: int
    termination: Path

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or "{}")
        except OSError:
            return 0, None

    def wait_ready(self, model: str) -> None:
        deadline = time.monotonic() + 60
        while self.ask(f"/v2/models/{model}/ready")[0] != 200:
            assert self.process.poll() is None, self.termination.read_text()
            assert time.monotonic() < deadline, "not ready after 60 s"
            time.sleep(0.1)

    def infer(self, model: str, name: str, kind: str, rows: list[list[Any]]) -> tuple[int, Any]:
        data = [value for row in rows for value in row]
        tensor = {"name": name, "datatype": kind, "shape": [len(rows), len(rows[0])], "data": data}
        return self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor]})


@pytest.fixture(scope="module")
def installation() -> Installation:
    try:
        return install()
    except TritonUnavailable as error:
        pytest.skip(str(error))


def start(installation: Installation, models: Path, work: Path, *names: str) -> Served:
    backends = work / "backends"
    if not backends.exists():
        lay_out_backends(installation, backends, CHECKOUT)
    port, grpc, log = free_port(), free_port(), work / "termination-log"
    environment = {**os.environ, **installation.environment, "PENSTOCK_TERMINATION_LOG": str(log)}
    environment["PATH"] = f"{installation.root / 'bin'}:{environment['PATH']}"
    command = [
        sys.executable, str(CHECKOUT / "runtime/images/triton/penstock-serve"), f"--backend-directory={backends}",
        f"--model-repository={models}", "--model-control-mode=explicit", *(f"--load-model={name}" for name in names),
        "--strict-readiness=false", "--disable-auto-complete-config", "--exit-timeout-secs=5", "--allow-metrics=false",
        "--http-address=127.0.0.1", f"--http-port={port}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
    ]  # fmt: skip
    output = (work / "log").open("w")
    with output:
        process = subprocess.Popen(command, env=environment, stdout=output, text=True, start_new_session=True)
    return Served(process, port, log)


def end(served: Served) -> int:
    served.process.terminate()
    try:
        return served.process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(served.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def served(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    started = start(installation, repository(folder / "models"), folder, "m", "text")
    try:
        started.wait_ready("m")
        yield started
    finally:
        code = end(started)
    assert code == 0
    assert not started.termination.exists()


def outputs_of(answer: dict[str, Any]) -> dict[str, tuple[list[int], list[Any]]]:
    return {tensor["name"]: (tensor["shape"], tensor["data"]) for tensor in answer["outputs"]}


def test_rows_and_a_label_without_dimensions(served: Served) -> None:
    status, answer = served.infer("m", "x", "FP32", [[-1.0, 2.0, 0.0, 1.0], [3.0, -2.0, 0.0, 1.0]])
    assert status == 200, answer
    assert outputs_of(answer) == {
        "label": ([2, 1], [1, 0]),
        "y": ([2, 4], [0.0, 2.0, 0.0, 1.0, 3.0, 0.0, 0.0, 1.0]),
    }


def test_strings(served: Served) -> None:
    served.wait_ready("text")
    status, answer = served.infer("text", "s", "BYTES", [["straße"], [""]])
    assert (status, outputs_of(answer)) == (200, {"t": ([2, 1], ["straße", ""])})


def test_administration_is_closed(served: Served) -> None:
    for path in ("/v2/repository/index", "/v2/repository/models/m/unload", "/v2/systemsharedmemory/status"):
        assert served.ask(path, {} if "repository" in path else None)[0] == 403
    assert served.ask("/v2/models/m/ready")[0] == 200


WRONG = {
    "type": (BATCHED.replace('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP64'), "unexpected datatype TYPE_FP64"),
    "name": (
        BATCHED.replace('name: "x"', 'name: "image"'),
        "unexpected inference input ['image'], missing input ['x']",
    ),
    "size": (
        BATCHED.replace('"y" data_type: TYPE_FP32 dims: [4]', '"y" data_type: TYPE_FP32 dims: [5]'),
        "shape [-1, 5]",
    ),
    "free size": (BATCHED.replace("TYPE_FP32 dims: [4] }\noutput", "TYPE_FP32 dims: [-1] }\noutput"), "shape [-1, -1]"),
    "batch": (
        BATCHED.replace("preferred", "x").replace("max_queue_size: 64", "max_queue: 64"),
        'no field named "max_queue"',
    ),
}


@pytest.mark.parametrize(("config", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_model_that_cannot_load_says_why(installation: Installation, tmp_path: Path, config: str, words: str) -> None:
    started = start(installation, repository(tmp_path / "models", config), tmp_path, "m")
    try:
        assert started.process.wait(60) == 1
        assert words in started.termination.read_text()
        assert "At:" not in started.termination.read_text()
    finally:
        end(started)
        shutil.rmtree(tmp_path / "backends", ignore_errors=True)
