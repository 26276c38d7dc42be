"""`spec.traffic`: how requests reach a model, and what one request may ask of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from . import trafficrules
from .base import ApiModel, Duration, K8s, Quantity, Rule

__all__ = ["LimitsSpec", "RouterReference", "StickinessSpec", "Token", "TrafficSpec"]

Token = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][-A-Za-z0-9_.]*$")]


class RouterReference(ApiModel):
    """A Router of the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]


class LimitsSpec(ApiModel):
    """What the router refuses before it reaches a model."""

    max_request_bytes: Annotated[Quantity, K8s(rules=(trafficrules.REQUEST_SIZE,))] | None = None
    """A larger request is answered 413. Default: 64Mi."""
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """One request more to a revision is answered 503 by each router pod. Default: 1024."""


class StickinessSpec(ApiModel):
    """One client, one revision, for as long as the weights allow; clients without it are spread at random."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (trafficrules.ONE_STICKINESS,)

    header: Token | None = None
    """Requests with the same value of this header go to the same revision."""
    cookie: Token | None = None
    """Clients are given a cookie of this name."""


class TrafficSpec(ApiModel):
    """How requests reach the model."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (trafficrules.ROUTER_FIELDS, trafficrules.TIMEOUT_WITHIN_DRAIN)

    provider: Literal["Router", "Service"] | None = None
    """Router, the default: Envoy pods that split, count and take back. Service: one Service that points at stable."""
    router: RouterReference | None = None
    """A Router of this namespace; `default`, made on first use, unless said otherwise."""
    timeout: Annotated[Duration, K8s(rules=(trafficrules.REQUEST_TIMEOUT,))] = "30s"
    """The longest a request may take; the router answers 504 then, and pods that go away wait this long."""
    limits: LimitsSpec | None = None
    stickiness: StickinessSpec | None = None
