"""ServerSettings: how a revision is served, with every default applied.

They are resolved once, when a revision is made, and stored in its record: rendering them years later gives the same
bytes, whatever the defaults are by then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from penstock.api.spec import BatchingSpec, InstancesSpec, ServerSpec
from penstock.api.units import duration_seconds, quantity_value

from .backends import Backend, backend_of
from .flags import check_flags
from .problems import Problem

if TYPE_CHECKING:
    from penstock.api.facts import ModelFacts

__all__ = ["SERVER_VERSION", "ServerSettings", "resolve_settings"]

SERVER_VERSION = "2.51"
"""The Triton that settings are checked for unless told otherwise."""
_FORMAT = 1
_DEFAULT_BATCH = 32
_DEFAULT_QUEUE = 256
_SERVER = "spec.server"
_BATCHING = f"{_SERVER}.batching"
_TWO_INSTANCES = "raise resources.limits.cpu to 2, or set instances.count: 2"
_GPU_RESOURCES = "nvidia.com/"
_STALL = (
    "one instance with dynamic batching leaves requests waiting half a second in Triton's scheduler now and then "
    "(measured with Python-based backends)"
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything of `spec.server` that decides config.pbtxt and the server's flags; times in microseconds.

    `dynamic` says whether requests are queued and computed together; without it the batching fields are zero and
    `max_batch_size` bounds the batches that clients send themselves. `config` is canonical JSON of the user's extra
    ModelConfig fields. `refusals` are what is wrong with the specification; settings that have any are never stored.
    """

    max_batch_size: int = 0
    dynamic: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    max_queue_size: int = 0
    queue_timeout_us: int = 0
    instances: int = 1
    kind: str = "CPU"
    threads: int = 1
    warmup: bool = True
    cache_bytes: int = 0
    config: str = "{}"
    flags: tuple[tuple[str, str], ...] = ()
    server_version: str = SERVER_VERSION
    refusals: tuple[Problem, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON for the revision record; raises ValueError when the specification was refused."""
        if self.refusals:
            raise ValueError(f"a refused specification has no settings to keep: {self.refusals[0]}")
        values = asdict(self)
        del values["refusals"]
        values["config"] = json.loads(self.config)
        values["flags"] = dict(self.flags)
        values["preferred_batch_sizes"] = list(self.preferred_batch_sizes)
        return {"format": _FORMAT, **values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServerSettings:
        """What `to_json` gave; raises ValueError for a record of a newer Penstock."""
        values = dict(data)
        if values.pop("format", None) != _FORMAT:
            raise ValueError(f"server settings of format {data.get('format')!r}; this Penstock reads {_FORMAT}")
        values["config"] = canonical_json(values["config"])
        values["flags"] = tuple(sorted(values["flags"].items()))
        values["preferred_batch_sizes"] = tuple(values["preferred_batch_sizes"])
        return cls(**values)


def resolve_settings(
    spec: ServerSpec | None, facts: ModelFacts, cpu_limit: Fraction | int, server_version: str = SERVER_VERSION
) -> ServerSettings:
    """Apply every default to what the user wrote; what cannot be had stands in `refusals`.

    `cpu_limit` is the server container's CPU limit in cores. Below 2 cores there is one instance and no dynamic
    batching, from 2 on two instances with it: its scheduler stalls in front of a single Python-based instance
    (facts: 0.5-22 % of requests above 300 ms), and two instances never were seen to. What a search in the server has
    chosen (`facts.tuned`) comes before the defaults and after what the user wrote.
    """
    spec = _with_tuned(spec or ServerSpec(), facts)
    settings = ServerSettings(
        cache_bytes=math.ceil(quantity_value(spec.response_cache.size)) if spec.response_cache else 0,
        flags=tuple(sorted((spec.flags or {}).items())),
        server_version=server_version,
    )
    refusals = [*check_flags(spec.flags or {})]
    backend = backend_of(facts)
    if backend is None:
        return replace(settings, refusals=(*refusals, *_refuse_verbatim(spec)))
    settings = _resolve_instances(settings, spec.instances or InstancesSpec(), Fraction(cpu_limit), backend)
    refusals.extend(_check_gpu(settings, spec, backend))
    settings, wrong = _resolve_batching(settings, spec, facts, backend)
    warmup = spec.warmup != "None"
    config = canonical_json(spec.config or {})
    return replace(settings, warmup=warmup, config=config, refusals=(*refusals, *wrong))


def _with_tuned(spec: ServerSpec, facts: ModelFacts) -> ServerSpec:
    tuned = facts.tuned
    if tuned is None:
        return spec
    instances, batching = spec.instances or InstancesSpec(), spec.batching
    found = {"count": instances.count or tuned.instances, "threads": instances.threads or tuned.threads}
    if tuned.max_queue_delay and (batching is None or batching.max_queue_delay is None):
        batching = (batching or BatchingSpec()).model_copy(update={"max_queue_delay": tuned.max_queue_delay})
    return spec.model_copy(update={"instances": instances.model_copy(update=found), "batching": batching})


def canonical_json(value: Any) -> str:
    """One spelling for equal values; keys become text and what JSON does not know its text, as YAML may hold both."""
    return json.dumps(_with_text_keys(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _resolve_instances(
    settings: ServerSettings, spec: InstancesSpec, cpu_limit: Fraction, backend: Backend
) -> ServerSettings:
    count = spec.count or (2 if cpu_limit >= 2 else 1)
    threads = spec.threads or max(1, math.floor(cpu_limit / count))
    kind = spec.kind or ("GPU" if backend.gpu_only else "CPU")
    return replace(settings, instances=count, kind=kind, threads=threads)


def _check_gpu(settings: ServerSettings, spec: ServerSpec, backend: Backend) -> list[Problem]:
    if not backend.gpu_only:
        return []
    if settings.kind != "GPU":
        message = f"the {backend.name} backend runs on GPUs alone; write kind: GPU, or use a model in another format"
        return [_refuse(f"{_SERVER}.instances.kind", "gpu-backend", message)]
    limits = (spec.resources.limits if spec.resources else None) or {}
    if any(name.startswith(_GPU_RESOURCES) for name in limits):
        return []
    message = f'the {backend.name} backend needs a GPU and the server is given none; add nvidia.com/gpu: "1" there'
    return [_refuse(f"{_SERVER}.resources.limits", "gpu-backend", message)]


def _resolve_batching(
    settings: ServerSettings, spec: ServerSpec, facts: ModelFacts, backend: Backend
) -> tuple[ServerSettings, list[Problem]]:
    batching = spec.batching or BatchingSpec()
    asked = batching.max_batch_size
    size = _default_batch(facts, backend) if asked is None else asked
    problems = []
    if backend.batches == "Always" and not size:
        message = f"the {backend.name} backend takes rows in batches alone; write 1 or more, or remove it"
        problems.append(_refuse(f"{_BATCHING}.maxBatchSize", "batching-needed", message))
    if size and not facts.batching:
        problems.append(_refuse(f"{_BATCHING}.maxBatchSize", "batching-unproven", _unproven(size)))
        size = 0
    explicit_one = spec.instances is not None and spec.instances.count == 1
    if explicit_one and spec.batching is not None and size and _wants_batching(batching):
        message = (
            f"instances.count is 1 and batching is asked for: {_STALL}; set instances.count to 2 or more, or turn "
            "batching off with maxBatchSize: 0"
        )
        problems.append(_refuse(f"{_SERVER}.instances.count", "batching-one-instance", message))
    dynamic = size > 0 and settings.instances > 1
    if not dynamic and not problems:
        problems.extend(_refuse_queue(batching, size))
    settings = replace(settings, max_batch_size=size, dynamic=dynamic)
    if not dynamic:
        return settings, problems
    problems.extend(_check_preferred(batching, size))
    return _resolve_queue(settings, batching), problems


def _default_batch(facts: ModelFacts, backend: Backend) -> int:
    return _DEFAULT_BATCH if facts.batching and backend.batches != "Never" else 0


def _resolve_queue(settings: ServerSettings, batching: BatchingSpec) -> ServerSettings:
    return replace(
        settings,
        preferred_batch_sizes=tuple(batching.preferred_batch_sizes or ()),
        max_queue_delay_us=_microseconds(batching.max_queue_delay),
        max_queue_size=batching.max_queue_size or _DEFAULT_QUEUE,
        queue_timeout_us=_microseconds(batching.queue_timeout),
    )


def _wants_batching(batching: BatchingSpec) -> bool:
    return any(value is not None for _, value in batching)


def _queue_fields(batching: BatchingSpec) -> list[str]:
    given = {
        "preferredBatchSizes": batching.preferred_batch_sizes,
        "maxQueueDelay": _microseconds(batching.max_queue_delay),
        "maxQueueSize": batching.max_queue_size,
        "queueTimeout": _microseconds(batching.queue_timeout),
    }
    return [name for name, value in given.items() if value]


def _refuse_queue(batching: BatchingSpec, size: int) -> list[Problem]:
    if size:
        why = f"it exists only inside dynamic batching, and this server has one instance: {_STALL}; {_TWO_INSTANCES}"
        rule = "queue-one-instance"
    else:
        why = "it exists only inside dynamic batching, and this model is served without batching; remove it"
        rule = "queue-without-batching"
    return [_refuse(f"{_BATCHING}.{name}", rule, why) for name in _queue_fields(batching)]


def _check_preferred(batching: BatchingSpec, size: int) -> list[Problem]:
    message = "preferred batch size {} is above maxBatchSize {}; lower it, or raise maxBatchSize"
    return [
        _refuse(f"{_BATCHING}.preferredBatchSizes[{index}]", "preferred-batch-size", message.format(value, size))
        for index, value in enumerate(batching.preferred_batch_sizes or ())
        if value > size
    ]


def _refuse_verbatim(spec: ServerSpec) -> list[Problem]:
    message = "a TritonRepository is served as it is; remove this, and say it in the repository's own config.pbtxt"
    given = {"batching": spec.batching, "instances": spec.instances, "warmup": spec.warmup, "config": spec.config}
    return [_refuse(f"{_SERVER}.{name}", "served-as-is", message) for name, value in given.items() if _says(value)]


def _says(value: BaseModel | str | dict[str, Any] | None) -> bool:
    return bool(value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value)


def _unproven(size: int) -> str:
    return (
        f"batches of {size} were asked for, but preparation could not prove that this model computes the rows of a "
        "batch independently (batch 1, 2 and more must give the same rows, and every tensor's first dimension must be "
        "free); remove maxBatchSize, or export the model with a free batch dimension"
    )


def _refuse(path: str, rule: str, message: str) -> Problem:
    return Problem(path, rule, message)


def _microseconds(duration: str | None) -> int:
    return round(duration_seconds(duration) * 1_000_000) if duration else 0
