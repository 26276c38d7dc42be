"""Which changes of status are worth an event."""

from collections.abc import Iterable
from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.status import CandidateStatus, ModelDeploymentStatus, PreparationStatus

from .conditions import MESSAGE
from .publishing import announce_routes
from .rollout import TRAFFIC

__all__ = ["announce"]

Announcement = tuple[Literal["Normal", "Warning"], str, str]


def announce(
    deployment: ModelDeployment, status: ModelDeploymentStatus, *, lost: bool = False
) -> Iterable[Announcement]:
    """(type, reason, message) of what has changed between the status before and this one.

    `lost` tells that a candidate went back because supervision was lost, which status shows as its new place alone.
    """
    before = deployment.status
    promoted = status.stable and (before.stable is None or before.stable.revision != status.stable.revision)
    if promoted and status.stable:
        yield "Normal", Reason.REVISION_PROMOTED.value, f"{status.stable.revision} ({status.stable.digest}) is live"
    yield from _announce_steps(before.candidate, status.candidate, status.message or "")
    if lost:
        yield "Warning", Reason.SUPERVISION_LOST.value, status.message or ""
    yield from _announce_preparation(before.preparation, status.preparation)
    yield from announce_routes(before, status)
    reason, state = _standing_of(status)
    if (reason, state) == _standing_of(before) or state == "Done":
        return
    grave = state == "Stuck" or reason == Reason.OUTAGE_DECLARED
    yield ("Warning" if grave else "Normal"), reason, status.message or ""


def _announce_preparation(before: PreparationStatus | None, after: PreparationStatus | None) -> Iterable[Announcement]:
    """Gates that were passed, and a source that can no longer be asked; failed gates are told by the conditions."""
    if after is None:
        return
    known = before if before and before.key == after.key else PreparationStatus(key=after.key)
    if after.gates and after.digest and not known.digest:
        results = ", ".join(f"{gate.name} {gate.measured}" for gate in after.gates)
        yield "Normal", Reason.PREPARED.value, f"all gates passed: {results}"[:MESSAGE]
    if after.refresh_failure and not (before and before.refresh_failure):
        yield "Warning", Reason.REFRESH_FAILED.value, after.refresh_failure


def _announce_steps(
    before: CandidateStatus | None, after: CandidateStatus | None, message: str
) -> Iterable[Announcement]:
    if after is None or before is None or before.revision != after.revision:
        return
    if (before.stage, before.step) == (after.stage, after.step):
        return
    if after.stage == "Replacing" and after.replaced != 1:
        yield "Normal", Reason.POD_REPLACED.value, message
    elif after.stage in TRAFFIC and after.stage != "Replacing":
        yield "Normal", Reason.STEP_STARTED.value, message


def _standing_of(status: ModelDeploymentStatus) -> tuple[str, str]:
    found = {condition.type: condition for condition in status.conditions or ()}
    for kind, state in (("Stalled", "Stuck"), ("Reconciling", "Working"), ("Ready", "Done")):
        if kind in found:
            return found[kind].reason, state
    return "", ""
