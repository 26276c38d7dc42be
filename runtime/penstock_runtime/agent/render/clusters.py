"""Clusters: one per revision and protocol, and guarded ones for copies of requests."""

from collections.abc import Sequence
from typing import Any

from penstock_runtime.agent.endpoints import Endpoint
from penstock_runtime.agent.split import Revision, Split
from penstock_runtime.agent.state import cluster_name
from penstock_runtime.agent.stats import SHADOW_GRPC_FILTERS

from .document import NOTE, typed

__all__ = ["revision_clusters", "shadow_clusters"]

_SHADOW_BUFFER = 32 << 20
_SHADOW_MOST = 8
_SHADOW_LONGEST = 2.0


def revision_clusters(split: Split, revision: Revision, endpoints: Sequence[Endpoint]) -> dict[str, dict[str, Any]]:
    """The HTTP and the gRPC cluster of a revision, by name."""
    most = split.max_concurrent
    limits = {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": 64}
    found = {}
    for kind in ("http", "grpc"):
        cluster = _cluster(cluster_name(split.uid, revision.name, kind), revision, endpoints, kind)
        cluster["circuit_breakers"] = {"thresholds": [limits]}
        cluster["outlier_detection"] = _outliers()
        if kind == "grpc":
            cluster["typed_extension_protocol_options"] = _http_options("http2_protocol_options")
        found[cluster["name"]] = cluster
    return found


def shadow_clusters(split: Split, revision: Revision, endpoints: Sequence[Endpoint]) -> dict[str, dict[str, Any]]:
    """The clusters of copies: few at a time, cut off soon, with room for a whole body.

    A shadow that stops reading holds back the HTTP request it is a copy of, until its buffer has room or its stream
    ends; so each of the three bounds is needed, and that of the length which the routes set. gRPC calls announce none,
    but are held to their end before they are passed on, so that nothing of them is left to be held back.
    """
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _SHADOW_MOST)
    longest = {"max_stream_duration": f"{min(split.timeout, _SHADOW_LONGEST):g}s"}
    found = {}
    for kind, options in (("http", "http_protocol_options"), ("grpc", "http2_protocol_options")):
        name = cluster_name(split.uid, revision.name, f"shadow-{kind}")
        cluster = _cluster(name, revision, endpoints, kind)
        cluster["circuit_breakers"] = {"thresholds": [{**limits, "max_retries": 0}]}
        cluster["per_connection_buffer_limit_bytes"] = _SHADOW_BUFFER
        more = {"http_filters": SHADOW_GRPC_FILTERS} if kind == "grpc" else {}
        cluster["typed_extension_protocol_options"] = _http_options(
            options, common_http_protocol_options=longest, **more
        )
        found[name] = cluster
    return found


def _cluster(name: str, revision: Revision, endpoints: Sequence[Endpoint], kind: str) -> dict[str, Any]:
    """What all clusters share.

    Health changes reach the workers at once (`update_merge_window` 0) or `membership_healthy` would lie for a second,
    and clusters without traffic are asked every second, or a new one would take a minute to be known healthy. When
    servers come or go Envoy replaces the cluster and asks all of them anew; where not one answers in time, requests go
    to all rather than to none (panic below 1 %), since they have served a moment ago.
    """
    return typed(
        "config.cluster.v3.Cluster",
        {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "LEAST_REQUEST",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [_endpoint(one, kind) for one in endpoints]}],
            },
            "health_checks": [_health_check(revision.model)],
            "metadata": {"filter_metadata": {NOTE: {"revision": revision.name}}},
            "ignore_health_on_host_removal": True,
            "common_lb_config": {"healthy_panic_threshold": {"value": 1}, "update_merge_window": "0s"},
        },
    )


def _endpoint(one: Endpoint, kind: str) -> dict[str, Any]:
    port = one.grpc if kind == "grpc" else one.http
    return {
        "endpoint": {
            "address": {"socket_address": {"address": one.address, "port_value": port}},
            "health_check_config": {"port_value": one.http},
        }
    }


def _health_check(model: str) -> dict[str, Any]:
    return {
        "timeout": "1s",
        "interval": "2s",
        "interval_jitter": "0.1s",
        "no_traffic_interval": "1s",
        "no_traffic_healthy_interval": "2s",
        "unhealthy_interval": "1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": f"/v2/models/{model}/ready", "codec_client_type": "HTTP1"},
    }


def _outliers() -> dict[str, Any]:
    """Out for 5 s after five 502, 503 or 504 in a row; a 500 is the model's own answer and ejects nobody."""
    return {
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_5xx": 1000,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "base_ejection_time": "5s",
        "max_ejection_percent": 50,
    }


def _http_options(protocol: str, **more: Any) -> dict[str, Any]:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {f"envoy.{name}": typed(name, {"explicit_http_config": {protocol: {}}, **more})}
