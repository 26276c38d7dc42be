"""Ensembles: graphs of models, whose tensors must fit together."""

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.core.modelrepo.proto import ModelConfig, schema

from .table import Findings, Subject, TensorView, rule, tensor_views


@rule("ensemble-platform", "refused", "platform: ensemble and ensemble_scheduling go together.")
def check_platform(subject: Subject) -> Findings:
    """A server that completes no configs does not even fill in the platform."""
    platform = subject.config.platform
    if platform == "ensemble" and subject.scheduler != "ensemble_scheduling":
        yield "ensemble_scheduling", "platform is ensemble, but no ensemble_scheduling lists its steps"
    elif platform != "ensemble" and subject.scheduler == "ensemble_scheduling":
        yield "platform", f"{platform or 'no platform'} was given; the platform of an ensemble is 'ensemble'"


@rule("ensemble-steps", "refused", "An ensemble has no steps, or a step without a model or maps.")
def check_steps(subject: Subject) -> Findings:
    """A step names a model and maps its inputs and outputs to the ensemble's tensors."""
    if subject.scheduler != "ensemble_scheduling":
        return
    steps = subject.config.ensemble_scheduling.step
    if not steps:
        yield "ensemble_scheduling.step", "an ensemble needs at least one step"
    for index, step in enumerate(steps):
        path = f"ensemble_scheduling.step[{index}]"
        if not step.model_name:
            yield f"{path}.model_name", "name the step's model"
        if not step.input_map:
            yield f"{path}.input_map", "map at least one input of the step's model"
        if not step.output_map:
            yield f"{path}.output_map", "map at least one output of the step's model"


@rule("ensemble-fields", "refused", "Fields that an ensemble cannot have.")
def check_fields(subject: Subject) -> Findings:
    """Instances, optimization and warm-up belong to the models of its steps."""
    if not subject.ensemble:
        return
    config = subject.config
    if config.instance_group:
        yield "instance_group", "an ensemble has no instances; its models have"
    if config.HasField("optimization"):
        yield "optimization", "an ensemble is not optimized; its models are"
    if config.model_warmup:
        yield "model_warmup", "an ensemble is not warmed up; its models are"


@rule("ensemble-tensor-twice", "refused", "Two steps, or a step and an input, make the same tensor.")
def check_twice(subject: Subject) -> Findings:
    """Every tensor of an ensemble has one source."""
    if subject.scheduler != "ensemble_scheduling":
        return
    sources = {view.name: view.path for view in subject.inputs}
    for path, _, tensor in _maps(subject, "output_map"):
        if tensor in sources:
            yield path, f"tensor {tensor!r} is made by {sources[tensor]} already"
        sources.setdefault(tensor, path)


@rule("ensemble-tensor-unknown", "refused", "A step reads a tensor that nothing makes.")
def check_unknown(subject: Subject) -> Findings:
    """Its source is an input of the ensemble or an output of a step."""
    if subject.scheduler != "ensemble_scheduling":
        return
    made = {view.name for view in subject.inputs} | {tensor for _, _, tensor in _maps(subject, "output_map")}
    for path, _, tensor in _maps(subject, "input_map"):
        if tensor not in made:
            yield path, f"no input of the ensemble and no step makes tensor {tensor!r}"


@rule("ensemble-output", "refused", "An output of the ensemble that no step makes.")
def check_outputs(subject: Subject) -> Findings:
    """An input may not be passed through."""
    if subject.scheduler != "ensemble_scheduling":
        return
    made = {tensor for _, _, tensor in _maps(subject, "output_map")}
    for view in subject.outputs:
        if view.name and view.name not in made:
            yield f"{view.path}.name", f"no step makes tensor {view.name!r}"


@rule("ensemble-input", "refused", "An input of the ensemble that no step reads.")
def check_inputs(subject: Subject) -> Findings:
    """Triton calls it not used."""
    if subject.scheduler != "ensemble_scheduling":
        return
    read = {tensor for _, _, tensor in _maps(subject, "input_map")}
    for view in subject.inputs:
        if view.name and view.name not in read:
            yield f"{view.path}.name", f"no step reads tensor {view.name!r}"


@rule("ensemble-cycle", "refused", "Steps wait for each other.")
def check_cycle(subject: Subject) -> Findings:
    """Steps are run off one after the other as far as their tensors are there; what is left waits forever."""
    if subject.scheduler != "ensemble_scheduling":
        return
    steps = [
        (set(step.input_map.values()), set(step.output_map.values()))
        for step in subject.config.ensemble_scheduling.step
    ]
    made = {tensor for _, outputs in steps for tensor in outputs}
    there = {view.name for view in subject.inputs} | {tensor for needs, _ in steps for tensor in needs - made}
    waiting = dict(enumerate(steps))
    while ready := [index for index, (needs, _) in waiting.items() if needs <= there]:
        for index in ready:
            there |= waiting.pop(index)[1]
    for index in waiting:
        yield f"ensemble_scheduling.step[{index}]", "this step needs, directly or not, a tensor that it makes itself"


@rule("ensemble-model", "refused", "A step's model is not in the repository.")
def check_models(subject: Subject) -> Findings:
    """Nor may an ensemble be a step of itself."""
    models = subject.context.models
    for path, step in _steps(subject):
        if step.model_name and step.model_name == subject.config.name:
            yield f"{path}.model_name", "an ensemble cannot be a step of itself"
        elif models is not None and step.model_name and step.model_name not in models:
            there = ", ".join(sorted(models)[:20])
            yield f"{path}.model_name", f"the repository has no model {step.model_name!r}; it has {there}"


@rule("ensemble-step-tensor", "refused", "A step maps a tensor its model does not have, or leaves one out.")
def check_step_tensors(subject: Subject) -> Findings:
    """All inputs of a model that are not optional must be mapped; outputs may be left out."""
    for path, step, config in _known_steps(subject):
        inputs = {item.name: item for item in config.input}
        outputs = {item.name for item in config.output}
        for name in step.input_map:
            if inputs and name not in inputs:
                yield f"{path}.input_map[{name!r}]", f"model {step.model_name} has no input {name!r}"
        for name, item in inputs.items():
            if name not in step.input_map and not item.optional:
                yield f"{path}.input_map", f"input {name!r} of model {step.model_name} is not mapped"
        for name in step.output_map:
            if outputs and name not in outputs:
                yield f"{path}.output_map[{name!r}]", f"model {step.model_name} has no output {name!r}"


@rule("ensemble-mismatch", "refused", "A tensor's type or shape differs between its ends.")
def check_mismatch(subject: Subject) -> Findings:
    """Compared with the batch: where max_batch_size is above 0, dims have a free one in front."""
    if subject.scheduler != "ensemble_scheduling" or subject.context.models is None:
        return
    ends: dict[str, tuple[str, int, tuple[int, ...]]] = {}
    for view in subject.tensors:
        ends.setdefault(view.name, (view.path, view.data_type, _full(subject.config, view)))
    for path, tensor, view, config in _mapped(subject):
        other = ends.setdefault(tensor, (path, view.data_type, _full(config, view)))
        if other[1] != view.data_type:
            kinds = schema.DataType.Name(view.data_type), schema.DataType.Name(other[1])
            yield path, f"tensor {tensor!r} is {kinds[0]} here and {kinds[1]} at {other[0]}"
        elif not _fit(other[2], _full(config, view)):
            yield path, f"tensor {tensor!r} is {list(_full(config, view))} here and {list(other[2])} at {other[0]}"


@rule("ensemble-batch", "refused", "An ensemble takes larger batches than one of its models.")
def check_batch(subject: Subject) -> Findings:
    """Triton hands a batch on as it came."""
    size = subject.config.max_batch_size
    for path, step, config in _known_steps(subject):
        if size > config.max_batch_size > 0:
            message = f"model {step.model_name} takes batches of {config.max_batch_size}, the ensemble of {size}"
            yield f"{path}.model_name", message


def _full(config: ModelConfig, view: TensorView) -> tuple[int, ...]:
    return (-1, *view.dims) if config.max_batch_size > 0 else view.dims


def _fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _steps(subject: Subject) -> Iterator[tuple[str, Any]]:
    if subject.scheduler == "ensemble_scheduling":
        for index, step in enumerate(subject.config.ensemble_scheduling.step):
            yield f"ensemble_scheduling.step[{index}]", step


def _known_steps(subject: Subject) -> Iterator[tuple[str, Any, ModelConfig]]:
    models: Mapping[str, ModelConfig] = subject.context.models or {}
    for path, step in _steps(subject):
        if step.model_name in models:
            yield path, step, models[step.model_name]


def _maps(subject: Subject, field: str) -> Iterator[tuple[str, str, str]]:
    """(path, the model's tensor, the ensemble's tensor) of every entry of every step."""
    for path, step in _steps(subject):
        for name, tensor in sorted(getattr(step, field).items()):
            yield f"{path}.{field}[{name!r}]", name, tensor


def _mapped(subject: Subject) -> Iterator[tuple[str, str, TensorView, ModelConfig]]:
    for path, step, config in _known_steps(subject):
        for group, field in (("output", "output_map"), ("input", "input_map")):
            views = {view.name: view for view in tensor_views(config, group)}
            for name, tensor in sorted(getattr(step, field).items()):
                if name in views:
                    yield f"{path}.{field}[{name!r}]", tensor, views[name], config
