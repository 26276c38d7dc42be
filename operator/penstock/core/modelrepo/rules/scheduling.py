"""Batching, queues, response cache, transaction policy, versions."""

from collections.abc import Sequence

from penstock.core.modelrepo.proto import schema

from .identity import backend_of, version_files
from .table import Findings, Subject, rule

_DELAY = schema.ModelQueuePolicy.DELAY
_CPU = schema.ModelInstanceGroup.KIND_CPU


@rule("batch-size", "refused", "max_batch_size is negative.")
def check_batch_size(subject: Subject) -> Findings:
    """0 means that the first dimension is not a batch."""
    size = subject.config.max_batch_size
    if size < 0:
        yield "max_batch_size", f"{size} was given; 0 turns batching off"


@rule("preferred-batch-size", "refused", "A preferred batch size is not between 1 and max_batch_size.")
def check_preferred(subject: Subject) -> Findings:
    """For dynamic batching and for the oldest-sequence strategy."""
    config = subject.config
    if subject.scheduler == "dynamic_batching":
        sizes: Sequence[int] = config.dynamic_batching.preferred_batch_size
        path = "dynamic_batching.preferred_batch_size"
    elif subject.scheduler == "sequence_batching" and config.sequence_batching.HasField("oldest"):
        sizes = config.sequence_batching.oldest.preferred_batch_size
        path = "sequence_batching.oldest.preferred_batch_size"
    else:
        return
    for index, size in enumerate(sizes):
        if size < 1:
            yield f"{path}[{index}]", f"{size} was given; a batch has at least one row"
        elif size > config.max_batch_size:
            yield f"{path}[{index}]", f"{size} is above max_batch_size, which is {config.max_batch_size}"


@rule("dynamic-without-batching", "misread", "dynamic_batching on a model without batching.")
def check_dynamic(subject: Subject) -> Findings:
    """Triton loads it and batches nothing."""
    if subject.scheduler == "dynamic_batching" and subject.config.max_batch_size == 0:
        yield "dynamic_batching", "max_batch_size is 0, so nothing is batched; set it, or remove dynamic_batching"


@rule("priority-level", "refused", "A priority lies outside the levels.")
def check_priorities(subject: Subject) -> Findings:
    """Levels need a default among them, and policies only for levels that exist."""
    if subject.scheduler != "dynamic_batching":
        return
    batching = subject.config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        path = "dynamic_batching.default_priority_level"
        yield path, f"{default} was given; with {levels} levels the default is one of 1 to {levels}"
    for key in batching.priority_queue_policy:
        if not 1 <= key <= levels:
            yield f"dynamic_batching.priority_queue_policy[{key}]", f"there are {levels} priority levels"


@rule("priority-order", "refused", "Several priorities while the order of responses is to be kept.")
def check_priority_order(subject: Subject) -> Findings:
    """One of the two."""
    if subject.scheduler != "dynamic_batching":
        return
    batching = subject.config.dynamic_batching
    if batching.preserve_ordering and batching.priority_levels > 1:
        message = f"order is to be preserved, but there are {batching.priority_levels} levels; use one level"
        yield "dynamic_batching.priority_levels", message


@rule("delay-ordering", "misread", "Late requests are delayed although the order of responses is to be kept.")
def check_delay(subject: Subject) -> Findings:
    """DELAY puts a request that waited too long behind all others."""
    if subject.scheduler != "dynamic_batching" or not subject.config.dynamic_batching.preserve_ordering:
        return
    batching = subject.config.dynamic_batching
    policies = [("dynamic_batching.default_queue_policy", batching.default_queue_policy)]
    for key, policy in batching.priority_queue_policy.items():
        policies.append((f"dynamic_batching.priority_queue_policy[{key}]", policy))
    for path, policy in policies:
        if policy.timeout_action == _DELAY:
            yield f"{path}.timeout_action", "DELAY reorders requests, and preserve_ordering is set; use REJECT"


@rule("queue-unbounded", "advice", "Nothing bounds the queue.")
def check_queue(subject: Subject) -> Findings:
    """An unbounded queue answers overload with memory exhaustion instead of 503."""
    if subject.scheduler == "dynamic_batching" and not _queue_size(subject):
        message = "requests may wait without bound; set max_queue_size so that overload is answered 503"
        yield "dynamic_batching.default_queue_policy.max_queue_size", message


def _queue_size(subject: Subject) -> int:
    return int(subject.config.dynamic_batching.default_queue_policy.max_queue_size)


@rule("dynamic-one-instance", "advice", "Dynamic batching over a single CPU instance.")
def check_one_instance(subject: Subject) -> Findings:
    """On Python-based backends the scheduler sleeps half a second now and then with a request in its queue."""
    groups = subject.config.instance_group
    if subject.scheduler != "dynamic_batching" or len(groups) != 1 or groups[0].kind != _CPU:
        return
    if groups[0].count == 1 and backend_of(subject) in ("python", "onnxruntime"):
        message = "with one instance of a Python-based backend some requests wait half a second; use 2 instances"
        yield "instance_group[0].count", message


@rule("cache-conflict", "refused", "A response cache on a model that cannot have one.")
def check_cache(subject: Subject) -> Findings:
    """Decoupled and sequence models do not answer a request once and for all."""
    config = subject.config
    if not config.response_cache.enable:
        return
    if config.model_transaction_policy.decoupled:
        yield "response_cache.enable", "a decoupled model cannot have a response cache"
    if subject.scheduler == "sequence_batching":
        yield "response_cache.enable", "a model with sequence_batching cannot have a response cache"


@rule("cache-unavailable", "misread", "A response cache is asked for and the server has none.")
def check_cache_present(subject: Subject) -> Findings:
    """Triton serves on without a word."""
    if subject.config.response_cache.enable and subject.context.cache is False:
        message = "the server has no cache and keeps nothing; start it with --cache-config (spec.server.responseCache)"
        yield "response_cache.enable", message


@rule("version-none", "refused", "No version directory that the version policy would load.")
def check_versions(subject: Subject) -> Findings:
    """Version directories are whole numbers without leading zeros; others are passed over."""
    if subject.context.files is None:
        return
    found = set(version_files(subject)) | _empty_versions(subject)
    if not found:
        yield "version_policy", "the model has no version directory; expected a directory named by a number, such as 1"
        return
    policy = subject.config.version_policy
    if policy.WhichOneof("policy_choice") == "specific" and not {str(v) for v in policy.specific.versions} & found:
        asked = ", ".join(str(version) for version in policy.specific.versions) or "none"
        yield "version_policy.specific.versions", f"asked for: {asked}; there: {', '.join(sorted(found))}"


@rule("version-missing", "misread", "A version is asked for and not there.")
def check_version_missing(subject: Subject) -> Findings:
    """Triton loads the others and says nothing."""
    policy = subject.config.version_policy
    if subject.context.files is None or policy.WhichOneof("policy_choice") != "specific":
        return
    found = set(version_files(subject)) | _empty_versions(subject)
    if not {str(version) for version in policy.specific.versions} & found:
        return
    for index, version in enumerate(policy.specific.versions):
        if str(version) not in found:
            yield f"version_policy.specific.versions[{index}]", f"there is no version directory {version}"


@rule("version-latest", "refused", "The latest zero versions are asked for.")
def check_latest(subject: Subject) -> Findings:
    """No version would be loaded."""
    policy = subject.config.version_policy
    if policy.WhichOneof("policy_choice") == "latest" and policy.latest.num_versions == 0:
        yield "version_policy.latest.num_versions", "0 loads no version; say how many of the newest to load"


def _empty_versions(subject: Subject) -> set[str]:
    names = {path[:-1] for path in subject.context.files or {} if path.endswith("/") and path.count("/") == 1}
    return {name for name in names if name.isdigit() and (name == "0" or name[0] != "0")}
