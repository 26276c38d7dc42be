"""The last half hour, second by second: contiguous, small, and what was never seen is never told as idle."""

import random
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.agent.ring import KEPT, Rings, Row

START = 1_763_734_500


def rows(rings, uid="u", after=0):
    return list(rings.rows(uid, after))


def test_idle_seconds_are_rows_too():
    rings = Rings()
    for second in range(START, START + 5):
        rings.open(second)
        rings.write("u", "route", '{"a":[1]}' if second == START + 2 else "{}")
    assert rows(rings) == [Row(START + n, "route", '{"a":[1]}' if n == 2 else "{}") for n in range(5)]


@pytest.mark.parametrize("after", [START - 100, START + 1, START + 1000])
def test_rows_come_after_what_is_known(after):
    rings = Rings()
    for second in range(START, START + 200):
        rings.open(second)
        rings.write("u", "route", f'{{"{second}":1}}')
    assert [row.second for row in rows(rings, after=after)] == list(range(max(START, after + 1), START + 200))
    assert all(f'"{row.second}"' in row.counts for row in rows(rings, after=after))


def test_seconds_that_were_missed_have_no_route():
    rings = Rings()
    for second in (START, START + 1, START + 5, START + 6):
        rings.open(second, judged=second != START + 5)
        rings.write("u", "route", "{}")
    assert [row.state for row in rows(rings)] == ["route", "route", None, None, None, None, "route"]


def test_a_change_of_route_inside_a_second():
    rings = Rings()
    for n, state in enumerate(["one", None, "two", "two", None, None, "one"]):
        rings.open(START + n)
        rings.write("u", state)
    assert [row.state for row in rows(rings)] == ["one", None, "two", "two", None, None, "one"]


def test_only_the_last_half_hour_is_kept():
    rings = Rings()
    for second in range(START, START + 2 * KEPT):
        rings.open(second)
        rings.write("u", "old" if second < START + 1000 else "new", f'{{"{second}":1}}')
        rings.tidy(frozenset("u"))
    found = rows(rings)
    assert rings.reach("u") == found[0].second == START + KEPT
    assert len(found) == KEPT
    assert {row.state for row in found} == {"new"}
    assert all(f'"{row.second}"' in row.counts for row in found)


def test_a_model_that_came_later_answers_from_then_on():
    rings = Rings()
    for second in range(START, START + 10):
        rings.open(second)
        rings.write("u", "route")
        if second >= START + 7:
            rings.write("v", "route")
    assert (rings.reach("u"), rings.reach("v")) == (START, START + 7)
    assert [row.second for row in rows(rings, "v")] == [START + 7, START + 8, START + 9]


def test_unknown_and_forgotten_models():
    rings = Rings()
    rings.open(START)
    rings.write("u", "route")
    rings.tidy(frozenset())
    assert rows(rings) == [] == rows(rings, "v")
    assert rings.reach("u") == START + 1
    assert len(rings) == 0


def test_a_second_is_written_once():
    rings = Rings()
    rings.open(START)
    with pytest.raises(ValueError, match=f"second {START} comes after {START}"):
        rings.open(START)
    rings.clear()
    rings.open(START - 50)
    assert (rings.first, rings.last) == (START - 50, START - 50)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.sampled_from(["{}", '{"a":1}'])), max_size=60))
def test_rows_are_contiguous_whatever_was_missed(steps):
    rings, told, second = Rings(), {}, START
    for step, judged, counts in steps:
        second += step
        rings.open(second, judged=judged)
        rings.write("u", "route", counts)
        rings.tidy(frozenset("u"))
        told[second] = ("route" if judged else None, counts)
    found = rows(rings)
    if steps:
        assert [row.second for row in found] == list(range(rings.first, rings.last + 1))
    assert {row.second: (row.state, row.counts) for row in found} == {
        second: told.get(second, (None, "{}")) for second in (row.second for row in found)
    }


def test_half_an_hour_of_a_busy_model_is_small():
    """200 of them, two revisions each with 15 buckets in use, stay below 20 MiB."""
    chance = random.Random(7)
    texts = [
        ",".join(f'"digits-{name}":[{chance.randint(90, 110)},0,0,0,[{counts()}]]' for name in ("5b8d0c11", "7c9f41d2"))
        for counts in [lambda: ",".join(str(chance.randint(0, 15)) for _ in range(25))] * KEPT
    ]
    tracemalloc.start()
    rings = Rings()
    for n, text in enumerate(texts):
        rings.open(START + n)
        rings.write("u", "route", f"{{{text}}}")
        rings.tidy(frozenset("u"))
    del text
    size = tracemalloc.get_traced_memory()[0] - sum(map(sys.getsizeof, ()))
    tracemalloc.stop()
    assert size < 150_000
