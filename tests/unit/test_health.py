"""The probes: what they say, and to whom."""

import asyncio

import aiohttp
import pytest

from penstock.controller.health import Check, Health, HealthServer, LoopTick


async def ask(server: HealthServer, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.port}{path}") as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


@pytest.mark.parametrize(
    ("age", "code", "text"),
    [(5.0, 200, "ok\n"), (31.0, 503, "oldest key: 31 s, at most 30 s are expected\n")],
)
async def test_healthz_names_what_is_too_old(age: float, code: int, text: str) -> None:
    health = Health((Check("oldest key", lambda: age, 30.0), Check("loop", lambda: 0.0, 1.0)))
    async with HealthServer(health, lambda: b"", host="127.0.0.1", port=0) as server:
        assert (await ask(server, "/healthz"))[:2] == (code, text)
        assert (await ask(server, "/readyz"))[0] == 200


async def test_readyz_names_what_is_missing_and_recovers() -> None:
    listed = False
    health = Health(readiness={"the first list": lambda: listed})
    async with HealthServer(health, lambda: b"", host="127.0.0.1", port=0) as server:
        assert (await ask(server, "/readyz"))[:2] == (503, "waiting for the first list\n")
        listed = True
        assert (await ask(server, "/readyz"))[0] == 200


async def test_metrics_are_served_in_prometheus_text() -> None:
    async with HealthServer(Health(), lambda: b"penstock_leader 1\n", host="127.0.0.1", port=0) as server:
        code, text, kind = await ask(server, "/metrics")
    assert (code, text) == (200, "penstock_leader 1\n")
    assert kind.startswith("text/plain; version=0.0.4")


async def test_the_tick_ages_while_the_loop_stands_still() -> None:
    now = 0.0
    tick = LoopTick(period=0.001, clock=lambda: now)
    running = asyncio.create_task(tick.run())
    now = 12.0
    assert tick.age() == 12.0
    while tick.age():  # noqa: ASYNC110 - one turn is what is waited for
        await asyncio.sleep(0)
    assert tick.longest == pytest.approx(12.0, abs=0.01)
    running.cancel()
