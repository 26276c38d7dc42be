"""Why a revision's pods do not serve: one reason and one sentence, and whether waiting could help."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.api.reasons import Reason
from penstock.core.pods import (
    IMAGE_REASONS,
    ContainerEnd,
    ends,
    is_leaving,
    is_ready,
    restarts,
    scheduling_problem,
    waiting,
)

__all__ = ["Failure", "serving_failure"]

_CRASHES_TOLERATED = 2
_REFUSALS = {
    "exceeded quota": Reason.QUOTA_EXCEEDED,
    "violates PodSecurity": Reason.POD_REFUSED,
    "is forbidden": Reason.POD_REFUSED,
}


@dataclass(frozen=True)
class Failure:
    """`final` when the same revision would fail again; `artifact_missing` when its content has to be prepared again."""

    reason: Reason
    message: str
    final: bool = False
    artifact_missing: bool = False
    time: str = ""


def serving_failure(
    deployment: Mapping[str, Any], pods: tuple[Mapping[str, Any], ...], since: str | None = None
) -> Failure | None:
    """The first thing in the way of a revision's pods: what is final, then what can be mended, then what may pass.

    What ended up to `since` ends nothing that began then: it was of an earlier attempt of the same revision.
    """
    found = [_of_attempt(failure, since) for pod in pods if (failure := _pod_failure(pod))]
    refused = _refusal(deployment)
    if refused:
        found.append(refused)
    return min(found, key=lambda failure: (not failure.final, not failure.artifact_missing), default=None)


def _of_attempt(failure: Failure, since: str | None) -> Failure:
    early = since is not None and "" < failure.time <= since
    return replace(failure, final=False) if early else failure


def _pod_failure(pod: Mapping[str, Any]) -> Failure | None:
    """A pod that is ready has overcome whatever ended its containers before."""
    if is_ready(pod) or is_leaving(pod):
        return None
    for end in ends(pod):
        failure = _fetch_failure(end) if end.container == "fetch" else _server_failure(end, restarts(pod, "server"))
        if failure:
            return failure
    unschedulable = scheduling_problem(pod)
    if unschedulable:
        return Failure(Reason.UNSCHEDULABLE, f"a serving pod cannot be placed: {unschedulable}")
    found = waiting(pod)
    if found is None:
        return None
    reason = Reason.IMAGE_UNAVAILABLE if found[0] in IMAGE_REASONS else Reason.NOT_SERVING
    return Failure(reason, f"a serving pod waits: {found[0]}: {found[1]}"[:1500])


def _fetch_failure(end: ContainerEnd) -> Failure:
    try:
        report = json.loads(end.message)
        reason, message = Reason(report["reason"]), str(report["message"])
    except (ValueError, KeyError, TypeError):
        reason, message = Reason.STORE_UNAVAILABLE, end.message or f"fetch ended with code {end.exit_code}"
    return Failure(reason, message[:1500], artifact_missing=reason is Reason.ARTIFACT_MISSING, time=end.finished)


def _server_failure(end: ContainerEnd, restarted: int) -> Failure | None:
    if end.container != "server":
        return None
    if end.reason == "OOMKilled":
        sentence = "Triton needed more memory than its limit; raise spec.server.resources.limits.memory"
        return Failure(Reason.CRASHING, sentence, final=restarted >= _CRASHES_TOLERATED, time=end.finished)
    if end.message:
        return Failure(Reason.LOAD_FAILED, end.message[:1500], final=True, time=end.finished)
    sentence = f"tritonserver ended with code {end.exit_code} ({end.reason or 'no reason given'}), {restarted} restarts"
    return Failure(Reason.CRASHING, sentence, final=restarted >= _CRASHES_TOLERATED, time=end.finished)


def _refusal(deployment: Mapping[str, Any]) -> Failure | None:
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message = condition.get("message", "")
            reason = next((r for text, r in _REFUSALS.items() if text in message), Reason.POD_REFUSED)
            return Failure(reason, f"the API server refuses a serving pod: {message}"[:1500])
    return None
