"""What status says about a pass."""

from datetime import datetime, timedelta

from penstock.api.reasons import Reason
from penstock.api.status import (
    CandidateStatus,
    ModelDeploymentStatus,
    PreparationStatus,
    RevisionStatus,
)

from .conditions import MESSAGE, Verdict, conditions, timestamp
from .names import DEPLOYMENT_LABEL, REVISION_LABEL
from .observed import Observed
from .preparing import Preparing, serving_means
from .publishing import Publishing
from .readiness import availability, judge_pass, phase_of, stand_in
from .rendering import Rendering
from .revision import RevisionRecord
from .rollout import Route, percent, read_route
from .serverimages import missing_image, server_image
from .standing import Standing
from .target import Target

__all__ = ["describe", "describe_invalid"]

_LAGGING = timedelta(seconds=5)
"""How long routers may take to follow before the laggards are named; most changes are in force within 0.1 s."""
_URI = 320
"""Characters of a URI in status; the record has all of it."""
_BY_ITSELF = ", which the next revision takes"


def describe(
    observed: Observed,
    preparing: Preparing,
    restoring: tuple[Preparing, ...],
    target: Target,
    standing: Standing,
    rendering: Rendering,
    publishing: Publishing,
    now: datetime,
) -> ModelDeploymentStatus:
    """The whole status; equal to the one before when nothing that users can see has changed."""
    deployment = observed.deployment
    metadata, before = deployment.metadata, deployment.status
    attested = _attested(observed, standing)
    stable = _revision(observed, standing.stable, standing.stable_since) or _unrecorded(observed, standing)
    stable = _weighed(stable, before.stable, attested)
    candidate = _candidate(observed, standing, attested)
    available = availability(stable, standing.size, stand_in(candidate))
    synced = _synced(observed, standing, rendering, now)
    verdict = judge_pass(observed, restoring, target, standing, rendering, stable, available[1])
    verdict = publishing.weigh(verdict)
    return ModelDeploymentStatus(
        observed_generation=metadata.generation,
        phase=phase_of(verdict, preparing, standing, available=available[0]),
        message=verdict.message[:MESSAGE],
        url=f"http://{metadata.name}.{metadata.namespace}.svc:8000",
        replicas=stable.replicas if stable else 0,
        selector=f"{DEPLOYMENT_LABEL}={metadata.name},{REVISION_LABEL}={stable.revision}" if stable else None,
        stable=stable,
        candidate=candidate,
        observed_retry_token=standing.retry_token,
        failed_revision=standing.failed,
        preparation=_preparation(observed, preparing, target),
        attested_generation=attested[0] if attested else before.attested_generation,
        leaving_since=timestamp(rendering.leaving_since) if rendering.leaving_since else None,
        history=standing.history or None,
        conditions=conditions(
            verdict,
            available,
            _prepared(preparing),
            before.conditions or (),
            metadata.generation,
            now,
            _outdated(observed, target, standing),
            synced,
            published=publishing.told,
        ),
    )


def describe_invalid(
    status: ModelDeploymentStatus, generation: int, sentence: str, now: datetime
) -> ModelDeploymentStatus:
    """A spec that this operator cannot read: everything stays as it is, and the status says why."""
    verdict = Verdict("Stuck", Reason.INVALID_SPEC, sentence)
    before = status.conditions or ()
    prepared = (False, Reason.INVALID_SPEC, "the spec cannot be read")
    return status.model_copy(
        update={
            "observed_generation": generation,
            "phase": "Failed",
            "message": sentence[:2048],
            "conditions": conditions(verdict, availability(status.stable), prepared, before, generation, now),
        }
    )


# what the routers say


def _attested(observed: Observed, standing: Standing) -> tuple[int, Route] | None:
    """Generation and route that every Ready router pod is seen to follow now."""
    split, fleet = standing.traffic.split, observed.fleet
    if split is None or fleet is None or not fleet.attests(split.generation):
        return None
    return split.generation, read_route(split)


def _synced(
    observed: Observed, standing: Standing, rendering: Rendering, now: datetime
) -> tuple[bool, Reason, str] | None:
    """Whether the route that was decided is the one in force; what the pods say counts while somebody asks them."""
    if not rendering.generation:
        return None
    traffic, generation = standing.traffic, rendering.generation
    live = traffic.split is not None and traffic.generation == generation
    fleet = observed.fleet
    known = traffic.attested == generation and not (fleet and fleet.pods and standing.candidate)
    if live and (known or (fleet is not None and fleet.attests(generation))):
        return True, Reason.TRAFFIC_SYNCED, f"every Ready router pod follows generation {generation}"
    behind = [pod.name for pod in fleet.pods if not pod.follows(generation)] if fleet and live else []
    refused = next((f": {pod.refusal}" for pod in fleet.pods if pod.refusal), "") if fleet else ""
    if behind and _is_slow(observed, now):
        return False, Reason.TRAFFIC_NOT_SYNCED, f"{', '.join(behind)} do not follow generation {generation}{refused}"
    if fleet and not fleet.pods:
        return False, Reason.TRAFFIC_NOT_SYNCED, f"no router pod of Router {traffic.wanted} is Ready"
    return False, Reason.TRAFFIC_NOT_SYNCED, f"waiting for the routers to follow generation {generation}{refused}"


def _is_slow(observed: Observed, now: datetime) -> bool:
    """Whether the routers have been behind for so long that the laggards deserve to be named."""
    told = next((c for c in observed.deployment.status.conditions or () if c.type == "TrafficSynced"), None)
    if told is None or told.status == "True":
        return False
    return now - datetime.fromisoformat(told.last_transition_time) >= _LAGGING


# the revisions


def _candidate(observed: Observed, standing: Standing, attested: tuple[int, Route] | None) -> CandidateStatus | None:
    """Everything that the next pass has to remember; progress is the decision's."""
    decision, told = standing.decision, _revision(observed, standing.candidate, standing.candidate_since)
    if told is None or decision is None or standing.candidate is None:
        return None
    progress, place, course = decision.progress, decision.position, decision.course
    weighed = _weighed(told, standing.told, attested) or told
    return CandidateStatus(
        **weighed.model_dump(),
        stage=place.stage,
        step=place.step,
        observed_seconds=progress.observed_seconds,
        step_requests=progress.step_requests,
        strategy=course.strategy if standing.traffic.wanted else None,
        plan=course.steps or None,
        shadow=course.shadow,
        replaced=course.replaced or None,
        replacing_since=timestamp(decision.replacing_since) if decision.replacing_since else None,
        verdict=progress.verdict,
        analysis=progress.analysis,
        judged_since=progress.judged_since,
    )


def _weighed(
    told: RevisionStatus | None, before: RevisionStatus | None, attested: tuple[int, Route] | None
) -> RevisionStatus | None:
    """With the share of the requests that the routers attest; the last one known while they do not."""
    if told is None:
        return None
    known = before.weight if before and before.revision == told.revision else None
    weight = percent(attested[1].weights.get(told.revision, 0)) if attested else known
    return told.model_copy(update={"weight": weight})


def _revision(observed: Observed, record: RevisionRecord | None, since: str | None) -> RevisionStatus | None:
    if record is None:
        return None
    uri = record.model.uri[:_URI]
    told = RevisionStatus(revision=record.name, uri=uri, digest=record.facts.digest, since=since)
    return _counted(observed, told)


def _unrecorded(observed: Observed, standing: Standing) -> RevisionStatus | None:
    """A revision that serves without a readable record: what was known of it before."""
    if standing.serving is None:
        return None
    return _counted(observed, observed.deployment.status.stable or RevisionStatus(revision=standing.serving))


def _counted(observed: Observed, told: RevisionStatus) -> RevisionStatus:
    live = observed.get("Deployment", told.revision) or {}
    counts = {
        "replicas": live.get("spec", {}).get("replicas", 0),
        "ready_replicas": observed.ready_replicas(told.revision),
    }
    return told.model_copy(update=counts)


def _outdated(observed: Observed, target: Target, standing: Standing) -> str | None:
    """A sentence when stable runs images of an older release; it goes on doing so until somebody asks for more.

    An image that spec.server.image names belongs to no release, so that nothing is older than it.
    """
    stable, settings = standing.stable, observed.settings
    if stable is None or standing.candidate:
        return None
    own, name = observed.deployment.spec.server, observed.deployment.metadata.name
    brought = server_image(None, stable.facts, settings)
    as_asked = target.record is not None and target.record.name == stable.name
    how = f"; `penstock upgrade-runtime {name}` rolls it out like any change" if as_asked else _BY_ITSELF
    fetch = f"{stable.name} fetches its model with {stable.fetch_image}, this release brings {settings.jobs_image}"
    if own and own.image:
        stays = (
            f"; no release replaces spec.server.image, and `penstock upgrade-runtime {name}` only what it wrote there"
        )
        return None if stable.fetch_image == settings.jobs_image else fetch + _BY_ITSELF + stays
    missing = missing_image(None, stable.facts, settings)
    if missing:
        none = f"{stable.name} runs {stable.server_image}, this release brings none for it"
        return f"{none}; {missing.path}: {missing.message}"
    if stable.server_image != brought:
        return f"{stable.name} runs {stable.server_image}, this release brings {brought}{how}"
    return None if stable.fetch_image == settings.jobs_image else fetch + how


def _preparation(observed: Observed, preparing: Preparing, target: Target) -> PreparationStatus:
    """Of content that cannot be served it says so itself: its Job goes, and must not be made again and again."""
    if target.record is None and preparing.facts:
        refusal = {"reason": target.reason.value, "message": target.message, "means": serving_means(observed)}
        return preparing.status.model_copy(update=refusal)
    if target.record is None:
        return preparing.status
    return preparing.status.model_copy(update={"revision": target.record.name})


def _prepared(preparing: Preparing) -> tuple[bool, Reason, str]:
    return preparing.facts is not None, preparing.reason, preparing.message
