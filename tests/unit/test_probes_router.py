"""The reader: one short GET, and whatever is wrong with the answer is no answer."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from penstock.probes.router import RouterReader

GOOD = b'{"now": 5.1, "splits": {"u1": {"generation": 3}}}'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def agent(handler: Handler, **options: float) -> AsyncIterator[tuple[RouterReader, list[str]]]:
    app = web.Application()
    app.router.add_get("/v1/observe", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    told: list[str] = []
    reader = RouterReader(runner.addresses[0][1], observer=lambda outcome, _: told.append(outcome), **options)  # type: ignore[arg-type]
    try:
        yield reader, told
    finally:
        await reader.close()
        await runner.cleanup()


async def test_many_models_in_one_request() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        return web.Response(body=GOOD)

    async with agent(handler) as (reader, told):
        found = await reader.observe("127.0.0.1", ["u1", "u2"], 1234)
        await reader.observe("127.0.0.1", ["u1"], None)
    assert found is not None
    assert found.splits["u1"].generation == 3
    assert asked == ["uid=u1,u2&since=1234", "uid=u1"]
    assert told == ["ok", "ok"]


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("/v1/other")


async def nonsense(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def fault(_: web.Request) -> web.Response:
    return web.Response(status=503, body=GOOD)


async def large(_: web.Request) -> web.Response:
    return web.Response(body=GOOD + b" " * 5000)


async def packed(_: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(GOOD), headers={"Content-Encoding": "gzip"})


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.01)


async def hung_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (elsewhere, "refused"),
        (nonsense, "refused"),
        (fault, "refused"),
        (large, "refused"),
        (packed, "refused"),
        (endless, "timeout"),
        (hung_up, "unreachable"),
    ],
)
async def test_no_answer(handler: Handler, outcome: str) -> None:
    seconds = 0.1 if outcome == "timeout" else 10.0
    async with agent(handler, seconds=seconds, most_bytes=4096) as (reader, told):
        assert await reader.observe("127.0.0.1", ["u1"], 0) is None
    assert told == [outcome]


async def test_nobody_there() -> None:
    reader = RouterReader(1)
    assert await reader.observe("127.0.0.1", ["u1"], None) is None
    await reader.close()
