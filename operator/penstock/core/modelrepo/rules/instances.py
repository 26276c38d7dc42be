"""Instance groups, accelerators and the rate limiter."""

from penstock.core.modelrepo.proto import schema

from .identity import backend_of
from .table import Findings, Subject, rule

_GROUP = schema.ModelInstanceGroup
_GPU_KINDS = (_GROUP.KIND_GPU, _GROUP.KIND_AUTO)


@rule("instance-count", "misread", "An instance group does not say how many instances.")
def check_count(subject: Subject) -> Findings:
    """0, -1 and an omitted count all become Triton's choice: 1, or 2 for onnxruntime on a CPU."""
    for index, group in enumerate(subject.config.instance_group):
        if group.count < 1:
            message = "0 or none" if group.count == 0 else str(group.count)
            yield f"instance_group[{index}].count", f"{message} was given and Triton chooses by itself; say 1 or more"


@rule("gpus-kind", "refused", "GPUs listed for instances that do not run on one.")
def check_gpus(subject: Subject) -> Findings:
    """Only KIND_GPU and KIND_AUTO take `gpus`."""
    for index, group in enumerate(subject.config.instance_group):
        if group.gpus and group.kind not in _GPU_KINDS:
            name = _GROUP.Kind.Name(group.kind)
            yield f"instance_group[{index}].gpus", f"instances of {name} run on no GPU; remove gpus or say KIND_GPU"


@rule("gpu-missing", "refused", "GPU instances where there is no GPU, or no such GPU.")
def check_gpu_present(subject: Subject) -> Findings:
    """GPUs are counted from 0 within the container."""
    available = subject.context.gpus
    for index, group in enumerate(subject.config.instance_group):
        if available == 0 and group.kind == _GROUP.KIND_GPU:
            yield f"instance_group[{index}].kind", "the server sees no GPU; use KIND_CPU, or give the pod a GPU"
        for number, gpu in enumerate(group.gpus):
            if gpu < 0 or (available is not None and gpu >= available and group.kind in _GPU_KINDS):
                seen = "counted from 0" if available is None else f"{available} visible"
                yield f"instance_group[{index}].gpus[{number}]", f"there is no GPU {gpu} ({seen})"


@rule("profile-backend", "refused", "An optimization profile on another backend than TensorRT.")
def check_profile(subject: Subject) -> Findings:
    """Profiles are part of TensorRT engines."""
    backend = backend_of(subject)
    for index, group in enumerate(subject.config.instance_group):
        if group.profile and backend not in (None, "tensorrt"):
            yield f"instance_group[{index}].profile", f"profiles belong to TensorRT models, this is {backend}"


@rule("accelerator-ignored", "misread", "An execution accelerator that the backend does not read.")
def check_accelerators(subject: Subject) -> Findings:
    """Only NVIDIA's onnxruntime backend reads them, and the CPU one only where it was built with OpenVINO."""
    if not subject.config.optimization.HasField("execution_accelerators"):
        return
    accelerators = subject.config.optimization.execution_accelerators
    path = "optimization.execution_accelerators"
    backend = backend_of(subject)
    for index, item in enumerate(accelerators.cpu_execution_accelerator):
        message = f"{item.name!r} is read only by an onnxruntime backend built with it; others ignore it"
        yield f"{path}.cpu_execution_accelerator[{index}]", message
    for index, item in enumerate(accelerators.gpu_execution_accelerator):
        if backend not in ("onnxruntime", "tensorflow", None):
            yield f"{path}.gpu_execution_accelerator[{index}]", f"the {backend} backend ignores {item.name!r}"


@rule("rate-limiter-off", "misread", "Rate limiting is configured and the server has it off.")
def check_rate_limiter(subject: Subject) -> Findings:
    """Triton then ignores priorities and resources."""
    if subject.context.rate_limit is not False:
        return
    for index, group in enumerate(subject.config.instance_group):
        if group.HasField("rate_limiter"):
            message = "the server runs with --rate-limit=off and ignores it; add the flag rate-limit: execution_count"
            yield f"instance_group[{index}].rate_limiter", message
