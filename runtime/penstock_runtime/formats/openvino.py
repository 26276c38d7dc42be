"""OpenVINO's intermediate representation: a network in XML, and its weights in a file of the same name beside it."""

from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten
from penstock_runtime.finding import Asked, Finding, SourceTree, Tensor
from penstock_runtime.overrides import apply_overrides

from .detect import Detected

__all__ = ["inspect_openvino"]

_LARGEST = 256 << 20
_OLDEST = 10
_TYPES = {
    "f16": "FP16", "f32": "FP32", "f64": "FP64", "bf16": "BF16", "i8": "INT8", "i16": "INT16", "i32": "INT32",
    "i64": "INT64", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "boolean": "BOOL",
    "string": "STRING",
}  # fmt: skip


def inspect_openvino(tree: SourceTree, asked: Asked, found: Detected) -> Finding:
    """Files, inputs and outputs; the network itself is not run here. Raises Failure."""
    weights = _weights(tree, found.path)
    net = _read(tree, found.path)
    _check_weights(tree, net, weights)
    layers = list(net.iter("layer"))
    inputs = tuple(_tensor(layer, "output") for layer in layers if layer.get("type") == "Parameter")
    outputs = tuple(_result(net, layers, layer) for layer in layers if layer.get("type") == "Result")
    if not inputs or not outputs:
        message = f"{found.path} declares {len(inputs)} inputs and {len(outputs)} outputs; convert the model again"
        raise Failure(Reason.INVALID_MODEL, message)
    inputs, outputs = apply_overrides(inputs, outputs, {}, asked)
    files = {"model.xml": found.path, "model.bin": weights}
    batching = all(tensor.dims[:1] == (-1,) for tensor in inputs + outputs)
    warnings = (
        ("batching is declared by the model and was not proven: OpenVINO is not part of this image",)
        if batching
        else ()
    )
    return Finding("OpenVINO", files, (), inputs, outputs, batching, warnings=warnings)


def _weights(tree: SourceTree, path: str) -> str:
    weights = PurePosixPath(path).with_suffix(".bin").as_posix()
    if weights not in tree.sizes:
        raise Failure(
            Reason.INVALID_MODEL,
            f"{path} is an OpenVINO network and its weights {weights} are not beside it; upload both",
        )
    return weights


def _read(tree: SourceTree, path: str) -> ET.Element:
    """The network; a document type, by which XML can grow without end, is refused."""
    if tree.sizes[path] > _LARGEST:
        raise Failure(
            Reason.INVALID_MODEL, f"{path} has {tree.sizes[path]} bytes; an OpenVINO network has fewer than {_LARGEST}"
        )
    content = (tree.root / path).read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise Failure(
            Reason.INVALID_MODEL,
            f"{path} declares a document type, which no OpenVINO network has; convert the model again",
        )
    try:
        net = ET.fromstring(content)  # noqa: S314 - entities are refused above
    except ET.ParseError as error:
        raise Failure(Reason.INVALID_MODEL, f"{path} is no whole OpenVINO network: {error}; upload it again") from error
    version = net.get("version", "")
    if net.tag != "net" or not version.isdigit() or int(version) < _OLDEST:
        message = (
            f"{path} is an OpenVINO network of version {version or 'unknown'}; convert the model with OpenVINO 2022 or "
            "newer"
        )
        raise Failure(Reason.INVALID_MODEL, message)
    return net


def _check_weights(tree: SourceTree, net: ET.Element, weights: str) -> None:
    """Every constant lies inside of the file of weights."""
    ends = [
        int(data.get("offset", 0)) + int(data.get("size", 0))
        for data in net.iter("data")
        if data.get("size", "").isdigit()
    ]
    if max(ends, default=0) > tree.sizes[weights]:
        message = (
            f"{weights} has {tree.sizes[weights]} bytes and its network asks for {max(ends)}; upload both files of one "
            "conversion"
        )
        raise Failure(Reason.INVALID_MODEL, message)


def _tensor(layer: ET.Element, side: str) -> Tensor:
    """The port of a Parameter: its first tensor name is the one that OpenVINO serves it by."""
    port = layer.find(f"{side}/port")
    if port is None:
        raise Failure(
            Reason.INVALID_MODEL, f"layer {shorten(layer.get('name', ''), 60)!r} has no port; convert the model again"
        )
    name = port.get("names", "").split(",")[0] or layer.get("name", "")
    return Tensor(name, _type(layer, port), _dims(port))


def _result(net: ET.Element, layers: list[ET.Element], result: ET.Element) -> Tensor:
    """An output has the name, type and shape of the port that leads to it."""
    edge = next((edge for edge in net.iter("edge") if edge.get("to-layer") == result.get("id")), None)
    source = next((layer for layer in layers if edge is not None and layer.get("id") == edge.get("from-layer")), None)
    if edge is None or source is None:
        raise Failure(Reason.INVALID_MODEL, f"output {result.get('name')!r} is fed by nothing; convert the model again")
    port = next((port for port in source.iter("port") if port.get("id") == edge.get("from-port")), None)
    if port is None:
        raise Failure(Reason.INVALID_MODEL, f"output {result.get('name')!r} is fed by no port; convert the model again")
    return Tensor(port.get("names", "").split(",")[0] or source.get("name", ""), _type(source, port), _dims(port))


def _type(layer: ET.Element, port: ET.Element) -> str:
    data = layer.find("data")
    word = (port.get("precision") or (data.get("element_type") if data is not None else None) or "").lower()
    found = _TYPES.get(word) or _TYPES.get(word.replace("fp", "f"))
    if found is None:
        message = (
            f"{shorten(layer.get('name', ''), 60)!r} is of type {word!r}, which Triton cannot serve; convert it inside "
            "the model"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return found


def _dims(port: ET.Element) -> tuple[int, ...]:
    sizes = tuple(int(dim.text or "-1") for dim in port.findall("dim"))
    if not sizes:
        raise Failure(
            Reason.UNSUPPORTED_MODEL,
            "a tensor of the model is a scalar; Triton needs one dimension or more: give it the shape [1]",
        )
    return sizes
