"""Clients of sticky models: each counted once, forgotten when it has to be, and never written down."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_runtime.agent.ring import KEPT
from penstock_runtime.agent.state import RouteState
from penstock_runtime.agent.stats import BOUNDS
from penstock_runtime.agent.units import NOBODY, SLOW, Units, access_log, slow_key, unit_rules

UID = "0a1b2c3d-1111-4000-8000-000000000000"


def route(**weights):
    return RouteState(UID, 1, weights, sticky=True)


BOTH = route(a=900, b=100)


def line(unit="bob", revision="a", status=500, grpc=None, time=3, kind="http", uid=UID):
    told = {"cluster": f"{uid[:8]}/{revision}/{kind}", "unit": unit, "status": status, "grpc": grpc, "time": time}
    return f"{json.dumps(told)}\n"


class Log:
    """Envoy's side of the file."""

    def __init__(self, folder):
        self.path = folder / "units.log"
        self.path.touch()
        self.units = Units(self.path)

    def write(self, *lines):
        with self.path.open("a") as file:
            file.writelines(lines)

    def take(self, *lines, state=BOTH):
        self.write(*lines)
        self.units.poll([state])
        return self.units.take(UID)


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def test_a_client_that_always_fails_is_one(log):
    assert log.take(*[line()] * 40) == {"a": (1, 0, 0)}
    assert log.take(*[line()] * 40) == {}


def test_it_is_another_for_another_revision_or_reason(log):
    assert log.take(line(), line(revision="b"), line(status=404), line(time=None)) == {"a": (1, 1, 1), "b": (1, 0, 0)}


def test_who_has_no_name_is_somebody_new_each_time(log):
    assert log.take(*[line(NOBODY)] * 3, line(unit=None)) == {"a": (4, 0, 0)}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"status": 503}, (1, 0, 0)),
        ({"status": 429}, (0, 1, 0)),
        ({"status": 0, "time": None}, (0, 0, 1)),
        ({"status": 504, "time": None}, (1, 0, 1)),
        ({"status": 200, "time": SLOW}, None),
        ({"status": 200, "time": SLOW + 1}, (0, 0, 1)),
        ({"status": 200, "grpc": 14, "kind": "grpc"}, (1, 0, 0)),
        ({"status": 200, "grpc": "13", "kind": "grpc"}, (1, 0, 0)),
        ({"status": 200, "grpc": 3, "kind": "grpc"}, (0, 1, 0)),
        ({"status": 200, "grpc": 0, "kind": "grpc"}, None),
        ({"status": 503, "grpc": 14, "kind": "grpc", "time": None}, (1, 0, 1)),
        ({"status": 200, "grpc": "-"}, None),
        ({"uid": "ffffffff"}, None),
    ],
)
def test_reasons(log, fields, counts):
    assert log.take(line(**fields)).get("a") == counts


def test_a_weight_that_grows_forgets_nobody_and_a_candidate_that_comes_or_goes_everybody(log):
    assert log.take(line(), state=route(a=1000)) == {"a": (1, 0, 0)}
    assert log.take(line(), state=route(a=1000, b=0)) == {}
    assert log.take(line(), state=route(a=900, b=100)) == {"a": (1, 0, 0)}
    assert log.take(line(), state=route(a=500, b=500)) == {}
    assert log.take(line(), state=route(a=1000)) == {"a": (1, 0, 0)}


def test_where_nothing_is_compared_clients_are_forgotten_every_half_hour(log):
    alone = route(a=1000)
    counted = [bool(log.take(line(), state=alone)) for _ in range(KEPT + 2)]
    assert [second for second, found in enumerate(counted) if found] == [0, KEPT]


def test_other_models_are_not_kept(log):
    log.take(line())
    log.units.poll([])
    assert log.take(line()) == {"a": (1, 0, 0)}


def test_lines_may_come_in_pieces_and_damaged(log):
    text = line()
    assert log.take("nonsense\n", "[]\n", '{"cluster":null}\n', text[:20]) == {}
    assert log.take(text[20:]) == {"a": (1, 0, 0)}


def test_the_file_is_emptied_and_remembers_nobody(log):
    log.take(line("carol"))
    assert log.path.read_bytes() == b""
    assert "carol" not in repr(vars(log.units))


def test_what_an_earlier_agent_left_is_not_counted(log):
    log.write(line())
    log.units = Units(log.path)
    assert log.take() == {}


def test_without_a_file_there_is_nobody(tmp_path):
    units = Units(tmp_path / "none")
    units.poll([BOTH])
    assert units.take(UID) == {}


def test_each_agent_has_a_key_of_its_own(tmp_path):
    bits = []
    for _ in range(2):
        log = Log(tmp_path)
        log.take(line())
        bits.append(bytes(log.units._models[UID[:8]].seen["a", "failed"]))
    assert bits[0] != bits[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([f"user-{n}" for n in range(30)]), max_size=80))
def test_distinct_clients(tmp_path_factory, names):
    log = Log(tmp_path_factory.mktemp("log"))
    log.units._key = b"fixed"
    found = log.take(*[line(name) for name in names]).get("a", (0, 0, 0))
    assert found[0] == len(set(names))


def test_six_thousand_clients_are_hardly_fewer(log):
    log.units._key = b"fixed"
    found = log.take(*[line(f"user-{n}") for n in range(6000)])["a"][0]
    assert 5940 < found <= 6000


def test_what_is_slow_is_learned_from_the_revision_that_serves_alone(log):
    alone = route(a=1000)
    log.take(state=alone)
    times = [0] * (len(BOUNDS) + 1)
    times[BOUNDS.index(5)], times[BOUNDS.index(30)] = 930, 70
    log.units.learn(UID, times)
    for _ in range(60):
        log.take(state=alone)
    assert (log.units.slow(UID), log.units.thresholds()) == (70, {slow_key(UID): 70})
    assert log.take(line(status=200, time=80), state=alone) == {"a": (0, 0, 1)}


def test_what_is_slow_stays_while_two_are_compared(log):
    log.take(state=BOTH)
    log.units.learn(UID, [1000] + [0] * len(BOUNDS))
    for _ in range(120):
        log.take(state=BOTH)
    assert log.units.slow(UID) == SLOW


def test_envoy_is_told_where_names_are():
    (name, rules), *_ = unit_rules(cookie="session").items()
    assert name == "envoy.filters.http.header_to_metadata"
    assert rules["request_rules"][0]["cookie"] == "session"
    assert "header" not in rules["request_rules"][0]


def test_envoy_logs_nothing_of_the_request_but_the_client(tmp_path):
    fields = access_log(UID, tmp_path / "x")["typed_config"]["log_format"]["json_format"]
    assert set(fields) == {"cluster", "unit", "status", "grpc", "time"}
