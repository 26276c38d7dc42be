"""Stand-in for Triton's C++ onnxruntime backend where there is none: the same config.pbtxt runs on either.

What it takes from the configuration: file name, thread counts, graph optimization level, tensor names, types and shapes,
max_batch_size. A disagreement between configuration and model fails the load, as it does in the C++ backend.
"""

import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "0": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ONNX_TYPES = {
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


class TritonPythonModel:
    """One instance: one session."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "1"))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "1"))
        # spinning threads starve their neighbours on a shared core
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = LEVELS[str(config.get("optimization", {}).get("graph", {}).get("level", 0))]
        filename = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], filename)
        try:
            self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"onnx runtime error: {error}") from error
        self.batched = config["max_batch_size"] > 0
        self.inputs = [(item["name"], _reshape(item)) for item in config["input"]]
        self.outputs = [item["name"] for item in config["output"]]
        self.output_dims = {item["name"]: [int(d) for d in item["dims"]] for item in config["output"]}
        self.output_reshaped = {item["name"] for item in config["output"] if "reshape" in item}
        self.types = {item["name"]: pb_utils.triton_string_to_numpy(item["data_type"]) for item in config["output"]}
        _compare(config["input"], self.session.get_inputs(), "input", self.batched, complete=True)
        _compare(config["output"], self.session.get_outputs(), "output", self.batched, complete=False)

    def execute(self, requests):
        if not self.batched:
            return [self._answer(request) for request in requests]
        try:
            feeds = [self._feed(request) for request in requests]
            return self._answer_together(feeds)
        except Exception as error:
            if len(requests) == 1:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnx runtime error: {error}"))]
            return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            return self._respond(self.session.run(self.outputs, self._feed(request)))
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnx runtime error: {error}"))

    def _answer_together(self, feeds):
        if len(feeds) == 1:
            return [self._respond(self.session.run(self.outputs, feeds[0]))]
        first = self.inputs[0][0]
        edges = np.cumsum([len(feed[first]) for feed in feeds])[:-1]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name, _ in self.inputs}
        arrays = self.session.run(self.outputs, joined)
        return [self._respond(parts) for parts in zip(*(np.split(array, edges) for array in arrays))]

    def _feed(self, request):
        feed = {}
        for name, shape in self.inputs:
            array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            if shape is not None:
                array = array.reshape([len(array), *shape] if self.batched else shape)
            feed[name] = array
        return feed

    def _respond(self, arrays):
        tensors = []
        for name, array in zip(self.outputs, arrays):
            array = np.asarray(array)
            if name in self.output_reshaped:
                head = [len(array)] if self.batched else []
                array = array.reshape([*head, *self.output_dims[name]])
            if array.dtype != self.types[name]:
                array = array.astype(self.types[name])
            tensors.append(pb_utils.Tensor(name, array))
        return pb_utils.InferenceResponse(tensors)


def _reshape(item):
    return [int(size) for size in item["reshape"].get("shape", [])] if "reshape" in item else None


def _compare(configured, known, role, batched, complete):
    found = {item.name: item for item in known}
    names = {item["name"] for item in configured}
    unknown = sorted(names - set(found))
    missing = sorted(set(found) - names) if complete else []
    if unknown or missing:
        raise pb_utils.TritonModelException(
            f"unexpected inference {role} {unknown}, missing {role} {missing}; the model has {sorted(found)}"
        )
    for item in configured:
        tensor = found[item["name"]]
        expected = ONNX_TYPES.get(tensor.type, tensor.type)
        if item["data_type"] != expected:
            raise pb_utils.TritonModelException(
                f"unexpected datatype {item['data_type']} for inference {role} '{item['name']}', expecting {expected}"
            )
        dims = _reshape(item) if "reshape" in item else [int(size) for size in item["dims"]]
        full = [-1, *dims] if batched else dims
        shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
        if len(full) != len(shape) or any(a != b for a, b in zip(full, shape) if a != -1 and b != -1):
            raise pb_utils.TritonModelException(
                f"unexpected shape {full} for inference {role} '{item['name']}', the model has {shape}"
            )
