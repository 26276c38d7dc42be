"""From an exported torch program to ONNX, and to answers: what all ways from torch end in."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# set before torch reads it: torch.export.load retries a pickle that it distrusts without its distrust
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import torch
from torch.utils import _pytree as pytree

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten

from .case import Array, Arrays, Case, Opened
from .finish import OPSET

__all__ = ["EXTERNAL_ABOVE", "failed", "open_program", "output_names", "quiet", "torch_arrays"]

_TORCH_TOOLS = ("torch", "onnxscript", "onnx-ir", "onnx")
EXTERNAL_ABOVE = 3 << 29
"""Bytes of weights that still fit one protobuf message; above, they are written beside the model."""
_TRAINING = {
    "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "feature_alpha_dropout": 2, "native_dropout": 2,
    "batch_norm": 5, "native_batch_norm": 5, "_native_batch_norm_legit": 5, "_native_batch_norm_legit_functional": 5,
    "cudnn_batch_norm": 5, "rrelu": 3, "rrelu_with_noise": 4,
}  # fmt: skip
"""Position of the argument `training` by the name of an operator."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines that exporters address to their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "torch._export", "torch.export", "torch.fx", "onnxscript", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield


def failed(what: str, error: Exception) -> Exception:
    """A converter's exception as ConversionFailed, with its own words; memory and disk stay what they are."""
    if isinstance(error, (Failure, MemoryError, OSError)):
        return error
    text = str(error) or type(error).__name__
    return Failure(Reason.CONVERSION_FAILED, f"{what}: {type(error).__name__}: {shorten(text, 900)}")


def torch_arrays(arrays: Sequence[Array]) -> list[Any]:
    """Tensors of these values."""
    return [torch.from_numpy(array.copy()) for array in arrays]


def open_program(
    case: Case, program: Any, names: Sequence[str] = (), keys: Sequence[str] = (), found_warnings: Sequence[str] = ()
) -> Opened:
    """An ExportedProgram, checked: in evaluation mode, without memory of its own, its batch free where it can be.

    `names` are those of its inputs and `keys` those of its outputs, where something else knows better ones.
    """
    check_evaluation(program)
    program, more = free_batch(case, program)
    inputs = list(names) or input_names(case, list(tensor_inputs(program)))
    outputs = output_names(case, keys or _output_keys(program))
    module = program.module(check_guards=False)
    spec, constants = program.call_spec.in_spec, _flat_examples(program)

    def export(path: Path) -> None:
        weights = sum(item.numel() * item.element_size() for item in (*program.state_dict.values(), *_tensors(program)))
        try:
            with quiet():
                torch.onnx.export(
                    program, (), str(path), dynamo=True, opset_version=OPSET, external_data=weights > EXTERNAL_ABOVE,
                    input_names=inputs, output_names=outputs, verbose=False,
                )  # fmt: skip
        except Exception as error:
            raise failed("torch cannot write this model as ONNX", error) from error

    def answer(arrays: Arrays) -> dict[str, Array]:
        values = iter(torch_arrays([arrays[name] for name in inputs]))
        flat = [next(values) if isinstance(item, torch.Tensor) else item for item in constants]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        with torch.no_grad(), quiet():
            found = [item for item in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(item, torch.Tensor)]
        return {name: item.numpy(force=True) for name, item in zip(outputs, found, strict=True)}

    return Opened(export, answer, _TORCH_TOOLS, (*found_warnings, *more))


def _tensors(program: Any) -> list[Any]:
    return [item for item in program.constants.values() if isinstance(item, torch.Tensor)]


def tensor_inputs(program: Any) -> dict[str, tuple[Any, ...]]:
    """Shapes of the inputs that are tensors, by name; free dimensions are no ints."""
    wanted = set(program.graph_signature.user_inputs)
    return {
        node.name: tuple(node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in wanted and isinstance(node.meta.get("val"), torch.Tensor)
    }


def _flat_examples(program: Any) -> list[Any]:
    """Example inputs in flat order: what is no tensor stays as it is in every call."""
    if program.example_inputs is None:
        return [torch.empty(0) for _ in tensor_inputs(program)]
    leaves: list[Any] = pytree.tree_leaves(program.example_inputs)
    return leaves


def _output_keys(program: Any) -> list[str]:
    """One name for each tensor of the answer: the keys of a dictionary, otherwise none that mean anything."""
    spec = program.call_spec.out_spec
    kept = [argument for argument in program.graph_signature.user_outputs if isinstance(argument, str)]
    keys = list(spec.context) if spec.type is dict else []
    return [str(key) for key in keys] if len(keys) == len(kept) else [""] * len(kept)


def input_names(case: Case, own: list[str]) -> list[str]:
    """The program's own names; a single input may be called otherwise in spec.model.inputs."""
    asked = [tensor.name for tensor in case.asked.inputs]
    return asked if len(asked) == len(own) == 1 else own


def output_names(case: Case, keys: Sequence[str]) -> list[str]:
    """The user's names from spec.model.outputs, in order, the model's own, or output and output_0, output_1 ..."""
    asked = [tensor.name for tensor in case.asked.outputs]
    if asked and len(asked) != len(keys) and not set(asked) <= set(keys):
        message = (
            f"spec.model.outputs lists {len(asked)} outputs; the model gives {len(keys)}: list all of them, in its "
            "order"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    if asked and not set(asked) <= set(keys):
        return asked
    if all(keys):
        return list(keys)
    return ["output"] if len(keys) == 1 else [f"output_{index}" for index in range(len(keys))]


def check_evaluation(program: Any) -> None:
    """Refuse a program that drops values at random or learns from requests; raises Failure."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        at = _TRAINING.get(name)
        if at is not None and len(node.args) > at and node.args[at] is True:
            message = (
                f"the program was exported in training mode ({name} is active); call model.eval() before "
                "torch.export.export"
            )
            raise Failure(Reason.UNSUPPORTED_MODEL, message)
    changed = list(program.graph_signature.buffers_to_mutate.values())
    if changed:
        message = (
            f"the program changes its own buffer {changed[0]!r} with every call, and a served model keeps nothing "
            "between requests; call model.eval() before torch.export.export, or return the state as an output"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)


def free_batch(case: Case, program: Any) -> tuple[Any, list[str]]:
    """A program whose batch is fixed, exported again with a free one where its code allows it, or with a warning."""
    shapes = tensor_inputs(program)
    firsts = [shape[0] if shape else None for shape in shapes.values()]
    wanted_fixed = any(tensor.dims[:1] not in ((), (-1,)) for tensor in case.asked.inputs)
    if not firsts or not all(isinstance(size, int) for size in firsts) or wanted_fixed:
        return program, []
    fixed = {int(str(size)) for size in firsts}
    hint = "export it with dynamic_shapes for the first dimension to serve batches"
    if len(fixed) > 1:
        return program, [f"the batch is fixed: inputs have first dimensions of {sorted(fixed)}; {hint}"]
    (size,) = fixed
    case.progress("exporting the program again with a free batch")
    again = _with_free_batch(program, size)
    if again is None:
        return program, [f"the batch is fixed to {size}: the program's own code needs that size; {hint}"]
    return again, [f"the program was exported for batches of {size}; its batch is free now"]


def _with_free_batch(program: Any, size: int) -> Any:
    """The same program with a free batch, or None where it does not hold for other sizes."""
    examples = program.example_inputs
    if examples is None or examples[1] or not all(isinstance(item, torch.Tensor) for item in examples[0]):
        return None
    rows = max(size, 2)
    inputs = tuple(item if size == rows else torch.cat([item] * rows)[:rows] for item in examples[0])
    shapes = [{0: torch.export.Dim("batch", min=1)} for _ in inputs]
    module = program.module(check_guards=False)
    try:
        with quiet(), torch.no_grad():
            again = torch.export.export(module, inputs, dynamic_shapes=shapes)
            first, second = (
                pytree.tree_leaves(item.module(check_guards=False)(*examples[0])) for item in (program, again)
            )
            same = all(torch.allclose(one, two, equal_nan=True) for one, two in zip(first, second, strict=True))
    except Exception:  # noqa: BLE001 - whatever it is that does not hold for another size
        return None
    names = list(tensor_inputs(program))
    return again if same and list(tensor_inputs(again)) == names else None
