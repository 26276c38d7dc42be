"""`spec.traffic`: how requests reach a model, and what one request may ask of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from . import trafficrules
from .base import ApiModel, Duration, K8s, Quantity, Rule
from .rules import DNS_LABEL

__all__ = [
    "GATEWAY_GROUP",
    "GRPC_ROUTE",
    "HTTP_ROUTE",
    "ROUTE_KINDS",
    "GatewayReference",
    "LimitsSpec",
    "RouterReference",
    "StickinessSpec",
    "Token",
    "TrafficSpec",
]

GATEWAY_GROUP = "gateway.networking.k8s.io"
HTTP_ROUTE, GRPC_ROUTE = "HTTPRoute", "GRPCRoute"
ROUTE_KINDS = (HTTP_ROUTE, GRPC_ROUTE)

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


Subdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{DNS_LABEL}([.]{DNS_LABEL})*$")]
Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^([*][.])?{DNS_LABEL}([.]{DNS_LABEL})*$")]
Hostnames = Annotated[tuple[Hostname, ...], Field(max_length=16), K8s(list_type="atomic")]


class GatewayReference(ApiModel):
    """A Gateway of the Gateway API, or one of its listeners."""

    name: Subdomain
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=rf"^{DNS_LABEL}$")] | None = None
    """That of the Gateway; this namespace unless said otherwise. Its listeners have to allow routes of this one."""
    section_name: Subdomain | None = None
    """The name of one listener; all of them unless said otherwise."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Only listeners of this port; not every implementation can tell them apart by it."""


class TrafficSpec(ApiModel):
    """How requests reach the model."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        trafficrules.ROUTER_FIELDS,
        trafficrules.TIMEOUT_WITHIN_DRAIN,
        trafficrules.GATEWAYS_AND_HOSTNAMES,
        trafficrules.HOSTNAMES_APART,
    )

    provider: Literal["Router", "Service"] | None = None
    """Router, the default: Envoy pods that split, count and take back. Service: one Service that points at stable."""
    router: RouterReference | None = None
    """A Router of this namespace; `default`, made on first use, unless said otherwise."""
    timeout: Annotated[Duration, K8s(rules=(trafficrules.REQUEST_TIMEOUT,))] = "30s"
    """The longest a request may take; the router answers 504 then, and pods that go away wait this long."""
    limits: LimitsSpec | None = None
    stickiness: StickinessSpec | None = None
    parent_refs: (
        Annotated[
            tuple[GatewayReference, ...],
            Field(max_length=8),
            K8s(list_type="atomic", rules=(trafficrules.LISTENERS_APART,)),
        ]
        | None
    ) = None
    """Publish the model on these Gateways, by an HTTPRoute and a GRPCRoute that lead to its Service."""
    hostnames: Hostnames | None = None
    """Under these names HTTP requests come in there; `*.` stands for any one or more labels."""
    grpc_hostnames: Hostnames | None = None
    """Under these names gRPC requests come in there; a listener gives one name to HTTP or to gRPC, never to both."""
