"""Warm-up requests: made by Triton from the config before the model counts as ready."""

from typing import Any

from penstock.core.modelrepo.proto import schema

from .table import Findings, Subject, TensorView, rule


@rule("warmup-batch", "refused", "A warm-up batch is larger than max_batch_size.")
def check_batch(subject: Subject) -> Findings:
    """Not an error message but a crash: 2 of 10 loads ended tritonserver 2.51 with SIGSEGV."""
    largest = subject.config.max_batch_size
    for index, warmup in enumerate(subject.config.model_warmup):
        if warmup.batch_size > max(largest, 1) or (warmup.batch_size > 1 and largest == 0):
            path = f"model_warmup[{index}].batch_size"
            yield path, f"{warmup.batch_size} is above max_batch_size, which is {largest}; this can crash the server"


@rule("warmup-input", "refused", "A warm-up request does not have the model's inputs.")
def check_inputs(subject: Subject) -> Findings:
    """Every input that is not optional, no other, with its type and a shape without free dimensions."""
    inputs = {view.name: view for view in subject.inputs}
    for index, warmup in enumerate(subject.config.model_warmup):
        path = f"model_warmup[{index}]"
        for name, sample in warmup.inputs.items():
            if name not in inputs:
                known = ", ".join(inputs) or "none"
                yield f"{path}.inputs[{name!r}]", f"the model has no input {name!r}, it has {known}"
            else:
                yield from _check_sample(sample, inputs[name], f"{path}.inputs[{name!r}]")
        for name, view in inputs.items():
            if name not in warmup.inputs and not view.field.optional:
                yield f"{path}.inputs", f"the model's input {name!r} is missing"


def _check_sample(sample: Any, view: TensorView, path: str) -> Findings:
    if sample.data_type != view.data_type:
        expected = schema.DataType.Name(view.data_type)
        yield f"{path}.data_type", f"the input is {expected}, the sample {schema.DataType.Name(sample.data_type)}"
    dims = tuple(sample.dims)
    if dims == view.dims and min(dims, default=1) > 0:
        return
    if any(size < 1 for size in dims):
        yield f"{path}.dims", f"{list(dims)} has a free or empty dimension; a sample has a size"
    elif len(dims) != len(view.dims) or any(want not in (-1, size) for want, size in zip(view.dims, dims, strict=True)):
        yield f"{path}.dims", f"the input is {list(view.dims)} without the batch, the sample {list(dims)}"


@rule("warmup-data", "refused", "A warm-up input has no data.")
def check_data(subject: Subject) -> Findings:
    """One of zero_data, random_data (empty strings for TYPE_STRING) and a file."""
    for index, warmup in enumerate(subject.config.model_warmup):
        for name, sample in warmup.inputs.items():
            path = f"model_warmup[{index}].inputs[{name!r}]"
            source = sample.WhichOneof("input_data_type")
            if source is None:
                yield path, "say zero_data: true, random_data: true or name an input_data_file"
            elif source == "input_data_file" and not _has_file(subject, sample.input_data_file):
                yield f"{path}.input_data_file", f"there is no file warmup/{sample.input_data_file}"


def _has_file(subject: Subject, name: str) -> bool:
    files = subject.context.files
    return files is None or f"warmup/{name}" in files
