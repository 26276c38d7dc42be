"""ONNX files on their way through optimization: read whole, written the same way each time.

The tools of onnxruntime leave names of temporary files, operator sets that nothing uses and other traces behind; what
is published has none of them, so that the same inputs give the same bytes.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper

__all__ = ["LARGEST", "copy_whole", "graphs", "read_whole", "scratch", "size_of", "write_tidy"]

LARGEST = (2 << 30) - (64 << 20)
"""Bytes of a model that fits into one file: protobuf ends at 2 GiB, and the tools add a little."""


def read_whole(path: Path) -> Any:
    """The model with its external weights inside, at most `LARGEST` bytes of them."""
    return onnx.load(path, load_external_data=True)


def size_of(path: Path) -> int:
    """Bytes of a model and of the external weights it points to, none of which is read."""
    model = onnx.load(path, load_external_data=False)
    tensors = external_data_helper._get_all_tensors(model)  # noqa: SLF001 - the only walk over every tensor
    places = {
        info.location
        for info in (external_data_helper.ExternalDataInfo(t) for t in tensors if _is_external(t))
    }  # fmt: skip
    return path.stat().st_size + sum((path.parent / place).stat().st_size for place in places)


def copy_whole(source: Path, target: Path) -> Path:
    """Copy a model into one file, with the weights inside that lie beside it; the bytes of one without such stay."""
    if size_of(source) == source.stat().st_size:
        return Path(shutil.copyfile(source, target))
    target.write_bytes(read_whole(source).SerializeToString(deterministic=True))
    return target


def write_tidy(model: Any, path: Path) -> Path:
    """Write a model without traces of its making; bytes depend on the graph alone."""
    used = {node.domain or "" for graph in graphs(model) for node in graph}
    for function in model.functions:
        used |= {item.domain for item in function.opset_import} | {function.domain}
    kept = {item.domain or "": item.version for item in model.opset_import if (item.domain or "") in used | {""}}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, kept[domain]) for domain in sorted(kept))
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.producer_name, model.producer_version, model.doc_string = "penstock", "", ""
    model.graph.doc_string = ""
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def graphs(model: Any) -> Iterator[Any]:
    """The nodes of the graph, of every graph inside it, and of functions: one sequence for each."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        nodes = waiting.pop()
        yield nodes
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g.node)
                waiting.extend(graph.node for graph in attribute.graphs)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for the tools' temporary files, where this process may write; gone afterwards."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as name:
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before


def _is_external(tensor: Any) -> bool:
    return bool(tensor.HasField("data_location") and tensor.data_location == onnx.TensorProto.EXTERNAL)
