"""What a pod's status says, as small facts; pods are read as plain JSON, trimmed by the cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "IMAGE_REASONS",
    "ContainerEnd",
    "ends",
    "finished_message",
    "is_leaving",
    "is_owned",
    "is_ready",
    "restarts",
    "running_since",
    "scheduling_problem",
    "unfinished",
    "waiting",
]

Pod = Mapping[str, Any]
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
"""What a container waits for whose image cannot be had."""


@dataclass(frozen=True)
class ContainerEnd:
    """How a container ended, now or last time."""

    container: str
    exit_code: int
    reason: str
    message: str
    finished: str


def is_ready(pod: Pod) -> bool:
    """Whether the pod's Ready condition is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def is_owned(pod: Mapping[str, Any], uid: str) -> bool:
    """Whether an object of this uid owns it; by its uid, as pods of an earlier one of the name may outlive that."""
    return any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())


def is_leaving(pod: Pod) -> bool:
    """Whether the pod is being deleted or has ended for good, as an evicted one has; another takes its place."""
    return bool(pod["metadata"].get("deletionTimestamp")) or pod.get("status", {}).get("phase") == "Failed"


def _container_statuses(pod: Pod) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def ends(pod: Pod) -> tuple[ContainerEnd, ...]:
    """Failed ends of the pod's containers, the present state before the last one."""
    found = []
    for status in _container_statuses(pod):
        for state in (status.get("state", {}), status.get("lastState", {})):
            end = state.get("terminated")
            if end and end.get("exitCode", 0) != 0:
                found.append(
                    ContainerEnd(
                        status["name"],
                        end["exitCode"],
                        end.get("reason", ""),
                        end.get("message", "").strip(),
                        end.get("finishedAt", ""),
                    )
                )
    return tuple(found)


def finished_message(pod: Pod, container: str) -> str | None:
    """The termination message of a container that has ended, however it ended."""
    for status in _container_statuses(pod):
        end = status.get("state", {}).get("terminated")
        if end and status["name"] == container:
            return str(end.get("message", ""))
    return None


def unfinished(pod: Pod) -> tuple[str, ...]:
    """The containers at work: those that run, and of a pod that is being deleted those that were ended with it."""
    leaving = bool(pod["metadata"].get("deletionTimestamp"))
    found = []
    for status in _container_statuses(pod):
        state = status.get("state", {})
        cut_off = leaving and state.get("terminated", {}).get("exitCode", 0) != 0
        if "running" in state or cut_off:
            found.append(status["name"])
    return tuple(found)


def restarts(pod: Pod, container: str) -> int:
    """How often a container was started again."""
    return next((s.get("restartCount", 0) for s in _container_statuses(pod) if s["name"] == container), 0)


def running_since(pod: Pod, container: str) -> str:
    """When a container that runs was started the last time; empty where that is not told."""
    states = (s.get("state", {}) for s in _container_statuses(pod) if s["name"] == container)
    return next((str(state["running"].get("startedAt", "")) for state in states if "running" in state), "")


def waiting(pod: Pod) -> tuple[str, str] | None:
    """(reason, message) of the first container that cannot start, such as ImagePullBackOff."""
    for status in _container_statuses(pod):
        state = status.get("state", {}).get("waiting")
        if state and state.get("reason") not in (None, "PodInitializing", "ContainerCreating", "CrashLoopBackOff"):
            return state["reason"], state.get("message", "")
    return None


def scheduling_problem(pod: Pod) -> str | None:
    """The scheduler's sentence about a pod that fits nowhere."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "the pod fits on no node"))
    return None
