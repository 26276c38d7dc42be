"""What an ONNX file declares, read from its protobuf wire format without the onnx package and without its weights.

Enough for a linter: is the file whole, and which inputs and outputs does its graph have. Lengths are only ever used to
skip within the buffer, so that a hostile file costs at most one pass over its fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["OnnxSignature", "OnnxTensor", "read_onnx"]

Buffer: TypeAlias = bytes | memoryview
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_TENSORS = 4096
_TYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """`data_type` as Triton names it, empty where Triton has no such type; `dims` None for a tensor without a shape."""

    name: str
    data_type: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxSignature:
    """Inputs that a caller must give (initializers left out), and outputs."""

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]


class _BrokenFileError(ValueError):
    """Not protobuf wire format, or cut short."""


def read_onnx(content: Buffer) -> OnnxSignature | str:
    """The signature of a model, or the sentence that says what is wrong with the file."""
    view = memoryview(content)
    if view.nbytes == 0:
        return "the file is empty"
    try:
        graphs = [value for number, value in _fields(view) if number == 7 and not isinstance(value, int)]
        if not graphs:
            return "the file holds no ONNX graph"
        return _read_graph(graphs[-1])
    except _BrokenFileError as error:
        return f"the file is not an ONNX model, or it is cut short: {error}"


def _read_graph(graph: memoryview) -> OnnxSignature:
    inputs, outputs, constants = [], [], set()
    for number, value in _fields(graph):
        if isinstance(value, int):
            continue
        if number == 11:
            inputs.append(_read_value(value))
        elif number == 12:
            outputs.append(_read_value(value))
        elif number == 5:
            constants.add(_text(value, 8))
        if len(inputs) + len(outputs) > _MAX_TENSORS:
            raise _BrokenFileError(f"more than {_MAX_TENSORS} tensors")
    return OnnxSignature(tuple(item for item in inputs if item.name not in constants), tuple(outputs))


def _read_value(value: memoryview) -> OnnxTensor:
    kind, dims = "", None
    for tensor_type in _messages(value, 2, 1):
        for number, item in _fields(tensor_type):
            if number == 1 and isinstance(item, int):
                kind = _TYPES.get(item, "")
            elif number == 2 and not isinstance(item, int):
                dims = tuple(_read_dimension(dim) for dim in _messages(item, 1))
    return OnnxTensor(_text(value, 1), kind, dims)


def _read_dimension(dimension: memoryview) -> int:
    sizes = [value for number, value in _fields(dimension) if number == 1 and isinstance(value, int)]
    return sizes[-1] if sizes and 0 < sizes[-1] < 1 << 63 else -1


def _messages(view: memoryview, *path: int) -> Iterator[memoryview]:
    for number, value in _fields(view):
        if number == path[0] and not isinstance(value, int):
            if len(path) > 1:
                yield from _messages(value, *path[1:])
            else:
                yield value


def _text(view: memoryview, wanted: int) -> str:
    for number, value in _fields(view):
        if number == wanted and not isinstance(value, int):
            return bytes(value[:1024]).decode(errors="replace")
    return ""


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(view, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if number == 0 or size < 0:
            raise _BrokenFileError(f"byte {at} starts no field")
        if size > end - at:
            raise _BrokenFileError(f"a field at byte {at} is {size} bytes long, {end - at} are there")
        yield number, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise _BrokenFileError(f"the number at byte {at} does not end")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
