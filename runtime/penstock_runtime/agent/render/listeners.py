"""Listeners: a port for each model, and the attestation on loopback."""

from typing import Any

from penstock_runtime.agent.settings import Settings
from penstock_runtime.agent.units import access_log, unit_filter

from .document import ATTEST, MODEL_HEADER, ROUTES, typed

__all__ = ["attest_listener", "listener", "listener_name", "model_listener", "static_manager", "subscription"]

_MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router")}
_BUFFER_LIMIT = 1 << 20


def model_listener(settings: Settings, uid: str, port: int) -> dict[str, Any]:
    """The port of a model: HTTP/1.1 and gRPC side by side; it never changes while the model keeps its port."""
    return typed(
        "config.listener.v3.Listener",
        listener(listener_name(uid), settings.anywhere, port, _shared_manager(settings, uid, drain=settings.drain)),
    )


def listener_name(uid: str) -> str:
    """The name of a model's listener."""
    return f"model/{uid}"


def attest_listener(settings: Settings) -> dict[str, Any]:
    """Reads the attestation through the table that models are routed by; on loopback."""
    return listener(ATTEST, "127.0.0.1", settings.ports.attest, _shared_manager(settings, ATTEST, drain=0))


def listener(name: str, address: str, port: int, manager: dict[str, Any]) -> dict[str, Any]:
    """A listener of one HTTP connection manager."""
    socket: dict[str, Any] = {"address": address, "port_value": port}
    if address == "::":
        socket["ipv4_compat"] = True
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": name,
        "address": {"socket_address": socket},
        "per_connection_buffer_limit_bytes": _BUFFER_LIMIT,
        "filter_chains": [{"filters": filters}],
    }


def static_manager(prefix: str, routes: list[dict[str, Any]]) -> dict[str, Any]:
    """A connection manager with routes of its own, for any host."""
    hosts = [{"name": prefix, "domains": ["*"], "routes": routes}]
    return typed(_MANAGER, {"stat_prefix": prefix, "http_filters": [_ROUTER], "route_config": {"virtual_hosts": hosts}})


def subscription(settings: Settings, kind: str) -> dict[str, Any]:
    """A document that Envoy watches, in a folder of its own so that no other's change makes it read again."""
    folder = settings.envoy / kind
    source = {"path": str(folder / f"{kind}.json"), "watched_directory": {"path": str(folder)}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _shared_manager(settings: Settings, model: str, *, drain: float) -> dict[str, Any]:
    """Names the model before anything is routed, over whatever a client wrote, and routes by the shared table."""
    overwrite = {
        "append": {
            "header": {"key": MODEL_HEADER, "value": model},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    }
    return typed(
        _MANAGER,
        {
            "stat_prefix": ATTEST if model == ATTEST else "model",
            "codec_type": "AUTO",
            "drain_timeout": f"{min(5.0, drain):g}s",
            "early_header_mutation_extensions": [
                {
                    "name": "envoy.http.early_header_mutation.header_mutation",
                    "typed_config": typed(
                        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                        {"mutations": [overwrite]},
                    ),
                }
            ],
            "http2_protocol_options": {
                "initial_stream_window_size": _BUFFER_LIMIT,
                "initial_connection_window_size": 16 * _BUFFER_LIMIT,
            },
            "http_filters": [_grpc_stats(), unit_filter(), _buffer(), _ROUTER],
            **({} if model == ATTEST else {"access_log": [access_log(model, settings.units_log)]}),
            "rds": {"route_config_name": ROUTES, "config_source": subscription(settings, "rds")},
        },
    )


def _grpc_stats() -> dict[str, Any]:
    """Counts gRPC statuses per cluster; only of the calls that carry inference, or any client could make names."""
    methods = {"name": "inference.GRPCInferenceService", "method_names": ["ModelInfer", "ModelStreamInfer"]}
    return {
        "name": "envoy.filters.http.grpc_stats",
        "typed_config": typed(
            "extensions.filters.http.grpc_stats.v3.FilterConfig",
            {"individual_method_stats_allowlist": {"services": [methods]}, "enable_upstream_stats": True},
        ),
    }


def _buffer() -> dict[str, Any]:
    """Off, but for routes that ask for it."""
    limit = {"max_request_bytes": _BUFFER_LIMIT}
    return {
        "name": "envoy.filters.http.buffer",
        "disabled": True,
        "typed_config": typed("extensions.filters.http.buffer.v3.Buffer", limit),
    }
