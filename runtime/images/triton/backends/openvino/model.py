"""Stand-in for Triton's C++ openvino backend: OpenVINO on CPUs, the same config.pbtxt.

Two things are better than there. It computes in FP32 unless the configuration says `HINT_BF16: YES`; OpenVINO by itself
takes bfloat16 wherever the CPU has it, and changes every answer. And it needs no padding: batches of any size up to
max_batch_size are computed as they come.
"""

import sys
from pathlib import Path
from typing import Any

import openvino as ov

sys.path.append(str(Path(__file__).parents[1]))
from penstock_backend import Backend, Config, Tensor

TYPES = {
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "u16": "TYPE_UINT16",
    "u32": "TYPE_UINT32",
    "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8",
    "i16": "TYPE_INT16",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "bf16": "TYPE_BF16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}


class TritonPythonModel(Backend):
    """One instance: one compiled model with one request."""

    runtime = "openvino"
    filename = "model.xml"

    def load(self, path: str, config: Config) -> None:
        """Compile the model."""
        del config
        core = ov.Core()
        model = core.read_model(path)
        self.check("input", self.inputs, model.inputs, complete=True)
        self.check("output", self.outputs, model.outputs, complete=False)
        self.output_names = [tensor.name for tensor in self.outputs]
        self.request = core.compile_model(model, "CPU", self.properties()).create_infer_request()

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """Run the request; what it answers is copied, since the next one overwrites it."""
        result = self.request.infer(feed, share_inputs=True)
        return [result[name].copy() for name in self.output_names]

    def properties(self) -> dict[str, str]:
        """The properties that the C++ backend sets from the same parameters."""
        names = ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT")
        found = {name: self.parameters[name].upper() for name in names if name in self.parameters}
        return {"INFERENCE_PRECISION_HINT": "bf16" if self.says_yes("HINT_BF16") else "f32", **found}

    def check(self, role: str, configured: list[Tensor], declared: list[Any], *, complete: bool) -> None:
        """Compare the configuration with the model; a tensor may have several names."""
        found = {name: item for item in declared for name in item.get_names()}
        named = {tensor.name for tensor in configured}
        known = [next((name for name in item.get_names() if name in named), item.get_any_name()) for item in declared]
        self.check_names(role, configured, known, complete=complete)
        for tensor in configured:
            item = found[tensor.name]
            sizes = [size.get_length() if size.is_static else -1 for size in item.get_partial_shape()]
            name = item.get_element_type().get_type_name()
            self.check_tensor(role, tensor, TYPES.get(name, name), sizes)
