"""TorchScript: what torch.jit.script and torch.jit.trace save. It brings its own code, and runs without Python's."""

import pickletools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from penstock.api.reasons import Reason
from penstock_runtime.batching import prove_batching
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.finding import Finding, Tensor

from .case import Array, Arrays, Case, Opened
from .finish import OPSET
from .tensors import example_arrays, triton_type
from .torchonnx import failed, output_names, quiet, torch_arrays

__all__ = ["inspect_torch_script", "open_torch_script"]

_TRAINING = {"aten::dropout": 2, "aten::dropout_": 2, "aten::feature_dropout": 2, "aten::batch_norm": 5}
_FREE = ((2, 8), (3, 16))
"""Rows, and sizes of other free dimensions, of two runs that tell which dimensions of the outputs are free."""
_LARGEST_EXAMPLES = 1 << 20
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool",
}  # fmt: skip


def open_torch_script(case: Case) -> Opened:
    """Load the module in evaluation mode; raises Failure."""
    module = _load(case)
    inputs = declared_inputs(case, module)
    shapes = [[tuple(item.shape) for item in _run(module, example_arrays(inputs, *sizes))] for sizes in _sizes()]
    names = [tensor.name for tensor in inputs]
    outputs = output_names(case, [""] * len(shapes[0]))

    def export(path: Path) -> None:
        axes = {tensor.name: _free(tensor.dims, tensor.name) for tensor in inputs}
        axes |= {
            name: _free(_merged(*pair), name) for name, pair in zip(outputs, zip(*shapes, strict=True), strict=True)
        }
        examples = tuple(torch_arrays(example_arrays(inputs)))
        try:
            with quiet(), torch.no_grad():
                torch.onnx.export(
                    module, examples, str(path), dynamo=False, opset_version=OPSET, input_names=names,
                    output_names=outputs, dynamic_axes=axes,
                )  # fmt: skip
        except Exception as error:
            raise failed(
                "torch cannot write this TorchScript module as ONNX; convert: Never serves it as it is", error
            ) from error

    def answer(arrays: Arrays) -> dict[str, Array]:
        ordered = [
            arrays[name]
            for name in (names if names[0] in arrays else [f"INPUT__{index}" for index in range(len(names))])
        ]
        return dict(zip(outputs, _run(module, ordered), strict=True))

    return Opened(export, answer, ("torch", "onnx"))


def inspect_torch_script(case: Case) -> Finding:
    """For libtorch: its module as it is, under the names by which Triton addresses arguments and results."""
    module = _load(case)
    inputs = declared_inputs(case, module)
    first, second = (_run(module, example_arrays(inputs, *sizes)) for sizes in _sizes())
    renamed = tuple(Tensor(f"INPUT__{at}", tensor.data_type, tensor.dims) for at, tensor in enumerate(inputs))
    outputs = tuple(
        Tensor(f"OUTPUT__{at}", triton_type(str(one.dtype)) or "FP32", _merged(one.shape, two.shape))
        for at, (one, two) in enumerate(zip(first, second, strict=True))
    )
    case.progress("running the module with batch 1, 2 and 5")
    proof = prove_batching(_Session(module), renamed, outputs)
    return Finding(
        "TorchScript", {"model.pt": case.found.path}, (), renamed, outputs, proof.proven, warnings=proof.warnings
    )


class _Session:
    """A module that is run as onnxruntime's sessions are."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def run(self, _: Sequence[str], rows: Arrays) -> list[Array]:
        """Answers in the order of the results."""
        return _run(self._module, list(rows.values()))


def _load(case: Case) -> Any:
    case.progress("loading the TorchScript module")
    try:
        with quiet():
            module = torch.jit.load(case.source(), map_location="cpu")
            if hasattr(module, "training"):
                module.eval()
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        message = (
            f"torch {torch.__version__} cannot read {case.found.path}: {shorten(str(error), 400)}; save the module "
            "again"
        )
        raise Failure(Reason.INVALID_MODEL, message) from error
    for node in _nodes(module.inlined_graph):
        at = _TRAINING.get(node.kind())
        if at is not None and node.inputsAt(at).toIValue() is True:
            message = (
                f"the module was traced in training mode ({node.kind()} is active); call model.eval() before tracing it"
            )
            raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return module


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def declared_inputs(case: Case, module: Any) -> tuple[Tensor, ...]:
    """The user's inputs, or those of the example that the module was traced with, with a free batch; raises Failure."""
    parameters = [argument.name for argument in module.forward.schema.arguments[1:]]
    if case.asked.inputs:
        if len(case.asked.inputs) > len(parameters):
            message = (
                f"spec.model.inputs lists {len(case.asked.inputs)} inputs; forward takes "
                f"{', '.join(parameters) or 'none'}"
            )
            raise Failure(Reason.INVALID_SPEC, message)
        return case.asked.inputs
    examples = _traced_examples(case)
    if not examples:
        message = (
            f"a TorchScript module does not say the shapes of its inputs ({', '.join(parameters)}); write them under "
            "spec.model.inputs: name, dataType and dims for each, -1 where a dimension is free"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    found = []
    for name, tensor in zip(parameters, examples, strict=False):
        data_type = triton_type(str(tensor.dtype))
        if data_type is None:
            message = f"input {name!r} is of type {tensor.dtype}, which Triton cannot serve; cast it inside the model"
            raise Failure(Reason.UNSUPPORTED_MODEL, message)
        found.append(Tensor(name, data_type, (-1, *tensor.shape[1:])))
    return tuple(found)


def _traced_examples(case: Case) -> list[Any]:
    """Empty tensors like those that the module was traced with, which torch saves beside it.

    Only types and shapes are read, from the pickle's operations: nothing of it is executed.
    """
    with zipfile.ZipFile(case.source()) as archive:
        names = [name for name in archive.namelist() if name.partition("/")[2] == "traced_inputs.pkl"]
        content = archive.read(names[0]) if names and archive.getinfo(names[0]).file_size < _LARGEST_EXAMPLES else b""
    try:
        return [torch.empty(shape, dtype=getattr(torch, kind)) for kind, shape in _stored_tensors(content)]
    except Exception:  # noqa: BLE001 - a hint that cannot be read is none
        return []


def _stored_tensors(content: bytes) -> Iterator[tuple[str, list[int]]]:
    """Type and shape of each tensor: its storage, the offset in it, then the tuple of sizes."""
    kind, sizes, opened = "", list[int](), False
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL" and str(argument).endswith("Storage"):
            kind = _STORAGES[str(argument).removeprefix("torch ")]
        elif operation.name == "BINPERSID":
            sizes, opened = [], True
        elif opened and operation.name in ("BININT", "BININT1", "BININT2"):
            sizes.append(int(str(argument)))
        elif opened and operation.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"):
            opened = False
            yield kind, sizes[1:]


def _run(module: Any, arrays: Sequence[Array]) -> list[Array]:
    with torch.no_grad(), quiet():
        found = module(*torch_arrays(arrays))
    return [item.numpy(force=True) for item in _leaves(found)]


def _leaves(found: Any) -> list[Any]:
    """Tensors of an answer in the order of its results; raises Failure where it holds anything else."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, (list, tuple)):
        return [leaf for item in found for leaf in _leaves(item)]
    message = f"the module answers with {type(found).__name__}; Triton serves tensors, and tuples of them: return those"
    raise Failure(Reason.UNSUPPORTED_MODEL, message)


def _sizes() -> Iterator[tuple[int, int]]:
    return ((free, rows) for rows, free in _FREE)


def _merged(one: Sequence[int], two: Sequence[int]) -> tuple[int, ...]:
    return tuple(a if a == b else -1 for a, b in zip(one, two, strict=True))


def _free(dims: Sequence[int], name: str) -> dict[int, str]:
    return {at: "batch" if at == 0 else f"{name}_{at}" for at, size in enumerate(dims) if size == -1}
