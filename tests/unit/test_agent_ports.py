"""Ports of models that are exchanged: who may have which, and in how many steps Envoy can be told."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.agent.ports import next_step

from .test_agent_files import FakeClock, book
from .test_agent_render import spec

NAMES = "abcdef"


def uid(name: str) -> str:
    return f"{ord(name):08x}-0000-4000-8000-000000000000"


def at(name: str, port: int, generation: int = 1) -> dict[str, object]:
    return spec(deployment=name, deploymentUid=uid(name), port=port, generation=generation)


def listener(port: int) -> str:
    return json.dumps({"address": {"socket_address": {"port_value": port}}})


EXCHANGES = {
    "two swap": {"a": 2, "b": 1},
    "three rotate": {"a": 2, "b": 3, "c": 1},
    "one goes, two follow": {"a": 2, "b": 3, "c": 9},
    "two swap and one waits for both": {"a": 2, "b": 1, "c": 3, "d": 8},
}


@pytest.mark.parametrize("case", EXCHANGES)
@pytest.mark.parametrize("backwards", [False, True])
def test_models_that_exchange_their_ports_end_as_their_splits_say(tmp_path: Path, case: str, backwards: bool) -> None:
    made = book(tmp_path, FakeClock())
    for port, name in enumerate("abcd", 1):
        made.put(name, at(name, port))
    for name in sorted(EXCHANGES[case], reverse=backwards):
        made.put(name, at(name, EXCHANGES[case][name], 2))
    assert {split.name: split.port for split in made.splits.values()} == {"a": 1, "b": 2, "c": 3, "d": 4} | EXCHANGES[
        case
    ]
    assert made.refused == {}
    again = book(tmp_path, FakeClock())
    assert (again.splits, again.refused) == (made.splits, {}), "and a new process takes up the same"


def test_who_wants_the_port_of_one_that_stays_waits_for_it(tmp_path: Path) -> None:
    made = book(tmp_path, FakeClock())
    for port, name in enumerate("ab", 1):
        made.put(name, at(name, port))
    made.put("a", at("a", 2, 2))
    made.put("b", at("b", 0, 2))
    assert set(made.refused) == {uid("a"), uid("b")}, "b is malformed, and stays where it is"
    assert "port 2 belongs to TrafficSplit b" in made.refused[uid("a")]
    made.put("b", at("b", 1, 3))
    assert (made.splits[uid("a")].port, made.splits[uid("b")].port, made.refused) == (2, 1, {})


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 5), st.booleans()), max_size=30))
def test_whatever_comes_no_port_has_two_models_and_nobody_waits_for_nothing(moves: list[tuple[str, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        made = book(Path(folder), FakeClock())
        wished: dict[str, int] = {}
        for generation, (name, port, stays) in enumerate(moves, 1):
            if stays:
                wished[name] = port
                made.put(name, at(name, port, generation))
            else:
                wished.pop(name, None)
                made.remove(name)
            ports = {split.name: split.port for split in made.splits.values()}
            assert len(set(ports.values())) == len(ports)
            waiting = {name for name in wished if ports.get(name) != wished[name]}
            assert {uid(name) for name in waiting} == set(made.refused)
            assert all(wished[name] in ports.values() for name in waiting)
            if len(set(wished.values())) == len(wished):
                assert not waiting


class Envoy:
    """Takes a document as Envoy does: first what goes, then one by one; a port that another has is refused."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports, self.refusals = ports, 0

    def take(self, document: dict[str, str]) -> None:
        self.ports = {name: port for name, port in self.ports.items() if name in document}
        for name, text in document.items():
            port = json.loads(text)["address"]["socket_address"]["port_value"]
            if port in [other for owner, other in self.ports.items() if owner != name]:
                self.refusals += 1
            else:
                self.ports[name] = port


layouts = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 8)).filter(
    lambda ports: len(set(ports.values())) == len(ports)
)


@given(layouts, layouts, st.lists(st.booleans(), max_size=6), st.booleans())
def test_envoy_comes_to_any_layout_of_ports_without_a_refusal(
    before: dict[str, int],
    after: dict[str, int],
    late: list[bool],
    restarted: bool,
) -> None:
    """Also where it is slow to take a document, and behind an agent that knows nothing but the documents."""
    envoy, listening = Envoy(dict(before)), None if restarted else dict(before)
    parts = {name: listener(port) for name, port in before.items()}
    wanted = {name: listener(port) for name, port in after.items()}
    bystanders = {name for name, port in after.items() if before.get(name) == port}
    for _ in range(2 * len(NAMES) + len(late) + restarted):
        parts = next_step(wanted, parts, listening)
        if late and late.pop():
            continue
        envoy.take(parts)
        listening = dict(envoy.ports)
        assert bystanders <= envoy.ports.keys()
    assert (envoy.ports, envoy.refusals) == (after, 0)


def test_who_can_wait_keeps_its_port_until_the_other_has_moved() -> None:
    parts, wanted = {"a": listener(1), "b": listener(2)}, {"a": listener(3), "b": listener(1)}
    first = next_step(wanted, parts, {"a": 1, "b": 2})
    assert first == {"a": listener(3), "b": listener(2)}
    assert next_step(wanted, first, {"a": 1, "b": 2}) == first, "Envoy has not taken it yet"
    assert next_step(wanted, first, {"a": 3, "b": 2}) == wanted
