"""Models that answer as another one does, with one fault: what a rollout has to find out and take back.

Each is a Triton repository of one Python model around the same ONNX file, so that its good answers and its speed are
those of the model itself. It needs `format: TritonRepository` and `trust: Code`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime

__all__ = ["MARK", "MODEL_SPEC", "Fault", "faulty_repository"]

MARK = "fault on purpose"
"""Stands in every error that such a model makes."""
MODEL_SPEC = {"format": "TritonRepository", "trust": "Code"}
"""What spec.model says beside the uri."""
_SOURCE = Path(__file__).with_name("faulty_model.py")
_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(int64)": "TYPE_INT64"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong, for which share of the requests."""

    kind: Literal["None", "Error", "Slow", "Hang", "Die", "GrpcError", "RenamedInput"]
    """GrpcError needs the flag of `flags`; Die ends the whole server, as a crash in native code does."""
    percent: float = 100
    seconds: float = 0
    """Slow: how much later the answer comes."""
    after: int = 0
    """The first so many requests are answered well; warm-up and probes do not count."""

    @property
    def flags(self) -> dict[str, str]:
        """spec.server.flags: how a model learns by which door a request came."""
        return {"grpc-header-forward-pattern": "user-agent"} if self.kind == "GrpcError" else {}


def faulty_repository(name: str, model: bytes, fault: Fault) -> dict[str, bytes]:
    """Files by path of a repository whose one model is called `name`."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = [_tensor(found) for found in session.get_inputs()]
    if fault.kind == "RenamedInput":
        inputs = [{**found, "name": f"new_{found['name']}"} for found in inputs]
    return {
        f"{name}/config.pbtxt": _config(name, inputs, [_tensor(found) for found in session.get_outputs()]).encode(),
        f"{name}/1/model.py": _SOURCE.read_bytes(),
        f"{name}/1/model.onnx": model,
        f"{name}/1/fault.json": json.dumps({**asdict(fault), "mark": MARK}).encode(),
    }


def _tensor(found: Any) -> dict[str, Any]:
    """Rows are the batch; a column of labels has one value a row."""
    return {"name": found.name, "type": _TYPES[found.type], "dims": list(found.shape[1:]) or [1]}


def _config(name: str, inputs: list[Mapping[str, Any]], outputs: list[Mapping[str, Any]]) -> str:
    tensors = [
        f'{kind} {{ name: "{found["name"]}" data_type: {found["type"]} dims: {found["dims"]} }}'
        for kind, group in (("input", inputs), ("output", outputs))
        for found in group
    ]
    head = (f'name: "{name}"', 'backend: "python"', "max_batch_size: 32", "instance_group { count: 1 kind: KIND_CPU }")
    return "\n".join((*head, *tensors)) + "\n"
