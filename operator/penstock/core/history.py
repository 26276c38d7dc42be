"""How rollouts ended, and which revisions still drain because of it; `status.history` is the only memory of that."""

from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.rollout import BlueGreenSpec, RolloutSpec
from penstock.api.status import HistoryEntry
from penstock.api.units import duration_seconds

from .conditions import timestamp
from .observed import Observed
from .routing import Traffic, drain_time

__all__ = ["Ending", "find_endings", "remember"]

_ENTRIES = 10
Ending = Literal["Promoted", "RolledBack", "Aborted", "Superseded", "Failed"]


def remember(
    history: tuple[HistoryEntry, ...],
    revision: str,
    outcome: Ending,
    reason: Reason,
    since: str | None,
    now: datetime,
    by: str | None = None,
) -> tuple[HistoryEntry, ...]:
    """History with one more ended rollout, the newest first.

    What serves, and what it took over from, is not forgotten for what has failed since. Nothing ends before it has
    begun, though another machine's clock may have dated that.
    """
    ended = timestamp(now)
    begun = min(since, ended) if since else None
    entry = HistoryEntry(
        revision=revision, outcome=outcome, reason=reason.value, by=by, start_time=begun, end_time=ended
    )
    entries = (entry, *history)
    needed = [place for place, known in enumerate(entries) if known.outcome == "Promoted"][:2]
    spare = [place for place in range(len(entries)) if place not in needed]
    return tuple(entries[place] for place in sorted([*needed, *spare[: _ENTRIES - len(needed)]]))


def find_endings(
    observed: Observed, history: tuple[HistoryEntry, ...], traffic: Traffic, now: datetime
) -> dict[str, datetime]:
    """Revisions that lost the traffic a short time ago, and when each of them has drained.

    The previous one of a blue/green pair stays longer, for an instant return; a candidate drains if a router had it.
    Of one that came back since, the last ending counts.
    """
    drain, keep = drain_time(observed.deployment), _keep_time(observed)
    promotions = [entry for entry in history if entry.outcome == "Promoted"]
    found = [
        (older.revision, datetime.fromisoformat(newer.end_time) + (drain if place else max(keep, drain)))
        for place, (newer, older) in enumerate(pairwise(promotions))
    ]
    found += [
        (entry.revision, datetime.fromisoformat(entry.end_time) + drain)
        for entry in history
        if entry.outcome != "Promoted" and entry.revision in traffic.listed
    ]
    ends = dict(sorted(found, key=itemgetter(1)))
    return {name: end for name, end in ends.items() if end > now and observed.get("Deployment", name)}


def _keep_time(observed: Observed) -> timedelta:
    rollout = observed.deployment.spec.rollout or RolloutSpec()
    if rollout.strategy != "BlueGreen":
        return timedelta(0)
    return timedelta(seconds=duration_seconds((rollout.blue_green or BlueGreenSpec()).keep_previous))
