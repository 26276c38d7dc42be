"""Formats that are served as they are: their files are checked and laid out, nothing is converted."""

import dataclasses

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Finding, Progress, SourceTree, Tensor

from .detect import Detected, look
from .forests import inspect_forest
from .openvino import inspect_openvino

__all__ = ["inspect_served"]


def inspect_served(tree: SourceTree, asked: Asked, format_: str, progress: Progress) -> Finding:
    """What must be known to serve the source as it is; raises Failure."""
    found = look(tree, dataclasses.replace(asked, format=format_))
    if format_ == "OpenVINO":
        return inspect_openvino(tree, asked, found)
    if format_ == "TensorRT":
        return _inspect_plan(tree, asked, found)
    if format_ == "TorchScript":
        from penstock_runtime.convert.case import Case  # noqa: PLC0415 - torch is in one image alone
        from penstock_runtime.convert.torchscript import inspect_torch_script  # noqa: PLC0415 - as above

        return inspect_torch_script(Case(tree, asked, found, progress))
    if format_ in ("Treelite", "XGBoost", "LightGBM"):
        return inspect_forest(tree, asked, found)
    message = f"{format_} can be served as ONNX alone; remove convert: Never"
    raise Failure(Reason.INVALID_SPEC, message)


def _inspect_plan(tree: SourceTree, asked: Asked, found: Detected) -> Finding:
    """A TensorRT plan says nothing of its tensors to anybody but the TensorRT that built it, on its GPU."""
    size = tree.sizes[found.path]
    if size < 1024:
        message = (
            f"{found.path} has {size} bytes, too few for a TensorRT plan; build it again with trtexec --saveEngine"
        )
        raise Failure(Reason.INVALID_MODEL, message)
    if not asked.inputs or not asked.outputs:
        message = (
            "a TensorRT plan can be read on its own GPU alone; write spec.model.inputs and spec.model.outputs as it "
            "was built"
        )
        raise Failure(Reason.INVALID_SPEC, message)
    warning = (
        "not run here: a TensorRT plan loads on the GPU and the TensorRT release that it was built with, and nowhere "
        "else"
    )
    files, batching = {"model.plan": found.path}, _all_free(asked.inputs + asked.outputs)
    return Finding("TensorRT", files, (), asked.inputs, asked.outputs, batching, warnings=(warning,))


def _all_free(tensors: tuple[Tensor, ...]) -> bool:
    """Rows of a plan are independent where its first dimension was built as a range: engines know no other batch."""
    return all(tensor.dims[:1] == (-1,) for tensor in tensors)
