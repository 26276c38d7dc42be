"""The kinds between the operator and the routers: `Router`, a fleet of Envoy pods, and `TrafficSplit`, a desired route.

People may write a Router to shape a fleet; a TrafficSplit is written by the operator alone and read by the agents
beside Envoy. Both are typed to the last field: what an agent renders from them cannot be more than a route to models.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from . import trafficrules
from .base import ApiModel, Duration, K8s, Rule
from .resource import Metadata
from .spec import PodPlacement, Resources
from .status import Condition
from .traffic import Token

__all__ = [
    "FIRST_PORT",
    "LAST_PORT",
    "ROUTER_KIND",
    "ROUTER_PLURAL",
    "SPLIT_KIND",
    "SPLIT_PLURAL",
    "WHOLE",
    "Router",
    "RouterPod",
    "RouterSpec",
    "RouterStatus",
    "RouterUpdate",
    "SplitRevision",
    "SplitShadow",
    "SplitStickiness",
    "SplitSupervision",
    "TrafficSplitSpec",
]

ROUTER_KIND, ROUTER_PLURAL = "Router", "routers"
SPLIT_KIND, SPLIT_PLURAL = "TrafficSplit", "trafficsplits"
FIRST_PORT, LAST_PORT = 20000, 29999
"""Listener ports of models in a router pod."""
WHOLE = 1000
"""Weights are in 0.1 %."""

DeploymentName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
RevisionName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""Without dots: it becomes part of the names of Envoy's statistics, and a label's value."""


class RouterPod(PodPlacement):
    """Placement of the router pods."""


class RouterUpdate(ApiModel):
    """How a fleet takes a new image or placement."""

    pause: Duration = "15m"
    """A new pod serves this long before the next one is replaced, so that a history of counters survives."""


class RouterSpec(ApiModel):
    """A fleet of Envoy pods that all models of the namespace may share."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 2
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """The router image; the chart's unless said otherwise."""
    resources: Resources | None = None
    """Of the Envoy container. Default: requests of 100m CPU and 128Mi, a limit of 512Mi."""
    drain: Annotated[Duration, K8s(rules=(trafficrules.DRAIN_RANGE,))] = "1m"
    """How long a pod that goes away serves its last requests; no model of the fleet may have a longer timeout."""
    update: RouterUpdate | None = None
    pod: RouterPod | None = None


class RouterStatus(ApiModel):
    """What has become of a Router."""

    observed_generation: Annotated[int, K8s(format="int64")] = -1
    replicas: int = 0
    ready_replicas: int = 0
    models: int = 0
    """ModelDeployments that use it."""
    image: str | None = None
    message: Annotated[str, Field(max_length=2048)] | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), K8s(list_type="map", keys=("type",))] | None = (
        None
    )


class Router(ApiModel):
    """One Router; `parse` raises pydantic.ValidationError for one the schema would have refused."""

    metadata: Metadata
    spec: RouterSpec = RouterSpec()
    status: RouterStatus = RouterStatus()

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> "Router":
        """From a manifest as the API server or a file holds it."""
        return cls.model_validate(manifest)


class SplitRevision(ApiModel):
    """A revision that the fleet knows; with weight 0 it is kept warm and gets no request."""

    name: RevisionName
    """Endpoints come from the EndpointSlices with the label penstock.dev/revision of this value."""
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
    """The model inside Triton whose readiness is asked."""
    weight: Annotated[int, Field(ge=0, le=1000)]
    """In 0.1 %."""


class SplitShadow(ApiModel):
    """A revision that gets copies of requests."""

    name: RevisionName
    share: Annotated[int, Field(ge=1, le=1000)]
    """Of the requests, in 0.1 %."""


class SplitStickiness(ApiModel):
    """As in spec.traffic.stickiness; one of both."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (trafficrules.ONE_STICKINESS,)

    header: Token | None = None
    cookie: Token | None = None


class SplitSupervision(ApiModel):
    """Present while a candidate gets traffic: without a renewal in time the agents send everything to stable."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86400)]
    renew_time: Annotated[str, K8s(format="date-time")]
    """Any change counts as a renewal; the time itself is read only by an agent that has seen no renewal before."""
    on_loss: Literal["Stable", "Keep"] = "Stable"


class TrafficSplitSpec(ApiModel):
    """The desired route of one ModelDeployment."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        trafficrules.SPLIT_REVISIONS,
        trafficrules.SPLIT_WEIGHTS,
        trafficrules.SPLIT_STABLE,
        trafficrules.SPLIT_SHADOW,
        trafficrules.SPLIT_GENERATION_GROWS,
    )

    router: DeploymentName
    deployment: DeploymentName
    deployment_uid: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[-A-Za-z0-9]+$")]
    """Agents key by uid and generation: a deployment deleted and made again under its name is another one."""
    generation: Annotated[int, Field(ge=1), K8s(format="int64")]
    """Grows with every change but a renewal; agents attest it."""
    port: Annotated[int, Field(ge=FIRST_PORT, le=LAST_PORT)]
    stable: RevisionName | None = None
    """Where everything goes when supervision is lost; None while nothing serves."""
    revisions: Annotated[tuple[SplitRevision, ...], Field(max_length=8), K8s(list_type="map", keys=("name",))]
    """Weights add up to 1000; where they add up to 0 the answer is 503."""
    shadow: SplitShadow | None = None
    supervision: SplitSupervision | None = None
    stickiness: SplitStickiness | None = None
    timeout_milliseconds: Annotated[int, Field(ge=1, le=3_600_000)]
    max_request_bytes: Annotated[int, Field(ge=1, le=2**40), K8s(format="int64")]
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)]
