"""Every object that should exist for the revisions as they stand, and those of ours that should not any more."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.resource import ModelDeployment
from penstock.api.rollout import RolloutSpec
from penstock.api.router import SPLIT_KIND, TrafficSplitSpec

from .modelrepo import RepositoryPlan, ServerSettings, render_repository, server_flags
from .names import MANAGED_BY, ROUTER_LABEL, ObjectKey, key_of
from .observed import Observed
from .revision import RevisionRecord
from .rollout import read_route
from .router import client_service, preview_service
from .routing import DEFAULT_ROUTER, changed_split, leaving_time, make_split, request_timeout, service_target
from .scaling import horizontal_autoscaler
from .server import Serving, config_map, deployment, disruption_budget, headless_service
from .standing import Standing

__all__ = ["Rendering", "SplitChange", "render", "revision_objects", "serving_of"]

_PER_REVISION = ("Deployment", "Service", "ConfigMap")
_PER_DEPLOYMENT = ("HorizontalPodAutoscaler",)
_BUDGET = "PodDisruptionBudget"
"""That of what serves is none of them: once something serves, something always does, and it goes with its owner."""


@dataclass(frozen=True)
class SplitChange:
    """A split that is not what it should be."""

    manifest: dict[str, Any]
    spec: TrafficSplitSpec
    lowers: bool
    """It takes traffic away from somebody and gives nobody any: the way back, which waits for nothing."""
    fenced: bool
    """It gives something to another revision than stable, so a leader of yesterday must not write it."""
    whole: bool
    """Somebody has added to it what an apply would leave there."""


@dataclass(frozen=True)
class Rendering:
    """`manifests` in the order in which they must be written; `removals` come after all of them."""

    manifests: tuple[dict[str, Any], ...]
    removals: tuple[ObjectKey, ...]
    serving: bool
    hand_overs: dict[ObjectKey, int]
    """Deployments whose replicas an autoscaler is to have, and the number it starts from."""
    split: SplitChange | None = None
    join: str | None = None
    leave: str | None = None
    generation: int = 0
    """Of the split after this pass; 0 without one."""
    leaving_since: datetime | None = None
    adopting: bool = False
    """Clients' requests do not come through the router yet."""
    missing_router: str | None = None
    wake: datetime | None = None


def serving_of(record: RevisionRecord, owner: ModelDeployment) -> Serving:
    """A record with everything that is derived from it; the same for every release of Penstock."""
    settings = ServerSettings.from_json(record.server)
    repository = _repository_of(record.facts, record.served_name, settings)
    return Serving(
        record=record,
        config_text=repository.config_text,
        entry_model=repository.entry_model,
        load_models=repository.load_models,
        verbatim=repository.config_text is None,
        flags=server_flags(settings),
        shm_bytes=repository.shm_bytes,
        request_timeout=request_timeout(owner),
        placement=owner.spec.pod,
        surges=owner.spec.rollout is None or owner.spec.rollout.capacity != "Replace",
    )


@lru_cache(maxsize=1024)
def _repository_of(facts: ModelFacts, served_name: str, settings: ServerSettings) -> RepositoryPlan:
    """Each pass asks it anew of every revision, and it never changes: a third of what rendering takes."""
    return render_repository(facts, served_name, settings)


def revision_objects(owner: ModelDeployment, record: RevisionRecord, replicas: int | None) -> list[dict[str, Any]]:
    """What one revision consists of, its Deployment last."""
    serving = serving_of(record, owner)
    found = [
        config_map(owner.metadata, serving),
        headless_service(owner.metadata, record.name),
        deployment(owner.metadata, serving, replicas),
    ]
    return [manifest for manifest in found if manifest]


def render(observed: Observed, standing: Standing, now: datetime) -> Rendering:
    """Capacity first, then what leads requests to it, then what follows it."""
    owner, spec, traffic = observed.deployment, observed.deployment.spec, standing.traffic
    fixed = spec.autoscaling is None
    manifests: list[dict[str, Any]] = []
    if standing.stable:
        manifests += revision_objects(owner, standing.stable, standing.stable_replicas if fixed else None)
    if standing.candidate:
        manifests += revision_objects(owner, standing.candidate, standing.candidate_replicas if fixed else None)
    for name in standing.released:
        if name in observed.records:
            manifests += revision_objects(owner, observed.records[name], 0)
    target = service_target(observed, traffic, standing.serving)
    manifests.append(client_service(owner.metadata, target))
    if standing.candidate and standing.stable and _has_preview(standing):
        manifests.append(preview_service(owner.metadata, standing.candidate.name))
    manifests += _budgets(observed, standing)
    if spec.autoscaling and standing.serving:
        floor = _peak(observed, standing.serving) if standing.candidate else 0
        manifests.append(horizontal_autoscaler(owner.metadata, standing.serving, spec.autoscaling, floor))
    since, gone = _leaving(observed, standing, now)
    wanted = None if gone else _split(observed, standing, now)
    change = _split_change(observed, standing, wanted)
    return Rendering(
        manifests=tuple(manifests),
        removals=_removals(observed, standing, {key_of(manifest) for manifest in manifests}, gone=gone),
        serving=bool(standing.serving or standing.candidate),
        hand_overs={} if fixed else _hand_overs(observed, standing),
        split=change,
        join=_joined(observed, standing),
        leave=_left(observed, standing, gone=gone),
        generation=wanted.generation if wanted else 0,
        leaving_since=since,
        adopting=not traffic.is_leaving and traffic.wanted is not None and ROUTER_LABEL not in target.selector,
        missing_router=None if _router_exists(observed, traffic.wanted) else traffic.wanted,
        wake=since + leaving_time(owner) if since and not gone else None,
    )


def _has_preview(standing: Standing) -> bool:
    return standing.decision is not None and standing.decision.course.strategy == "BlueGreen"


def _budgets(observed: Observed, standing: Standing) -> list[dict[str, Any]]:
    """For who serves, and for a candidate that gets requests beside it: at 95 % of them it is the one that matters.

    A pod with two budgets cannot be drained at all, so what serves waits for the one that it had as a candidate to go.
    """
    owner, serving, candidate = observed.deployment.metadata, standing.serving, standing.candidate
    found = []
    if serving and observed.get(_BUDGET, serving) is None:
        found.append(disruption_budget(owner, serving))
    if serving and candidate and standing.route.weights.get(candidate.name) and _is_stepping(standing):
        found.append(disruption_budget(owner, candidate.name, candidate=True))
    return found


def _is_stepping(standing: Standing) -> bool:
    """Whether the candidate's share lasts; with strategy Immediate it is promoted in the next moment."""
    return standing.decision is not None and bool(standing.decision.course.steps)


def _peak(observed: Observed, serving: str) -> int:
    """Stable's size now: as the floor while a candidate exists it can only grow, so a way back finds all it needs."""
    live = observed.get("Deployment", serving)
    return int(live["spec"].get("replicas", 0)) if live else 0


# the route


def _leaving(observed: Observed, standing: Standing, now: datetime) -> tuple[datetime | None, bool]:
    """Since when nobody new comes to a router that is left, and whether its last request may have ended by now.

    What status tells counts while the Service does lead past the router: it may be of an earlier time.
    """
    traffic, told = standing.traffic, observed.deployment.status.leaving_since
    if not traffic.is_leaving or traffic.through:
        return None, False
    since = datetime.fromisoformat(told) if told else now
    return since, told is not None and now >= since + leaving_time(observed.deployment)


def _split(observed: Observed, standing: Standing, now: datetime) -> TrafficSplitSpec | None:
    traffic = standing.traffic
    if traffic.wanted is None and not traffic.is_leaving:
        return None
    if not traffic.is_leaving and not _router_exists(observed, traffic.wanted):
        return traffic.split
    names = [*standing.route.weights, *standing.draining]
    models = {name: _model(observed, standing, name) for name in names}
    renew = standing.decision is not None and standing.decision.renew
    return make_split(observed, traffic, standing.route, models, standing.draining, now, renew=renew)


def _model(observed: Observed, standing: Standing, name: str) -> str:
    """The model inside Triton of a revision: as a split that nobody has edited says it, else as its record does."""
    traffic, spec = standing.traffic, observed.deployment.spec.model
    known = next((item.model for item in traffic.split.revisions if item.name == name), None) if traffic.split else None
    candidate = standing.candidate if standing.candidate and standing.candidate.name == name else None
    record = candidate or observed.records.get(name)
    if record and (known is None or traffic.edited):
        return serving_of(record, observed.deployment).entry_model
    return known or spec.served_name or observed.deployment.metadata.name


def _router_exists(observed: Observed, name: str | None) -> bool:
    """A missing default Router is made on the way; a split for another one would be read by nobody."""
    return name == DEFAULT_ROUTER or _names(observed, name)


def _names(observed: Observed, name: str | None) -> bool:
    return observed.router is not None and observed.router["metadata"]["name"] == name


def _split_change(observed: Observed, standing: Standing, wanted: TrafficSplitSpec | None) -> SplitChange | None:
    manifest = changed_split(observed, standing.traffic, wanted) if wanted else None
    if wanted is None or manifest is None:
        return None
    before, route = standing.traffic.split, standing.route
    told = observed.deployment.status.stable
    home = told.revision if told else None
    leaves = before is not None and bool(read_route(before).taken.get(home or "")) and not route.taken
    fenced = leaves or not route.only(home)
    lost = standing.decision is not None and standing.decision.lost
    return SplitChange(
        manifest=manifest,
        spec=wanted,
        lowers=not fenced and not lost and before is not None and not read_route(before).only(home),
        fenced=fenced,
        whole=standing.traffic.edited,
    )


def _joined(observed: Observed, standing: Standing) -> str | None:
    """The Router that this deployment still has to hold on to; one that people wrote is theirs to keep or delete."""
    name = standing.traffic.wanted
    if name is None or standing.traffic.is_leaving:
        return None
    if not _names(observed, name):
        return name if name == DEFAULT_ROUTER else None
    return None if _is_member(observed) or not _is_ours(observed) else name


def _is_ours(observed: Observed) -> bool:
    labels = (observed.router or {}).get("metadata", {}).get("labels") or {}
    return all(labels.get(key) == value for key, value in MANAGED_BY.items())


def _left(observed: Observed, standing: Standing, *, gone: bool) -> str | None:
    """The Router that nothing of this deployment leads through any more."""
    if observed.router is None or not _is_member(observed):
        return None
    name: str = observed.router["metadata"]["name"]
    unused = standing.traffic.split is None and standing.traffic.wanted != name
    return name if gone or unused else None


def _is_member(observed: Observed) -> bool:
    owners = (observed.router or {}).get("metadata", {}).get("ownerReferences") or ()
    return any(owner["uid"] == observed.deployment.metadata.uid for owner in owners)


# replicas


def _hand_overs(observed: Observed, standing: Standing) -> dict[ObjectKey, int]:
    """A Deployment not yet scaled by an autoscaler keeps its size, unless that is 0, from where none starts.

    A candidate starts at the size of stable.
    """
    namespace, name = observed.deployment.metadata.namespace, observed.deployment.metadata.name
    scaler = observed.get("HorizontalPodAutoscaler", name)
    scaled = scaler["spec"]["scaleTargetRef"]["name"] if scaler else None
    found = {}
    if standing.stable and standing.stable.name != scaled:
        live = observed.get("Deployment", standing.stable.name)
        if live:
            size = int(live["spec"].get("replicas", 1)) or standing.size
            found[ObjectKey("Deployment", namespace, standing.stable.name)] = size
    if standing.candidate:
        live = observed.get("Deployment", standing.candidate.name)
        if live is None or live["spec"].get("replicas", 1) < standing.candidate_replicas:
            found[ObjectKey("Deployment", namespace, standing.candidate.name)] = standing.candidate_replicas
    return found


# what goes


def _removals(observed: Observed, standing: Standing, wanted: set[ObjectKey], *, gone: bool) -> tuple[ObjectKey, ...]:
    """A revision that a router pod may still have keeps its pods: all of them until the live split is in force."""
    traffic = standing.traffic
    kept = {standing.serving, *standing.draining, *traffic.listed}
    absent = [
        key
        for key in sorted(observed.objects.keys() - wanted)
        if key.kind in (*_PER_REVISION, *_PER_DEPLOYMENT) and key.name not in kept
        if traffic.settled or key.name == observed.deployment.metadata.name or key.name not in observed.records
    ]
    metadata = observed.deployment.metadata
    named = {metadata.name, *standing.draining}
    absent += [key for key in sorted(observed.objects.keys() - wanted) if key.kind == _BUDGET and key.name not in named]
    split = [ObjectKey(SPLIT_KIND, metadata.namespace, metadata.name)] if gone else []
    return (*split, *absent, *_forgotten_records(observed, standing))


def _forgotten_records(observed: Observed, standing: Standing) -> tuple[ObjectKey, ...]:
    """Records beyond the history that no role needs."""
    named = {record.name for record in (standing.stable, standing.candidate) if record}
    named |= {*standing.draining, *standing.traffic.listed}
    failed = observed.deployment.status.failed_revision
    if failed:
        named.add(failed.revision)
    told = observed.deployment.status.preparation
    if told and told.revision:
        named.add(told.revision)
    spare = [name for name in observed.records if name not in named]
    asked = (observed.deployment.spec.rollout or RolloutSpec()).revision_history_limit
    limit = observed.settings.revision_history if asked is None else asked
    excess = spare[: max(0, len(spare) - limit)]
    namespace = observed.deployment.metadata.namespace
    return tuple(ObjectKey("ControllerRevision", namespace, name) for name in excess)
