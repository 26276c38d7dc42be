"""The seconds of one model, merged over the router pods: each counts once, whole, or not at all.

A second counts when every Ready pod whose ring covers it has told of it and all of them had the same route for all of
it; pods that are gone add what they told while they were there. Where a Ready pod has not answered yet, nothing newer
is told: a missing second is never taken for one without requests (architecture.md, law 6).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from penstock.core.fleet import RevisionCounts, Row

from .answers import PodRow, PodSplit

__all__ = ["History", "PodHistory", "merge"]

_KEPT_SECONDS = 1800
_SET_BACK_SECONDS = 60
"""What a pod has told may be newer than its clock by this much; so little mends itself soon."""


@dataclass
class PodHistory:
    """What one pod has told: all seconds up to `last`, as far as its ring reached."""

    last: int
    rows: dict[int, PodRow] = field(default_factory=dict)


def merge(told: Mapping[str, PodHistory], ready: Collection[str], after: int) -> tuple[Row, ...]:
    """The seconds newer than `after` that count, in order; `ready` names the pods that have to have told theirs."""
    waiting = [told[pod].last if pod in told else after for pod in ready]
    until = min(waiting) if waiting else max((pod.last for pod in told.values()), default=after)
    seconds = {second for pod in told.values() for second in pod.rows if after < second <= until}
    merged = (_merged([pod.rows[second] for pod in told.values() if second in pod.rows]) for second in sorted(seconds))
    return tuple(row for row in merged if row)


def _merged(parts: list[PodRow]) -> Row | None:
    state = parts[0].state
    if state is None or any(part.state != state for part in parts):
        return None
    revisions = sorted({name for part in parts for name in part.counts})
    return Row(
        second=parts[0].second,
        generation=state.generation,
        weights=state.weights,
        counts={name: _added(part.counts[name] for part in parts if name in part.counts) for name in revisions},
        bounds=state.bounds,
        shadow=state.shadow,
    )


def _added(counts: Iterable[RevisionCounts]) -> RevisionCounts:
    found = list(counts)
    buckets = max(len(item.latency) for item in found)
    padded = [item.latency + (0,) * (buckets - len(item.latency)) for item in found]
    return RevisionCounts(
        requests=sum(item.requests for item in found),
        errors=sum(item.errors for item in found),
        client_errors=sum(item.client_errors for item in found),
        aborted=sum(item.aborted for item in found),
        latency=tuple(map(sum, zip(*padded, strict=True))),
    )


class History:
    """What all pods have told about one model since `after`, the last second that is used up already."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._pods: dict[str, PodHistory] = {}

    @property
    def after(self) -> int:
        """Seconds up to this one are used up and never told again."""
        return self._after

    def since(self, pod: str) -> int:
        """Up to where this pod has told everything; ask it for what is newer."""
        known = self._pods.get(pod)
        return max(known.last, self._after) if known else self._after

    def take(self, pod: str, split: PodSplit | None, now: float, since: int) -> None:
        """What a pod answered at its time `now` about the seconds newer than `since`; None: it has no such model.

        What a pod told before its clock was set back is forgotten: those seconds are still to come, and until then it
        would be left out of all that count.
        """
        known = self._pods.setdefault(pod, PodHistory(self._after))
        if now < known.last - _SET_BACK_SECONDS:
            self._pods[pod] = PodHistory(self._after)
            return
        if split is None:
            known.last = max(known.last, int(now))
            return
        covered = max(since + 1, split.first)
        last = split.rows[-1].second if split.rows else covered - 1
        told = {row.second: row for row in split.rows}
        for second in range(max(covered, known.last + 1, last - _KEPT_SECONDS + 1), last + 1):
            known.rows[second] = told.get(second, PodRow(second, None))
        known.last = max(known.last, last)
        self._forget(max(self._after, known.last - _KEPT_SECONDS), known)

    def use(self, until: int) -> None:
        """Seconds up to this one have been counted, and status says so."""
        if until > self._after:
            self._after = until
            for pod in self._pods.values():
                self._forget(until, pod)
            self._pods = {name: pod for name, pod in self._pods.items() if pod.rows or pod.last >= until}

    def rows(self, ready: Collection[str]) -> tuple[Row, ...]:
        """The seconds that count and are not used up."""
        return merge(self._pods, ready, self._after)

    @staticmethod
    def _forget(until: int, pod: PodHistory) -> None:
        for second in [second for second in pod.rows if second <= until]:
            del pod.rows[second]
