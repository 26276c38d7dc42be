"""Requests on their way to a model: what leads them now, and the split, Service and Router that should.

The split is a function of status. `generation` grows with every change but a renewal of supervision, so that what the
routers attest is always one exact route. A Service is switched to a router only when all of its pods have the route in
force and reach stable; a router is left only when nothing can come through it any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from penstock.api.resource import ModelDeployment
from penstock.api.rollout import RolloutSpec, SupervisionSpec
from penstock.api.router import (
    SPLIT_KIND,
    WHOLE,
    SplitRevision,
    SplitShadow,
    SplitStickiness,
    SplitSupervision,
    TrafficSplitSpec,
)
from penstock.api.traffic import LimitsSpec, TrafficSpec
from penstock.api.units import duration_seconds, quantity_value

from .conditions import timestamp
from .names import RENDERED_ANNOTATION, REVISION_LABEL, ROUTER_LABEL
from .objects import seal
from .observed import Observed
from .rollout import Route, read_route
from .router import Target, to_revision, to_router, traffic_split

__all__ = [
    "DEFAULT_ROUTER",
    "Traffic",
    "drain_time",
    "look_at_traffic",
    "make_split",
    "request_timeout",
    "service_target",
]

DEFAULT_ROUTER = "default"
_PROPAGATION = timedelta(seconds=5)
"""How long a Service's new selector, or a router's new route, may take to reach every node."""
_LEAVING = timedelta(seconds=60)
"""How long connections that clients keep to a router are still served at least after their Service has left it."""
_MOST_REVISIONS = 8
_RENEWALS = 4
"""Within one supervision timeout."""
_USUAL = TrafficSpec()
_DEFAULT_LIMITS = {"max_request_bytes": 64 * 2**20, "max_concurrent": 1024}


@dataclass(frozen=True)
class Traffic:
    """How requests come in now, and through which router they should."""

    wanted: str | None = None
    """Name of the Router asked for; None with provider Service."""
    split: TrafficSplitSpec | None = None
    """The live split, whichever router it names."""
    edited: bool = False
    """Somebody else has changed the split."""
    attested: int = 0
    """Newest generation that status has seen in force."""
    selected: str | None = None
    """Revision that the client Service selects itself."""
    through: str | None = None
    """Router that the client Service leads to."""

    @property
    def split_is_wanted(self) -> bool:
        """Whether the live split is at the router asked for."""
        return self.split is not None and self.split.router == self.wanted

    @property
    def is_leaving(self) -> bool:
        """Whether a split stands at a router that is no longer asked for."""
        return self.split is not None and not self.split_is_wanted

    @property
    def route(self) -> Route | None:
        """The live route at the router asked for."""
        return read_route(self.split) if self.split and self.split_is_wanted else None

    @property
    def generation(self) -> int:
        """Of the live split; 0 without one."""
        return self.split.generation if self.split else 0

    @property
    def listed(self) -> frozenset[str]:
        """Revisions that routers may still have."""
        return frozenset(item.name for item in self.split.revisions) if self.split else frozenset()

    @property
    def settled(self) -> bool:
        """Whether the live split has been in force on all Ready router pods."""
        return self.split is None or self.attested == self.split.generation


def request_timeout(deployment: ModelDeployment) -> float:
    """Seconds; the longest a request may take."""
    return duration_seconds((deployment.spec.traffic or _USUAL).timeout)


def drain_time(deployment: ModelDeployment) -> timedelta:
    """How long a revision keeps its pods after it has lost the traffic."""
    return timedelta(seconds=request_timeout(deployment)) + _PROPAGATION


def leaving_time(deployment: ModelDeployment) -> timedelta:
    """How long a route outlives the Service that led to it."""
    return max(drain_time(deployment), _LEAVING)


def look_at_traffic(observed: Observed) -> Traffic:
    """What stands in the cluster."""
    deployment = observed.deployment
    asked = deployment.spec.traffic or _USUAL
    wanted = None
    if asked.provider != "Service":
        wanted = asked.router.name if asked.router else DEFAULT_ROUTER
    service = observed.get("Service", deployment.metadata.name)
    selector = (service or {}).get("spec", {}).get("selector") or {}
    split = _read_split(observed)
    return Traffic(
        wanted=wanted,
        split=split,
        edited=split is not None and _is_edited(observed, split),
        attested=deployment.status.attested_generation or 0,
        selected=selector.get(REVISION_LABEL),
        through=selector.get(ROUTER_LABEL),
    )


def _read_split(observed: Observed) -> TrafficSplitSpec | None:
    """The live split, revisions in name order; one that cannot be read counts as one that gives nobody anything."""
    live = observed.get(SPLIT_KIND, observed.deployment.metadata.name)
    if live is None:
        return None
    try:
        found = TrafficSplitSpec.model_validate(live["spec"])
    except ValidationError:
        generation = live["spec"].get("generation")
        return _empty_split(observed, generation if isinstance(generation, int) else 1)
    return found.model_copy(update={"revisions": tuple(sorted(found.revisions, key=lambda item: item.name))})


def _empty_split(observed: Observed, generation: int) -> TrafficSplitSpec:
    metadata, asked = observed.deployment.metadata, observed.deployment.spec.traffic or _USUAL
    return TrafficSplitSpec(
        router=asked.router.name if asked.router else DEFAULT_ROUTER,
        deployment=metadata.name,
        deployment_uid=metadata.uid,
        generation=generation,
        port=observed.port,
        revisions=(),
        timeout_milliseconds=int(request_timeout(observed.deployment) * 1000),
        max_request_bytes=_DEFAULT_LIMITS["max_request_bytes"],
        max_concurrent=_DEFAULT_LIMITS["max_concurrent"],
    )


def _is_edited(observed: Observed, split: TrafficSplitSpec) -> bool:
    live = observed.get(SPLIT_KIND, observed.deployment.metadata.name) or {}
    ours = seal(traffic_split(observed.deployment.metadata, split))["metadata"]["annotations"][RENDERED_ANNOTATION]
    return bool(live.get("metadata", {}).get("annotations", {}).get(RENDERED_ANNOTATION) != ours)


def service_target(observed: Observed, traffic: Traffic, serving: str | None) -> Target:
    """What the client Service leads to: the router once nothing can be lost on the way to it."""
    if traffic.wanted and _may_go_through(observed, traffic, serving):
        return to_router(traffic.wanted, observed.port)
    return to_revision(observed.deployment.metadata, serving)


def _may_go_through(observed: Observed, traffic: Traffic, serving: str | None) -> bool:
    if serving is None:
        return True
    if traffic.is_leaving:
        return False
    if traffic.through == traffic.wanted:
        return True
    fleet, route = observed.fleet, traffic.route
    if route is None:
        return not traffic.selected and observed.deployment.status.stable is None
    if fleet is None:
        return traffic.settled and not traffic.selected
    needed = min(1, observed.ready_replicas(serving))
    return fleet.attests(traffic.generation) and fleet.warm(serving) >= needed and serving in route.taken


def make_split(
    observed: Observed,
    traffic: Traffic,
    route: Route,
    models: Mapping[str, str],
    draining: tuple[str, ...],
    now: datetime,
    *,
    renew: bool,
) -> TrafficSplitSpec:
    """The split that gives everyone the share of `route`; those that drain stay listed without any.

    At a router that is left, the listener stays where clients' connections are.
    """
    deployment = observed.deployment
    asked = deployment.spec.traffic or _USUAL
    limits, left = asked.limits or LimitsSpec(), traffic.split if traffic.is_leaving else None
    size = quantity_value(limits.max_request_bytes) if limits.max_request_bytes else None
    names = [*route.weights, *(name for name in draining if name in traffic.listed and name not in route.weights)]
    wanted = _empty_split(observed, traffic.generation or 1).model_copy(
        update={
            "router": left.router if left else traffic.wanted,
            "port": left.port if left else observed.port,
            "stable": route.stable,
            "revisions": tuple(
                SplitRevision(name=name, model=models[name], weight=route.weights.get(name, 0))
                for name in sorted(names[:_MOST_REVISIONS])
            ),
            "shadow": SplitShadow(name=route.shadow[0], share=route.shadow[1]) if route.shadow else None,
            "supervision": _supervision(deployment, route, now),
            "stickiness": SplitStickiness(header=asked.stickiness.header, cookie=asked.stickiness.cookie)
            if asked.stickiness
            else None,
            "max_request_bytes": int(size) if size else _DEFAULT_LIMITS["max_request_bytes"],
            "max_concurrent": limits.max_concurrent or _DEFAULT_LIMITS["max_concurrent"],
        }
    )
    return _numbered(wanted, traffic, now, renew=renew)


def _supervision(deployment: ModelDeployment, route: Route, now: datetime) -> SplitSupervision | None:
    if route.only(route.stable):
        return None
    asked = (deployment.spec.rollout or RolloutSpec()).supervision or SupervisionSpec()
    seconds = int(duration_seconds(asked.timeout))
    told = deployment.status.candidate
    on_loss = "Keep" if told and told.replaced else asked.on_loss
    return SplitSupervision(timeout_seconds=seconds, renew_time=timestamp(now), on_loss=on_loss)


def _numbered(wanted: TrafficSplitSpec, traffic: Traffic, now: datetime, *, renew: bool) -> TrafficSplitSpec:
    """With the live generation and renewal where nothing else has changed, and a higher generation where it has."""
    live = traffic.split
    if live is None:
        return wanted.model_copy(update={"generation": traffic.attested + 1})
    kept = wanted.supervision
    if wanted.supervision and live.supervision:
        kept = wanted.supervision.model_copy(update={"renew_time": live.supervision.renew_time})
    same = wanted.model_copy(update={"supervision": kept, "generation": live.generation})
    if same != live or traffic.attested > live.generation:
        return wanted.model_copy(update={"generation": max(live.generation, traffic.attested) + 1})
    due = renewal_due(live)
    return wanted.model_copy(update={"generation": live.generation}) if renew and due and now >= due else same


def renewal_due(split: TrafficSplitSpec) -> datetime | None:
    """When supervision wants to be renewed next."""
    if split.supervision is None:
        return None
    renewed = datetime.fromisoformat(split.supervision.renew_time)
    return renewed + timedelta(seconds=split.supervision.timeout_seconds / _RENEWALS)


def changed_split(observed: Observed, traffic: Traffic, spec: TrafficSplitSpec) -> dict[str, Any] | None:
    """The sealed manifest, if it is not what stands there."""
    live = observed.get(SPLIT_KIND, observed.deployment.metadata.name)
    manifest = traffic_split(observed.deployment.metadata, spec)
    same = live is not None and live["metadata"].get("labels") == manifest["metadata"]["labels"]
    return None if same and traffic.split == spec and not traffic.edited else seal(manifest)


def whole_route(serving: str | None) -> Route:
    """Everything to one revision, or to none."""
    return Route(serving, {serving: WHOLE}) if serving else Route()
