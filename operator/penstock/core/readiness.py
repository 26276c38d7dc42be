"""Whether a deployment serves and is what its spec asks for: one verdict, one phase, and who answers requests."""

from typing import Literal

from penstock.api.reasons import Reason
from penstock.api.status import CandidateStatus, FailedRevision, RevisionStatus

from .conditions import Verdict
from .names import resolve_name
from .observed import Observed
from .preparing import Preparing
from .rendering import Rendering
from .rollout import Decision, describe_decision
from .standing import Standing
from .target import Target

__all__ = ["Phase", "availability", "judge_pass", "phase_of", "stand_in"]

Phase = Literal["Pending", "Preparing", "Progressing", "Paused", "Available", "RolledBack", "Failed"]


def stand_in(candidate: CandidateStatus | None) -> CandidateStatus | None:
    """The candidate that serves in place of a stable revision without pods."""
    if candidate is None or not candidate.replaced or not candidate.ready_replicas:
        return None
    return candidate if candidate.weight not in (None, "0") else None


def availability(
    stable: RevisionStatus | None, asked: int = 0, trial: CandidateStatus | None = None
) -> tuple[bool, str]:
    """Whether requests are answered, and by how many pods; `trial` answers where stable has given up its pods."""
    if stable is None:
        return False, "no revision has gone live yet"
    if stable.ready_replicas == 0 and trial:
        return True, f"{trial.revision}: {trial.ready_replicas} of {trial.replicas} replicas ready, on trial"
    if stable.ready_replicas == 0:
        wanted = stable.replicas or asked
        detail = f"none of {wanted} replicas is ready" if wanted else "scaled to 0"
        return False, f"{stable.revision}: {detail}"
    return True, f"{stable.revision}: {stable.ready_replicas} of {stable.replicas} replicas ready"


def judge_pass(
    observed: Observed,
    restoring: tuple[Preparing, ...],
    target: Target,
    standing: Standing,
    rendering: Rendering,
    stable: RevisionStatus | None,
    available: str,
) -> Verdict:
    """The gravest of what is in the way of the spec, or that it is done; `available` is the sentence of that."""
    taken = _obstacle(observed)
    if taken:
        return taken
    for lost in restoring:
        return Verdict("Stuck" if lost.failed else "Working", lost.reason, lost.message)
    if standing.failed and target.record:
        return _rejection(standing, standing.failed, _missing_pods(standing, stable))
    if target.record is None:
        return Verdict("Stuck" if target.refused else "Working", target.reason, target.message)
    if rendering.missing_router:
        sentence = f"there is no Router {rendering.missing_router} in this namespace, as spec.traffic.router asks"
        return Verdict("Stuck", Reason.ROUTER_NOT_FOUND, f"{sentence}; create it, or name another")
    return _course(standing, stable, available)


def _course(standing: Standing, stable: RevisionStatus | None, available: str) -> Verdict:
    """Where the revision that the spec asks for stands."""
    if standing.failure:
        role = standing.candidate or standing.stable
        name = role.name if role else ""
        return Verdict("Working", standing.failure.reason, f"{name}: {standing.failure.message}")
    if standing.candidate and standing.decision:
        return _progress(standing.candidate.name, standing.decision)
    if stable and stable.ready_replicas == 0 and standing.size > 0:
        return Verdict("Working", Reason.NOT_SERVING, available)
    return Verdict("Done", Reason.READY, available)


def _missing_pods(standing: Standing, stable: RevisionStatus | None) -> str:
    """How far stable has its pods back, after another revision had their room."""
    if stable is None or not (standing.returning or standing.released) or stable.ready_replicas >= standing.size:
        return ""
    meanwhile = "; until it is ready requests get 503 with Retry-After" if standing.returning else ""
    return f"; {stable.revision} has {stable.ready_replicas} of {standing.size} pods back{meanwhile}"


def _rejection(standing: Standing, failed: FailedRevision, missing: str = "") -> Verdict:
    """What was taken back from traffic has one reason for all who wait for it; the cause is in the message."""
    outcome = next((entry.outcome for entry in standing.history if entry.revision == failed.revision), "Failed")
    if outcome in ("RolledBack", "Aborted"):
        cause = "was aborted" if outcome == "Aborted" else f"was taken back, {failed.reason}"
        sentence = f"{failed.revision} {cause}: {failed.message}{missing}"
        return Verdict("Stuck", Reason.ROLLED_BACK, f"{sentence}. {failed.diagnosis}" if failed.diagnosis else sentence)
    return Verdict("Stuck", Reason.read(failed.reason), f"{failed.revision} cannot serve: {failed.message}{missing}")


def _progress(candidate: str, decision: Decision) -> Verdict:
    reason = decision.wait.reason
    if reason is Reason.DEADLINE_EXCEEDED:
        reason = Reason.PAUSED
    return Verdict("Working", reason, describe_decision(candidate, decision))


def _obstacle(observed: Observed) -> Verdict | None:
    """A question to the source that could not be put is in nobody's way."""
    questions = resolve_name(observed.deployment.metadata.name, "")
    for key, (reason, sentence) in sorted(observed.obstacles.items()):
        if not (key.kind == "Job" and key.name.startswith(questions)):
            return Verdict("Stuck", reason, sentence)
    return None


def phase_of(verdict: Verdict, preparing: Preparing, standing: Standing, *, available: bool) -> Phase:
    """The word that `kubectl get` shows."""
    if verdict.state == "Stuck":
        return "RolledBack" if verdict.reason is Reason.ROLLED_BACK else "Failed"
    if verdict.state == "Done":
        return "Available"
    if standing.candidate:
        return "Paused" if verdict.reason is Reason.PAUSED else "Progressing"
    if preparing.facts is None:
        return "Preparing"
    return "Available" if available else "Pending"
