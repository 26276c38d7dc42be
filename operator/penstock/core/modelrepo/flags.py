"""Extra flags of tritonserver: which ones users may set, and why the others are refused."""

import re
from collections.abc import Mapping

from .problems import Problem

__all__ = ["check_flags"]

_VALUE = re.compile(r"[^\s\x00]*")
_PATH = "spec.server.flags"

_ALLOWED = frozenset(
    {
        "allow-cpu-metrics", "allow-gpu-metrics", "backend-config", "buffer-manager-thread-count",
        "cuda-memory-pool-byte-size", "cuda-virtual-address-size", "enable-peer-access",
        "grpc-header-forward-pattern", "grpc-http2-max-ping-strikes", "grpc-http2-max-pings-without-data",
        "grpc-http2-min-recv-ping-interval-without-data", "grpc-infer-allocation-pool-size",
        "grpc-infer-response-compression-level", "grpc-infer-thread-count", "grpc-keepalive-permit-without-calls",
        "grpc-keepalive-time", "grpc-keepalive-timeout", "grpc-max-connection-age", "grpc-max-connection-age-grace",
        "grpc-max-response-pool-size", "host-policy", "http-header-forward-pattern", "http-max-input-size",
        "http-thread-count", "log-error", "log-format", "log-info", "log-verbose", "log-warning", "metrics-config",
        "metrics-interval-ms", "min-supported-compute-capability", "model-load-gpu-limit", "model-load-retry-count",
        "model-load-thread-count", "model-namespacing", "pinned-memory-pool-byte-size", "rate-limit",
        "rate-limit-resource", "trace-config",
    }
)  # fmt: skip

_LIFE = "Penstock decides how the server starts, is probed and stops"
_MODELS = "Penstock decides which models the server loads, and from where"
_DOORS = "Penstock decides which ports and interfaces the server opens"
_FILES = "the server's files are part of the image; build an image of your own and name it in spec.server.image"
_CACHE = "use spec.server.responseCache"
_TRACE = "deprecated by Triton; use trace-config"

_OWNED = {
    "exit-on-error": _LIFE, "exit-timeout-secs": _LIFE, "strict-readiness": _LIFE, "id": _LIFE, "log-file": _LIFE,
    "help": _LIFE,
    "model-repository": _MODELS, "model-store": _MODELS, "model-control-mode": _MODELS, "load-model": _MODELS,
    "repository-poll-secs": _MODELS, "disable-auto-complete-config": _MODELS, "strict-model-config": _MODELS,
    "model-config-name": _MODELS,
    "allow-http": _DOORS, "http-address": _DOORS, "http-port": _DOORS, "reuse-http-port": _DOORS,
    "http-restricted-api": _DOORS, "allow-grpc": _DOORS, "grpc-address": _DOORS, "grpc-port": _DOORS,
    "reuse-grpc-port": _DOORS, "grpc-restricted-protocol": _DOORS, "grpc-use-ssl": _DOORS,
    "grpc-use-ssl-mutual": _DOORS, "grpc-server-cert": _DOORS, "grpc-server-key": _DOORS, "grpc-root-cert": _DOORS,
    "allow-metrics": _DOORS, "metrics-address": _DOORS, "metrics-port": _DOORS, "allow-sagemaker": _DOORS,
    "sagemaker-port": _DOORS, "sagemaker-safe-port-range": _DOORS, "sagemaker-thread-count": _DOORS,
    "allow-vertex-ai": _DOORS, "vertex-ai-port": _DOORS, "vertex-ai-thread-count": _DOORS,
    "vertex-ai-default-model": _DOORS,
    "backend-directory": _FILES, "repoagent-directory": _FILES, "cache-directory": _FILES,
    "cache-config": _CACHE, "response-cache-byte-size": _CACHE,
    "trace-file": _TRACE, "trace-level": _TRACE, "trace-rate": _TRACE, "trace-count": _TRACE,
    "trace-log-frequency": _TRACE,
}  # fmt: skip


def check_flags(flags: Mapping[str, str]) -> tuple[Problem, ...]:
    """Refuse flags that Penstock owns, flags Triton does not document, and values that are not one word."""
    return tuple(problem for name in sorted(flags) if (problem := _check_flag(name, flags[name])) is not None)


def _check_flag(name: str, value: str) -> Problem | None:
    path = f"{_PATH}[{name!r}]"
    if name.startswith("-"):
        return Problem(path, "flag-unknown", f"write flags without dashes: {name.lstrip('-')}")
    if name in _OWNED:
        return Problem(path, "flag-owned", f"this flag cannot be set here: {_OWNED[name]}")
    if name not in _ALLOWED:
        return Problem(path, "flag-unknown", f"tritonserver documents no flag --{name[:80]}; see tritonserver --help")
    if not _VALUE.fullmatch(value):
        return Problem(path, "flag-value", "a flag's value must be one word without spaces or control characters")
    return None
