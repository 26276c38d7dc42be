"""Envoy's text to readings, and readings to what happened: nothing twice, nothing lost, nothing negative."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.agent.stats import BOUNDS, LOOK, Counts, Meter, Reading, cluster_of, parse, read_path


def buckets(**counts):
    """By upper bound: `buckets(b10=3)`."""
    return tuple(counts.get(f"b{bound}", 0) for bound in BOUNDS)


def histogram(counts):
    return " ".join(f"B{bound}(0,{count})" for bound, count in zip(BOUNDS, counts, strict=True))


TEXT = f"""cluster.0a1b2c3d/digits-1/http.upstream_rq_2xx: 7
cluster.0a1b2c3d/digits-1/http.upstream_rq_5xx: 3
cluster.0a1b2c3d/digits-1/http.upstream_rq_active: 2
cluster.0a1b2c3d/digits-1/http.upstream_rq_completed: 10
cluster.0a1b2c3d/digits-1/http.upstream_rq_pending_failure_eject: 1
cluster.0a1b2c3d/digits-1/http.upstream_rq_total: 12
cluster.0a1b2c3d/digits-1/http.upstream_cx_none_healthy: 4
cluster.0a1b2c3d/digits-1/grpc.grpc.13: 1
cluster.0a1b2c3d/digits-1/grpc.grpc.inference.GRPCInferenceService.ModelInfer.0: 9
cluster.0a1b2c3d/digits-1/grpc.grpc.inference.GRPCInferenceService.ModelInfer.1: 6
cluster.0a1b2c3d/digits-1/grpc.grpc.inference.GRPCInferenceService.ModelInfer.14: 2
cluster.0a1b2c3d/digits-1/grpc.grpc.inference.GRPCInferenceService.ModelInfer.3: 4
cluster.0a1b2c3d/digits-1/grpc.grpc.inference.GRPCInferenceService.ModelInfer.10: 5
cluster.0a1b2c3d/digits-1/http.upstream_rq_time: {histogram(buckets(b5=6, b700=1))}
cluster.0a1b2c3d/digits-1/grpc.upstream_rq_time: No recorded values
"""


def test_text_becomes_readings_by_cluster():
    assert parse(TEXT.encode()) == {
        "0a1b2c3d/digits-1/http": Reading(
            total=12, completed=10, active=2, refused=1, hostless=4, ok=7, server_errors=3,
            buckets=buckets(b5=6, b700=1),
        ),
        "0a1b2c3d/digits-1/grpc": Reading(grpc_errors=3, grpc_client_errors=4, grpc_cancelled=6),
    }  # fmt: skip


def test_no_text_is_no_reading():
    assert parse(b"") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cluster.a/b/http.upstream_rq_time: B1(0,1) B2(0,0)", f"2 buckets, expected {len(BOUNDS)}"),
        (b"cluster.a/b/http.upstream_rq_total: many", "invalid literal"),
        (b"<html>", "not enough values"),
    ],
)
def test_what_is_not_envoys_text_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    ("path", "line", "matches"),
    [
        (LOOK, "cluster.0a1b2c3d/digits-1/http.upstream_rq_total", True),
        (LOOK, "cluster.0a1b2c3d/digits-1/shadow-grpc.upstream_rq_completed", True),
        (LOOK, "cluster.admin.upstream_rq_total", False),
        (LOOK, "cluster.0a1b2c3d/digits-1/http.external.upstream_rq_completed", False),
        (read_path(), "cluster.0a1b2c3d/digits-1/http.upstream_rq_time", True),
        (read_path(), "cluster.0a1b2c3d/digits-1/http.external.upstream_rq_time", False),
        (read_path(), "cluster.0a1b2c3d/digits-1/http.membership_healthy", False),
        (read_path(["0a1b2c3d"]), "cluster.0a1b2c3d/digits-1/grpc.grpc.S.ModelInfer.13", True),
        (read_path(["0a1b2c3d"]), "cluster.0a1b2c3d/digits-1/grpc.grpc.S.ModelInfer.success", False),
        (read_path(["0a1b2c3d"]), "cluster.0a1b2c3e/digits-1/http.upstream_rq_total", False),
        (read_path(["0a1b2c3d", "0a1b2c3e"]), "cluster.0a1b2c3e/digits-1/http.upstream_rq_total", True),
    ],
)
def test_only_what_is_needed_is_asked_for(path, line, matches):
    assert bool(re.search(unquote(path.partition("filter=")[2]), line)) == matches


def test_the_cluster_of_a_line():
    assert cluster_of(b"cluster.0a1b2c3d/digits-1/http.upstream_rq_total: 5") == "0a1b2c3d/digits-1/http"


def read_all(meter, *readings):
    total = Counts()
    for reading in readings:
        total += meter.advance(reading)
    return total


def answers(count, **more):
    return Reading(total=count, completed=count, ok=count, buckets=buckets(b5=count), **more)


@pytest.mark.parametrize(
    ("reading", "expected", "shadow"),
    [
        (answers(5), (5, 0, 0, 0, 0), False),
        (Reading(total=2, completed=2, server_errors=2, timed_out=2), (2, 2, 0, 0, 2), False),
        (Reading(completed=3, server_errors=3, refused=3), (3, 3, 0, 0, 3), False),
        (Reading(completed=3, server_errors=3, refused=6, retried=3), (3, 3, 0, 0, 3), False),
        (Reading(completed=3, server_errors=3, hostless=3), (3, 3, 0, 0, 3), False),
        (Reading(completed=3, server_errors=3, overflowed=3), (3, 3, 0, 0, 3), False),
        (Reading(completed=3, server_errors=3, overflowed=3), (0, 0, 0, 0, 0), True),
        (Reading(total=4), (4, 0, 0, 4, 4), False),
        (Reading(total=4, active=4), (0, 0, 0, 0, 0), False),
        (answers(3, grpc_errors=2), (3, 2, 0, 0, 0), False),
        (Reading(completed=2, server_errors=2, refused=2, grpc_errors=2), (2, 2, 0, 0, 2), False),
        (answers(3, grpc_cancelled=1), (3, 0, 0, 1, 0), False),
        (answers(3, grpc_client_errors=2), (3, 0, 2, 0, 0), False),
    ],
)
def test_every_end_of_a_request_is_told_once(reading, expected, shadow):
    meter = Meter(shadow=shadow)
    told = read_all(meter, *[reading] * 6)
    assert (told.requests, told.errors, told.client_errors, told.aborted, told.latency[-1]) == expected
    assert sum(told.latency) == told.requests
    assert not meter.advance(reading)


def test_a_late_histogram_makes_nobody_slow():
    counted = Reading(total=9, completed=9, ok=9)
    shown = answers(9)
    told = read_all(Meter(), counted, counted, shown, shown, shown, shown)
    assert told == Counts(9, latency=(*buckets(b5=9), 0))


def test_an_answer_that_never_comes_into_the_histogram_is_slow_in_the_end():
    meter, lost = Meter(), Reading(total=2, completed=2, server_errors=2)
    assert meter.advance(lost).latency[-1] == 0
    assert read_all(meter, lost, lost, lost).latency[-1] == 2


def test_a_request_that_just_began_is_no_abort():
    meter = Meter()
    meter.advance(answers(50))
    torn = Reading(total=52, completed=50, ok=50, active=0, buckets=buckets(b5=50))
    assert meter.advance(torn) == Counts()
    assert read_all(meter, answers(52), answers(52)) == Counts(2, latency=(*buckets(b5=2), 0))


def test_many_aborts_are_told_at_once_but_for_the_last_two():
    meter, hung = Meter(), Reading(total=40)
    assert meter.advance(hung).aborted == 38
    assert meter.advance(hung).aborted == 2


def test_answers_being_streamed_hide_aborts_until_they_end():
    meter = Meter()
    during = Reading(total=9, completed=3, ok=3, active=3)
    ended = Reading(total=9, completed=3, ok=3, buckets=buckets(b30000=3))
    assert read_all(meter, during, during).aborted == 3
    assert read_all(meter, ended, ended).aborted == 3


@pytest.mark.parametrize("after", [3, 11])
def test_a_counter_that_shrinks_starts_from_0(after):
    meter = Meter()
    meter.advance(answers(10, refused=5, retried=5))
    assert meter.advance(answers(after)).requests == after


REQUEST = st.sampled_from(
    ["ok", "500", "404", "timeout", "refused", "retried", "hostless", "overflow", "gone", "reset"]
)


def happen(reading, kind):
    """The counters of the table in facts/traffic.md §2.2; returns whether the histogram gets a sample."""
    moves = {
        "ok": {"total": 1, "completed": 1, "ok": 1},
        "500": {"total": 1, "completed": 1, "server_errors": 1},
        "404": {"total": 1, "completed": 1, "client_errors": 1},
        "timeout": {"total": 1, "completed": 1, "server_errors": 1, "timed_out": 1},
        "refused": {"completed": 1, "server_errors": 1, "refused": 1},
        "retried": {"total": 1, "completed": 1, "ok": 1, "refused": 1, "retried": 1},
        "hostless": {"completed": 1, "server_errors": 1, "hostless": 1},
        "overflow": {"completed": 1, "server_errors": 1, "overflowed": 1},
        "gone": {"total": 1},
        "reset": {"total": 1, "completed": 1, "server_errors": 1},
    }
    for name, value in moves[kind].items():
        setattr(reading, name, getattr(reading, name) + value)
    return kind in ("ok", "500", "404", "retried")


def copy(reading, samples):
    taken = Reading(**{name: getattr(reading, name) for name in Reading.__slots__ if name != "buckets"})
    taken.buckets = buckets(b10=samples)
    return taken


@given(st.lists(st.tuples(st.lists(REQUEST, max_size=12), st.booleans()), max_size=20))
def test_whatever_happens_is_told_exactly_once(seconds):
    """Each second has its requests; the histogram shows them in the same second or in the next."""
    meter, now, shown, samples = Meter(), Reading(), 0, 0
    rows = []
    for kinds, late in seconds:
        before = samples
        samples += sum(happen(now, kind) for kind in kinds)
        shown = before if late else samples
        rows.append(meter.advance(copy(now, shown)))
    rows += [meter.advance(copy(now, samples)) for _ in range(5)]
    assert all(number >= 0 for row in rows for number in (row.requests, row.errors, row.aborted, *row.latency))
    told = sum(rows, Counts())
    happened = [kind for kinds, _ in seconds for kind in kinds]
    assert told.requests == len(happened)
    assert told.aborted == happened.count("gone")
    assert told.client_errors == happened.count("404")
    assert told.errors == len(happened) - sum(happened.count(kind) for kind in ("ok", "404", "retried", "gone"))
    assert (sum(told.latency[:-1]), told.latency[-1]) == (samples, len(happened) - samples)
