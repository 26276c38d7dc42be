"""Answers of router agents: taken whole, or refused by the first field that is not what it should be."""

import json
from typing import Any

import pytest

from penstock.core.fleet import RevisionCounts
from penstock.probes.answers import PodAnswer, RouteState, parse_answer


def split(**changes: Any) -> dict[str, Any]:
    found = {
        "generation": 17,
        "expired": False,
        "warm": {"digits-a": 2},
        "rejected": "",
        "bounds": [1, 2],
        "from": 900,
        "states": [{"generation": 17, "weights": {"digits-a": 900, "digits-b": 100}, "shadow": ["digits-b", 5]}],
        "rows": [[998, 0, {"digits-a": [7, 1, 2, 0, [4, 3, 0]]}], [999, -1, {}], [1000, 0, {}]],
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def answer(*splits: dict[str, Any], now: Any = 1000.12) -> bytes:
    return json.dumps({"now": now, "splits": {f"uid-{index}": item for index, item in enumerate(splits)}}).encode()


def test_a_whole_answer() -> None:
    found = parse_answer(answer(split()))
    told = found.splits["uid-0"]
    state = RouteState(17, {"digits-a": 900, "digits-b": 100}, ("digits-b", 5), (1, 2))
    assert (found.now, told.generation, told.first, told.warm) == (1000.12, 17, 900, {"digits-a": 2})
    assert [(row.second, row.state) for row in told.rows] == [(998, state), (999, None), (1000, state)]
    assert told.rows[0].counts == {"digits-a": RevisionCounts(7, 1, 2, 0, (4, 3, 0))}


def test_without_since_there_are_no_rows_and_no_ring() -> None:
    told = parse_answer(answer(split(bounds=None, states=None, rows=None, **{"from": None}))).splits["uid-0"]
    assert (told.generation, told.rows) == (17, ())


def test_no_models_is_an_answer_too() -> None:
    assert parse_answer(b'{"now": 5, "splits": {}}') == PodAnswer(5.0)


BAD: dict[str, bytes] = {
    "a generation that status cannot hold": answer(split(generation=2**53 + 1)),
    "a count beyond all requests": answer(split(rows=[[998, 0, {"digits-a": [10**300, 0, 0, 0, []]}]])),
    "no json": b"<html>",
    "no object": b"[]",
    "no now": b'{"splits": {}}',
    "a now that is none": b'{"now": NaN, "splits": {}}',
    "an endless now": b'{"now": Infinity, "splits": {}}',
    "a true now": b'{"now": true, "splits": {}}',
    "a split that is none": b'{"now": 5, "splits": {"u": 5}}',
    "deep": b'{"now": 5, "splits": ' + b"[" * 100_000,
    "cut short": answer(split())[:-20],
    "generation of text": answer(split(generation="17")),
    "negative generation": answer(split(generation=-1)),
    "expired of text": answer(split(expired="no")),
    "weights that are none": answer(split(states=[{"generation": 1, "weights": [1]}])),
    "a shadow of one": answer(split(states=[{"generation": 1, "weights": {}, "shadow": ["x"]}])),
    "an unknown state": answer(split(rows=[[998, 1, {}]])),
    "a state below": answer(split(rows=[[998, -2, {}]])),
    "a fractional second": answer(split(rows=[[998.5, 0, {}]])),
    "backwards": answer(split(rows=[[999, 0, {}], [998, 0, {}]])),
    "twice": answer(split(rows=[[999, 0, {}], [999, 0, {}]])),
    "a second to come": answer(split(rows=[[1010, 0, {}]])),
    "counts of three": answer(split(rows=[[999, 0, {"digits-a": [1, 2, 3]}]])),
    "negative counts": answer(split(rows=[[999, 0, {"digits-a": [1, -2, 3, 0, []]}]])),
    "other buckets": answer(split(rows=[[999, 0, {"digits-a": [1, 0, 0, 0, [1, 0]]}]])),
    "too many revisions": answer(split(warm={f"digits-{n}": 1 for n in range(17)})),
    "too many rows": answer(split(rows=[[n, 0, {}] for n in range(1, 4002)]), now=1e6),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_anything_else_is_refused_whole(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own errors are ValueErrors too
        parse_answer(body)
