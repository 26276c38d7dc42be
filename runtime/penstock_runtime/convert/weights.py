"""Weights without their model (safetensors, state dictionaries) and whole pickled modules: the content's own code runs.

The code runs here and nowhere else: without network, without processes, with nothing to lose.
"""

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.formats.sniff import sniff

from .case import Case, Opened
from .tensors import example_arrays
from .torchonnx import failed, open_program, quiet, torch_arrays

__all__ = ["fill", "open_weights"]

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
"""Keys under which training scripts keep the weights of a checkpoint."""


def open_weights(case: Case) -> Opened:
    """Make the module, give it its weights, and trace it with example inputs; raises Failure."""
    with _content_code(case):
        if case.found.runs_code:
            return _open_module(case, _load_module(case))
        module = _call_factory(case)
        fill(module, _read_weights(case), case.found.path)
        return _open_module(case, module)


@contextlib.contextmanager
def _content_code(case: Case) -> Iterator[None]:
    """Let the content's own modules be imported."""
    folders = [str(path) for path in (*case.code, case.path.parent, case.tree.root)]
    before = list(sys.path)
    sys.path[:0] = list(dict.fromkeys(folders))
    try:
        yield
    finally:
        sys.path[:] = before


def _call_factory(case: Case) -> Any:
    assert case.asked.entrypoint is not None
    name, _, factory = case.asked.entrypoint.partition(":")
    case.progress(f"calling {case.asked.entrypoint}")
    try:
        made = getattr(importlib.import_module(name), factory)()
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        message = (
            f"spec.model.entrypoint {case.asked.entrypoint} raised {type(error).__name__}: {shorten(str(error), 400)}"
        )
        raise Failure(
            Reason.CONVERSION_FAILED, f"{message}; it is called without arguments, with the content as its path"
        ) from error
    if not isinstance(made, torch.nn.Module):
        message = (
            f"spec.model.entrypoint {case.asked.entrypoint} returned {type(made).__name__}; it must return a "
            "torch.nn.Module"
        )
        raise Failure(Reason.CONVERSION_FAILED, message)
    return made


def _read_weights(case: Case) -> dict[str, Any]:
    """Tensors by name, read as data and nothing else; raises Failure."""
    case.progress("reading the weights")
    try:
        if case.found.format == "SafeTensors":
            return load_safetensors(case.content) if case.content is not None else _read_shards(case)
        found = torch.load(case.source(), map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        message = (
            f"torch {torch.__version__} cannot read {case.found.path}: {shorten(str(error), 400)}; save the weights "
            "again"
        )
        raise Failure(Reason.INVALID_MODEL, message) from error
    return _unwrapped(found, case.found.path)


def _read_shards(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in case.tree.sizes:
        seen = sniff(case.tree.root / path)
        if seen is not None and seen.format == "SafeTensors":
            found |= load_file(case.tree.root / path)
    return found


def _unwrapped(found: Any, path: str) -> dict[str, Any]:
    """The weights inside of a checkpoint, without the prefix that parallel training puts before their names."""
    for _ in range(2):
        if isinstance(found, Mapping) and not any(isinstance(value, torch.Tensor) for value in found.values()):
            found = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), found)
    tensors = {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}
    if not any(isinstance(value, torch.Tensor) for value in tensors.values()):
        message = f"{path} holds no weights by name; save model.state_dict()"
        raise Failure(Reason.INVALID_MODEL, message)
    parallel = all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module.") if parallel else key: value for key, value in tensors.items()}


def fill(module: Any, weights: Mapping[str, Any], path: str) -> None:
    """Load the weights; every one must have its place and every place its weight, shared ones once. Raises Failure."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        message = f"the weights of {path} do not fit the module of spec.model.entrypoint: {shorten(str(error), 500)}"
        raise Failure(Reason.INVALID_MODEL, message) from error
    own = module.state_dict()
    filled = {own[name].data_ptr() for name in weights if name in own}
    missing = [name for name in missing if own[name].data_ptr() not in filled or not own[name].numel()]
    if missing or unexpected:
        lists = [
            f"{kind} {', '.join(names[:4])}"
            for kind, names in (("lacks", missing), ("has no place for", unexpected))
            if names
        ]
        message = f"{path} does not fit the module of spec.model.entrypoint: it {' and '.join(lists)}"
        raise Failure(Reason.INVALID_MODEL, message.replace("it has no place", "the module has no place"))


def _load_module(case: Case) -> Any:
    """A whole pickled module, which runs its author's code; detection let it pass for trust: Code alone."""
    case.progress("loading the pickled module")
    before = os.environ.pop(_FORCED, None)
    try:
        with quiet():
            found = torch.load(case.source(), map_location="cpu", weights_only=False)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        message = f"{case.found.path} cannot be unpickled: {type(error).__name__}: {shorten(str(error), 400)}"
        raise Failure(Reason.INVALID_MODEL, f"{message}; upload the modules of its classes beside it") from error
    finally:
        if before is not None:
            os.environ[_FORCED] = before
    if isinstance(found, torch.nn.Module):
        return found
    if isinstance(found, Mapping) and case.asked.entrypoint:
        module = _call_factory(case)
        fill(module, _unwrapped(found, case.found.path), case.found.path)
        return module
    message = f"{case.found.path} holds {type(found).__name__}, not a torch.nn.Module"
    raise Failure(Reason.INVALID_MODEL, f"{message}; for weights write spec.model.entrypoint as well")


def _open_module(case: Case, module: Any) -> Opened:
    """Trace a module in evaluation mode with the inputs that the user describes; raises Failure."""
    module.eval()
    if not case.asked.inputs:
        message = (
            f"a torch module does not say the shapes of its inputs ({', '.join(_parameters(module))}); write them "
            "under spec.model.inputs: name, dataType and dims for each, -1 where a dimension is free"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    case.progress("exporting the module")
    names = [tensor.name for tensor in case.asked.inputs]
    return open_program(case, _export(case, module), names=names)


def _parameters(module: Any) -> list[str]:
    return [name for name in inspect.signature(module.forward).parameters if name != "self"]


def _export(case: Case, module: Any) -> Any:
    """Arguments by name where the names are the module's own, in order otherwise."""
    inputs = case.asked.inputs
    examples = torch_arrays(example_arrays(inputs))
    by_name = {tensor.name for tensor in inputs} <= set(_parameters(module))
    kwargs = {tensor.name: item for tensor, item in zip(inputs, examples, strict=True)} if by_name else {}
    problem: Exception | None = None
    for strict in (True, False):
        shapes = [_dynamic(tensor.dims, strict=strict) for tensor in inputs]
        dynamic: Any = dict(zip(kwargs, shapes, strict=True)) if by_name else tuple(shapes)
        try:
            with quiet(), torch.no_grad():
                return torch.export.export(module, () if by_name else tuple(examples), kwargs, dynamic_shapes=dynamic)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            problem = problem or error
    assert problem is not None
    raise failed("torch cannot export this module", problem) from problem


def _dynamic(dims: tuple[int, ...], *, strict: bool) -> dict[int, Any]:
    """The first free dimension is one for all inputs; without `strict` a dimension may turn out to be fixed."""
    others = torch.export.Dim.DYNAMIC if strict else torch.export.Dim.AUTO
    batch = torch.export.Dim("batch", min=1) if strict else others
    return {at: batch if at == 0 else others for at, size in enumerate(dims) if size == -1}
