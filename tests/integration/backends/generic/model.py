"""A Python-based stand-in for any Triton backend: ONNX files are really run, everything else answers zeros."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

_ONNX_TYPES = {
    "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(float16)": "TYPE_FP16",
    "tensor(int8)": "TYPE_INT8", "tensor(int16)": "TYPE_INT16", "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64", "tensor(uint8)": "TYPE_UINT8", "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32", "tensor(uint64)": "TYPE_UINT64", "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}  # fmt: skip


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.session = None
        name = self.config["default_model_filename"]
        path = Path(args["model_repository"], args["model_version"], name)
        if name.endswith(".onnx"):
            self.session = self._open(path)

    def _open(self, path):
        import onnxruntime  # noqa: PLC0415 - a second of start-up that only ONNX models need

        if not path.exists():
            raise pb_utils.TritonModelException(f"there is no file {path}")
        try:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"onnxruntime: {error}") from error
        for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
            known = {value.name: _ONNX_TYPES.get(value.type) for value in values}
            for tensor in self.config[kind]:
                if tensor["name"] not in known:
                    raise pb_utils.TritonModelException(f"the model has no {kind} {tensor['name']}")
                if known[tensor["name"]] != tensor["data_type"]:
                    raise pb_utils.TritonModelException(f"{kind} {tensor['name']} is {known[tensor['name']]}")
        missing = {value.name for value in session.get_inputs()} - {item["name"] for item in self.config["input"]}
        if missing and self.config["input"]:
            raise pb_utils.TritonModelException(f"inputs missing in the config: {sorted(missing)}")
        return session

    def execute(self, requests):
        return [self._run(request) for request in requests]

    def _run(self, request):
        feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        names = [output["name"] for output in self.config["output"]]
        if self.session is not None:
            arrays = self.session.run(names, feeds)
        else:
            batch = [len(next(iter(feeds.values())))] if self.config["max_batch_size"] > 0 and feeds else []
            arrays = [self._zeros(output, batch) for output in self.config["output"]]
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(names, arrays, strict=True)])

    def _zeros(self, output, batch):
        shape = output["reshape"]["shape"] if "reshape" in output else output["dims"]
        sizes = batch + [max(1, int(size)) for size in shape]
        kind = pb_utils.triton_string_to_numpy(output["data_type"])
        return np.full(sizes, b"", dtype=object) if kind is np.object_ else np.zeros(sizes, dtype=kind)
