"""RepositoryPlan: what a serving pod's model repository holds, which models it loads, and what that needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.api.facts import Forest, ModelFacts

from .backends import FOREST_INPUT, FOREST_OUTPUT, Backend, backend_of
from .check import check_config
from .context import Context
from .extra import check_extra
from .names import unsafe_name
from .problems import Problem, errors
from .proto import config_text, parse_config
from .render import render_config
from .settings import ServerSettings
from .sizing import memory_bytes, shm_bytes

__all__ = ["RepositoryPlan", "build_repository", "render_repository", "server_flags"]


@dataclass(frozen=True, slots=True)
class RepositoryPlan:
    """The model repository of one revision.

    `config_text` is the config.pbtxt to write beside the model, None for a repository served as it is. `entry_model`
    is the name clients use, `load_models` what the server is told to load. A plan with errors among its `problems`
    must not be served; its sizes are those of what could be understood. Sizes are bytes.
    """

    config_text: str | None
    entry_model: str
    load_models: tuple[str, ...]
    shm_bytes: int
    memory_bytes: int
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What forbids serving; empty for a plan that can be served."""
        return errors(self.problems)


def build_repository(facts: ModelFacts, served_name: str, settings: ServerSettings) -> RepositoryPlan:
    """Render and check the repository of a revision that is about to be made.

    The rendered text is parsed again and checked by all rules with every warning an error: what Triton would accept
    and misread must not come from us.
    """
    backend = backend_of(facts)
    if backend is None:
        return _plan_verbatim(facts, served_name, settings)
    wrong = (*_check_facts(facts, served_name), *_check_backend(facts, backend))
    problems = (*settings.refusals, *wrong, *check_extra(settings, backend))
    if problems:
        return _plan(None, facts, served_name, settings, problems)
    plan = render_repository(facts, served_name, settings)
    found = tuple(_check_text(plan.config_text or "", served_name, settings))
    return replace(plan, config_text=None if errors(found) else plan.config_text, problems=found)


def render_repository(facts: ModelFacts, served_name: str, settings: ServerSettings) -> RepositoryPlan:
    """Render the repository of a revision that was checked when it was made; the same arguments, the same bytes.

    No rule has a say here: one that a later release adds must not change what runs already.
    """
    if facts.format == "TritonRepository":
        return _plan_verbatim(facts, served_name, settings)
    return _plan(config_text(render_config(facts, served_name, settings)), facts, served_name, settings)


def _plan(
    text: str | None,
    facts: ModelFacts,
    served_name: str,
    settings: ServerSettings,
    problems: tuple[Problem, ...] = (),
) -> RepositoryPlan:
    return RepositoryPlan(
        config_text=text,
        entry_model=served_name,
        load_models=(served_name,),
        shm_bytes=shm_bytes(facts, settings),
        memory_bytes=memory_bytes(facts, settings),
        problems=problems,
    )


def _check_text(text: str, served_name: str, settings: ServerSettings) -> Iterator[Problem]:
    context = Context(
        directory=served_name,
        server_version=settings.server_version,
        strict=True,
        cache=settings.cache_bytes > 0,
        rate_limit=_rate_limited(settings),
    )
    yield from map(_translate, check_config(parse_config(text), context))


def server_flags(settings: ServerSettings) -> tuple[str, ...]:
    """The flags of tritonserver that follow from `spec.server`: the user's, and the response cache's; sorted."""
    flags = [f"--{name}={value}" for name, value in settings.flags]
    if settings.cache_bytes:
        flags.append(f"--cache-config=local,size={settings.cache_bytes}")
    return tuple(sorted(flags))


def _plan_verbatim(facts: ModelFacts, served_name: str, settings: ServerSettings) -> RepositoryPlan:
    problems = list(settings.refusals)
    entry = _choose_entry(facts, served_name)
    if entry is None:
        problems.append(_refuse_entry(facts, served_name))
    return RepositoryPlan(
        config_text=None,
        entry_model=entry or served_name,
        load_models=tuple(sorted(model.name for model in facts.models)),
        shm_bytes=shm_bytes(facts, settings),
        memory_bytes=memory_bytes(facts, settings),
        problems=tuple(problems),
    )


def _choose_entry(facts: ModelFacts, served_name: str) -> str | None:
    names = [model.name for model in facts.models]
    ensembles = [model.name for model in facts.models if model.ensemble]
    if served_name in names:
        return served_name
    if len(names) == 1:
        return names[0]
    return ensembles[0] if len(ensembles) == 1 else None


def _refuse_entry(facts: ModelFacts, served_name: str) -> Problem:
    names = ", ".join(model.name for model in facts.models[:20])
    if not names:
        message = "the repository holds no model; expected <model>/config.pbtxt"
        return Problem("spec.model.uri", "repository-empty", message)
    message = (
        f"the repository holds no model named {served_name}, and several could be the one that clients call: {names}; "
        "set servedName to one of them"
    )
    return Problem("spec.model.servedName", "entry-model", message)


def _check_facts(facts: ModelFacts, served_name: str) -> Iterator[Problem]:
    wrong = unsafe_name(served_name)
    if wrong:
        yield Problem("spec.model.servedName", "unsafe-name", f"the served name {wrong}")
    for group, tensors in (("inputs", facts.inputs), ("outputs", facts.outputs)):
        if not tensors:
            yield Problem(f"spec.model.{group}", "tensors-missing", f"the model has no {group}; list them here")
        for index, tensor in enumerate(tensors):
            if not facts.batching and not tensor.dims:
                message = f"tensor {tensor.name} is a single value without dimensions, which Triton cannot serve"
                yield Problem(f"spec.model.{group}[{index}].dims", "scalar-tensor", message)
            if facts.batching and (not tensor.dims or tensor.dims[0] != -1):
                message = f"tensor {tensor.name} is {list(tensor.dims)}: batching was proven, so its first must be -1"
                yield Problem(f"spec.model.{group}[{index}].dims", "batch-dimension", message)


def _check_backend(facts: ModelFacts, backend: Backend) -> Iterator[Problem]:
    """What this backend cannot take, or takes under other names alone."""
    for group, tensors in (("inputs", facts.inputs), ("outputs", facts.outputs)):
        for index, tensor in enumerate(tensors):
            if tensor.data_type not in backend.data_types:
                known = ", ".join(sorted(backend.data_types))
                message = f"tensor {tensor.name} is {tensor.data_type}; the {backend.name} backend takes {known}"
                yield Problem(f"spec.model.{group}[{index}].dataType", "backend-data-type", message)
    if facts.forest:
        yield from _check_forest(facts, facts.forest)


def _check_forest(facts: ModelFacts, forest: Forest) -> Iterator[Problem]:
    for group, tensors, name in (("inputs", facts.inputs, FOREST_INPUT), ("outputs", facts.outputs, FOREST_OUTPUT)):
        found = [(tensor.name, len(tensor.dims)) for tensor in tensors]
        if found and found != [(name, 2)]:
            message = f"trees are served with one tensor here, {name} of shape [-1, n]; remove this, or write that"
            yield Problem(f"spec.model.{group}", "forest-tensors", message)
            return
    values = facts.outputs[0].dims[-1] if facts.outputs else 0
    allowed = sorted({1, forest.classes} - {0})
    if facts.outputs and values not in allowed:
        expected = " or ".join(map(str, allowed))
        message = f"{values} values a row are declared; these trees give {expected}"
        yield Problem("spec.model.outputs[0].dims", "forest-outputs", message)


def _rate_limited(settings: ServerSettings) -> bool:
    return dict(settings.flags).get("rate-limit", "off") != "off"


_SPEC_PATHS = (
    ("input[", "spec.model.inputs["),
    ("output[", "spec.model.outputs["),
    ("name", "spec.model.servedName"),
    ("max_batch_size", "spec.server.batching.maxBatchSize"),
    ("dynamic_batching.preferred_batch_size", "spec.server.batching.preferredBatchSizes"),
    ("dynamic_batching.max_queue_delay_microseconds", "spec.server.batching.maxQueueDelay"),
    ("dynamic_batching.default_queue_policy.max_queue_size", "spec.server.batching.maxQueueSize"),
    ("dynamic_batching.default_queue_policy.default_timeout_microseconds", "spec.server.batching.queueTimeout"),
    ("instance_group", "spec.server.instances"),
    ("response_cache", "spec.server.responseCache"),
    ("", "spec.server.config."),
)


def _translate(problem: Problem) -> Problem:
    """The same problem under the path the user wrote; what has no field of its own came from `server.config`."""
    for start, replacement in _SPEC_PATHS:
        if problem.path.startswith(start):
            path = replacement + problem.path.removeprefix(start)
            return Problem(path, problem.rule, problem.message, problem.severity)
    return problem
