"""Sequence batching: controls and state."""

from typing import Any

from penstock.core.modelrepo.proto import schema

from .table import Findings, Subject, rule

_CONTROL = schema.ModelSequenceBatching.Control
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")


@rule("sequence-no-controls", "misread", "Sequence batching without control inputs.")
def check_controls_present(subject: Subject) -> Findings:
    """The backend cannot tell where a sequence starts; models with state of Triton's keeping may do without."""
    batching = subject.config.sequence_batching
    if subject.scheduler == "sequence_batching" and not batching.control_input and not batching.state:
        message = "the model is told neither start nor end of a sequence; add control_input"
        yield "sequence_batching.control_input", message


@rule("sequence-control", "refused", "A sequence control is incomplete or contradicts itself.")
def check_controls(subject: Subject) -> Findings:
    """Start, ready and end need one pair of false and true values; the correlation id needs a type instead."""
    if subject.scheduler != "sequence_batching":
        return
    seen: dict[int, str] = {}
    for index, control_input in enumerate(subject.config.sequence_batching.control_input):
        path = f"sequence_batching.control_input[{index}]"
        if not control_input.name:
            yield f"{path}.name", "name the input that carries the control"
        if not control_input.control:
            yield f"{path}.control", "say which control it carries"
        for number, control in enumerate(control_input.control):
            here = f"{path}.control[{number}]"
            yield from _check_control(control, here)
            if control.kind in seen:
                yield f"{here}.kind", f"{_CONTROL.Kind.Name(control.kind)} stands at {seen[control.kind]} already"
            seen[control.kind] = here


def _check_control(control: Any, path: str) -> Findings:
    name = _CONTROL.Kind.Name(control.kind)
    given = [field for field in _VALUES if len(getattr(control, field))]
    if control.kind == _CONTROL.CONTROL_SEQUENCE_CORRID:
        if given:
            yield f"{path}.{given[0]}", f"{name} has a value of its own and takes no false and true"
        if control.data_type not in _CORRELATION_TYPES:
            yield f"{path}.data_type", f"{name} needs a type: UINT64, INT64, UINT32, INT32 or STRING"
    elif len(given) != 1:
        yield path, f"{name} needs exactly one of {', '.join(_VALUES)}, {len(given)} are given"
    elif len(getattr(control, given[0])) != 2:
        yield f"{path}.{given[0]}", f"expected two values, for false and true, found {len(getattr(control, given[0]))}"


_CORRELATION_TYPES = (
    schema.TYPE_UINT64, schema.TYPE_INT64, schema.TYPE_UINT32, schema.TYPE_INT32, schema.TYPE_STRING,
)  # fmt: skip


@rule("sequence-state", "misread", "A sequence's state is incomplete.")
def check_states(subject: Subject) -> Findings:
    """Triton loads it and fails the sequences; a state is a tensor in and one out, a type, a shape."""
    if subject.scheduler != "sequence_batching":
        return
    for index, state in enumerate(subject.config.sequence_batching.state):
        path = f"sequence_batching.state[{index}]"
        for field in ("input_name", "output_name"):
            if not getattr(state, field):
                yield f"{path}.{field}", "name the tensor"
        if state.data_type == schema.TYPE_INVALID:
            yield f"{path}.data_type", "a state needs a data type"
        if not state.dims:
            yield f"{path}.dims", "a state needs dims"


@rule("sequence-initial-state", "refused", "The initial state of a sequence is incomplete.")
def check_initial_states(subject: Subject) -> Findings:
    """It has a name, the state's type, a size and data."""
    if subject.scheduler != "sequence_batching":
        return
    for index, state in enumerate(subject.config.sequence_batching.state):
        for number, initial in enumerate(state.initial_state):
            yield from _check_initial(initial, state, f"sequence_batching.state[{index}].initial_state[{number}]")


def _check_initial(initial: Any, state: Any, path: str) -> Findings:
    if initial.WhichOneof("state_data") is None:
        yield path, "say zero_data: true or name a data_file"
    if not initial.name:
        yield f"{path}.name", "an initial state needs a name"
    if initial.data_type != state.data_type:
        yield f"{path}.data_type", "the initial state must have the state's data type"
    if any(size < 1 for size in initial.dims):
        yield f"{path}.dims", "an initial state has no free dimensions"
