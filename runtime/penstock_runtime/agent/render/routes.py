"""Routes: the virtual host of one model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock_runtime.agent.split import Shadow, Split
from penstock_runtime.agent.state import cluster_name
from penstock_runtime.agent.units import unit_rules

from .document import NOTE, typed

__all__ = ["Route", "route_clusters", "virtual_host"]

_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_STREAM_IDLE = "300s"
_MIRRORED_MOST = 1 << 20
_LARGEST = (1 << 63) - 1
_BUFFER = "envoy.filters.http.buffer"
_RETRY_AFTER = 5


@dataclass(frozen=True)
class Route:
    """What is to be in force for a split: its own weights and shadow, or those that a loss of supervision leaves."""

    split: Split
    weights: Mapping[str, int]
    shadow: Shadow | None = None
    expired: bool = False
    settled: bool = True
    """False while a cluster is not loaded yet and stable stands in for it."""

    @property
    def clusters(self) -> frozenset[str]:
        """Names of all clusters that the routes name."""
        return route_clusters(self.split.uid, self.weights, self.shadow.name if self.shadow else None)


def route_clusters(uid: str, weights: Iterable[str], shadow: str | None) -> frozenset[str]:
    """Names of the clusters that routes with these revisions name."""
    named = {cluster_name(uid, name, kind) for name in weights for kind in ("http", "grpc")}
    copied = {cluster_name(uid, shadow, kind) for kind in ("shadow-http", "shadow-grpc")} if shadow else set()
    return frozenset(named | copied)


def virtual_host(route: Route) -> dict[str, Any]:
    """All routes of a model; the first that matches counts.

    A body that announces more than the limit is refused before a byte of it is read. One that announces nothing
    (chunked HTTP, most gRPC clients) has to be held until it ends, at most up to the limit, since nothing else in
    Envoy counts it; streams of messages are not, they have no end.
    """
    split = route.split
    host: dict[str, Any] = {"name": split.uid, "domains": [split.uid], "metadata": _note(route)}
    if not route.weights:
        return {**host, "routes": [_unavailable(exchanged=split.stable is not None)]}
    host["retry_policy"] = _retries()
    if split.sticky:
        host["typed_per_filter_config"] = unit_rules(header=split.header, cookie=split.cookie)
    host["routes"] = [_too_large(split.max_request_bytes)]
    if split.cookie:
        host["routes"] += _routes(route, _cookie_matcher(split.cookie), mint=False)
    host["routes"] += _routes(route, None, mint=bool(split.cookie))
    return host


def _note(route: Route) -> dict[str, Any]:
    shadow = [route.shadow.name, route.shadow.share] if route.shadow else None
    note = {
        "generation": route.split.generation if route.settled else 0,
        "weights": dict(route.weights),
        "shadow": shadow,
        "expired": route.expired,
        "sticky": route.split.sticky,
        "port": route.split.port,
        "timeout": route.split.timeout,
    }
    return {"filter_metadata": {NOTE: note}}


def _unavailable(*, exchanged: bool) -> dict[str, Any]:
    """503 with Retry-After, for gRPC UNAVAILABLE; Envoy makes the latter of it by itself."""
    body = "no revision of this model serves yet\n"
    if exchanged:
        body = "no pod of this model serves while its pods change hands (spec.rollout.capacity: Replace); ask again\n"
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 503, "body": {"inline_string": body}},
        "response_headers_to_add": [{"header": {"key": "retry-after", "value": str(_RETRY_AFTER)}}],
    }


def _retries() -> dict[str, Any]:
    """Once, on another server, at once, and only what certainly reached none.

    While a request waits for its retry Envoy's counters look as if its client had gone, so it hardly waits.
    """
    other = "envoy.retry_host_predicates.previous_hosts"
    predicate = typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [{"name": other, "typed_config": predicate}],
    }


def _too_large(most: int) -> dict[str, Any]:
    body = f"the request is larger than {most} bytes (spec.traffic.limits.maxRequestBytes)\n"
    return {
        "match": {"prefix": "/", "headers": [_length(most + 1, _LARGEST)]},
        "direct_response": {"status": 413, "body": {"inline_string": body}},
    }


def _length(first: int, last: int) -> dict[str, Any]:
    return {"name": "content-length", "range_match": {"start": first, "end": last}}


def _cookie_matcher(name: str) -> dict[str, Any]:
    return {"name": "cookie", "string_match": {"safe_regex": {"regex": rf"(.*;\s*)?{_quoted(name)}=[^;]+.*"}}}


def _quoted(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else f"\\{char}" for char in name)


def _routes(route: Route, only: dict[str, Any] | None, *, mint: bool) -> list[dict[str, Any]]:
    held = {_BUFFER: typed("extensions.filters.http.buffer.v3.BufferPerRoute", {"buffer": _most(route.split)})}
    headers = [only] if only else []
    known = [*headers, {"name": "content-length", "present_match": True}]
    small = [*headers, _length(0, _MIRRORED_MOST + 1)]
    found: list[dict[str, Any]] = [
        {
            "match": {"path": _STREAM, "grpc": {}, **_given(headers)},
            "route": _stream(_action(route, "grpc", mint=mint)),
        },
        {
            "match": {"prefix": "/", "grpc": {}, **_given(headers)},
            "route": _mirrored(_action(route, "grpc", mint=mint), route, "grpc"),
            "typed_per_filter_config": held,
        },
    ]
    if route.shadow:
        mirrored = _mirrored(_action(route, "http", mint=mint), route, "http")
        found.append({"match": {"prefix": "/", **_given(small)}, "route": mirrored})
    found.append({"match": {"prefix": "/", **_given(known)}, "route": _action(route, "http", mint=mint)})
    found.append(
        {
            "match": {"prefix": "/", **_given(headers)},
            "route": _action(route, "http", mint=mint),
            "typed_per_filter_config": held,
        }
    )
    for one in found:
        if mint and route.split.cookie:
            one["response_headers_to_add"] = [_minted(route.split.cookie)]
    return found


def _given(headers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"headers": headers} if headers else {}


def _most(split: Split) -> dict[str, int]:
    return {"max_request_bytes": min(split.max_request_bytes, (1 << 32) - 1)}


def _minted(name: str) -> dict[str, Any]:
    """A cookie for who has none: the id of the request that was hashed for it, so the next one goes the same way."""
    value = f"{name}=%REQ(X-REQUEST-ID)%; Path=/; HttpOnly; SameSite=Lax"
    return {"header": {"key": "set-cookie", "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}


def _action(route: Route, kind: str, *, mint: bool) -> dict[str, Any]:
    split = route.split
    clusters = [{"name": cluster_name(split.uid, name, kind), "weight": w} for name, w in route.weights.items()]
    action: dict[str, Any] = {"timeout": f"{split.timeout:g}s", "idle_timeout": f"{split.timeout + 30:g}s"}
    if len(clusters) == 1:
        return {"cluster": clusters[0]["name"], **action}
    action["weighted_clusters"] = {"clusters": clusters}
    if split.sticky:
        action["weighted_clusters"]["use_hash_policy"] = True
        action["hash_policy"] = [_hash(split, mint=mint)]
    return action


def _hash(split: Split, *, mint: bool) -> dict[str, Any]:
    if split.header:
        return {"header": {"header_name": split.header}}
    return {"header": {"header_name": "x-request-id"}} if mint else {"cookie": {"name": split.cookie}}


def _stream(action: dict[str, Any]) -> dict[str, Any]:
    return {**action, "timeout": "0s", "idle_timeout": _STREAM_IDLE}


def _mirrored(action: dict[str, Any], route: Route, kind: str) -> dict[str, Any]:
    if not route.shadow:
        return action
    share = {"default_value": {"numerator": route.shadow.share * 10, "denominator": "TEN_THOUSAND"}}
    policy = {
        "cluster": cluster_name(route.split.uid, route.shadow.name, f"shadow-{kind}"),
        "runtime_fraction": share,
        "disable_shadow_host_suffix_append": True,
    }
    return {**action, "request_mirror_policies": [policy]}
