"""ONNX: what the file declares, whether Triton can serve it, and where its external weights are."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import onnxruntime as ort
from google.protobuf.message import DecodeError

from penstock.api.reasons import Reason

from .batching import prove_batching
from .content import safe_path
from .failure import Failure, is_out_of_memory, shorten
from .finding import Asked, Finding, Progress, SourceTree, Tensor
from .formats.sniff import sniff
from .onnxschema import schema
from .overrides import apply_overrides
from .runtimes import CEILINGS, TARGET, Ceiling

__all__ = ["PUBLISHED", "choose_file", "inspect_onnx", "open_session"]

TensorProto = schema.TensorProto
PUBLISHED = "model.onnx"
_MOST_TENSORS = 256
_TYPES = {
    TensorProto.FLOAT: "FP32", TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8", TensorProto.UINT16: "UINT16",
    TensorProto.INT16: "INT16", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.STRING: "STRING",
    TensorProto.BOOL: "BOOL", TensorProto.FLOAT16: "FP16", TensorProto.DOUBLE: "FP64", TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64", TensorProto.BFLOAT16: "BF16",
}  # fmt: skip
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.preview.training")
_ADVICE = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional value",
    "sparse_tensor_type": "a sparse tensor",
}


def inspect_onnx(tree: SourceTree, asked: Asked, progress: Progress, name: str | None = None) -> Finding:
    """Everything there is to know of the one ONNX model in the tree, or of the one called `name`; raises Failure."""
    path = name or choose_file(tree, asked.format)
    progress("reading the ONNX file")
    model = parse_model(tree, path, asked.format)
    check_versions(model, CEILINGS[TARGET])
    files = {PUBLISHED: path, **external_files(model, tree, path)}
    constants = {item.name for item in model.graph.initializer}
    inputs, problems = read_tensors((i for i in model.graph.input if i.name not in constants), "input")
    outputs, more = read_tensors(model.graph.output, "output")
    inputs, outputs = apply_overrides(inputs, outputs, problems | more, asked)
    ir_version, opset = int(model.ir_version), standard_opset(model)
    del model
    progress("loading the model into onnxruntime")
    session = open_session(tree.root / path)
    check_scalars(inputs, outputs)
    progress("running the model with batch 1, 2 and 5")
    proof = prove_batching(session, inputs, outputs)
    return Finding(
        format="ONNX", files=files, inputs=inputs, outputs=outputs, batching=proof.proven, opset=opset,
        ir_version=ir_version, warnings=proof.warnings,
    )  # fmt: skip


def choose_file(tree: SourceTree, asked: str) -> str:
    """The ONNX file: the only one of that suffix, `model.onnx` among several, or what is ONNX under another name."""
    named = [path for path in tree.sizes if path.lower().endswith(".onnx")]
    if len(named) > 1 and PUBLISHED in named:
        return PUBLISHED
    if len(named) == 1:
        return named[0]
    if len(named) > 1:
        message = f"the source holds {len(named)} ONNX files ({tree.shown()}); call the one to serve model.onnx"
        raise Failure(Reason.UNKNOWN_FORMAT, message)
    if len(tree.sizes) == 1:
        return next(iter(tree.sizes))
    seen = [path for path in tree.sizes if (found := sniff(tree.root / path)) is not None and found.format == "ONNX"]
    if len(seen) == 1:
        return seen[0]
    wanted = "an ONNX file" if asked == "ONNX" else "an ONNX file or a Triton model repository"
    raise Failure(Reason.UNKNOWN_FORMAT, f"the source holds {tree.shown()}; expected {wanted}")


def parse_model(tree: SourceTree, path: str, asked: str) -> Any:
    """The ModelProto without external weights; a file that is none has a reason by how sure its author was."""
    try:
        model = schema.ModelProto.FromString((tree.root / path).read_bytes())
        whole = bool(model.ir_version and model.HasField("graph") and model.graph.output)
        problem = "it holds no graph with outputs"
    except DecodeError as error:
        whole, problem = False, str(error)
    if whole:
        return model
    if asked == "ONNX" or path.lower().endswith(".onnx"):
        message = f"{path} ({tree.sizes[path]} bytes) is not a whole ONNX model: {problem}; upload it again"
        raise Failure(Reason.INVALID_MODEL, message)
    message = (
        f"{path} ({tree.sizes[path]} bytes) is neither ONNX nor part of a Triton model repository; convert it to ONNX"
    )
    raise Failure(Reason.UNKNOWN_FORMAT, message)


def standard_opset(model: Any) -> int | None:
    """The version of the standard operators."""
    return next((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), None)


def check_versions(model: Any, ceiling: Ceiling) -> None:
    """Refuse what the serving runtime is too old for, or lacks operators of."""
    for item in model.opset_import:
        newest = {"": ceiling.opset, "ai.onnx": ceiling.opset, "ai.onnx.ml": ceiling.ml_opset}.get(item.domain)
        if newest is not None and item.version > newest:
            name = f"opset {item.version} of {item.domain}" if item.domain else f"opset {item.version}"
            message = (
                f"the model uses {name}; the newest that Triton {ceiling.triton} (onnxruntime {TARGET}) reads is "
                f"{newest}; export it with opset {newest} or lower"
            )
            raise Failure(Reason.UNSUPPORTED_OPSET, message)
    if model.ir_version > ceiling.ir_version:
        message = (
            f"the model has IR version {model.ir_version}; the newest that Triton {ceiling.triton} (onnxruntime "
            f"{TARGET}) reads is {ceiling.ir_version}; export it with an older onnx package"
        )
        raise Failure(Reason.UNSUPPORTED_OPSET, message)
    own = {function.domain for function in model.functions}
    for domain in sorted({node.domain for node in model.graph.node} - set(_STANDARD_DOMAINS) - own):
        message = f"the model uses operators of {domain!r}, which Triton's onnxruntime lacks; export it without them"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)


def read_tensors(values: Iterable[Any], kind: str) -> tuple[tuple[Tensor, ...], dict[str, str]]:
    """Tensors that can be served, and for those that cannot be described the sentence why, by name.

    A sentence about a missing shape may still be answered by the user's own `inputs` or `outputs`.
    """
    tensors: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    for value in values:
        name = check_name(value.name, kind)
        if name in tensors or name in problems:
            raise Failure(
                Reason.UNSUPPORTED_MODEL, f"the model has two {kind}s named {name!r}; export it with distinct names"
            )
        if len(tensors) + len(problems) >= _MOST_TENSORS:
            raise Failure(Reason.UNSUPPORTED_MODEL, f"the model has more than {_MOST_TENSORS} {kind}s")
        data_type = read_type(value, kind)
        shape = value.type.tensor_type
        if not shape.HasField("shape"):
            problems[name] = (
                f"{kind} {name!r} declares no shape; write it under spec.model.{kind}s, "
                "or run onnx.shape_inference on the model before uploading it"
            )
            continue
        dims = tuple(read_dimension(dim, name, kind) for dim in shape.shape.dim)
        tensors[name] = Tensor(name=name, data_type=data_type, dims=dims)
    return tuple(tensors.values()), problems


def check_name(name: str, kind: str) -> str:
    """A name that can stand in a config and in requests."""
    if not name or len(name) > 256 or not name.isprintable():
        message = f"the model has an {kind} named {shorten(name, 60)!r}; names need 1 to 256 printable characters"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return name


def read_type(value: Any, kind: str) -> str:
    """Triton's name of a value's type."""
    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        what = _ADVICE.get(which or "", "of no declared type")
        hint = (
            '; with skl2onnx convert with options={"zipmap": False}' if which in ("sequence_type", "map_type") else ""
        )
        message = f"{kind} {value.name!r} is {what}; Triton serves plain tensors only{hint}"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    found = _TYPES.get(value.type.tensor_type.elem_type)
    if found is None:
        name = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        message = f"{kind} {value.name!r} is of type {name}, which Triton cannot serve; cast it inside the model"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return found


def read_dimension(dim: Any, name: str, kind: str) -> int:
    """A fixed size, or -1 where it is free."""
    if dim.WhichOneof("value") != "dim_value" or dim.dim_value < 0:
        return -1
    if dim.dim_value == 0:
        message = f"{kind} {name!r} has a dimension of size 0; Triton refuses that; make it free or remove the {kind}"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return int(dim.dim_value)


def check_scalars(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Triton has no tensors without dimensions."""
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            if not tensor.dims:
                message = (
                    f"{kind} {tensor.name!r} is a scalar; Triton needs one dimension or more: give it the shape [1]"
                )
                raise Failure(Reason.UNSUPPORTED_MODEL, message)


def external_files(model: Any, tree: SourceTree, path: str) -> dict[str, str]:
    """Files of weights beside the model: their place in the layer and in the source; raises Failure."""
    folder = PurePosixPath(path).parent
    found: dict[str, str] = {}
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = {item.key: item.value for item in tensor.external_data}.get("location", "")
        source = (folder / safe_path(place.removeprefix("./"))).as_posix()
        if source not in tree.sizes:
            message = f"the weights of {tensor.name!r} are in {place!r}, which is not beside {path}; upload it too"
            raise Failure(Reason.INVALID_MODEL, message)
        if place == PUBLISHED and source != path:
            message = f"the weights are in a file called {PUBLISHED}, which the model itself must be called; rename it"
            raise Failure(Reason.INVALID_MODEL, message)
        found[place.removeprefix("./")] = source
    return found


def _tensors(model: Any) -> Iterator[Any]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def open_session(path: Path) -> Any:
    """An onnxruntime session on one thread; raises Failure with what the runtime says."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refusal(error, path) from error


def _refusal(error: Exception, path: Path) -> Exception:
    text = str(error).replace(f"{path.parent}/", "").removeprefix("[ONNXRuntimeError] : ")
    if is_out_of_memory(error):
        return MemoryError(text)
    unsupported = "NOT_IMPLEMENTED" in text or any(
        word in text for word in ("is not a registered function/op", "No Op registered")
    )
    reason = Reason.UNSUPPORTED_MODEL if unsupported else Reason.INVALID_MODEL
    return Failure(reason, f"onnxruntime {ort.__version__} cannot load the model: {text}")
