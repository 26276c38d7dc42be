"""What every converted model goes through: axes named, everything else of its author removed, then checked.

Exporters write where they ran: paths, stack traces, comments. None of that is served, and without it the same input
gives the same bytes.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.onnxmodel import check_versions
from penstock_runtime.runtimes import CEILINGS, TARGET

__all__ = ["OPSET", "OPSETS", "finish"]

OPSET, IR_VERSION = 20, 10
OPSETS = {"": OPSET, "ai.onnx.ml": 3}
"""Old enough for every Triton that is still served, new enough for what exporters write."""
_BATCH = "batch"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_CHECK_WHOLE = 1 << 30
"""Bytes above which onnx.checker is given the file, not the message."""


def finish(path: Path) -> None:
    """Put the file in order and write it anew, the same bytes for the same model; raises Failure."""
    model = onnx.load(path, load_external_data=False)
    model.ir_version = max(model.ir_version, IR_VERSION)
    if not any(item.domain in ("", "ai.onnx") for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    _strip(model)
    rename_axes(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))
    check_versions(model, CEILINGS[TARGET])
    try:
        small = model.ByteSize() < _CHECK_WHOLE and not any(path.parent.glob(f"{path.name}.*"))
        onnx.checker.check_model(model if small else str(path), full_check=True)
    except Exception as error:
        message = f"the converted model is not valid ONNX: {shorten(str(error), 500)}"
        raise Failure(Reason.CONVERSION_FAILED, message) from error


def _strip(model: Any) -> None:
    """Remove words, stack traces and paths wherever ONNX has room for them."""
    for message in _with_words(model):
        message.ClearField("doc_string")
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")
    model.domain, model.model_version = "", 0
    model.graph.name = "model"


def _with_words(model: Any) -> Iterator[Any]:
    yield model
    yield from model.functions
    for function in model.functions:
        yield from _of_nodes(function.node)
        yield from function.value_info
    yield from _of_graph(model.graph)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield graph
    for group in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from group
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)


def rename_axes(graph: Any) -> None:
    """Call the free first axis `batch`, and the other free ones dim_1, dim_2, ... in the order of the inputs."""
    names: dict[str, str] = {}
    for value in graph.input:
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            symbol = dim.dim_param
            if symbol and _SYMBOL.fullmatch(symbol) and symbol not in names:
                taken = _BATCH in names.values()
                names[symbol] = _BATCH if index == 0 and not taken else _axis_name(symbol, names)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _SYMBOL.sub(lambda match: names.get(match[0], match[0]), dim.dim_param)


def _axis_name(symbol: str, names: Mapping[str, str]) -> str:
    """Names that a person gave stay; exporters' own are s followed by a number."""
    if not re.fullmatch(r"[su]\d+", symbol):
        return symbol
    return f"dim_{len(names) + 1}"
