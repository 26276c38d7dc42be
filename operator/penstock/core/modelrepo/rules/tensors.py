"""Inputs and outputs: names, types, shapes."""

from collections.abc import Iterator
from math import prod

from penstock.core.modelrepo.proto import schema

from .identity import backend_of
from .table import Findings, Subject, TensorView, rule

_INVALID = schema.TYPE_INVALID


@rule("inputs-missing", "misread", "The config lists no inputs.")
def check_inputs(subject: Subject) -> Findings:
    """Penstock turns auto-completion off: what the config does not say is not there."""
    if not subject.inputs and not subject.context.auto_complete:
        yield "input", "no inputs are listed, and the server does not complete configs; list every input"


@rule("outputs-missing", "misread", "The config lists no outputs.")
def check_outputs(subject: Subject) -> Findings:
    """As for inputs."""
    if not subject.outputs and not subject.context.auto_complete:
        yield "output", "no outputs are listed, and the server does not complete configs; list every output"


@rule("tensor-name", "refused", "An input or output has no name.")
def check_names(subject: Subject) -> Findings:
    """Clients and backends address tensors by name."""
    for view in subject.tensors:
        if not view.name:
            yield f"{view.path}.name", "every input and output needs a name"


@rule("tensor-duplicate", "misread", "Two inputs or two outputs have the same name.")
def check_duplicates(subject: Subject) -> Findings:
    """Triton loads the model and then refuses every request."""
    for views in (subject.inputs, subject.outputs):
        seen: set[str] = set()
        for view in views:
            if view.name in seen:
                yield f"{view.path}.name", f"{view.name!r} is listed twice; every request would be refused"
            seen.add(view.name)


@rule("tensor-type", "refused", "An input or output has no data type.")
def check_types(subject: Subject) -> Findings:
    """TYPE_INVALID is what an omitted type means."""
    for view in subject.tensors:
        if view.data_type == _INVALID:
            yield f"{view.path}.data_type", f"{view.name!r} needs a data type, such as TYPE_FP32"


@rule("tensor-dims-missing", "refused", "An input or output has no dims.")
def check_dims_present(subject: Subject) -> Findings:
    """A scalar per row is dims [1] with an empty reshape."""
    for view in subject.tensors:
        if not view.dims:
            message = f"{view.name!r} needs dims; one value per row of a batch is dims: 1 with reshape {{ shape: [] }}"
            yield f"{view.path}.dims", message


@rule("tensor-dims", "refused", "A dimension is neither -1 nor at least 1.")
def check_dims(subject: Subject) -> Findings:
    """-1 is a free dimension; the batch is not among dims when max_batch_size is set."""
    for view in subject.tensors:
        for index, size in enumerate(view.dims):
            if size < 1 and size != -1:
                yield f"{view.path}.dims[{index}]", f"{size} was given; a dimension is at least 1, or -1 where free"


@rule("reshape-size", "refused", "dims and reshape hold different numbers of elements.")
def check_reshape(subject: Subject) -> Findings:
    """Free dimensions must correspond one to one, with equal element counts between them."""
    for view in subject.tensors:
        if not view.field.HasField("reshape") or not view.dims or any(size < 1 and size != -1 for size in view.dims):
            continue
        shape = view.reshaped
        path = f"{view.path}.reshape.shape"
        wrong = [size for size in shape if size < 1 and size != -1]
        if wrong:
            yield path, f"{wrong[0]} was given; a dimension is at least 1, or -1 where free"
        elif list(_segments(view.dims)) != list(_segments(shape)):
            yield path, f"dims {list(view.dims)} and reshape {list(shape)} do not hold the same elements"


def _segments(shape: tuple[int, ...]) -> Iterator[int]:
    """Element counts before, between and after the free dimensions."""
    start = 0
    for index, size in enumerate(shape):
        if size == -1:
            yield prod(shape[start:index])
            start = index + 1
    yield prod(shape[start:])


@rule("reshape-batching", "refused", "An empty reshape on a model without batching.")
def check_empty_reshape(subject: Subject) -> Findings:
    """Without the batch dimension nothing would be left of the shape."""
    if subject.config.max_batch_size > 0:
        return
    for view in subject.tensors:
        if view.field.HasField("reshape") and not view.field.reshape.shape:
            yield f"{view.path}.reshape", "an empty reshape needs max_batch_size of at least 1"


@rule("format-dims", "refused", "An image format on an input that has not three dimensions.")
def check_format(subject: Subject) -> Findings:
    """FORMAT_NHWC and FORMAT_NCHW describe one image without its batch."""
    for view in subject.inputs:
        if view.field.format != schema.ModelInput.FORMAT_NONE and len(view.dims) != 3:
            name = schema.ModelInput.Format.Name(view.field.format)
            yield f"{view.path}.format", f"{name} needs 3 dims, {view.name!r} has {len(view.dims)}"


@rule("shape-tensor", "refused", "TensorRT's tensor kinds on another backend.")
def check_shape_tensors(subject: Subject) -> Findings:
    """Shape tensors and non-linear formats exist in TensorRT engines only."""
    backend = backend_of(subject)
    if backend in (None, "tensorrt"):
        return
    for view in subject.tensors:
        if view.field.is_shape_tensor:
            yield f"{view.path}.is_shape_tensor", f"only TensorRT models have shape tensors, this is {backend}"


@rule("ragged-batching", "misread", "Ragged batching without batching.")
def check_ragged(subject: Subject) -> Findings:
    """Only dynamic and sequence batching put requests of different shapes into one batch."""
    if subject.config.max_batch_size > 0:
        return
    for view in subject.inputs:
        if view.field.allow_ragged_batch:
            yield f"{view.path}.allow_ragged_batch", "nothing is batched here: max_batch_size is 0"


@rule("batch-input", "refused", "A batch input lacks its target, its source or a fitting type.")
def check_batch_inputs(subject: Subject) -> Findings:
    """Every kind takes one source; types are INT32 or FP32."""
    names = {view.name for view in subject.inputs}
    for index, item in enumerate(subject.config.batch_input):
        path = f"batch_input[{index}]"
        if item.data_type not in (schema.TYPE_INT32, schema.TYPE_FP32):
            yield f"{path}.data_type", "a batch input is TYPE_INT32 or TYPE_FP32"
        if not item.target_name:
            yield f"{path}.target_name", "name the model's input that receives it"
        if len(item.source_input) != 1:
            yield f"{path}.source_input", f"exactly one source input is expected, {len(item.source_input)} are given"
        for number, source in enumerate(item.source_input):
            if source not in names:
                yield f"{path}.source_input[{number}]", f"the config lists no input {source!r}"


@rule("batch-output", "refused", "A batch output names tensors that do not exist.")
def check_batch_outputs(subject: Subject) -> Findings:
    """The target is an output, the one source an input."""
    inputs, outputs = _names(subject.inputs), _names(subject.outputs)
    for index, item in enumerate(subject.config.batch_output):
        path = f"batch_output[{index}]"
        if not item.target_name:
            yield f"{path}.target_name", "name the output that is scattered"
        for number, target in enumerate(item.target_name):
            if target not in outputs:
                yield f"{path}.target_name[{number}]", f"the config lists no output {target!r}"
        if len(item.source_input) != 1:
            yield f"{path}.source_input", f"exactly one source input is expected, {len(item.source_input)} are given"
        for number, source in enumerate(item.source_input):
            if source not in inputs:
                yield f"{path}.source_input[{number}]", f"the config lists no input {source!r}"


def _names(views: tuple[TensorView, ...]) -> set[str]:
    return {view.name for view in views}
