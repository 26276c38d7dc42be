"""The Python model of `faults.py`: Triton loads it inside a serving pod.

Answers are given by response senders from threads, so that a late or missing answer holds up nobody else's.
"""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ONNX file, and what is to go wrong."""
        folder = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        self.fault = json.loads((folder / "fault.json").read_text())
        self.inputs = [item["name"] for item in config["input"]]
        self.outputs = [(item["name"], [int(size) for size in item["dims"]]) for item in config["output"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.fed = [found.name for found in self.session.get_inputs()]
        self.chance = random.Random()  # noqa: S311 - which requests fail, no secret
        self.seen = 0
        self.kept: list[Any] = []

    def execute(self, requests: list[Any]) -> None:
        """Answer each request, or do to it what the fault says."""
        for request in requests:
            self.seen += 1
            self.treat(request) if self.strikes(request) else self.send(request, self.answer(request))

    def strikes(self, request: Any) -> bool:
        """Whether this request is one of those that suffer."""
        if self.seen <= self.fault["after"] or self.fault["kind"] in ("None", "RenamedInput"):
            return False
        if self.fault["kind"] == "GrpcError" and "grpc" not in request.parameters():
            return False
        return self.chance.random() * 100 < self.fault["percent"]

    def treat(self, request: Any) -> None:
        """Do it."""
        kind, mark = self.fault["kind"], self.fault["mark"]
        if kind == "Slow":
            threading.Thread(target=self.send_late, args=(request, self.answer(request)), daemon=True).start()
        elif kind == "Hang":
            self.kept.append(request.get_response_sender())
        elif kind == "Die":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        else:
            error = pb_utils.TritonError(mark, pb_utils.TritonError.INTERNAL)
            self.send(request, pb_utils.InferenceResponse(error=error))

    def send_late(self, request: Any, response: Any) -> None:
        """The right answer, late."""
        time.sleep(self.fault["seconds"])
        self.send(request, response)

    def send(self, request: Any, response: Any) -> None:
        """The one answer of a request."""
        request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def answer(self, request: Any) -> Any:
        """What the ONNX file says."""
        arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]
        found = self.session.run([name for name, _ in self.outputs], dict(zip(self.fed, arrays, strict=True)))
        rows = arrays[0].shape[0]
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(np.asarray(array).reshape([rows, *dims])))
            for (name, dims), array in zip(self.outputs, found, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
