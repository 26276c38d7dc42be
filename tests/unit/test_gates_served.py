"""Gates in front of a server: the protocol, the load, what disturbs it, the verdicts, and the search."""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.facts import ModelFacts, Tuned
from penstock.api.reasons import Reason
from penstock.api.report import Latency
from penstock.api.spec import BatchingSpec, InstancesSpec, ServerSpec
from penstock.core.modelrepo import resolve_settings
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Tensor
from penstock_runtime.foreign import ForeignLoad, Machine, read_machine
from penstock_runtime.gates import LoadAsked
from penstock_runtime.gates.served import judge_latency, judge_memory, judge_throughput, latency_report
from penstock_runtime.load import LoadPlan, LoadResult, run_load
from penstock_runtime.tune import Search, candidates
from penstock_runtime.v2 import InferenceError, ask, encode_request, read_answer, take_answer

NO_DIGEST = f"sha256:{'0' * 64}"


def response(body: bytes, status: int = 200, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer_with(outputs: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    described = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, shape, data) in outputs.items()
    ]
    head = json.dumps({"outputs": described}).encode()
    body = head + b"".join(data for _, _, data in outputs.values())
    return response(body, **{"Inference-Header-Content-Length": len(head)})


@contextmanager
def server(reply: Callable[[int], bytes]) -> Iterator[int]:
    """Answers whole requests on kept connections; `reply` is given the request's number, b"" hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    count, lock, threads = [0], threading.Lock(), []

    def talk(connection: socket.socket) -> None:
        data = b""
        with connection, suppress(OSError):
            while True:
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(1 << 16)
                    if not piece:
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"\ncontent-length: ")[2].split(b"\r\n")[0] or 0)
                while len(data) < length:
                    data += connection.recv(1 << 16)
                data = data[length:]
                with lock:
                    count[0] += 1
                    said = reply(count[0])
                if not said:
                    return
                connection.sendall(said)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


# the protocol


@given(st.sampled_from(["FP32", "INT64", "BOOL", "FP16", "UINT8"]), st.integers(0, 3), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_tensors_travel_unchanged(kind: str, rows: int, columns: int) -> None:
    types = {"FP32": "f4", "INT64": "i8", "BOOL": "?", "FP16": "f2", "UINT8": "u1"}
    array = (np.arange(rows * columns).reshape(rows, columns) % 2).astype(types[kind])
    message = encode_request("m", {"x": array}, {"x": Tensor("x", kind, (-1, columns))})
    head, _, body = message.partition(b"\r\n\r\n")
    length = int(head.partition(b"Inference-Header-Content-Length: ")[2].split(b"\r\n")[0])
    said = json.loads(body[:length])
    assert said["inputs"][0]["datatype"] == kind
    assert said["parameters"] == {"binary_data_output": True}
    back = bytearray(answer_with({"y": (kind, [rows, columns], body[length:])}))
    answer = take_answer(back)
    assert answer is not None
    np.testing.assert_array_equal(read_answer(answer)["y"], array)
    assert not back


def test_text_travels_unchanged() -> None:
    texts = np.array([["straße"], [""]], dtype=object)
    message = encode_request("m", {"s": texts}, {"s": Tensor("s", "STRING", (-1, 1))})
    data = message[-(4 + 7 + 4) :]
    assert data[:4] == struct.pack("<I", 7)
    answer = take_answer(bytearray(answer_with({"t": ("BYTES", [2, 1], data)})))
    assert answer is not None
    assert read_answer(answer)["t"].tolist() == texts.tolist()


def test_an_answer_in_pieces_is_waited_for() -> None:
    whole = answer_with({"y": ("FP32", [1], b"1234")})
    for cut in range(len(whole)):
        assert take_answer(bytearray(whole[:cut])) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (response(b'{"error": "unexpected shape"}', 400), "status 400: unexpected shape"),
        (response(b"<html>", 502), "status 502: <html>"),
        (response(b'{"outputs": [{"name": "y"}]}'), "cannot be read"),
        (answer_with({"y": ("FP32", [3], b"1234")}), "cannot be read"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n", "does not answer"),
    ],
)
def test_bad_answers_are_told(said: bytes, words: str) -> None:
    with (
        server(lambda _: said) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
        pytest.raises(InferenceError, match=words),
    ):
        read_answer(ask(connection, b"GET / HTTP/1.1\r\n\r\n"))


# the load

GOOD = answer_with({"y": ("FP32", [1], b"1234")})
MESSAGE = encode_request("m", {"x": np.zeros((1, 2), np.float32)}, {"x": Tensor("x", "FP32", (-1, 2))})
SHORT = LoadPlan(3, requests=50, seconds=0.6, warm_up=0.05, window=0.1, fewest=5, least_seconds=0.1)


def test_requests_are_counted_and_timed() -> None:
    with server(lambda _: GOOD) as port:
        result = run_load(port, [MESSAGE], SHORT)
    assert result.requests >= 50
    assert result.failed == 0
    assert list(result.latencies) == sorted(result.latencies)
    assert result.per_second == pytest.approx(result.requests / result.seconds)
    low, high = result.quantile_interval(50)
    assert low <= result.quantile(50) <= high
    assert result.client_share > 0


def test_errors_and_hang_ups_are_failures() -> None:
    with server(lambda number: [GOOD, response(b'{"error": "busy"}', 503), b""][number % 3]) as port:
        result = run_load(port, [MESSAGE], SHORT)
    assert result.requests > 0
    assert {text.split(":")[0] for text in result.failures} == {"status 503", "EOFError"}


def test_a_server_that_is_gone_is_no_measurement() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        run_load(port, [MESSAGE], SHORT)


def test_disturbed_windows_are_left_out() -> None:
    asked = iter([None, *(["busy", None] * 50)])
    with server(lambda _: GOOD) as port:
        result = run_load(port, [MESSAGE], SHORT, lambda: next(asked))
    assert 0.2 < result.discarded < 0.8
    assert not result.disturbed


def test_a_node_that_is_never_quiet_is_measured_and_told() -> None:
    with server(lambda _: GOOD) as port:
        result = run_load(port, [MESSAGE], SHORT, lambda: "other work took 90%")
    assert result.discarded == 1.0
    assert result.disturbed == "other work took 90%"
    assert result.requests > 0


@pytest.mark.parametrize(
    ("busy", "idle", "server_used", "harm"),
    [(2.0, 0.0, 0.1, True), (2.0, 0.0, 2.0, False), (1.0, 1.0, 0.0, False), (0.1, 1.9, 0.0, False)],
)
def test_foreign_load_harms_where_nothing_is_left(busy: float, idle: float, server_used: float, harm: bool) -> None:
    clock, used = (
        iter([Machine(10, 10, 2), Machine(10 + busy * 1e3, 10 + idle * 1e3, 2)]),
        iter([5.0, 5 + server_used * 1e3]),
    )
    times = iter([0.0, 1e3])
    foreign = ForeignLoad(lambda: next(used), lambda: next(clock), lambda: next(times))
    assert (foreign() is not None) is harm


def test_what_cannot_be_seen_does_not_count(tmp_path: Path) -> None:
    assert ForeignLoad(lambda: None)() is None
    assert ForeignLoad(lambda: 0.0, lambda: None)() is None
    (tmp_path / "stat").write_text("cpu  1 2\n")
    assert read_machine(tmp_path / "stat") is None
    (tmp_path / "stat").write_text("cpu  100 0 50 300 50 0 0 100 0 0\ncpu0 1\ncpu1 1\nintr 5\n")
    machine = read_machine(tmp_path / "stat")
    assert machine is not None
    assert (machine.cores, machine.busy / machine.idle) == (2, 250 / 350)


# verdicts


def result(latencies: Any, seconds: float = 10.0, failures: dict[str, int] | None = None, **more: Any) -> LoadResult:
    return LoadResult(
        latencies=np.sort(np.asarray(latencies, np.float64)), seconds=seconds, failures=Counter(failures or {}),
        discarded=more.get("discarded", 0.0), client_share=more.get("client_share", 0.1),
        disturbed=more.get("disturbed", ""),
    )  # fmt: skip


def test_quantiles_are_nearest_ranks() -> None:
    hundred = result(np.arange(1, 101) / 1000)
    assert [hundred.quantile(q) for q in (50, 95, 99, 100)] == [0.05, 0.095, 0.099, 0.1]
    assert result([]).quantile(95) == 0.0
    assert result([0.5]).quantile_interval(99) == (0.5, 0.5)


def test_latency_passes_or_fails_with_its_numbers() -> None:
    rows = judge_latency({50: 0.06, 95: 0.09}, LoadAsked(8), result(np.arange(1, 101) / 1000))
    assert [(row.name, row.passed, row.value) for row in rows] == [
        ("latency.p50", True, 50.0),
        ("latency.p95", False, 95.0),
    ]
    assert "p95 is 95 ms (100 requests, 8 at once, 1 row each), asked: at most 90 ms" in rows[1].sentence
    assert rows[1].reason is Reason.LATENCY_FAILED


def test_throughput_counts_rows() -> None:
    row = judge_throughput(500, LoadAsked(2, 8), result(np.ones(1000), client_share=0.95))
    assert (row.passed, row.value, row.unit) == (True, 800.0, "rows/s")
    assert "the load generator itself took 95% of a core" in row.measured
    assert not judge_throughput(801, LoadAsked(2, 8), result(np.ones(1000))).passed


def test_failed_requests_fail_the_gate() -> None:
    busy = result(np.ones(100), failures={"status 503: Exceeds maximum queue size": 3})
    for row in (*judge_latency({95: 9.0}, LoadAsked(1), busy), judge_throughput(1, LoadAsked(1), busy)):
        assert not row.passed
        assert "3 of 103 requests were not answered: 3 x status 503: Exceeds maximum queue size" in row.sentence
    assert "the server stood still" in judge_throughput(1, LoadAsked(1), result([])).sentence
    assert judge_latency({95: 9.0}, LoadAsked(1), result(np.ones(5000), failures={"EOFError": 2}))[0].passed


def test_memory() -> None:
    assert judge_memory(100 << 20, 100 << 20, "cgroup").passed
    row = judge_memory(100 << 20, 120 << 20, "processes")
    assert (row.passed, row.reason) == (False, Reason.MEMORY_FAILED)
    assert "120 MiB at most, counted by its processes, asked: at most 100 MiB" in row.sentence


@pytest.mark.parametrize("latencies", [[], [0.001], np.full(50, 0.002), np.geomspace(1e-4, 5, 400)])
def test_the_histogram_counts_everything(latencies: Any) -> None:
    report = Latency.model_validate(latency_report(LoadAsked(1), result(latencies)))
    assert report.requests == len(latencies)
    assert (report.histogram is not None) == bool(len(latencies))
    if report.histogram:
        assert sum(report.histogram.counts) == len(latencies)


# the search


def facts(**more: Any) -> ModelFacts:
    return ModelFacts.model_validate(
        {
            "format": "ONNX", "digest": NO_DIGEST, "batching": True,
            "artifact": {"repository": "r", "manifest": NO_DIGEST, "layer": NO_DIGEST, "sizeBytes": 1},
            "inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}],
            "outputs": [{"name": "y", "dataType": "FP32", "dims": [-1, 4]}], **more,
        }
    )  # fmt: skip


def test_only_what_is_left_open_is_varied() -> None:
    every = candidates(None, facts(), Fraction(4), 12)
    assert every[0] == Tuned()
    assert len(every) == len(set(every)) == 12
    settings = [resolve_settings(None, facts(tuned=tuned), 4) for tuned in every]
    assert len(set(settings)) == len(settings)
    written = ServerSpec(instances=InstancesSpec(count=2), batching=BatchingSpec(max_queue_delay="3ms"))
    for tuned in candidates(written, facts(), Fraction(4), 12):
        assert (tuned.instances, tuned.max_queue_delay) == (None, None)
    assert candidates(ServerSpec(), facts(format="TritonRepository"), Fraction(4), 12) == [Tuned()]


@given(st.integers(1, 8), st.integers(2, 12), st.booleans())
def test_candidates_keep_to_their_number(cores: int, most: int, batching: bool) -> None:
    found = candidates(None, facts(batching=batching), Fraction(cores), most)
    assert 1 <= len(found) <= most
    for tuned in found:
        assert not resolve_settings(None, facts(batching=batching, tuned=tuned), cores).refusals


def test_settings_follow_what_was_tuned_where_nothing_is_written() -> None:
    tuned = {"instances": 3, "threads": 2, "maxQueueDelay": "5ms"}
    chosen = resolve_settings(None, facts(tuned=tuned), 2)
    assert (chosen.instances, chosen.threads, chosen.max_queue_delay_us) == (3, 2, 5000)
    written = ServerSpec(instances=InstancesSpec(count=2), batching=BatchingSpec(max_queue_delay="1ms"))
    chosen = resolve_settings(written, facts(tuned=tuned), 2)
    assert (chosen.instances, chosen.threads, chosen.max_queue_delay_us) == (2, 2, 1000)


def test_the_best_is_chosen_if_it_is_clearly_better() -> None:
    values = {None: 1.0, 2: 0.5, 3: 0.7}
    found = [Tuned(), Tuned(instances=2), Tuned(instances=3)]
    visited: list[int | None] = []

    def visit(tuned: Tuned) -> float:
        visited.append(tuned.instances)
        return values[tuned.instances]

    assert Search(found, visit, lower=True).run() == Tuned(instances=2)
    assert visited == [None, 2, 3, 3, 2, None]
    search = Search(found, visit, lower=False)
    assert search.run() == Tuned()
    values[2] = 1.01
    assert Search(found, visit, lower=False).run() == Tuned()
    assert search.report()["trials"][0]["chosen"] is True


@pytest.mark.parametrize(
    ("defaults", "other", "chosen"),
    [
        ((100, 104), (120, 122), 2),
        ((100, 130), (120, 125), None),
        ((100, 100), (99, 150), None),
        ((100,) * 2, (102,) * 2, None),
    ],
)
def test_a_difference_that_the_visits_themselves_have_is_none(
    defaults: tuple[float, float], other: tuple[float, float], chosen: int | None
) -> None:
    """A busy machine makes visits of the same settings differ; more rows per second by that much prove nothing."""
    left = {None: list(defaults), 2: list(other)}
    search = Search([Tuned(), Tuned(instances=2)], lambda tuned: left[tuned.instances].pop(0), lower=False)
    assert search.run().instances == chosen
    told = search.report()["trials"]
    assert [trial["chosen"] for trial in told] == [chosen is None, chosen == 2]
    assert told[1]["why"] == ("the best of all" if chosen else "not clearly better than the defaults")


def test_a_candidate_that_cannot_be_served_is_passed_over() -> None:
    def visit(tuned: Tuned) -> float:
        if tuned.instances:
            raise Failure(Reason.LOAD_FAILED, "no memory left")
        return 1.0

    search = Search([Tuned(), Tuned(instances=9)], visit, lower=True)
    assert search.run() == Tuned()
    assert search.report()["trials"][1] == {"settings": {"instances": 9}, "chosen": False, "why": "no memory left"}
