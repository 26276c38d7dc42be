"""Conditions from facts, in the form that kstatus, Flux, Argo CD and Helm read (api.md, "Conditions").

`Reconciling` and `Stalled` are present only while True and never together; `Ready` says whether what was asked for is
what serves; `Available` says whether anything serves, whatever was asked for.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.status import Condition

MESSAGE = 600
"""Characters of a message in status: several of them stand beside the evidence, all below 16 KiB."""

__all__ = ["MESSAGE", "Verdict", "conditions", "timestamp"]


def timestamp(moment: datetime) -> str:
    """As metav1.Time is written: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Verdict:
    """Where a deployment stands: as asked, on the way there, or unable to go on without a change from outside."""

    state: Literal["Done", "Working", "Stuck"]
    reason: Reason
    message: str


def conditions(
    verdict: Verdict,
    available: tuple[bool, str],
    prepared: tuple[bool, Reason, str],
    previous: tuple[Condition, ...],
    generation: int,
    now: datetime,
    outdated: str | None = None,
    synced: tuple[bool, Reason, str] | None = None,
    *,
    published: tuple[bool, Reason, str] | None = None,
) -> tuple[Condition, ...]:
    """The whole list; a transition time moves only when the condition's status does. `outdated` is a sentence."""
    done = verdict.state == "Done"
    wanted = [("Ready", done, verdict.reason, verdict.message)]
    if verdict.state == "Working":
        wanted.append(("Reconciling", True, verdict.reason, verdict.message))
    if verdict.state == "Stuck":
        wanted.append(("Stalled", True, verdict.reason, verdict.message))
    wanted.append(("Available", available[0], Reason.SERVING if available[0] else Reason.NOT_SERVING, available[1]))
    wanted.append(("Prepared", *prepared))
    if synced:
        wanted.append(("TrafficSynced", *synced))
    if published:
        wanted.append(("Published", *published))
    if outdated:
        wanted.append(("RuntimeOutdated", True, Reason.RUNTIME_OUTDATED, outdated))
    before = {condition.type: condition for condition in previous}
    return tuple(_condition(*item, before.get(item[0]), generation, now) for item in wanted)


def _condition(
    kind: str,
    true: bool,  # noqa: FBT001 - a row of the table above
    reason: Reason,
    message: str,
    before: Condition | None,
    generation: int,
    now: datetime,
) -> Condition:
    status: Literal["True", "False"] = "True" if true else "False"
    same = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason.value,
        message=message[:MESSAGE],
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and same else timestamp(now),
    )
