"""The files a config points to, and what an ONNX file says about the config."""

from collections.abc import Iterator

from penstock.core.modelrepo.context import ModelFile
from penstock.core.modelrepo.onnxfile import OnnxSignature, OnnxTensor
from penstock.core.modelrepo.proto import schema

from .identity import backend_of, version_files
from .table import Findings, Subject, TensorView, rule

_DEFAULT_FILES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "python": "model.py",
    "tensorrt": "model.plan",
}


@rule("label-file", "refused", "A label file is missing.")
def check_labels(subject: Subject) -> Findings:
    """Labels stand beside config.pbtxt."""
    files = subject.context.files
    for view in subject.outputs:
        name = view.field.label_filename
        if files is not None and name and name not in files:
            yield f"{view.path}.label_filename", f"there is no file {name} beside config.pbtxt"


@rule("model-file-missing", "refused", "A version directory has no model file.")
def check_model_file(subject: Subject) -> Findings:
    """The name is default_model_filename, or the backend's usual one."""
    for version, name in _expected_files(subject):
        if name.partition("/")[0] not in version_files(subject).get(version, set()):
            yield "default_model_filename", f"there is no file {version}/{name}"


@rule("model-file-corrupt", "refused", "The model file cannot be read.")
def check_model_content(subject: Subject) -> Findings:
    """ONNX only: the file is walked through, and must be whole."""
    for path, file in _onnx_files(subject):
        if isinstance(file.onnx, str):
            yield "default_model_filename", f"{path}: {file.onnx}"


@rule("model-tensors", "refused", "The config's inputs or outputs are not the model's.")
def check_model_tensors(subject: Subject) -> Findings:
    """Names and types; the model must have every output the config lists, the config every input of the model."""
    for path, file in _onnx_files(subject):
        if not isinstance(file.onnx, OnnxSignature):
            continue
        yield from _compare(subject.inputs, file.onnx.inputs, "input", path)
        yield from _compare(subject.outputs, file.onnx.outputs, "output", path)
        listed = {view.name for view in subject.inputs}
        completed = subject.context.auto_complete and not listed
        for tensor in file.onnx.inputs:
            if tensor.name not in listed and not completed and not _controlled(subject, tensor.name):
                yield "input", f"{path} has an input {tensor.name!r}, which the config does not list"


def _controlled(subject: Subject, name: str) -> bool:
    """True for an input that Triton fills by itself."""
    config = subject.config
    if any(name in item.target_name for item in config.batch_input):
        return True
    if subject.scheduler != "sequence_batching":
        return False
    batching = config.sequence_batching
    return name in {item.name for item in batching.control_input} | {item.input_name for item in batching.state}


def _compare(views: tuple[TensorView, ...], tensors: tuple[OnnxTensor, ...], kind: str, path: str) -> Findings:
    known = {tensor.name: tensor for tensor in tensors}
    for view in views:
        tensor = known.get(view.name)
        if tensor is None:
            yield f"{view.path}.name", f"{path} has no {kind} {view.name!r}, it has {', '.join(known) or 'none'}"
        elif tensor.data_type and view.data_type and f"TYPE_{tensor.data_type}" != schema.DataType.Name(view.data_type):
            yield f"{view.path}.data_type", f"{view.name!r} is TYPE_{tensor.data_type} in {path}"


@rule("model-dims", "refused", "The config's shapes contradict the model's.")
def check_model_dims(subject: Subject) -> Findings:
    """As with names and types, NVIDIA's onnxruntime backend and Penstock's refuse it at load."""
    for path, file in _onnx_files(subject):
        if not isinstance(file.onnx, OnnxSignature):
            continue
        known = {tensor.name: tensor for tensor in (*file.onnx.inputs, *file.onnx.outputs)}
        for view in subject.tensors:
            tensor = known.get(view.name)
            if tensor is None or tensor.dims is None or not view.dims:
                continue
            batch = (-1,) if subject.config.max_batch_size > 0 else ()
            shape = (*batch, *view.reshaped)
            if not _compatible(shape, tensor.dims):
                message = f"with the batch {view.name!r} is {list(shape)} here and {list(tensor.dims)} in {path}"
                yield f"{view.path}.dims", message


def _compatible(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    if len(shape) != len(dims):
        return False
    return all(have in (want, -1) for want, have in zip(shape, dims, strict=True))


@rule("cc-file-missing", "misread", "A file for a compute capability is missing.")
def check_capabilities(subject: Subject) -> Findings:
    """Triton looks for it only on a GPU of that capability."""
    if subject.context.files is None:
        return
    versions = version_files(subject)
    for key, name in subject.config.cc_model_filenames.items():
        for version, names in versions.items():
            if name.partition("/")[0] not in names:
                yield f"cc_model_filenames[{key!r}]", f"there is no file {version}/{name}"


def _expected_files(subject: Subject) -> Iterator[tuple[str, str]]:
    if subject.context.files is None or subject.ensemble or subject.config.runtime not in ("", "model.py"):
        return
    backend = backend_of(subject) or ""
    name = subject.config.default_model_filename or _DEFAULT_FILES.get(backend, "")
    if not name:
        return
    for version in _loaded_versions(subject):
        yield version, name


def _loaded_versions(subject: Subject) -> list[str]:
    """Version directories that the policy loads, empty ones included."""
    found = set(version_files(subject))
    found |= {path[:-1] for path in subject.context.files or {} if path.count("/") == 1 and path[:-1].isdigit()}
    usable = sorted((name for name in found if name == "0" or name[0] != "0"), key=int)
    policy = subject.config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return usable
    if choice == "specific":
        return [name for name in usable if int(name) in policy.specific.versions]
    return usable[-policy.latest.num_versions :] if policy.latest.num_versions else usable[-1:]


def _onnx_files(subject: Subject) -> Iterator[tuple[str, ModelFile]]:
    if subject.context.files is None or backend_of(subject) != "onnxruntime":
        return
    for version, name in _expected_files(subject):
        file = subject.context.files.get(f"{version}/{name}")
        if file is not None:
            yield f"{version}/{name}", file
