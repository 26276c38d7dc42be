"""The demo's load generator: what it counts must be what a client would have seen."""

import asyncio
import io
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from examples.demo import load
from examples.demo.load import Answer as Judged
from examples.demo.load import HttpDoor, Load, Plan, Request, percentile

Answer = Callable[[int], Awaitable[tuple[int, bytes]]]


class Server:
    """Answers the n-th request as told; counts connections and requests.

    A connection that may be kept is told to close with its `turns`-th answer, or closed without a word after it.
    """

    def __init__(self, answer: Answer, turns: int = 1_000_000, *, silent: bool = False):
        self._answer, self._turns, self._silent = answer, turns, silent
        self.arrivals: list[float] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            for turn in range(1, self._turns + 1):
                if not await self.answer_one(reader, writer, last=turn == self._turns):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer_one(self, reader, writer, last):
        """Whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(next(line.split(":")[1] for line in head.split("\r\n") if line.startswith("Content-Length")))
        await reader.readexactly(length)
        self.arrivals.append(time.monotonic())
        status, body = await self._answer(len(self.arrivals) - 1)
        if not status:
            return False
        told = "X-Penstock-Revision: digits-1\r\n" + ("Connection: close\r\n" if last and not self._silent else "")
        writer.write(f"HTTP/1.1 {status} X\r\n{told}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return "Connection: close" not in head and not last


@asynccontextmanager
async def serving(answer: Answer, turns: int = 1_000_000, *, silent: bool = False) -> AsyncIterator[Server]:
    found = Server(answer, turns, silent=silent)
    listener = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v2/models/digits/infer"
    try:
        yield found
    finally:
        listener.close()


async def at_once(_: int) -> tuple[int, bytes]:
    return 200, b"{}"


def plan(**changes) -> Plan:
    return Plan(**{"rate": 200, "seconds": 10, "count": 40, "timeout": 5} | changes)


async def run(url: str, *, requests: list[Request] | None = None, kept: int = 0, records=None, **changes) -> dict:
    door = HttpDoor(url, requests or [Request(b"{}")], kept=kept)
    return await Load(plan(**changes), [door], records).run()


async def test_every_request_has_a_connection_of_its_own():
    async with serving(at_once) as server:
        result = await run(server.url)
    assert (result["requests"], result["answered"], result["failed"]) == (40, 40, 0)
    assert server.connections == 40


async def test_kept_connections_are_used_again():
    async with serving(at_once) as server:
        result = await run(server.url, kept=3)
    assert (result["answered"], result["failed"]) == (40, 0)
    assert server.connections < 20, "a busy machine lets requests overlap, which takes more connections"


@pytest.mark.parametrize("silent", [False, True])
async def test_a_kept_connection_that_was_closed_between_requests_is_no_loss(silent):
    async with serving(at_once, turns=4, silent=silent) as server:
        result = await run(server.url, kept=1, rate=100, count=20)
    assert (result["answered"], result["failed"]) == (20, 0)
    assert 5 <= server.connections < 20, "a busy machine lets two requests overlap, which takes a second connection"


async def test_each_request_is_a_line_in_the_records_if_asked():
    async def every_fifth(number):
        return (500, b"broken") if number % 5 == 0 else (200, b"{}")

    records = io.StringIO()
    async with serving(every_fifth) as server:
        await run(server.url, kept=1, count=10, records=records)
    lines = [json.loads(line) for line in records.getvalue().splitlines()]
    assert [line[3] for line in lines] == ["500", *["200"] * 4] * 2
    assert {(line[2], line[4]) for line in lines} == {("http-kept", "digits-1")}
    assert all(0 < line[1] < 1 and abs(line[0] - time.time()) < 10 for line in lines)
    assert lines[0][5] == "status 500: broken"


async def test_doors_get_their_shares_evenly():
    class Counted:
        def __init__(self, name, share):
            self.name, self.share, self.asked = name, share, []

        async def ask(self, number):
            self.asked.append(number)
            return Judged("200")

        async def close(self):
            self.asked.append(-1)

    doors = [Counted("many", 3), Counted("few", 1)]
    result = await Load(plan(count=40, rate=4000), doors).run()
    assert result["answered"] == 40
    assert [len(door.asked) - 1 for door in doors] == [30, 10]
    assert doors[1].asked[:3] == [2, 6, 10]
    assert [door.asked[-1] for door in doors] == [-1, -1], "both were closed"


async def test_a_slow_server_does_not_lower_the_offered_rate():
    async def slow(_):
        await asyncio.sleep(0.5)
        return 200, b"{}"

    async with serving(slow) as server:
        result = await run(server.url)
        spread = server.arrivals[-1] - server.arrivals[0]
    assert result["failed"] == 0
    assert spread < 0.45, "all were asked before the first was answered"
    assert result["p50_ms"] >= 500


async def test_a_late_start_counts_from_when_it_was_due():
    async with serving(at_once) as server:
        run = asyncio.create_task(Load(plan(count=60), [HttpDoor(server.url, [Request(b"{}")])]).run())
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - the generator itself is held up, as by a busy machine
        result = await run
    assert result["requests"] == 60
    assert result["latest_start_ms"] >= 150
    assert result["p100_ms"] >= 150


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"no endpoints", "status 503: no endpoints"),
        (404, b"{}", "status 404"),
        (0, b"", "IncompleteReadError"),
        (200, b'{"outputs": [{"name": "label", "data": [7]}]}', "label 7, expected one of [3, 8]"),
        (200, b'{"outputs": []}', "label None"),
        (200, b"not json", "JSONDecodeError"),
    ],
)
async def test_an_unwanted_answer_is_a_failure_with_its_time_and_text(status, body, said):
    good = b'{"outputs": [{"name": "label", "data": [3]}]}'

    async def answer(number):
        return (status, body) if number == 5 else (200, good)

    async with serving(answer) as server:
        result = await run(server.url, requests=[Request(b"{}", frozenset({3, 8}))], rate=100, count=10)
    assert (result["requests"], result["answered"], result["failed"]) == (10, 9, 1)
    (failure,) = result["failures"]
    assert said in failure["error"]
    assert 0.02 <= failure["second"] <= 0.08


async def test_a_refused_connection_is_a_failure():
    async with serving(at_once) as server:
        url = server.url
    result = await run(url, count=3)
    assert (result["requests"], result["failed"]) == (3, 3)
    assert "ConnectionRefusedError" in result["failures"][0]["error"]


async def test_a_server_that_hangs_is_given_up_and_said():
    async def never(_):
        await asyncio.sleep(3)
        return 200, b"{}"

    async with serving(never) as server:
        result = await run(server.url, count=4, timeout=0.2)
    assert result["failed"] == 4
    assert result["failures"][0]["error"] == "no answer within 0.2 s"
    assert result["seconds"] < 2


async def test_beyond_its_bound_requests_fail_and_are_not_put_off():
    async def slow(_):
        await asyncio.sleep(0.4)
        return 200, b"{}"

    async with serving(slow) as server:
        result = await run(server.url, count=20, most_in_flight=8)
    assert (result["answered"], result["failed"]) == (8, 12)
    assert "not started: 8 requests are under way" in result["failures"][0]["error"]


async def test_it_ends_after_its_seconds_and_when_stopped():
    async with serving(at_once) as server:
        bounded = await run(server.url, rate=50, seconds=0.2, count=10_000)
        generator = Load(plan(count=10_000), [HttpDoor(server.url, [Request(b"{}")])])
        asyncio.get_running_loop().call_later(0.1, generator.stop)
        stopped = await generator.run()
    assert bounded["requests"] == 10
    assert 5 <= stopped["requests"] <= 60
    assert stopped["answered"] == stopped["requests"]


def test_arrivals_are_fixed_or_chance_but_of_the_rate_asked():
    fixed = list(plan(rate=100, count=4).due_times())
    assert fixed == pytest.approx([0, 0.01, 0.02, 0.03])
    chance = plan(rate=100, seconds=100, count=100_000, arrivals="poisson")
    due = list(chance.due_times())
    assert due == sorted(due)
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert due == list(chance.due_times()), "the same seed gives the same load"


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [([], 50, 0.0), ([4.0], 99, 4.0), ([3, 1, 2], 50, 2), (range(1, 101), 95, 95), (range(1, 101), 100, 100)],
)
def test_percentiles_are_values_that_were_seen(values, q, expected):
    assert percentile(list(values), q) == expected


@pytest.mark.parametrize(("url", "requests"), [("http://x", []), ("/v2", [Request(b"")])])
def test_a_load_without_target_or_requests_is_refused(url, requests):
    with pytest.raises(ValueError, match="at least one request"):
        HttpDoor(url, requests)


async def test_as_a_program_it_tells_progress_and_on_sigterm_its_result(tmp_path):
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [0]}]}
    (tmp_path / "requests.json").write_text(json.dumps([{"body": body, "labels": []}]))
    async with serving(at_once) as server:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, load.__file__, server.url, str(tmp_path / "requests.json"), "--rate", "50"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert program.stdout
        first = json.loads(await program.stdout.readline())
        os.kill(program.pid, signal.SIGTERM)
        lines = (await program.stdout.read()).splitlines()
        await program.wait()
    assert first["progress"]["failed"] == 0
    result = json.loads(lines[-1])["result"]
    assert result["requests"] == result["answered"] > 0
    assert result["failed"] == 0
