"""One more sentence about a revision that was taken back: what its servers say of the same minutes.

The verdict was the routers', and it stands: this is asked for when the split gives the revision nothing any more and
status says so, and it changes no word but its own. Whatever is not known within a few seconds stays unsaid.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.status import FailedRevision

from .observed import Observed
from .pods import ends, is_leaving, is_ready, restarts, running_since
from .servercounts import Examination, ServerCounts
from .standing import Standing

__all__ = ["Total", "describe_servers", "diagnose", "find_examination", "total_counts"]

_PROMPTLY = timedelta(seconds=15)
"""After that the pods may be gone, and people have read the message."""
_MOST_PODS = 4
"""Of one revision: more would say the same."""
_SENTENCE = 270
"""Characters: it stands in a message beside the numbers of the verdict."""
_ALIKE = 1.2
"""Mean times that differ by less explain nothing,"""
_UNNOTICED = 0.5
"""nor do so many milliseconds."""
_JUDGED = (
    Reason.ERROR_RATE_WORSE.value,
    Reason.ERROR_RATE_ABOVE_MAXIMUM.value,
    Reason.CLIENT_ERROR_RATE_WORSE.value,
    Reason.LATENCY_WORSE.value,
)
_SERVER = "server"
_CAUSES = {
    "BACKEND": "the model's own code raised an error",
    "REJECTED": "they waited too long in its queue",
    "CANCELED": "their clients gave up",
}


# when


def find_examination(observed: Observed, standing: Standing, now: datetime) -> Examination | None:
    """The servers to ask now; None at rest, before the traffic is taken back, and once the sentence is written.

    It follows from what is stored, so an operator that was killed in between asks again, as long as that is of use.
    """
    failed, split = observed.deployment.status.failed_revision, standing.traffic.split
    if failed is None or split is None or failed.diagnosis is not None or failed.reason not in _JUDGED:
        return None
    if standing.failed is None or _key(standing.failed) != _key(failed) or standing.candidate:
        return None
    given = [item.weight for item in split.revisions if item.name == failed.revision]
    if given != [0] or split.shadow or now - datetime.fromisoformat(failed.time) > _PROMPTLY:
        return None
    addresses = _addresses(observed.pods_of(failed.revision))
    return Examination(*_key(failed), addresses, _addresses(_ready(observed, standing.serving)))


def _key(failed: FailedRevision) -> tuple[str, str]:
    return failed.revision, failed.time


def _ready(observed: Observed, revision: str | None) -> Iterable[Mapping[str, Any]]:
    return (pod for pod in observed.pods_of(revision) if is_ready(pod)) if revision else ()


def _addresses(pods: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found = [str(pod["status"]["podIP"]) for pod in pods if pod.get("status", {}).get("podIP") and not is_leaving(pod)]
    return tuple(sorted(found)[:_MOST_PODS])


# what it says


def diagnose(observed: Observed, standing: Standing) -> Standing:
    """The same standing with the sentence, if there is something to say about the revision that has failed."""
    failed, told, findings = standing.failed, observed.deployment.status.failed_revision, observed.findings
    if failed is None or failed != told or failed.diagnosis is not None:
        return standing
    if findings is None or findings.about != _key(failed):
        return standing
    split = standing.traffic.split
    models = {item.name: item.model for item in split.revisions} if split else {}
    pods = observed.pods_of(failed.revision)
    older = _started_before(pods, _attempts(standing, failed.revision))
    sentence = describe_servers(
        Reason(failed.reason),
        total_counts(findings.candidate, models.get(failed.revision), findings.asked),
        total_counts(findings.stable, models.get(standing.serving or "")),
        _restarted(pod for pod in pods if running_since(pod, _SERVER) not in older),
        min(older, default=""),
    )
    if not sentence:
        return standing
    return replace(standing, failed=failed.model_copy(update={"diagnosis": sentence[:_SENTENCE]}))


def _attempts(standing: Standing, revision: str) -> list[str]:
    """When the rollouts of a revision began, the latest first; not where one has not been told."""
    return [entry.start_time for entry in standing.history if entry.revision == revision and entry.start_time]


def _started_before(pods: Iterable[Mapping[str, Any]], attempts: list[str]) -> set[str]:
    """Starts of servers that were there in an earlier attempt: one that is tried again may have its pods still."""
    if len(attempts) < 2:
        return set()
    return {moment for pod in pods if (moment := running_since(pod, _SERVER)) and moment < attempts[0]}


@dataclass(frozen=True)
class Total:
    """The entry model of a revision, over all servers that answered."""

    answered: int = 0
    asked: int = 0
    served: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    queued: float = 0.0
    computed: float = 0.0
    """Milliseconds of one request, the mean."""
    waiting: int = 0
    inner: str | None = None
    """The model inside an ensemble that failed most, if one did."""

    @property
    def failed(self) -> int:
        """For all reasons."""
        return sum(self.failures.values())


def total_counts(servers: tuple[ServerCounts, ...], model: str | None, asked: int = 0) -> Total | None:
    """None where no server has told of this model."""
    found = [counts[model] for counts in servers if model in counts] if model else []
    if not found:
        return None
    served = sum(item.served for item in found)
    queued, computed = (sum(getattr(item, f"{name}_microseconds") for item in found) for name in ("queued", "computed"))
    return Total(
        answered=len(found),
        asked=asked,
        served=served,
        failures=_added(item.failures for item in found),
        queued=queued / served / 1000 if served else 0.0,
        computed=computed / served / 1000 if served else 0.0,
        waiting=sum(item.waiting for item in found),
        inner=_inner(servers, model),
    )


def _added(failures: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(dict(item)) for item in failures), Counter())


def _inner(servers: tuple[ServerCounts, ...], model: str | None) -> str | None:
    failed = Counter[str]()
    for counts in servers:
        failed.update({name: sum(item.failures.values()) for name, item in counts.items() if name != model})
    name, most = max(failed.items(), key=lambda item: item[1], default=("", 0))
    return name if most else None


def _restarted(pods: Iterable[Mapping[str, Any]]) -> str:
    """`3 times (OOMKilled)`; empty when no server was."""
    known = list(pods)
    count = sum(restarts(pod, _SERVER) for pod in known)
    if not count:
        return ""
    end = next((end for pod in known for end in ends(pod) if end.container == _SERVER), None)
    why = f" ({end.reason if end.reason not in ('', 'Error') else f'code {end.exit_code}'})" if end else ""
    return f"{'once' if count == 1 else f'{count} times'}{why}"


def describe_servers(
    reason: Reason, candidate: Total | None, stable: Total | None, restarted: str, since: str = ""
) -> str:
    """At most one sentence for somebody who was woken by the message; empty when there is nothing to say.

    `since` is when counting began, where that was before the rollout that has ended.
    """
    counted = _SAY[reason](candidate, stable) + _rest(candidate) if candidate else ""
    if counted and since:
        counted = f"counted since {since}, before this attempt began: {counted}"
    if restarted:
        again = f"its server was restarted {restarted}"
        counted = f"{again} and counts anew since: {counted}" if counted else again
    return counted[:1].upper() + counted[1:]


def _say_errors(candidate: Total, stable: Total | None) -> str:
    if candidate.failed:
        return _say_failures(candidate) + _compared(candidate, stable)
    if not candidate.served:
        return "no request reached its model in Triton: they were refused before it, or did not arrive"
    return (
        f"Triton counted {candidate.served} requests as served and none as failed: the errors are answers of the"
        " model's own code, or requests without one (timeout, lost connection, full queue)"
    )


def _say_failures(candidate: Total) -> str:
    by_number = sorted(candidate.failures.items(), key=lambda item: (-item[1], item[0]))
    first = by_number[0][0]
    where = f" inside its model {candidate.inner[:64]}" if candidate.inner else ""
    cause = f": {_CAUSES[first]}" if first in _CAUSES else ""
    kinds = first if len(by_number) == 1 else ", ".join(f"{number} {name}" for name, number in by_number)
    return (
        f"Triton counted {candidate.failed} failures of {candidate.served + candidate.failed} requests"
        f" ({kinds}{cause}){where}"
    )


def _say_refusals(candidate: Total, _: Total | None) -> str:
    reached = f"{candidate.served + candidate.failed} others" if candidate.served + candidate.failed else "no other"
    return (
        "Triton does not count what it refuses as bad (names, shapes or types of inputs, an unknown model);"
        f" {reached} reached the model"
    )


def _say_latency(candidate: Total, stable: Total | None) -> str:
    if not candidate.served:
        return "no request was finished by its model in Triton"
    times = f"a request took Triton {_milliseconds(candidate)}"
    if stable is None or not stable.served:
        return times
    times += f", stable's {_milliseconds(stable)}"
    if _longer(candidate.queued, stable.queued) or _longer(candidate.computed, stable.computed):
        return times
    return f"{times}: the time is lost before Triton, or after the model's code has returned"


def _longer(mean: float, than: float) -> bool:
    return mean > _ALIKE * than + _UNNOTICED


def _compared(candidate: Total, stable: Total | None) -> str:
    if not candidate.served:
        return ""
    beside = f", stable's {_milliseconds(stable)}" if stable and stable.served else ""
    return f"; one that it served took {_milliseconds(candidate)}{beside}"


def _milliseconds(total: Total) -> str:
    return f"{_short(total.queued)} ms in the queue and {_short(total.computed)} ms in the model"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _rest(candidate: Total) -> str:
    waiting = f"; {candidate.waiting} wait in its queue" if candidate.waiting else ""
    partial = candidate.answered < candidate.asked
    return waiting + (f" ({candidate.answered} of {candidate.asked} pods answered)" if partial else "")


_SAY: Mapping[Reason, Callable[[Total, Total | None], str]] = {
    Reason.ERROR_RATE_WORSE: _say_errors,
    Reason.ERROR_RATE_ABOVE_MAXIMUM: _say_errors,
    Reason.CLIENT_ERROR_RATE_WORSE: _say_refusals,
    Reason.LATENCY_WORSE: _say_latency,
}
