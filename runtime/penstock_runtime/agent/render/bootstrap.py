"""The bootstrap: what Envoy cannot be told later."""

from typing import Any

from penstock_runtime.agent.settings import Settings
from penstock_runtime.agent.stats import BOUNDS

from .document import typed
from .listeners import attest_listener, listener, static_manager, subscription

__all__ = ["bootstrap"]

_CONNECTIONS = 20_000
_OF_CLUSTERS = (
    r"cluster\.[^.]+\.(upstream_rq_(total|completed|active|retry|cancelled|timeout|pending_overflow|pending_failure_eject"
    r"|[2345]xx|time)|upstream_cx_(none_healthy|connect_fail|active|total)|membership_(healthy|total)|grpc\..*)"
)
_KEPT = (
    {"safe_regex": {"regex": _OF_CLUSTERS}},
    {"prefix": "cluster_manager."},
    {"prefix": "listener_manager."},
    {"safe_regex": {"regex": r"http\.(model|attest)\.(rds\.|downstream_(rq|cx)_(total|active|[2345]xx|time)).*"}},
    {"prefix": "server."},
    {"prefix": "overload."},
)
"""What agents, probes and scrapers read; the rest would be most of Envoy's memory with 200 models."""


def bootstrap(settings: Settings) -> dict[str, Any]:
    """Admin on loopback, three watched documents, the attestation, and a port for metrics and readiness.

    Histograms become visible at `stats_flush_interval` only, so it is the second in which agents look.
    """
    ports = settings.ports
    return {
        "node": {"id": "router", "cluster": settings.router},
        "admin": {"address": _local(ports.admin)},
        "dynamic_resources": {
            "lds_config": subscription(settings, "lds"),
            "cds_config": subscription(settings, "cds"),
        },
        "static_resources": {
            "listeners": [attest_listener(settings), _stats_listener(settings)],
            "clusters": [_admin_cluster(ports.admin)],
        },
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "stats_flush_interval": "1s",
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": list(_KEPT)}},
            "histogram_bucket_settings": [{"match": {"prefix": "cluster."}, "buckets": list(BOUNDS)}],
        },
        "overload_manager": _overload(settings.memory),
    }


def _local(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _admin_cluster(port: int) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": _local(port)}}]
    assignment = {"cluster_name": "admin", "endpoints": [{"lb_endpoints": hosts}]}
    return {"name": "admin", "connect_timeout": "1s", "type": "STATIC", "load_assignment": assignment}


def _stats_listener(settings: Settings) -> dict[str, Any]:
    """Two pages of the admin interface for the world; the rest stays on loopback."""
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    pages = [
        {"match": {"path": path, "headers": [get]}, "route": {"cluster": "admin"}}
        for path in ("/stats/prometheus", "/ready")
    ]
    return listener("stats", settings.anywhere, settings.ports.stats, static_manager("stats", pages))


def _overload(memory: int) -> dict[str, Any]:
    """Refuses connections beyond a number, and requests before the kernel ends Envoy for the memory they take.

    Bodies that are held until they end (gRPC, HTTP without a length) and copies of them are what may grow that far.
    """
    connections = _monitor(
        "global_downstream_max_connections",
        "downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=_CONNECTIONS,
    )
    if not memory:
        return {"resource_monitors": [connections]}
    heap = _monitor("fixed_heap", "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=memory)
    return {
        "refresh_interval": "0.02s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [connections, heap],
        "actions": [
            _action("shrink_heap", {"threshold": {"value": 0.6}}),
            _action("stop_accepting_requests", {"threshold": {"value": 0.7}}),
            _action("reset_high_memory_stream", {"scaled": {"scaling_threshold": 0.7, "saturation_threshold": 0.85}}),
        ],
    }


def _monitor(name: str, kind: str, **config: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.resource_monitors.{name}",
        "typed_config": typed(f"extensions.resource_monitors.{kind}", config),
    }


def _action(name: str, trigger: dict[str, Any]) -> dict[str, Any]:
    heap = {"name": "envoy.resource_monitors.fixed_heap", **trigger}
    return {"name": f"envoy.overload_actions.{name}", "triggers": [heap]}
