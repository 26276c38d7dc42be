"""What a model is: its name, backend and the names of files and parameters."""

from penstock.api.backends import FILE_BACKENDS
from penstock.core.modelrepo.names import unsafe_name, unsafe_path
from penstock.core.modelrepo.proto import parse_version, unavailable_fields

from .table import Findings, Subject, rule

PLATFORMS = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
BACKENDS = frozenset(
    {
        "dali", "fil", "identity", "onnxruntime", "openvino", "python", "pytorch", "repeat", "square", "tensorflow",
        "tensorrt", "tensorrtllm", "vllm",
    }
)  # fmt: skip
_TENSORFLOW_GONE = (2, 56)
_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY/"


def version_files(subject: Subject) -> dict[str, set[str]]:
    """First path parts found in each version directory, by the directory's name."""
    found: dict[str, set[str]] = {}
    for path in subject.context.files or {}:
        version, slash, rest = path.partition("/")
        if slash and version.isdigit() and (version == "0" or version[0] != "0"):
            found.setdefault(version, set()).add(rest.partition("/")[0])
    return found


def backend_of(subject: Subject) -> str | None:
    """The backend Triton would take: said, following from the platform, the files or the name's ending; else None."""
    config = subject.config
    if config.backend:
        return str(config.backend)
    if config.platform:
        return PLATFORMS.get(config.platform)
    names = {name for files in version_files(subject).values() for name in files}
    names.add(config.default_model_filename)
    for name, backend in FILE_BACKENDS.items():
        if name in names:
            return backend
    ending = (config.name or subject.context.directory or "").rpartition(".")
    return ending[2] if ending[1] else None


@rule("config-empty", "misread", "The config says nothing at all.")
def check_empty(subject: Subject) -> Findings:
    """Triton loads it where the files tell the backend, with no inputs and no outputs."""
    if not subject.config.ListFields():
        yield "", "the file is empty: name the backend, inputs and outputs"


@rule("name-directory", "refused", "The name differs from the directory's.")
def check_name(subject: Subject) -> Findings:
    """An omitted name is the directory's."""
    directory, name = subject.context.directory, subject.config.name
    if directory is not None and name and name != directory:
        yield "name", f"the model is named {name!r} and its directory {directory!r}; make them equal or remove the name"


@rule("unsafe-name", "refused", "A name that reaches files or command lines holds unsafe characters.")
def check_unsafe(subject: Subject) -> Findings:
    """Names run through a shell on Triton before August 2025, or hang the load."""
    config = subject.config
    names = [
        ("name", config.name or subject.context.directory or "model"),
        ("default_model_filename", config.default_model_filename),
        ("backend", config.backend),
        ("runtime", config.runtime),
        *((f"parameters[{key!r}]", key or " ") for key in config.parameters),
        *((f"cc_model_filenames[{key!r}]", value) for key, value in config.cc_model_filenames.items()),
        *((f"instance_group[{index}].name", group.name) for index, group in enumerate(config.instance_group)),
        *((f"instance_group[{i}].host_policy", group.host_policy) for i, group in enumerate(config.instance_group)),
    ]
    for path, name in names:
        wrong = unsafe_name(name) if name else None
        if wrong:
            yield path, f"this name {wrong}"


@rule("unsafe-path", "refused", "A path to a file leaves its directory or holds unsafe characters.")
def check_paths(subject: Subject) -> Findings:
    """Labels, warm-up data, initial states, the environment of a Python backend."""
    config = subject.config
    paths = [(f"{view.path}.label_filename", view.field.label_filename) for view in subject.outputs]
    for index, warmup in enumerate(config.model_warmup):
        for key, item in warmup.inputs.items():
            paths.append((f"model_warmup[{index}].inputs[{key!r}].input_data_file", item.input_data_file))
    if subject.scheduler == "sequence_batching":
        for number, state in enumerate(config.sequence_batching.state):
            for index, initial in enumerate(state.initial_state):
                path = f"sequence_batching.state[{number}].initial_state[{index}].data_file"
                paths.append((path, initial.data_file))
    if "EXECUTION_ENV_PATH" in config.parameters:
        environment = config.parameters["EXECUTION_ENV_PATH"].string_value
        relative = environment.removeprefix(_MODEL_DIRECTORY).removeprefix("/")
        paths.append(("parameters['EXECUTION_ENV_PATH'].string_value", relative))
    for path, value in paths:
        wrong = unsafe_path(value) if value else None
        if wrong:
            yield path, f"this path {wrong}"


@rule("backend-missing", "refused", "Nothing tells which backend serves the model.")
def check_backend(subject: Subject) -> Findings:
    """The files of the version directories count where they are known."""
    known = subject.context.files is not None or subject.context.strict
    if known and not subject.ensemble and not subject.config.platform and backend_of(subject) is None:
        expected = ", ".join(sorted(FILE_BACKENDS))
        yield "backend", f"no backend is named and no version directory holds a file that tells it ({expected})"


@rule("platform-unknown", "refused", "The platform is none that Triton knows.")
def check_platform(subject: Subject) -> Findings:
    """`platform` is the old way to name a backend; new files use `backend`."""
    platform = subject.config.platform
    if platform and platform not in PLATFORMS and platform != "ensemble" and not subject.config.backend:
        known = ", ".join((*PLATFORMS, "ensemble"))
        yield "platform", f"{platform!r} is no platform of Triton ({known}); name the backend instead"


@rule("platform-backend", "refused", "Platform and backend contradict each other.")
def check_pair(subject: Subject) -> Findings:
    """An ensemble has no backend at all."""
    platform, backend = subject.config.platform, subject.config.backend
    if not (platform and backend):
        return
    if platform == "ensemble":
        yield "backend", "an ensemble has no backend; remove it"
    elif PLATFORMS.get(platform) != backend:
        fitting = PLATFORMS.get(platform)
        hint = f"that platform belongs to {fitting}" if fitting else "that platform belongs to no backend"
        yield "platform", f"platform {platform!r} and backend {backend!r} do not go together: {hint}; keep the backend"


@rule("backend-unknown", "refused", "No such backend is installed.")
def check_backend_known(subject: Subject) -> Findings:
    """A library of the model's own, or an unusual runtime, makes any name good."""
    backend = subject.config.backend
    if not backend or subject.config.runtime or backend in BACKENDS | subject.context.backends:
        return
    library = f"libtriton_{backend}.so"
    if any(path.rpartition("/")[2] == library for path in subject.context.files or {}):
        return
    known = ", ".join(sorted(BACKENDS | subject.context.backends))
    yield "backend", f"{backend!r} is none of the backends known here ({known}), and the model brings no {library}"


@rule("backend-removed", "advice", "The backend left Triton in a newer version.")
def check_backend_removed(subject: Subject) -> Findings:
    """TensorFlow models cannot be loaded after Triton 25.03."""
    if backend_of(subject) == "tensorflow":
        gone = "{}.{}".format(*_TENSORFLOW_GONE)
        if parse_version(subject.context.server_version) >= _TENSORFLOW_GONE:
            yield "backend", f"Triton has no tensorflow backend since {gone}; convert the model to ONNX"
        else:
            yield "backend", f"the tensorflow backend ends with Triton {gone}; convert the model to ONNX"


@rule("field-unavailable", "refused", "A field is newer than the server, which then refuses the whole file.")
def check_fields(subject: Subject) -> Findings:
    """See `proto.unavailable_fields`."""
    version = subject.context.server_version
    for path, since in unavailable_fields(subject.config, version):
        yield path, f"Triton {version} does not know this field, {since} is the first that does; remove it"
