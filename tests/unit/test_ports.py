"""Ports of models: one each, kept, and never two at one, whatever the cache says when."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.router import FIRST_PORT, LAST_PORT
from penstock.controller.ports import NoPortLeft, PortBook
from penstock.core.names import ObjectKey
from penstock.kube.cache import Cache

NAMES = "abcdef"


def split(name: str, port: int, *, router: str = "default", uid: str = "", version: int = 1) -> dict[str, Any]:
    uid = uid or f"uid-of-{name}"
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "TrafficSplit",
        "metadata": {"name": name, "namespace": "ns", "uid": f"split-{name}", "resourceVersion": str(version)},
        "spec": {"router": router, "port": port, "deploymentUid": uid},
    }


def cached(*splits: dict[str, Any]) -> Cache:
    cache = Cache()
    for item in splits:
        cache.put(item)
    return cache


def test_the_lowest_free_port_is_given_and_kept() -> None:
    book = PortBook(cached(split("old", FIRST_PORT), split("older", FIRST_PORT + 2)))
    assert book.port_for(("ns", "a"), "default") == FIRST_PORT + 1
    assert book.port_for(("ns", "b"), "default") == FIRST_PORT + 3
    assert book.port_for(("ns", "a"), "default") == FIRST_PORT + 1
    assert book.port_for(("ns", "old"), "default") == FIRST_PORT


def test_routers_and_namespaces_have_ports_of_their_own() -> None:
    book = PortBook(cached(split("old", FIRST_PORT)))
    assert book.port_for(("ns", "a"), "other") == FIRST_PORT
    assert book.port_for(("elsewhere", "a"), "default") == FIRST_PORT


def test_a_port_that_was_promised_is_free_again_when_its_model_is_gone() -> None:
    book = PortBook(Cache())
    assert book.port_for(("ns", "a"), "default") == FIRST_PORT
    book.forget(("ns", "a"))
    assert book.port_for(("ns", "b"), "default") == FIRST_PORT


def test_a_stored_port_counts_more_than_a_promised_one() -> None:
    cache = Cache()
    book = PortBook(cache)
    assert book.port_for(("ns", "a"), "default") == FIRST_PORT
    cache.put(split("b", FIRST_PORT))
    assert book.port_for(("ns", "a"), "default") == FIRST_PORT + 1


def test_a_model_that_moves_keeps_its_port_where_it_can() -> None:
    book = PortBook(cached(split("a", FIRST_PORT + 5, router="old")))
    assert book.port_for(("ns", "a"), "new") == FIRST_PORT + 5


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_restored_splits_with_one_port_the_lower_uid_keeps_it(order: tuple[str, str]) -> None:
    book = PortBook(cached(split("a", FIRST_PORT, uid="2"), split("b", FIRST_PORT, uid="1")))
    found = {name: book.port_for(("ns", name), "default") for name in order}
    assert found == {"b": FIRST_PORT, "a": FIRST_PORT + 1}


def test_one_port_that_somebody_has_edited_makes_two_models_swap_theirs() -> None:
    """So routers have to be able to (tests/integration/test_router_swap.py)."""
    cache = cached(split("a", FIRST_PORT, uid="1"), split("b", FIRST_PORT + 1, uid="2"))
    book = PortBook(cache)
    assert [book.port_for(("ns", name), "default") for name in "ab"] == [FIRST_PORT, FIRST_PORT + 1]
    cache.put(split("a", FIRST_PORT + 1, uid="1", version=2))
    assert [book.port_for(("ns", name), "default") for name in "ab"] == [FIRST_PORT + 1, FIRST_PORT]


def test_no_port_left() -> None:
    full = [split(f"m{port}", port) for port in range(FIRST_PORT, LAST_PORT + 1)]
    book = PortBook(cached(*full))
    with pytest.raises(NoPortLeft, match="Router ns/default has no port left"):
        book.port_for(("ns", "a"), "default")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(("ask", "store", "delete"))), max_size=40))
def test_whatever_happens_no_two_models_are_told_the_same_port(moves: list[tuple[str, str]]) -> None:
    cache, told = Cache(), dict[str, int]()
    book = PortBook(cache)
    for version, (name, move) in enumerate(moves, 1):
        if move == "ask":
            told[name] = book.port_for(("ns", name), "default")
        elif move == "store" and name in told:
            cache.put(split(name, told[name], version=version))
        elif move == "delete":
            cache.forget(ObjectKey("TrafficSplit", "ns", name), "")
            book.forget(("ns", name))
            told.pop(name, None)
        assert len(set(told.values())) == len(told)
        assert {name: book.port_for(("ns", name), "default") for name in told} == told
