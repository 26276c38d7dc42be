"""What a preparation Job's end means: facts, a failure with its reason, another opener, or still under way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from penstock.api.facts import GateResult, ModelFacts
from penstock.api.preparation import Needs, PreparationReport
from penstock.api.reasons import Reason
from penstock.api.units import quantity_value
from penstock.core.pods import IMAGE_REASONS, ends, finished_message, scheduling_problem, unfinished, waiting
from penstock.core.revision import canonical_hash
from penstock.core.sizes import mebibytes

__all__ = ["Outcome", "is_held_back", "preparation_outcome"]

_REPORTERS = ("fetch", "inspect", "measure")
"""Beside `transfer`, whose word alone is taken for facts: they can only say that there will be none."""
_MEANING = 72
"""Characters: a digest with its algorithm, or any ETag."""
_SIDECAR = "server"
"""Its ends are the business of the container that measures it."""
_OF_THE_USER = {
    "hook": "the container of spec.optimize.hook",
    "metric": "the container of spec.gates.accuracy.image",
    "metric-source": "the container of spec.gates.accuracy.image, run on the source's answers,",
}
_PIECES = "content passes through it in pieces, whatever its size, so this is a defect of Penstock: please report it"
_FIXED = {
    "transfer": _PIECES,
    "fetch": _PIECES,
    "measure": "it holds rows, requests and answers; fewer rows in spec.gates.dataset or a smaller batchSize in the"
    " gates need less",
}
"""Containers whose limits are Penstock's own, and what helps there."""
_RAISED = ("inspect", *_OF_THE_USER)
"""Those that have spec.prepare.resources."""
_LAST_WORDS = 400
"""Characters of a log's end, of the 600 that a condition has: what a program died of stands below its traceback."""


@dataclass(frozen=True)
class Outcome:
    """`facts` when it succeeded; a `reason` with `failed` when it cannot; a `reason` alone while it is delayed.

    `needs` says that another opener has to look, `resolved` what the URI means. What the gates have measured stands
    beside facts and failures.
    """

    facts: ModelFacts | None = None
    failed: bool = False
    reason: Reason = Reason.PREPARING
    message: str = ""
    needs: Needs | None = None
    resolved: str | None = None
    gates: tuple[GateResult, ...] = ()
    report: str | None = None


def preparation_outcome(job: Mapping[str, Any], pods: tuple[Mapping[str, Any], ...]) -> Outcome:
    """Read the transfer container's report first: it is there before the Job controller has counted the pod."""
    for pod in pods:
        report = _report(pod)
        if report:
            return report
    for pod in pods:
        killed = _killed(pod, job) or _cut_off(pod)
        if killed:
            return killed
    ended = _job_end(job, pods)
    if ended:
        return ended
    if is_held_back(job, pods):
        sentence = "is suspended, as a queue does until there is room: look at what manages it (spec.suspend)"
        return Outcome(message=f"Job {job['metadata']['name']} {sentence}")
    held_up = next(filter(None, (_held_up(pod, job) for pod in pods)), None)
    return held_up or Outcome(message="the preparation Job is running")


def is_held_back(job: Mapping[str, Any], pods: tuple[Mapping[str, Any], ...]) -> bool:
    """Whether the Job is suspended and has no pod: what such a one has looked at, it will look at again."""
    return bool(job.get("spec", {}).get("suspend")) and not pods and not job.get("status", {}).get("active")


def _report(pod: Mapping[str, Any]) -> Outcome | None:
    found = _decoded(pod, "transfer")
    for container in _REPORTERS:
        other = _decoded(pod, container) if found is None else None
        if other and (other.error or other.needs):
            found = other
    if found is None:
        return None
    meaning = _meaning(found.resolved)
    said = Outcome(found.facts, needs=found.needs, resolved=meaning, gates=found.gates, report=found.report)
    if found.error:
        return replace(said, failed=True, reason=found.error.reason, message=found.error.message)
    return said


def _meaning(resolved: str | None) -> str | None:
    """It is only ever compared: a long one by its hash, so that status stays small."""
    return resolved if resolved is None or len(resolved) <= _MEANING else f"hash:{canonical_hash(resolved)}"


def _decoded(pod: Mapping[str, Any], container: str) -> PreparationReport | None:
    message = finished_message(pod, container)
    if not message:
        return None
    try:
        return PreparationReport.decode(message)
    except ValueError:
        return None


def _killed(pod: Mapping[str, Any], job: Mapping[str, Any]) -> Outcome | None:
    """How the pod ended by itself; of one that is deleted the Job says why."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for end in ends(pod):
        if end.container == _SIDECAR:
            continue
        if end.reason == "OOMKilled":
            sentence = _too_little(end.container, job)
            return Outcome(failed=True, reason=Reason.PREPARATION_OUT_OF_MEMORY, message=sentence)
        detail = _last_words(end.message) or end.reason or "no message"
        sentence = f"{_who(end.container)} ended with code {end.exit_code}: {detail}"
        return Outcome(failed=True, reason=Reason.PREPARATION_FAILED, message=sentence)
    if pod.get("status", {}).get("reason") == "Evicted":
        return Outcome(failed=True, reason=Reason.PREPARATION_EVICTED, message=pod["status"].get("message", "evicted"))
    return None


def _too_little(container: str, job: Mapping[str, Any]) -> str:
    """Of memory; with the limit, where the Job names one, and what can be done about this one."""
    pod = job["spec"].get("template", {}).get("spec", {})
    limits = {
        item["name"]: item.get("resources", {}).get("limits", {}).get("memory")
        for item in (*pod.get("initContainers", ()), *pod.get("containers", ()))
    }
    limit = limits.get(container)
    seen = f"{_who(container)} needed more memory than its limit{f' of {limit}' if limit else ''}"
    if container in _RAISED:
        return f"{seen}; raise spec.prepare.resources.limits.memory"
    if container in _FIXED:
        return f"{seen}, which is the same for every model: {_FIXED[container]}"
    return f"{seen}, which is set by what adds that container to the pod"


def _cut_off(pod: Mapping[str, Any]) -> Outcome | None:
    """A report that is there and cannot be read."""
    message = finished_message(pod, "transfer")
    if not message:
        return None
    sentence = (
        f"the transfer container's report cannot be read, {len(message.encode())} bytes of it are there: a kubelet "
        "keeps 12 KiB for all containers of a pod; look for what adds containers to the pods of preparations"
    )
    return Outcome(failed=True, reason=Reason.PREPARATION_FAILED, message=sentence)


def _who(container: str) -> str:
    return _OF_THE_USER.get(container, f"the {container} container")


def _last_words(text: str) -> str:
    """The last lines that fit, as one."""
    if len(text) <= _LAST_WORDS:
        return text
    found = ""
    for line in reversed([line.strip() for line in text.splitlines() if line.strip(" ^~")]):
        longer = f"{line} / {found}" if found else line[-_LAST_WORDS:]
        if len(longer) > _LAST_WORDS:
            break
        found = longer
    return f"… {found}"


def _job_end(job: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Outcome | None:
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
            if condition.get("reason") == "DeadlineExceeded":
                return Outcome(failed=True, reason=Reason.PREPARATION_TIMEOUT, message=_too_long(job, pods))
            return Outcome(
                failed=True, reason=Reason.PREPARATION_FAILED, message=condition.get("message", "the Job failed")
            )
        if condition["type"] == "Complete" and condition["status"] == "True":
            sentence = "the Job's pod was removed before its report was read"
            return Outcome(failed=True, reason=Reason.PREPARATION_FAILED, message=sentence)
    return None


def _too_long(job: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> str:
    """With the container that used the time up, where it is one alone: others wait for each other."""
    sentence = f"not finished after {job['spec'].get('activeDeadlineSeconds')} s"
    busy = [name for pod in pods for name in unfinished(pod) if name != _SIDECAR]
    if len(busy) != 1:
        return f"{sentence}; raise spec.prepare.timeout or look at the Job's pods"
    return f"{sentence}: {_who(busy[0])} was still running; raise spec.prepare.timeout, or find out what it waits for"


def _held_up(pod: Mapping[str, Any], job: Mapping[str, Any]) -> Outcome | None:
    unschedulable = scheduling_problem(pod)
    if unschedulable:
        sentence = f"the preparation pod cannot be placed: {unschedulable}; it asks for {_requests(job)}"
        return Outcome(reason=Reason.UNSCHEDULABLE, message=sentence)
    found = waiting(pod)
    if found is None:
        return None
    reason = Reason.IMAGE_UNAVAILABLE if found[0] in IMAGE_REASONS else Reason.PREPARING
    return Outcome(reason=reason, message=f"the preparation pod waits: {found[0]}: {found[1]}"[:1500])


def _requests(job: Mapping[str, Any]) -> str:
    """What the pod asks its node for; init containers run before the others, sidecars beside them."""
    pod = job["spec"].get("template", {}).get("spec", {})
    first = pod.get("initContainers", ())
    beside = [item for item in first if item.get("restartPolicy") == "Always"]
    total = _sum([*pod.get("containers", ()), *beside])
    for container in first:
        for name, value in _sum([container]).items():
            total[name] = max(total.get(name, value), value)
    sizes = ("memory", "ephemeral-storage")
    shown = {name: mebibytes(int(value)) if name in sizes else f"{float(value):g}" for name, value in total.items()}
    return ", ".join(f"{value} of {name}" for name, value in sorted(shown.items())) or "nothing in particular"


def _sum(containers: Iterable[Mapping[str, Any]]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for container in containers:
        for name, value in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, Fraction(0)) + quantity_value(value)
    return total
