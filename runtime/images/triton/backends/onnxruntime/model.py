"""Stand-in for Triton's C++ onnxruntime backend where there is none: the same config.pbtxt runs on either.

What it takes from the configuration: file name, threads, execution mode, memory settings, graph optimization level,
tensor names, types, shapes and reshapes, max_batch_size. A configuration that contradicts the model fails the load, as
in the C++ backend. It does not complete configurations: a Python-based backend is not told where the model lies.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "0": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class Tensor:
    """One input or output of the configuration; `reshape` is the shape the model sees, None where it is `dims`."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name = item["name"]
        self.data_type = item["data_type"]
        self.dims = [int(size) for size in item["dims"]]
        self.reshape = [int(size) for size in item["reshape"].get("shape", [])] if "reshape" in item else None
        self.numpy_type = pb_utils.triton_string_to_numpy(self.data_type)

    @property
    def model_dims(self) -> list[int]:
        """The shape the model sees, without the batch."""
        return self.dims if self.reshape is None else self.reshape


class TritonPythonModel:
    """One instance: one session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model, and compare the configuration with it; raises TritonModelException."""
        config = json.loads(args["model_config"])
        self.batched = config["max_batch_size"] > 0
        self.inputs = [Tensor(item) for item in config["input"]]
        self.outputs = [Tensor(item) for item in config["output"]]
        self.output_names = [tensor.name for tensor in self.outputs]
        filename = config.get("default_model_filename") or "model.onnx"
        path = str(Path(args["model_repository"]) / args["model_version"] / filename)
        try:
            self.session = ort.InferenceSession(path, session_options(config), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"onnx runtime error: {error}") from error
        check_tensors("input", self.inputs, self.session.get_inputs(), batched=self.batched, complete=True)
        check_tensors("output", self.outputs, self.session.get_outputs(), batched=self.batched, complete=False)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, together where that is possible; a bad one fails alone."""
        if self.batched and len(requests) > 1:
            try:
                return self.answer_together([self.feed(request) for request in requests])
            except Exception:  # noqa: BLE001 - one of them is at fault: alone, each gets its own answer
                return [self.answer(request) for request in requests]
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Answer one request, if only with what the runtime says against it."""
        try:
            return self.respond(self.session.run(self.output_names, self.feed(request)))
        except Exception as error:  # noqa: BLE001 - the runtime's exceptions have no common base
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnx runtime error: {error}"))

    def answer_together(self, feeds: list[dict[str, Any]]) -> list[Any]:
        """Run all requests as one batch; raises when one of them is at fault."""
        first = self.inputs[0].name
        edges = np.cumsum([len(feed[first]) for feed in feeds])[:-1]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        arrays = self.session.run(self.output_names, joined)
        return [self.respond(parts) for parts in zip(*(np.split(array, edges) for array in arrays), strict=True)]

    def feed(self, request: Any) -> dict[str, Any]:
        """The arrays of a request, as the model wants them."""
        feed = {}
        for tensor in self.inputs:
            array = pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            if tensor.reshape is not None:
                array = array.reshape(self.whole(array, tensor.reshape))
            feed[tensor.name] = as_text(array) if tensor.data_type == "TYPE_STRING" else array
        return feed

    def respond(self, arrays: Any) -> Any:
        """The model's arrays, as the configuration promises them."""
        tensors = []
        for tensor, result in zip(self.outputs, arrays, strict=True):
            array = np.asarray(result)
            shape = array.shape if tensor.reshape is None else self.whole(array, tensor.dims)
            array = array.reshape(shape).astype(tensor.numpy_type, copy=False)
            tensors.append(pb_utils.Tensor(tensor.name, array))
        return pb_utils.InferenceResponse(tensors)

    def whole(self, array: Any, dims: list[int]) -> list[int]:
        """A shape with the batch, where there is one."""
        return [len(array), *dims] if self.batched else dims


def session_options(config: dict[str, Any]) -> Any:
    """The options that the C++ backend reads from the same places; one thread unless told otherwise."""
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "1"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "1"))
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") != "0"
    options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") != "0"
    options.graph_optimization_level = LEVELS[str(config.get("optimization", {}).get("graph", {}).get("level", 0))]
    # threads that spin starve the other pods of the core
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def as_text(array: Any) -> Any:
    """Triton's bytes as the str that onnxruntime takes; bytes that are no UTF-8 fail the request."""
    flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def check_tensors(role: str, configured: list[Tensor], declared: list[Any], *, batched: bool, complete: bool) -> None:
    """Compare the configuration with the model; `complete` where every tensor of the model must be configured."""
    found = {item.name: item for item in declared}
    unknown = [tensor.name for tensor in configured if tensor.name not in found]
    missing = sorted(set(found) - {tensor.name for tensor in configured}) if complete else []
    if unknown or missing:
        raise pb_utils.TritonModelException(
            f"unexpected inference {role} {unknown}, missing {role} {missing}; the model has {sorted(found)}"
        )
    for tensor in configured:
        check_tensor(role, tensor, found[tensor.name], batched=batched)


def check_tensor(role: str, tensor: Tensor, declared: Any, *, batched: bool) -> None:
    """Compare type and shape; a size that the model fixes must be said, as in the C++ backend."""
    data_type = TYPES.get(declared.type, declared.type)
    if tensor.data_type != data_type:
        raise pb_utils.TritonModelException(
            f"unexpected datatype {tensor.data_type} for inference {role} '{tensor.name}', expecting {data_type}"
        )
    known = [size if isinstance(size, int) and size > 0 else -1 for size in declared.shape or []]
    asked = [-1, *tensor.model_dims] if batched else tensor.model_dims
    fits = len(asked) == len(known) and all(mine in (-1, size) for size, mine in zip(asked, known, strict=True))
    if not fits:
        batch = "; with max_batch_size > 0 the first dimension is the batch" if batched else ""
        raise pb_utils.TritonModelException(
            f"unexpected shape {asked} for inference {role} '{tensor.name}', the model has {known}{batch}"
        )
