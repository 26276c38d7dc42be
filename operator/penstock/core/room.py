"""Room for pods where there is no more than stable needs (`rollout.capacity: Replace`).

A pod that goes away holds its GPU until it is gone, and one that was asked for may come at any moment: both count. So
nobody is given a pod before another has really left, whichever writes were made or cut short before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from .names import REVISION_LABEL
from .observed import Observed
from .routing import Traffic, request_timeout

__all__ = ["Wish", "allot", "find_releases", "is_returning"]

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Wish:
    """A revision and the pods that it should have."""

    revision: str | None
    pods: int


def _held_pods(observed: Observed, revision: str | None) -> int:
    """Pods that are there, on their way, or going and not gone yet."""
    staying, going = _pods_there(observed, revision)
    return max(observed.asked_replicas(revision), staying) + going


def _pods_there(observed: Observed, revision: str | None) -> tuple[int, int]:
    """Pods that stay, and that go; those that have ended hold nothing."""
    pods = observed.pods_of(revision) if revision else ()
    there = [pod for pod in pods if pod.get("status", {}).get("phase") not in _ENDED]
    going = sum("deletionTimestamp" in pod["metadata"] for pod in there)
    return len(there) - going, going


def _others_hold(observed: Observed, names: Iterable[str | None]) -> int:
    """Pods of all revisions but these."""
    known = {pod["metadata"].get("labels", {}).get(REVISION_LABEL) for pod in observed.pods}
    known |= {str(item["metadata"]["name"]) for item in observed.of_kind("Deployment")}
    return sum(_held_pods(observed, name) for name in known - set(names) if name)


def allot(observed: Observed, total: int, stable: Wish, candidate: Wish) -> tuple[int, int]:
    """Pods to ask for, of stable and candidate: less at once, more only into room that nobody holds."""
    others = _others_hold(observed, (stable.revision, candidate.revision))
    theirs = _held_pods(observed, candidate.revision) + others
    first = _grow(observed, stable, total - theirs)
    taken = max(_held_pods(observed, stable.revision), first) + others
    return first, _grow(observed, candidate, total - taken)


def _grow(observed: Observed, wish: Wish, room: int) -> int:
    """What was taken away a moment ago, and is still there or going, cannot be asked for again before it is gone."""
    if wish.revision is None:
        return 0
    now = observed.asked_replicas(wish.revision)
    if wish.pods <= now:
        return wish.pods
    staying, going = _pods_there(observed, wish.revision)
    return max(now, min(wish.pods, room - going - max(0, staying - now)))


def find_releases(
    observed: Observed, traffic: Traffic, drains: Mapping[str, datetime], now: datetime
) -> dict[str, datetime]:
    """When revisions that drain give their pods up: as soon as the routers follow a route without them.

    Routers that cannot be read are not waited for: pods that go end their requests, and somebody needs the room.
    """
    split, timeout = traffic.split, timedelta(seconds=request_timeout(observed.deployment))
    busy = {item.name for item in split.revisions if item.weight} if split else set()
    moments = {name: end - timeout for name, end in drains.items() if name not in busy}
    return {name: min(moment, now) for name, moment in moments.items()} if traffic.settled else moments


def is_returning(observed: Observed, traffic: Traffic, serving: str | None) -> bool:
    """Whether stable has no pod because another one had its room: until it has, requests get 503 with Retry-After."""
    if serving is None or traffic.route is None:
        return False
    away = not traffic.route.taken or _others_hold(observed, (serving,)) > 0
    return away and not _is_warm(observed, serving)


def _is_warm(observed: Observed, revision: str) -> bool:
    """Ready, and reached by every router pod as far as they tell."""
    fleet = observed.fleet
    told = fleet is not None and bool(fleet.pods) and all(pod.answered for pod in fleet.pods)
    return observed.ready_replicas(revision) > 0 and not (told and fleet and not fleet.warm(revision))
