"""What a preparation Job's end means: facts, a failure with its reason, or still under way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationReport
from penstock.api.reasons import Reason
from penstock.core.pods import IMAGE_REASONS, ends, finished_message, scheduling_problem, waiting

__all__ = ["Outcome", "preparation_outcome"]


@dataclass(frozen=True)
class Outcome:
    """`facts` when it succeeded; a `reason` with `failed` when it cannot; a `reason` alone while it is delayed."""

    facts: ModelFacts | None = None
    failed: bool = False
    reason: Reason = Reason.PREPARING
    message: str = ""


def preparation_outcome(job: Mapping[str, Any], pods: tuple[Mapping[str, Any], ...]) -> Outcome:
    """Read the transfer container's report first: it is there before the Job controller has counted the pod."""
    for pod in pods:
        report = _report(pod)
        if report:
            return report
    for pod in pods:
        killed = _killed(pod)
        if killed:
            return killed
    ended = _job_end(job)
    if ended:
        return ended
    return next(filter(None, map(_held_up, pods)), Outcome(message="the preparation Job is running"))


def _report(pod: Mapping[str, Any]) -> Outcome | None:
    message = finished_message(pod, "transfer")
    if not message:
        return None
    try:
        report = PreparationReport.decode(message)
    except ValueError:
        return None
    if report.error:
        return Outcome(failed=True, reason=report.error.reason, message=report.error.message)
    return Outcome(facts=report.facts)


def _killed(pod: Mapping[str, Any]) -> Outcome | None:
    """How the pod ended by itself; of one that is deleted the Job says why."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for end in ends(pod):
        if end.reason == "OOMKilled":
            sentence = (
                f"the {end.container} container needed more memory than its limit;"
                " raise spec.prepare.resources.limits.memory"
            )
            return Outcome(failed=True, reason=Reason.PREPARATION_OUT_OF_MEMORY, message=sentence)
        detail = end.message or end.reason or "no message"
        return Outcome(
            failed=True,
            reason=Reason.PREPARATION_FAILED,
            message=f"the {end.container} container ended with code {end.exit_code}: {detail}"[:1500],
        )
    if pod.get("status", {}).get("reason") == "Evicted":
        return Outcome(failed=True, reason=Reason.PREPARATION_EVICTED, message=pod["status"].get("message", "evicted"))
    return None


def _job_end(job: Mapping[str, Any]) -> Outcome | None:
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
            if condition.get("reason") == "DeadlineExceeded":
                seconds = job["spec"].get("activeDeadlineSeconds")
                sentence = f"not finished after {seconds} s; raise spec.prepare.timeout or look at the Job's pods"
                return Outcome(failed=True, reason=Reason.PREPARATION_TIMEOUT, message=sentence)
            return Outcome(
                failed=True, reason=Reason.PREPARATION_FAILED, message=condition.get("message", "the Job failed")
            )
        if condition["type"] == "Complete" and condition["status"] == "True":
            sentence = "the Job's pod was removed before its report was read"
            return Outcome(failed=True, reason=Reason.PREPARATION_FAILED, message=sentence)
    return None


def _held_up(pod: Mapping[str, Any]) -> Outcome | None:
    unschedulable = scheduling_problem(pod)
    if unschedulable:
        return Outcome(reason=Reason.UNSCHEDULABLE, message=f"the preparation pod cannot be placed: {unschedulable}")
    found = waiting(pod)
    if found is None:
        return None
    reason = Reason.IMAGE_UNAVAILABLE if found[0] in IMAGE_REASONS else Reason.PREPARING
    return Outcome(reason=reason, message=f"the preparation pod waits: {found[0]}: {found[1]}"[:1500])
