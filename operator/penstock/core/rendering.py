"""Every object that should exist for the revisions as they stand, and those of ours that should not any more."""

from dataclasses import dataclass
from typing import Any

from penstock.api.resource import ModelDeployment

from .modelrepo import ServerSettings, render_repository, server_flags
from .names import ObjectKey, key_of
from .observed import Observed
from .revision import RevisionRecord
from .scaling import horizontal_autoscaler
from .server import Serving, client_service, config_map, deployment, disruption_budget, headless_service
from .standing import Standing, request_timeout

__all__ = ["Rendering", "render", "revision_objects", "serving_of"]

_PER_REVISION = ("Deployment", "Service", "ConfigMap")
_PER_DEPLOYMENT = ("HorizontalPodAutoscaler",)
"""A disruption budget is none of them: once something serves, something always does, and it goes with its owner."""


@dataclass(frozen=True)
class Rendering:
    """`manifests` in the order in which they must be written; `removals` come after all of them."""

    manifests: tuple[dict[str, Any], ...]
    removals: tuple[ObjectKey, ...]
    serving: bool
    hand_overs: dict[ObjectKey, int]
    """Deployments whose replicas an autoscaler is to have, and the number it starts from."""


def serving_of(record: RevisionRecord, owner: ModelDeployment) -> Serving:
    """A record with everything that is derived from it; the same for every release of Penstock."""
    settings = ServerSettings.from_json(record.server)
    repository = render_repository(record.facts, record.served_name, settings)
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
    )


def revision_objects(owner: ModelDeployment, record: RevisionRecord, replicas: int | None) -> list[dict[str, Any]]:
    """What one revision consists of, its Deployment last."""
    serving = serving_of(record, owner)
    found = [
        config_map(owner.metadata, serving),
        headless_service(owner.metadata, record.name),
        deployment(owner.metadata, serving, replicas),
    ]
    return [manifest for manifest in found if manifest]


def render(observed: Observed, standing: Standing) -> Rendering:
    """Capacity first, then the client Service, then what follows it."""
    owner, spec = observed.deployment, observed.deployment.spec
    fixed = spec.autoscaling is None
    manifests: list[dict[str, Any]] = []
    for record in filter(None, (standing.stable, standing.candidate)):
        manifests += revision_objects(owner, record, spec.replicas if fixed else None)
    manifests.append(client_service(owner.metadata, standing.serving))
    if standing.serving:
        manifests.append(disruption_budget(owner.metadata, standing.serving))
    if spec.autoscaling and standing.serving:
        manifests.append(horizontal_autoscaler(owner.metadata, standing.serving, spec.autoscaling))
    return Rendering(
        manifests=tuple(manifests),
        removals=_removals(observed, standing, {key_of(manifest) for manifest in manifests}),
        serving=bool(standing.serving or standing.candidate),
        hand_overs={} if fixed else _hand_overs(observed, standing),
    )


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
            size = int(live["spec"].get("replicas", 1)) or standing.candidate_replicas
            found[ObjectKey("Deployment", namespace, standing.stable.name)] = size
    if standing.candidate:
        live = observed.get("Deployment", standing.candidate.name)
        if live is None or live["spec"].get("replicas", 1) < standing.candidate_replicas:
            found[ObjectKey("Deployment", namespace, standing.candidate.name)] = standing.candidate_replicas
    return found


def _removals(observed: Observed, standing: Standing, wanted: set[ObjectKey]) -> tuple[ObjectKey, ...]:
    kept = {standing.serving, *(record.name for record in standing.draining)}
    gone = [
        key
        for key in sorted(observed.objects)
        if key.kind in (*_PER_REVISION, *_PER_DEPLOYMENT) and key not in wanted and key.name not in kept
    ]
    return (*gone, *_forgotten_records(observed, standing))


def _forgotten_records(observed: Observed, standing: Standing) -> tuple[ObjectKey, ...]:
    """Records beyond the history that no role needs."""
    named = {record.name for record in (standing.stable, standing.candidate, *standing.draining) if record}
    failed = observed.deployment.status.failed_revision
    if failed:
        named.add(failed.revision)
    told = observed.deployment.status.preparation
    if told and told.revision:
        named.add(told.revision)
    spare = [name for name in observed.records if name not in named]
    excess = spare[: max(0, len(spare) - observed.settings.revision_history)]
    namespace = observed.deployment.metadata.namespace
    return tuple(ObjectKey("ControllerRevision", namespace, name) for name in excess)
