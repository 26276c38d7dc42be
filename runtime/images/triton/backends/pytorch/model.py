"""Stand-in for Triton's C++ pytorch backend (platform pytorch_libtorch): TorchScript on CPUs, the same config.pbtxt.

Tensors are bound to arguments and results by name as there: `<any>__<index>`, then the names of forward()'s arguments
(inputs) or the keys of a dictionary (outputs), else the order of the configuration. TorchScript declares no shapes, so
a configuration can be found wrong only by a request: the warm-up is one.
"""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parents[1]))
from penstock_backend import Backend, Config, Tensor

ORDINAL = re.compile(r".*__(\d+)$")
TYPES = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


class TritonPythonModel(Backend):
    """One instance: one module."""

    runtime = "PyTorch execute"
    filename = "model.pt"

    def load(self, path: str, config: Config) -> None:
        """Load the module, and find each input's place."""
        del config
        torch.set_num_threads(int(self.parameters.get("INTRA_OP_THREAD_COUNT", "1")))
        torch.set_num_interop_threads(int(self.parameters.get("INTER_OP_THREAD_COUNT", "1")))
        torch._C._jit_set_profiling_executor(self.says_yes("ENABLE_JIT_EXECUTOR", default=True))  # noqa: SLF001
        torch._C._jit_set_profiling_mode(self.says_yes("ENABLE_JIT_PROFILING", default=True))  # noqa: SLF001
        self.optimized = not self.says_yes("DISABLE_OPTIMIZED_EXECUTION")
        for tensor in (*self.inputs, *self.outputs):
            if tensor.data_type.removeprefix("TYPE_") not in TYPES:
                raise pb_utils.TritonModelException(
                    f"unsupported datatype {tensor.data_type} for '{tensor.name}' for model of platform pytorch"
                )
        self.module = torch.jit.load(path, map_location="cpu")
        names = [argument.name for argument in self.module.forward.schema.arguments[1:]]
        self.places = places(self.inputs, names)
        self.result_places: list[int] | None = None
        if sorted(self.places) != list(range(len(self.places))):
            raise pb_utils.TritonModelException(
                f"the inputs {[tensor.name for tensor in self.inputs]} are arguments {self.places} of forward({names});"
                " each of the first ones must be there, once"
            )
        by_ordinal = [ORDINAL.match(tensor.name) for tensor in self.outputs]
        if all(by_ordinal):
            self.result_places = [int(match[1]) for match in by_ordinal if match]

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """Call forward()."""
        arguments: list[Any] = [None] * len(self.places)
        for tensor, place in zip(self.inputs, self.places, strict=True):
            arguments[place] = torch.from_numpy(np.require(feed[tensor.name], requirements=["C", "W"]))
        with torch.inference_mode(), torch.jit.optimized_execution(self.optimized):
            result = self.module(*arguments)
        if isinstance(result, dict):
            found = [result[tensor.name] for tensor in self.outputs]
        else:
            values = result if isinstance(result, tuple | list) else (result,)
            found = [values[place] for place in self.result_places or range(len(self.outputs))]
        return [self.checked(tensor, value) for tensor, value in zip(self.outputs, found, strict=True)]

    def checked(self, tensor: Tensor, value: Any) -> Any:
        """An output as an array; another type than the configuration's is refused, as in the C++ backend."""
        array = value.numpy()
        if array.dtype != tensor.numpy_type:
            seen = f"model provides {array.dtype}"
            raise ValueError(f"configuration expects datatype {tensor.data_type} for output '{tensor.name}', {seen}")
        return array


def places(tensors: list[Tensor], names: list[str]) -> list[int]:
    """Which argument of forward() each input is."""
    found = []
    for order, tensor in enumerate(tensors):
        match = ORDINAL.match(tensor.name)
        if match:
            found.append(int(match[1]))
        else:
            found.append(names.index(tensor.name) if tensor.name in names else order)
    return found
