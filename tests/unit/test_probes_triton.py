"""What a server counts: the real server's own text, text that lies, and pods that do not answer."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.servercounts import ModelCounts
from penstock.probes.router import RouterReader
from penstock.probes.triton import TritonReader, parse_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "triton"
"""As tritonserver 2.51 wrote it after 40 requests of each kind."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.mark.parametrize(
    ("name", "served", "failures", "has_times"),
    [
        ("served", 40, {}, True),
        ("raised", 0, {"BACKEND": 40}, False),
        ("rejected", 13, {"REJECTED": 4}, True),
        ("answered_with_errors", 40, {}, True),
    ],
)
def test_the_text_of_the_real_server(name: str, served: int, failures: dict[str, int], has_times: bool) -> None:
    found = parse_metrics((GOLDEN / f"{name}.txt").read_bytes())
    assert list(found) == ["m"]
    assert (found["m"].served, found["m"].failures, found["m"].waiting) == (served, failures, 0)
    assert (found["m"].queued_microseconds > 0, found["m"].computed_microseconds > 0) == (has_times, has_times)


def test_a_server_without_a_model_counts_nothing() -> None:
    assert parse_metrics((GOLDEN / "nothing_loaded.txt").read_bytes()) == {}
    assert parse_metrics(b"") == {}


def sample(name: str, value: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"nv_inference_{name}{{{inside}}} {value}"


def text(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def test_versions_add_up_and_models_do_not() -> None:
    found = parse_metrics(
        text(
            sample("request_success", "2", model="a", version="1", _team="x"),
            sample("request_success", "1e+03", model="a", version="2"),
            sample("request_failure", "3", model="a", version="1", reason="BACKEND"),
            sample("request_failure", "4", model="a", version="2", reason="BACKEND"),
            sample("request_failure", "5", model="a", version="2", reason="$(rm -rf)"),
            sample("queue_duration_us", "7", model="a", version="1"),
            sample("compute_input_duration_us", "1", model="a", version="1"),
            sample("compute_infer_duration_us", "20", model="a", version="1"),
            sample("compute_output_duration_us", "300", model="a", version="1"),
            sample("pending_request_count", "9", model="b} 1", version="1"),
        )
    )
    assert found == {
        "a": ModelCounts(1002, {"BACKEND": 7, "OTHER": 5}, 7, 321),
        "b} 1": ModelCounts(waiting=9),
    }


def test_families_that_are_not_read_may_hold_anything() -> None:
    odd = (sample("request_summary_us", "Nan", model="a", quantile="0.5"), "nv_gpu_utilization{} -1", "# HELP x y", "{")
    assert parse_metrics(text(*odd, sample("request_success", "1", model="a"))) == {"a": ModelCounts(1)}


@pytest.mark.parametrize(
    "line",
    [
        sample("request_success", "-1", model="a"),
        sample("request_success", "NaN", model="a"),
        sample("request_success", "+Inf", model="a"),
        sample("request_success", "1e300", model="a"),
        sample("request_success", "many", model="a"),
        sample("request_success", "", model="a"),
        sample("request_success", "1", version="1"),
        'nv_inference_request_success{model="a" version="1"} 1',
        'nv_inference_request_success{model="a',
        "nv_inference_request_success{",
        'nv_inference_request_success{model="\udcff"} 1',
    ],
)
def test_one_wrong_line_refuses_all(line: str) -> None:
    good = sample("request_success", "1", model="a")
    with pytest.raises(ValueError, match=r".+"):
        parse_metrics(f"{good}\n{line}\n".encode(errors="surrogateescape"))


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_whatever_comes_is_counts_or_refused(noise: bytes, place: int) -> None:
    whole = (GOLDEN / "served.txt").read_bytes()
    try:
        found = parse_metrics(whole[:place] + noise + whole[place:])
    except ValueError:
        return
    assert all(item.served >= 0 and item.waiting >= 0 for item in found.values())


@asynccontextmanager
async def server(handler: Handler, host: str = "127.0.0.1", **options: float) -> AsyncIterator[TritonReader]:
    app = web.Application()
    app.router.add_get("/metrics", handler)
    app.router.add_get("/v1/observe", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    reader = TritonReader(runner.addresses[0][1], **options)  # type: ignore[arg-type]
    try:
        yield reader
    finally:
        await reader.close()
        await runner.cleanup()


async def good(_: web.Request) -> web.Response:
    return web.Response(body=(GOLDEN / "raised.txt").read_bytes())


async def test_an_answer() -> None:
    async with server(good) as reader:
        found = await reader.count("127.0.0.1")
    assert found is not None
    assert found["m"].failures == {"BACKEND": 40}


async def fault(_: web.Request) -> web.Response:
    return web.Response(status=500)


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://169.254.169.254/")


async def large(_: web.Request) -> web.Response:
    return web.Response(body=b"#" * 5000)


async def nonsense(_: web.Request) -> web.Response:
    return web.Response(text=sample("request_success", "a lot", model="m"))


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"#")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("handler", [fault, elsewhere, large, nonsense, endless])
async def test_no_answer(handler: Handler) -> None:
    async with server(handler, seconds=0.1 if handler is endless else 10.0, most_bytes=4096) as reader:
        assert await reader.count("127.0.0.1") is None


async def test_nobody_there() -> None:
    reader = TritonReader(1)
    assert await reader.count("127.0.0.1") is None
    await reader.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_pods_with_ipv6_addresses_are_asked_as_any_other() -> None:
    hosts: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return await good(request) if request.path == "/metrics" else web.Response(text='{"now": 5.1, "splits": {}}')

    async with server(handler, "::1") as reader:
        assert await reader.count("::1")
        port = int(hosts[0].removeprefix("[::1]:"))
        agents = RouterReader(port)
        assert await agents.observe("::1", ["u"], None)
        await agents.close()
    assert hosts == [f"[::1]:{port}"] * 2
