"""IPv6 addresses of pods, wherever one meets a port; the operator's readers are in test_probes_triton.py."""

import socket
from typing import Any

import pytest

from penstock_runtime.agent.drain import is_allowed
from penstock_runtime.agent.endpoints import Endpoint
from penstock_runtime.agent.http import Client
from penstock_runtime.agent.render.clusters import revision_clusters
from penstock_runtime.agent.server import Answer, serve
from penstock_runtime.agent.split import Split

from .test_agent_render import CASES
from .test_probes_triton import has_ipv6


def addresses(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in addresses(item)]
    if isinstance(value, dict):
        own = [value["socket_address"]] if "socket_address" in value else []
        return own + [found for item in value.values() for found in addresses(item)]
    return []


def test_envoy_is_given_the_bare_address() -> None:
    split, endpoint = Split.parse("digits", CASES["canary"]), Endpoint("fd00::1", 8000, 8001)
    made = addresses(list(revision_clusters(split, split.revisions[0], [endpoint]).values()))
    assert {(one["address"], one["port_value"]) for one in made} == {("fd00::1", 8000), ("fd00::1", 8001)}


def test_a_node_with_an_ipv6_address_may_drain() -> None:
    assert is_allowed("fd00::a", frozenset(["fd00::a"]))
    assert not is_allowed("fd00::b", frozenset(["fd00::a"]))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize(("listen", "client"), [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")])
async def test_agents_are_asked_and_ask(listen: str, client: str) -> None:
    peers: list[str] = []

    async def answer(peer: str, _: dict[str, str]) -> Answer:
        peers.append(peer)
        return Answer.text(200, "here")

    with socket.socket(socket.AF_INET6) as found:
        found.bind(("::1", 0))
        port = found.getsockname()[1]
    server = await serve(listen, port, {"/ready": answer})
    asking = Client(f"http://{client}:{port}")
    try:
        assert await asking.get("/ready") == b"here\n"
    finally:
        asking.close()
        server.close()
    assert len(peers) == 1
    assert is_allowed(peers[0], frozenset())
