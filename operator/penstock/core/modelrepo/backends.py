"""What serves which format: the backend, its file, its parameters, and what it cannot do.

The same config.pbtxt runs on NVIDIA's C++ backends and on Penstock's own Python-based ones. Sources: the backends'
code of August 2026 (fil from 25.09 on reads `is_classifier`, and before it `output_class`: both are written).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.api.facts import ModelFacts

__all__ = ["FOREST_INPUT", "FOREST_OUTPUT", "Backend", "backend_for", "backend_of"]

_FORESTS = ("XGBoost", "LightGBM", "Treelite")
FOREST_INPUT, FOREST_OUTPUT = "input__0", "output__0"
"""The only names that the fil backend knows."""

_ANY = frozenset(
    {
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
        "BF16", "STRING",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend of Triton, as Penstock uses it.

    `threads` is the parameter that takes the threads of an instance; `fixed` are parameters that Penstock always sets.
    `parameters` may be set in `spec.server.config`. `image_value` is the chart's name of the image that has it.
    """

    name: str
    threads: str | None
    fixed: Mapping[str, str]
    parameters: frozenset[str]
    data_types: frozenset[str]
    image_value: str
    batches: Literal["Free", "Never", "Always"] = "Free"
    """Never: unless asked for, since it pads each batch to the largest. Always: rows come in batches or not at all."""
    warmup_count: int = 0
    owned: Mapping[str, str] = field(default_factory=dict)
    """Parameters that follow from something else, and from what."""
    gpu_only: bool = False


_ONNXRUNTIME = Backend(
    name="onnxruntime",
    threads="intra_op_thread_count",
    fixed={"inter_op_thread_count": "1"},
    parameters=frozenset(
        {
            "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "enable_mem_arena",
            "enable_mem_pattern", "execution_mode", "gpu_mem_limit", "memory.enable_memory_arena_shrinkage",
            "session.disable_prepacking", "session.set_denormal_as_zero", "session.use_env_allocators",
        }
    ),
    data_types=_ANY,
    image_value="images.triton",
)  # fmt: skip
_PYTORCH = Backend(
    name="pytorch",
    threads="INTRA_OP_THREAD_COUNT",
    fixed={"INTER_OP_THREAD_COUNT": "1"},
    parameters=frozenset(
        {
            "DISABLE_CUDNN", "DISABLE_OPTIMIZED_EXECUTION", "ENABLE_CACHE_CLEANING", "ENABLE_JIT_EXECUTOR",
            "ENABLE_JIT_PROFILING", "ENABLE_WEIGHT_SHARING", "INFERENCE_MODE",
        }
    ),
    data_types=frozenset({"BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"}),
    image_value="images.tritonTorch",
    warmup_count=3,
)  # fmt: skip
_OPENVINO = Backend(
    name="openvino",
    threads="INFERENCE_NUM_THREADS",
    fixed={"NUM_STREAMS": "1"},
    parameters=frozenset({"COMPILATION_NUM_THREADS", "HINT_BF16", "PERFORMANCE_HINT"}),
    data_types=_ANY - {"STRING"},
    image_value="images.tritonOpenVINO",
    batches="Never",
    owned={"ENABLE_BATCH_PADDING": "it follows from spec.server.batching.maxBatchSize"},
)
_TENSORRT = Backend(
    name="tensorrt",
    threads=None,
    fixed={},
    parameters=frozenset({"execution_context_allocation_strategy"}),
    data_types=frozenset({"BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "BF16"}),
    image_value="images.tritonTensorRT",
    gpu_only=True,
)
_OF_OUTPUTS = "it follows from spec.model.outputs: as many values as there are classes, or one"
_OF_MODEL = "it follows from the model"
_FIL = Backend(
    name="fil",
    threads="cpu_nthread",
    fixed={},
    parameters=frozenset({"chunk_size", "layout", "threshold", "transfer_threshold", "xgboost_allow_unknown_field"}),
    data_types=frozenset({"FP32"}),
    image_value="images.triton",
    batches="Always",
    owned={
        "is_classifier": _OF_MODEL,
        "model_type": _OF_MODEL,
        "output_class": _OF_MODEL,
        "predict_proba": _OF_OUTPUTS,
    },
)
_BY_FORMAT = {
    "ONNX": _ONNXRUNTIME,
    "TorchScript": _PYTORCH,
    "OpenVINO": _OPENVINO,
    "TensorRT": _TENSORRT,
    **dict.fromkeys(_FORESTS, _FIL),
}


def backend_of(facts: ModelFacts) -> Backend | None:
    """What serves these facts; None for a TritonRepository, whose models say it themselves."""
    return backend_for(facts.format)


def backend_for(model_format: str) -> Backend | None:
    """What serves models of a format; None for one that is not served, or brings its own configuration."""
    return _BY_FORMAT.get(model_format)
