"""Stand-in for Triton's C++ onnxruntime backend where there is none: the same config.pbtxt runs on either.

What it takes from the configuration: file name, threads, execution mode, memory settings, graph optimization level,
tensor names, types, shapes and reshapes, max_batch_size. A configuration that contradicts the model fails the load, as
in the C++ backend.
"""

import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort

sys.path.append(str(Path(__file__).parents[1]))
from penstock_backend import Backend, Config, Tensor

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


class TritonPythonModel(Backend):
    """One instance: one session."""

    runtime = "onnx runtime"
    filename = "model.onnx"

    def load(self, path: str, config: Config) -> None:
        """Make the session."""
        self.output_names = [tensor.name for tensor in self.outputs]
        options = self.session_options(config)
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.check("input", self.inputs, self.session.get_inputs(), complete=True)
        self.check("output", self.outputs, self.session.get_outputs(), complete=False)

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """Run the session."""
        arrays: list[Any] = self.session.run(self.output_names, feed)
        return arrays

    def session_options(self, config: Config) -> Any:
        """The options that the C++ backend reads from the same places; one thread unless told otherwise."""
        options, parameters = ort.SessionOptions(), self.parameters
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

    def check(self, role: str, configured: list[Tensor], declared: list[Any], *, complete: bool) -> None:
        """Compare the configuration with the model."""
        found = {item.name: item for item in declared}
        self.check_names(role, configured, list(found), complete=complete)
        for tensor in configured:
            item = found[tensor.name]
            known = [size if isinstance(size, int) and size > 0 else -1 for size in item.shape or []]
            self.check_tensor(role, tensor, TYPES.get(item.type, item.type), known)
