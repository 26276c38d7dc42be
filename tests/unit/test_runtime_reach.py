"""Which addresses are spoken to, whatever a name or a redirect says."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.reach import EVERYWHERE, Forbidden, Network, Reach, Request, reach_of

NEVER = (
    "169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1",
    "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
)  # fmt: skip
INSIDE = {
    "127.0.0.1": Reach.LOOPBACK, "127.9.9.9": Reach.LOOPBACK, "::1": Reach.LOOPBACK, "::ffff:127.0.0.1": Reach.LOOPBACK,
    "10.0.0.1": Reach.PRIVATE, "192.168.1.1": Reach.PRIVATE, "172.16.0.1": Reach.PRIVATE, "100.64.0.1": Reach.PRIVATE,
    "fd00::1": Reach.PRIVATE, "64:ff9b::a00:1": Reach.PRIVATE, "::ffff:10.0.0.1": Reach.PRIVATE,
    "8.8.8.8": Reach.PUBLIC, "2606:4700::1": Reach.PUBLIC, "64:ff9b::808:808": Reach.PUBLIC,
}  # fmt: skip


@pytest.mark.parametrize("address", NEVER)
def test_the_nodes_own_services_are_never_spoken_to(address: str) -> None:
    assert reach_of(address) is None
    with pytest.raises(Forbidden, match="never asked for content"):
        EVERYWHERE.check("name", address, Reach.LOOPBACK)


@pytest.mark.parametrize(("address", "reach"), INSIDE.items())
def test_how_far_inside(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


@given(st.ip_addresses(), st.sampled_from(Reach))
def test_nothing_is_reached_that_is_further_inside_than_allowed(address: Any, furthest: Reach) -> None:
    reach = reach_of(str(address))
    if reach is not None and reach <= furthest:
        assert EVERYWHERE.check("name", str(address), furthest) is reach
    else:
        with pytest.raises(Forbidden):
            EVERYWHERE.check("name", str(address), furthest)


def test_an_admitted_address_is_that_one_alone() -> None:
    network = EVERYWHERE.admitting(["169.254.170.2"])
    assert network.check("agent", "169.254.170.2", Reach.LOOPBACK) is Reach.PRIVATE
    with pytest.raises(Forbidden):
        network.check("agent", "169.254.169.254", Reach.LOOPBACK)


def answers(*addresses: str) -> Callable[..., list[Any]]:
    return lambda host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]


def test_a_name_with_one_bad_address_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("127.0.0.1", "169.254.169.254"))
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it connected"))
    with pytest.raises(Forbidden):
        EVERYWHERE.connect(("friendly.example", 80), 1, Request("http://friendly.example/"))
    with pytest.raises(Forbidden):
        EVERYWHERE.check_named("friendly.example")


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers differently the second time gains nothing: there is no second time."""
    seen: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", answers("8.8.8.8"))
    monkeypatch.setattr(socket, "create_connection", lambda where, timeout: seen.append(where))
    request = Request("https://friendly.example/")
    EVERYWHERE.connect(("friendly.example", 443), 1, request)
    assert seen == [("8.8.8.8", 443)]
    assert request.reached is Reach.PUBLIC


def test_a_proxys_own_address_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.9"))
    monkeypatch.setattr(socket, "create_connection", lambda where, timeout: where)
    request = Request("http://friendly.example/")
    request.furthest = Reach.PUBLIC
    request.set_proxy("proxy:3128", "http")
    assert EVERYWHERE.connect(("proxy", 3128), 1, request)
    assert request.reached is Reach.PUBLIC, "what lies behind a proxy counts as outside"
    for host in ("10.0.0.1", "167772161", "0x0a000001", "10.1", "::ffff:10.0.0.1"):
        with pytest.raises(Forbidden):
            Network().check_literal(host, Reach.PUBLIC)
    for host in ("friendly.example", "10.example", "1.2.3.4.5"):
        Network().check_literal(host, Reach.PUBLIC)
