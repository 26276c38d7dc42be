"""From a pretended Envoy to the answer an operator gets: which seconds are judged, and what is in them."""

import json
import re
import time
from dataclasses import replace
from urllib.parse import unquote

import pytest

from penstock_runtime.agent.observe import answer, read_since
from penstock_runtime.agent.ring import Rings
from penstock_runtime.agent.sampler import Counters, Sampler
from penstock_runtime.agent.state import RouteState, cluster_name
from penstock_runtime.agent.stats import BOUNDS, LOOK
from penstock_runtime.agent.units import Units, slow_key

START = 1_763_734_500
UID = "0a1b2c3d-1111-4000-8000-000000000000"
OTHER = "ffffffff-1111-4000-8000-000000000000"
HALF = RouteState(UID, 3, {"digits-a": 500, "digits-b": 500}, since=1.0)


class FakeRoutes(dict):
    def all(self):
        return list(self.values())


class FakeEnvoy:
    """Counters that tests move; `down` refuses, `restart` begins anew behind another connection."""

    def __init__(self):
        self.counters = {}
        self.paths = []
        self.connections = 1
        self.down = False
        self.born = time.monotonic() - 100

    def count(self, revision, *, ok=0, failed=0, kind="http", uid=UID):
        name = cluster_name(uid, revision, kind)
        one = self.counters.setdefault(name, dict.fromkeys(("total", "completed", "2xx", "5xx", "samples"), 0))
        for key, value in (
            ("total", ok + failed), ("completed", ok + failed), ("2xx", ok), ("5xx", failed), ("samples", ok + failed),
        ):  # fmt: skip
            one[key] += value

    def restart(self):
        self.counters.clear()
        self.connections += 1
        self.born = time.monotonic()

    async def get(self, path):
        self.paths.append(path)
        if self.down:
            raise ConnectionRefusedError("no Envoy")
        if path == "/server_info":
            return json.dumps({"uptime_current_epoch": f"{int(time.monotonic() - self.born)}s"}).encode()
        pattern = re.compile(unquote(path.partition("filter=")[2]))
        lines = [line for name, one in self.counters.items() for line in self._lines(name, one)]
        return "\n".join(line for line in lines if pattern.search(line.partition(": ")[0])).encode()

    async def request(self, method, path):
        self.paths.append(f"{method} {path}")
        return b"OK\n"

    def _lines(self, name, one):
        for key in ("total", "completed", "2xx", "5xx"):
            if one[key]:
                yield f"cluster.{name}.upstream_rq_{key}: {one[key]}"
        shown = " ".join(f"B{bound}(0,{one['samples'] if bound == 10 else 0})" for bound in BOUNDS)
        yield f"cluster.{name}.upstream_rq_time: {shown}"


class World:
    """One agent with a clock of its own."""

    def __init__(self, *states, units=None):
        self.envoy, self.rings = FakeEnvoy(), Rings()
        self.routes = FakeRoutes((state.uid, state) for state in states)
        self.now = START + 0.003
        self.sampler = Sampler(self.routes, self.rings, Counters(self.envoy), units, clock=lambda: self.now)

    async def second(self, after=1.0):
        self.now += after
        await self.sampler.sample()

    async def watched(self, seconds=2):
        for _ in range(seconds):
            await self.second()
        return self

    def told(self, uid=UID, since=0):
        text = answer(self.routes, self.rings, [uid], since, self.now, lambda _: {"digits-a": 2})
        return json.loads(text)["splits"].get(uid)

    def rows(self, uid=UID):
        return self.told(uid)["rows"]

    def states(self):
        return [row[1] for row in self.rows()]


def counts(requests, errors=0):
    return [requests, errors, 0, 0, [requests if bound == 10 else 0 for bound in BOUNDS] + [0]]


async def test_the_answer_is_the_contract():
    world = await World(HALF).watched()
    world.envoy.count("digits-a", ok=181)
    world.envoy.count("digits-b", ok=18, failed=1)
    await world.second()
    assert json.loads(answer(world.routes, world.rings, [UID, "unknown"], START + 2, world.now, lambda _: {})) == {
        "now": START + 3.003,
        "splits": {
            UID: {
                "generation": 3,
                "expired": False,
                "warm": {},
                "rejected": "",
                "bounds": list(BOUNDS),
                "from": START + 1,
                "states": [{"generation": 3, "weights": {"digits-a": 500, "digits-b": 500}, "shadow": None}],
                "rows": [[START + 3, 0, {"digits-a": counts(181), "digits-b": counts(19, 1)}]],
            }
        },
    }


async def test_without_since_there_are_no_rows():
    world = await World(HALF).watched()
    told = world.told(since=None)
    assert (told["rows"], told["states"], told["warm"], told["from"]) == ([], [], {"digits-a": 2}, START + 1)


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "1e400", "1e9", "", "x", "1_0", "٣", "9" * 400, "1.", " 1"])
def test_a_since_that_is_no_moment_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"since is .*; expected seconds since 1970, like 1763734500") as caught:
        read_since(text)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("text", "second"), [("0", 0), (str(START), START), (f"{START}.9", START), ("9" * 12, 10**12 - 1)]
)
def test_a_since_is_a_whole_second(text, second):
    assert read_since(text) == second


async def test_what_is_refused_or_expired_is_told():
    state = replace(HALF, rejected='no cluster "x"', expired=True, weights={"digits-a": 1000}, shadow=("digits-b", 100))
    told = (await World(state).watched()).told()
    assert (told["rejected"], told["expired"]) == ('no cluster "x"', True)
    assert told["states"] == [{"generation": 3, "weights": {"digits-a": 1000}, "shadow": ["digits-b", 100]}]


async def test_what_was_counted_before_the_agent_came_is_not_told():
    world = World(HALF)
    world.envoy.count("digits-a", ok=5000)
    await world.watched(3)
    assert world.rows() == [[START + 1, -1, {}], [START + 2, 0, {}], [START + 3, 0, {}]]


async def test_idle_models_are_not_read():
    world = World(HALF, RouteState(OTHER, 1, {"other-a": 1000}, since=1.0))
    world.envoy.count("digits-a", ok=1)
    await world.watched(12)
    del world.envoy.paths[:]
    await world.watched(3)
    assert world.envoy.paths == [LOOK] * 3
    world.envoy.count("other-a", ok=1, uid=OTHER)
    await world.second()
    assert ["ffffffff" in path for path in world.envoy.paths[3:]] == [False, True]
    assert "0a1b2c3d" not in world.envoy.paths[-1]


async def test_a_second_in_which_the_route_changed_is_not_judged():
    world = await World(HALF).watched(3)
    world.routes[UID] = replace(HALF, changing=True)
    await world.second()
    await world.second()
    world.routes[UID] = replace(HALF, generation=4, weights={"digits-a": 0, "digits-b": 1000}, since=world.now)
    await world.second()
    await world.second()
    assert world.states() == [-1, 0, 0, -1, -1, -1, 1]


async def test_a_change_and_its_return_between_two_looks_is_seen():
    world = await World(HALF).watched(3)
    world.routes[UID] = replace(HALF, since=world.now + 0.5)
    await world.watched(2)
    assert world.states() == [-1, 0, 0, -1, 0]


async def test_a_model_that_is_not_routed_is_not_judged():
    world = await World(RouteState(UID, since=1.0)).watched(3)
    assert world.states() == [-1, -1, -1]


async def test_seconds_missed_by_a_stall_are_not_judged_and_keep_their_counts_together():
    world = await World(HALF).watched(2)
    world.envoy.count("digits-a", ok=40)
    await world.second(after=4.2)
    await world.second(after=0.8)
    assert [row[1] for row in world.rows()] == [-1, 0, -1, -1, -1, -1, 0]
    assert [row[2] for row in world.rows()][5] == {"digits-a": counts(40)}


async def test_a_late_look_counts_for_its_second():
    world = await World(HALF).watched(2)
    await world.second(after=1.7)
    await world.second(after=0.3)
    assert world.states() == [-1, 0, 0, 0]


async def test_while_envoy_cannot_be_read_no_second_is_judged():
    world = await World(HALF).watched(3)
    world.envoy.down = True
    await world.watched(2)
    world.envoy.down = False
    world.envoy.count("digits-a", ok=30)
    await world.watched(2)
    assert world.states() == [-1, 0, 0, -1, -1, -1, 0]
    assert world.rows()[5][2] == {"digits-a": counts(30)}


@pytest.mark.parametrize("after", [3, 5, 9])
async def test_behind_another_envoy_everything_counts_from_0(after):
    world = await World(HALF).watched(2)
    world.envoy.count("digits-a", ok=5)
    await world.second()
    world.envoy.restart()
    world.envoy.count("digits-a", ok=after)
    await world.second()
    assert world.rows()[-1][2] == {"digits-a": counts(after)}


async def test_a_new_connection_to_the_same_envoy_changes_nothing():
    world = await World(HALF).watched(2)
    world.envoy.count("digits-a", ok=5)
    await world.second()
    world.envoy.connections += 1
    world.envoy.count("digits-a", ok=2)
    await world.second()
    assert [row[2] for row in world.rows()[-2:]] == [{"digits-a": counts(5)}, {"digits-a": counts(2)}]


async def test_a_cluster_made_again_counts_from_0():
    world = await World(HALF).watched(2)
    world.envoy.count("digits-b", ok=5)
    await world.second()
    world.envoy.counters.clear()
    await world.second()
    world.envoy.count("digits-b", ok=7)
    await world.second()
    assert world.rows()[-1][2] == {"digits-b": counts(7)}


@pytest.mark.parametrize(
    ("by", "first", "seconds"), [(-3, START + 1, 12), (-3600, START - 3590, 1), (7200, START + 5411, 1800)]
)
async def test_the_clock_is_set(by, first, seconds):
    """A little back: the same seconds come again and are waited for. Far back: history is lost. Ahead: never seen."""
    world = await World(HALF).watched(9)
    await world.second(after=1 + by)
    for _ in range(5 if by == -3 else 0):
        await world.second()
    rows = world.rows()
    assert (rows[0][0], len(rows)) == (first, seconds)
    assert [row[0] for row in rows] == list(range(rows[0][0], rows[-1][0] + 1))
    assert rows[-1][1] == (0 if by == -3 else -1)


@pytest.mark.parametrize("by", [3600, -3600])
async def test_a_clock_that_is_set_wrong_and_right_again_is_judged_by_after_two_seconds(by):
    world = await World(HALF).watched(9)
    for step in (by, -by):
        await world.second(after=1 + step)
        assert world.rows()[-1][1] == -1
        world.envoy.count("digits-a", ok=7)
        await world.watched(2)
        assert [row[1] for row in world.rows()[-2:]] == [0, 0]
        assert world.rows()[-2][2] == {"digits-a": counts(7)}
        rows = world.rows()
        assert [row[0] for row in rows] == list(range(rows[0][0], rows[-1][0] + 1)), "no hole, no second twice"
        assert rows[-1][0] == int(world.now)


@pytest.mark.parametrize(("shadow", "expected"), [(("digits-b", 100), 4), (None, 9)])
async def test_a_shadowed_revision_is_what_its_copies_say(shadow, expected):
    world = await World(replace(HALF, weights={"digits-a": 1000}, shadow=shadow)).watched()
    world.envoy.count("digits-b", ok=4, kind="shadow-http")
    world.envoy.count("digits-b", ok=9)
    await world.second()
    assert world.rows()[-1][2] == {"digits-b": counts(expected)}


async def test_both_protocols_of_a_revision_are_one():
    world = await World(HALF).watched()
    world.envoy.count("digits-a", ok=4)
    world.envoy.count("digits-a", ok=3, kind="grpc")
    await world.second()
    assert world.rows()[-1][2] == {"digits-a": counts(7)}


async def test_many_busy_models_are_read_at_once():
    uids = [f"{n:08x}-2222-4000-8000-000000000000" for n in range(60)]
    world = await World(*(RouteState(uid, 1, {"a": 1000}, since=1.0) for uid in uids)).watched()
    for uid in uids:
        world.envoy.count("a", ok=2, uid=uid)
    del world.envoy.paths[:]
    await world.second()
    assert len(world.envoy.paths) == 2
    assert [world.rows(uid)[-1][2] for uid in uids] == [{"a": counts(2)}] * 60


async def test_clients_stand_for_requests_where_routing_is_sticky(tmp_path):
    log = tmp_path / "units.log"
    world = await World(replace(HALF, sticky=True), units=Units(log)).watched()
    world.envoy.count("digits-a", ok=500, failed=40)
    line = {"cluster": cluster_name(UID, "digits-a", "http"), "unit": "bob", "status": 500, "grpc": None, "time": 3}
    log.write_text(f"{json.dumps(line)}\n" * 40)
    await world.second()
    assert world.rows()[-1][2] == {"digits-a": counts(540, 1)}


async def test_envoy_learns_what_is_slow_for_a_sticky_model(tmp_path):
    alone = replace(HALF, weights={"digits-a": 1000}, sticky=True)
    world = await World(alone, units=Units(tmp_path / "units.log")).watched()
    world.envoy.count("digits-a", ok=1000)
    await world.watched(65)
    told = [path for path in world.envoy.paths if path.startswith("POST")]
    assert told == [f"POST /runtime_modify?{slow_key(UID)}=20"]
    world.envoy.connections += 1
    await world.watched(2)
    assert len([path for path in world.envoy.paths if path.startswith("POST")]) == 2


async def test_a_long_answer_is_cheap():
    """900 rows of two revisions in less than 20 ms, for a budget of 5 in practice."""
    world = World(HALF)
    for n in range(900):
        world.rings.open(START + n)
        world.rings.write(UID, '{"generation":3}', f'{{"a":{json.dumps(counts(n))},"b":{json.dumps(counts(n))}}}')
        world.rings.tidy(frozenset([UID]))
    best = min(_timed(world) for _ in range(5))
    assert len(world.rows()) == 900
    assert best < 0.02


def _timed(world):
    began = time.perf_counter()
    answer(world.routes, world.rings, [UID], 0, world.now, lambda _: {})
    return time.perf_counter() - began
