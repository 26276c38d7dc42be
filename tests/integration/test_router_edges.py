"""The router at its edges: processes that die, splits that are wrong, an operator that is gone, clients that lie."""

import asyncio
import contextlib
import io
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import pytest_asyncio
from aiohttp import web

from .routerpod import STREAM, UNARY, RouterPod, Upstream, free_ports, running_router, split, uid_of


def now() -> str:
    return datetime.now(UTC).isoformat()


class Scene:
    """A router pod with one model `digits` of two revisions, and a client."""

    def __init__(self, pod: RouterPod, a: Upstream, b: Upstream, client: aiohttp.ClientSession) -> None:
        self.pod, self.a, self.b, self.client = pod, a, b, client
        self.port, self.other = free_ports(2)
        self.generation = 0

    async def route(self, weights: dict[str, int], **fields: Any) -> dict[str, Any]:
        """Change the split, and wait until it is attested."""
        await self.put(weights, **fields)
        return await self.pod.attested("digits", self.generation)

    async def put(self, weights: dict[str, int], **fields: Any) -> None:
        self.generation += 1
        await self.pod.api.put_split(split("digits", self.port, weights, self.generation, **fields))

    async def ask(self, path: str = "/v2", port: int = 0, **more: Any) -> tuple[int, str]:
        async with self.client.request(
            more.pop("method", "GET"), f"http://127.0.0.1:{port or self.port}{path}", **more
        ) as answer:
            return answer.status, await answer.text()

    async def answers(self, count: int, **more: Any) -> Counter[str]:
        return Counter([(await self.ask(**more))[1] for _ in range(count)])


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        running_router(tmp_path) as pod,
        Upstream("a") as a,
        Upstream("b") as b,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
    ):
        await pod.api.put_servers("digits-a", a)
        await pod.api.put_servers("digits-b", b)
        made = Scene(pod, a, b, client)
        await made.route({"a": 1000, "b": 0})
        await pod.ready()
        yield made


async def test_a_killed_agent_changes_nothing(scene: Scene) -> None:
    told = await scene.route({"a": 700, "b": 300})
    written = files(scene.pod)
    scene.pod.kill(scene.pod.agent)
    assert set(await scene.answers(40)) == {"a", "b"}
    scene.pod.start_agent()
    again = await scene.pod.attested("digits", scene.generation)
    assert again["warm"] == told["warm"]
    assert await scene.pod.is_ready()
    await asyncio.sleep(0.5)
    assert files(scene.pod) == written
    await scene.route({"a": 0, "b": 1000})
    assert set(await scene.answers(5)) == {"b"}


async def test_an_agent_started_while_the_api_server_is_away_is_ready_and_knows_its_routes(scene: Scene) -> None:
    await scene.route({"a": 700, "b": 300})
    await scene.pod.api.stop()
    scene.pod.kill(scene.pod.agent)
    scene.pod.start_agent()
    await scene.pod.attested("digits", scene.generation)
    assert await scene.pod.is_ready()
    await scene.pod.api.start()
    await scene.route({"a": 0, "b": 1000})


async def test_what_was_deleted_while_nobody_watched_is_gone_after_the_list(scene: Scene) -> None:
    await scene.pod.api.stop()
    await scene.pod.api.delete("trafficsplits", "digits", silently=True)
    scene.pod.api.oldest = 10**6
    await scene.pod.api.start()
    async with asyncio.timeout(60):
        while uid_of("digits") in await scene.pod.observe("digits"):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    with pytest.raises(aiohttp.ClientConnectorError):
        await _ask_for_ever(scene)


async def _ask_for_ever(scene: Scene) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await scene.ask()
            except aiohttp.ClientConnectorError:
                raise
            except aiohttp.ClientError:
                pass  # a kept connection that is closed just now
            await asyncio.sleep(0.02)


async def test_a_403_after_the_api_server_came_back_is_tried_again_with_the_token_of_now(scene: Scene) -> None:
    await scene.pod.api.stop()
    scene.pod.token.write_text("second")
    scene.pod.api.forbidden = 4
    await scene.pod.api.start()
    begun = time.monotonic()
    await scene.route({"a": 500, "b": 500})
    assert time.monotonic() - begun < 6
    assert scene.pod.api.forbidden == 0
    assert "Bearer second" in scene.pod.api.tokens


async def test_envoy_killed_comes_back_with_the_same_files(scene: Scene) -> None:
    await scene.route({"a": 0, "b": 1000})
    scene.pod.kill(scene.pod.agent)
    scene.pod.kill(scene.pod.envoy)
    await scene.pod.start_envoy()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                assert await scene.ask() == (200, "b")
                break
            await asyncio.sleep(0.02)
    scene.pod.start_agent()
    await scene.route({"a": 1000, "b": 0})
    assert set(await scene.answers(5)) == {"a"}


async def test_a_bad_split_is_told_and_stops_no_other(scene: Scene) -> None:
    bad = split("faces", scene.other, {"a": 600, "b": 600})
    await scene.pod.api.put_split(bad)
    told = await scene.pod.until("faces", lambda told: bool(told["rejected"]))
    assert "1200" in told["rejected"]
    assert told["generation"] == 0
    await scene.route({"a": 0, "b": 1000})
    assert await scene.ask() == (200, "b")
    await scene.put({"a": 600, "b": 600})
    told = await scene.pod.until("digits", lambda told: bool(told["rejected"]))
    assert told["generation"] == scene.generation - 1, "the last good route stays"
    assert await scene.ask() == (200, "b")
    told = await scene.route({"a": 1000, "b": 0})
    assert not told["rejected"]


SPOILED = """
import penstock_runtime.agent.routetable as table
good = table.virtual_host
def spoil(route):
    host = good(route)
    return {**host, "domains": []} if route.split.name.startswith("bad") else host
table.virtual_host = spoil
"""


async def test_a_route_that_envoy_refuses_is_found_among_good_ones(tmp_path: Path) -> None:
    """No split that parses is refused, as far as is known; so one renderer is spoiled here."""
    (tmp_path / "sitecustomize.py").write_text(SPOILED)
    async with running_router(tmp_path, path=tmp_path) as pod, Upstream("a") as a:
        names = ["good0", "bad1", "good2", "bad3", "good4"]
        for name, port in zip(names, free_ports(5), strict=True):
            await pod.api.put_servers(f"{name}-a", a)
            await pod.api.put_split(split(name, port, {"a": 1000}))
        for name in names:
            if name.startswith("bad"):
                told = await pod.until(name, lambda told: bool(told["rejected"]))
                assert (told["generation"], "Envoy refuses" in told["rejected"]) == (0, True)
            else:
                await pod.attested(name, 1)
        pod.kill(pod.envoy)
        await pod.start_envoy()
        await pod.api.put_split(split("good0", free_ports(1)[0], {"a": 1000}, 2))
        await pod.attested("good0", 2)


async def test_the_agent_refuses_a_question_that_makes_no_sense_with_a_sentence(scene: Scene) -> None:
    for query in ("since=inf", "since=nan", "since=-1", "since=1e400", "since=", "since=1&since=2"):
        status, told = await scene.ask(f"/v1/observe?uid={uid_of('digits')}&{query}", scene.pod.agent_port)
        assert (status, told.startswith("since is ")) == (400, True)
    assert "Traceback" not in scene.pod.log.read_text()


async def test_a_port_belongs_to_one_model(scene: Scene) -> None:
    await scene.pod.api.put_split(split("faces", scene.port, {"a": 1000}))
    told = await scene.pod.until("faces", lambda told: bool(told["rejected"]))
    assert f"port {scene.port} belongs to TrafficSplit digits" in told["rejected"]
    assert await scene.ask() == (200, "a")
    await scene.pod.api.delete("trafficsplits", "digits")
    await scene.pod.attested("faces", 1)


async def test_models_cannot_be_reached_through_each_other(scene: Scene) -> None:
    async with Upstream("face") as face:
        await scene.pod.api.put_servers("faces-a", face)
        await scene.pod.api.put_split(split("faces", scene.other, {"a": 1000}))
        await scene.pod.attested("faces", 1)
        for name in (uid_of("faces"), "attest", "x"):
            assert await scene.ask(headers={"x-penstock-model": name}) == (200, "a")
            assert await scene.ask(headers={"Host": name}) == (200, "a")
        assert await scene.ask(port=scene.other, headers={"x-penstock-model": uid_of("digits")}) == (200, "face")
        assert not any(name.lower() == "x-penstock-model" for seen in scene.a.headers for name in seen)


async def test_grpc_and_streams_share_the_port(scene: Scene) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        call = channel.unary_unary(UNARY)(b"x")
        assert await call == b"a"
        assert dict(await call.initial_metadata())["x-penstock-revision"] == "digits-a"
        stream = channel.stream_stream(STREAM)()
        await stream.write(b"1")
        assert await stream.read() == b"a"
        await scene.route({"a": 0, "b": 1000})
        await stream.write(b"2")
        assert await stream.read() == b"a", "an open stream stays where it is"
        assert await channel.unary_unary(UNARY)(b"x") == b"b"
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF


async def test_a_body_beyond_the_limit_is_refused(scene: Scene) -> None:
    await scene.route({"a": 1000}, maxRequestBytes=100_000)

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 10_000

    assert (await scene.ask(method="POST", data=b"x" * 100_000))[0] == 200
    status, text = await scene.ask(method="POST", data=b"x" * 100_001)
    assert (status, "100000 bytes" in text) == (413, True)
    assert (await scene.ask(method="POST", data=pieces(10)))[0] == 200
    assert (await scene.ask(method="POST", data=pieces(11)))[0] == 413
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        assert await channel.unary_unary(UNARY)(b"x" * 90_000) == b"a"
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(UNARY)(b"x" * 200_000)


async def test_without_a_revision_the_answer_is_503_with_retry_after(scene: Scene) -> None:
    await scene.route({})
    async with scene.client.get(f"http://127.0.0.1:{scene.port}/v2") as answer:
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY)(b"x")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_while_the_only_pod_changes_hands_the_answer_is_503_with_retry_after(scene: Scene) -> None:
    """`capacity: Replace`: both revisions are kept warm, nobody has a share, and its seconds are told."""
    told = await scene.route({"a": 0, "b": 0})
    assert told["warm"] == {"digits-a": 1, "digits-b": 1}
    async with scene.client.get(f"http://127.0.0.1:{scene.port}/v2") as answer:
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "change hands" in await answer.text()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY)(b"x")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert dict(caught.value.trailing_metadata() or ())["retry-after"] == "5"
    async with asyncio.timeout(60):
        while {"generation": scene.generation, "weights": {}, "shadow": None} not in await states(scene):  # noqa: ASYNC110 - the agent is asked
            await asyncio.sleep(0.2)
    await scene.route({"a": 0, "b": 1000})
    assert set(await scene.answers(5)) == {"b"}


async def states(scene: Scene) -> list[dict[str, Any]]:
    """Routes that were in force for whole seconds."""
    found: list[dict[str, Any]] = (await scene.pod.observe("digits", since=0))[uid_of("digits")]["states"]
    return found


async def test_a_timeout_is_told_with_its_revision(scene: Scene) -> None:
    async def hang(_: web.Request) -> None:
        await asyncio.sleep(5)

    scene.a.behave = hang
    await scene.route({"a": 1000}, timeoutMilliseconds=200)
    async with scene.client.get(f"http://127.0.0.1:{scene.port}/v2") as answer:
        assert (answer.status, answer.headers["x-penstock-revision"]) == (504, "digits-a")


async def test_sticky_by_header_moves_clients_one_way(scene: Scene) -> None:
    async def where() -> list[str]:
        return [(await scene.ask(headers={"x-user": f"u{index}"}))[1] for index in range(100)]

    sticky = {"stickiness": {"header": "x-user"}}
    await scene.route({"a": 900, "b": 100}, **sticky)
    first = await where()
    assert await where() == first
    await scene.route({"a": 500, "b": 500}, **sticky)
    second = await where()
    assert not [pair for pair in zip(first, second, strict=True) if pair == ("b", "a")]
    assert 25 < second.count("b") < 75


async def test_sticky_by_cookie_stays_from_the_first_answer_on(scene: Scene) -> None:
    sticky = {"stickiness": {"cookie": "mt.x"}}
    await scene.route({"a": 500, "b": 500}, **sticky)
    clients = {}
    for index in range(60):
        async with scene.client.get(f"http://127.0.0.1:{scene.port}/v2", headers={"cookie": "other=1"}) as answer:
            cookie = re.match(r"mt\.x=([^;]+); Path=/; HttpOnly; SameSite=Lax", answer.headers["set-cookie"])
            assert cookie
            clients[index] = (cookie[1], await answer.text())
    for value, revision in clients.values():
        async with scene.client.get(
            f"http://127.0.0.1:{scene.port}/v2", headers={"cookie": f"other=1; mt.x={value}; more=2"}
        ) as answer:
            assert await answer.text() == revision
            assert "set-cookie" not in answer.headers
    assert {revision for _, revision in clients.values()} == {"a", "b"}


async def test_a_shadow_gets_copies_and_cannot_hold_up_anybody(scene: Scene) -> None:
    gate = asyncio.Event()

    async def stall(_: web.Request) -> None:
        await gate.wait()

    scene.b.behave = stall
    await scene.route({"a": 1000, "b": 0}, shadow={"name": "digits-b", "share": 1000})
    begun = time.monotonic()
    for size in (10, 1 << 20, (1 << 20) + 1, 8 << 20):
        assert await scene.ask(method="POST", data=io.BytesIO(b"x" * size)) == (200, "a")
    for _ in range(30):
        assert await scene.ask(method="POST", data=b"x") == (200, "a")
    assert time.monotonic() - begun < 10, "34 requests; one that a copy holds up ends after 3 s, and not with 200"
    async with asyncio.timeout(60):
        while scene.b.seen["http"] < 2:  # noqa: ASYNC110 - another process asks
            await asyncio.sleep(0.01)
    gate.set()
    assert scene.b.seen["http"] <= 8, "few copies at a time, none of large bodies"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        assert await channel.unary_unary(UNARY)(b"x" * 100) == b"a"
        async with asyncio.timeout(60):
            while not scene.b.seen["grpc"]:  # noqa: ASYNC110 - another process asks
                await asyncio.sleep(0.01)
        stream = channel.stream_stream(STREAM)()
        await stream.write(b"1")
        assert await stream.read() == b"a"
        assert await channel.unary_unary(UNARY)(b"x" * (3 << 20)) == b"a"
        async with asyncio.timeout(60):
            while scene.b.seen["grpc"] < 2:  # noqa: ASYNC110 - another process asks
                await asyncio.sleep(0.01)
        stream.cancel()
    assert not scene.b.seen["stream"], "copies of calls have any length, streams have no copies"


async def test_a_grpc_shadow_that_reads_nothing_holds_up_no_call(scene: Scene) -> None:
    silent: list[asyncio.StreamWriter] = []

    async def read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.append(writer)

    async with await asyncio.start_server(read_nothing, scene.b.address, 0, limit=1024) as server:
        scene.b.grpc_port = server.sockets[0].getsockname()[1]
        await scene.pod.api.put_servers("digits-b", scene.b)
        await scene.route({"a": 1000, "b": 0}, shadow={"name": "digits-b", "share": 1000})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel, asyncio.timeout(60):
            call = channel.unary_unary(UNARY)
            while not silent:
                assert await call(b"x") == b"a"
            begun = time.monotonic()
            for _ in range(20):
                assert await call(b"x" * (3 << 20)) == b"a"
            assert time.monotonic() - begun < 20, "each that a copy holds up takes 2 s"
            for writer in silent:
                writer.close()


async def test_a_lost_operator_sends_everything_to_stable_until_a_higher_generation(scene: Scene) -> None:
    promise = {"timeoutSeconds": 1, "renewTime": now(), "onLoss": "Stable"}
    await scene.route({"a": 500, "b": 500}, supervision=promise)
    generation = scene.generation
    told = await scene.pod.until("digits", lambda told: bool(told["expired"]))
    assert told["generation"] == generation
    assert await scene.answers(20) == {"a": 20}
    late = {**promise, "renewTime": now()}
    await scene.pod.api.put_split(split("digits", scene.port, {"a": 500, "b": 500}, generation, supervision=late))
    scene.pod.kill(scene.pod.agent)
    scene.pod.start_agent()
    await scene.pod.until("digits", lambda told: bool(told["expired"]))
    assert await scene.answers(20) == {"a": 20}, "a renewal that comes too late renews nothing"
    fresh = {**promise, "timeoutSeconds": 60, "renewTime": now()}
    told = await scene.route({"a": 500, "b": 500}, supervision=fresh)
    assert not told["expired"]
    assert set(await scene.answers(30)) == {"a", "b"}


async def test_without_a_healthy_stable_a_lost_operator_changes_nothing(scene: Scene) -> None:
    scene.a.ready = False
    await scene.pod.until("digits", lambda told: told["warm"]["digits-a"] == 0)
    await scene.route({"a": 0, "b": 1000}, supervision={"timeoutSeconds": 1, "renewTime": now(), "onLoss": "Stable"})
    await asyncio.sleep(1.5)
    assert await scene.answers(10) == {"b": 10}
    scene.a.ready = True
    await scene.pod.until("digits", lambda told: bool(told["expired"]))
    assert await scene.answers(10) == {"a": 10}


async def test_a_lower_weight_does_not_wait_for_a_revision_that_cannot_start(scene: Scene) -> None:
    await scene.route({"a": 500, "b": 500})
    begun = time.monotonic()
    await scene.route({"a": 1000, "c": 0})
    assert time.monotonic() - begun < 5, "one that waits for it waits 10 s"
    assert await scene.answers(10) == {"a": 10}


async def test_the_drain_serves_on_and_ends_when_nobody_asks(scene: Scene) -> None:
    async def slow(_: web.Request) -> None:
        await asyncio.sleep(1)

    scene.a.behave = slow
    seen = scene.a.seen["http"]
    request = asyncio.create_task(scene.ask())
    async with asyncio.timeout(60):
        while scene.a.seen["http"] == seen:  # noqa: ASYNC110 - another process passes it on
            await asyncio.sleep(0.01)
    begun = time.monotonic()
    drain = asyncio.create_task(scene.ask("/drain", scene.pod.agent_port))
    assert (await request)[0] == 200
    async with scene.client.get(f"http://127.0.0.1:{scene.port}/v2") as answer:
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert (await drain)[0] == 200
    assert 1.5 < time.monotonic() - begun < 15


def files(pod: RouterPod) -> dict[str, int]:
    """When each of Envoy's documents was written."""
    return {path.name: path.stat().st_mtime_ns for path in (pod.folder / "envoy").rglob("*.json")}
