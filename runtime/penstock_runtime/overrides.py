"""The user's `inputs` and `outputs` against what the model declares."""

from collections.abc import Mapping

from penstock.api.reasons import Reason

from .failure import Failure
from .finding import Asked, Tensor

__all__ = ["apply_overrides"]

Tensors = tuple[Tensor, ...]


def apply_overrides(
    inputs: Tensors, outputs: Tensors, problems: Mapping[str, str], asked: Asked
) -> tuple[Tensors, Tensors]:
    """The tensors to serve; raises Failure where the user contradicts the model, or nobody gives a shape.

    Inputs must be all of them; outputs may be a choice, in the user's order.
    """
    kept_inputs = _override(inputs, asked.inputs, problems, "input")
    kept_outputs = _override(outputs, asked.outputs, problems, "output")
    given = {tensor.name for tensor in kept_inputs}
    missing = [tensor.name for tensor in inputs if tensor.name not in given]
    if missing:
        message = f"spec.model.inputs leaves out {missing[0]!r}, which the model needs; list all its inputs"
        raise Failure(Reason.INVALID_SPEC, message)
    given |= {tensor.name for tensor in kept_outputs}
    for name, sentence in problems.items():
        if name not in given and (not asked.outputs or sentence.startswith("input")):
            raise Failure(Reason.UNSUPPORTED_MODEL, sentence)
    for kind, tensors in (("input", kept_inputs), ("output", kept_outputs)):
        if not tensors:
            raise Failure(Reason.UNSUPPORTED_MODEL, f"the model has no {kind}; Triton cannot serve that")
    return kept_inputs, kept_outputs


def _override(declared: Tensors, asked: Tensors, problems: Mapping[str, str], kind: str) -> Tensors:
    if not asked:
        return declared
    known = {tensor.name: tensor for tensor in declared}
    for index, tensor in enumerate(asked):
        found = known.get(tensor.name)
        if found is not None:
            _check_tensor(tensor, found, f"spec.model.{kind}s[{index}]")
        elif tensor.name not in problems:
            names = ", ".join([*known, *problems][:20])
            message = f"spec.model.{kind}s[{index}] names {tensor.name!r}; the model's {kind}s are {names}"
            raise Failure(Reason.INVALID_SPEC, message)
    return asked


def _check_tensor(asked: Tensor, found: Tensor, field: str) -> None:
    if asked.data_type != found.data_type:
        message = f"{field} says {asked.name!r} is {asked.data_type}; in the model it is {found.data_type}"
        raise Failure(Reason.INVALID_SPEC, message)
    fits = len(asked.dims) == len(found.dims) and all(
        mine in (-1, ours) for ours, mine in zip(asked.dims, found.dims, strict=True)
    )
    if not fits:
        message = f"{field} says {asked.name!r} has dims {list(asked.dims)}; in the model they are {list(found.dims)}"
        raise Failure(Reason.INVALID_SPEC, message)
