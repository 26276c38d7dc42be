"""List and watch against an API server that misbehaves on purpose, and the small HTTP client beneath."""

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from penstock_runtime.agent import watch
from penstock_runtime.agent.http import Client, HttpError
from penstock_runtime.agent.watch import Api, Object, follow
from tests.integration.tls import Authority

Script = Callable[[str, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def server(answers: Iterable[bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers one prepared piece of bytes for each connection, then closes; tells what was asked."""
    asked: list[str] = []
    left = iter(answers)

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(next(left, b""))
            await writer.drain()
        finally:
            writer.close()

    made = await asyncio.start_server(attend, "127.0.0.1", 0, ssl=tls)
    async with made:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{made.sockets[0].getsockname()[1]}", asked


def whole(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d Word\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


def chunked(*pieces: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


def listing(version: int, *names: str) -> bytes:
    items = [{"metadata": {"name": name}} for name in names]
    return whole(json.dumps({"metadata": {"resourceVersion": str(version)}, "items": items}).encode())


def event(kind: str, version: int, name: str = "x", **more: Any) -> bytes:
    found = {"metadata": {"name": name, "resourceVersion": str(version)}, **more}
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


class Seen:
    """A sink that remembers, and ends the test when it has seen enough."""

    def __init__(self, enough: int) -> None:
        self.steps: list[Any] = []
        self.enough, self.done = enough, asyncio.Event()

    def add(self, step: Any) -> None:
        self.steps.append(step)
        if len(self.steps) >= self.enough:
            self.done.set()

    def replace(self, items: Iterable[Object]) -> None:
        self.add([item["metadata"]["name"] for item in items])

    def put(self, item: Object) -> None:
        self.add(f"+{item['metadata']['name']}")

    def remove(self, item: Object) -> None:
        self.add(f"-{item['metadata']['name']}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(watch, "_LONGEST_DELAY", 0.002)


@pytest_asyncio.fixture(autouse=True)
async def ended() -> AsyncIterator[None]:
    """Connections of a test end with it: their handlers see the other side close, and their transports go."""
    yield
    async with asyncio.timeout(5):
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)


async def followed(folder: Path, answers: list[bytes], enough: int) -> tuple[list[Any], list[str]]:
    (folder / "token").write_text("secret\n")
    sink = Seen(enough)
    async with server(answers) as (base, asked):
        task = asyncio.create_task(follow(Api(base, folder), "/things", {"labelSelector": "a"}, sink))
        async with asyncio.timeout(5):
            await sink.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return sink.steps, [line.split("\r\n")[0] for line in asked]


async def test_lists_then_watches_from_there_and_goes_on_from_the_last_event(tmp_path: Path) -> None:
    stream = chunked(event("ADDED", 6, "b")[:10], event("ADDED", 6, "b")[10:], event("BOOKMARK", 9))
    answers = [listing(5, "a"), stream, chunked(event("DELETED", 10, "a"))]
    steps, asked = await followed(tmp_path, answers, 3)
    assert steps == [["a"], "+b", "-a"]
    assert asked[0] == "GET /things?labelSelector=a HTTP/1.1"
    assert "resourceVersion=5 " in asked[1]
    assert "resourceVersion=9 " in asked[2]


GONE = event("ERROR", 0, code=410, message="too old")
TROUBLE = {
    "403 of an API server that has just started": [whole(b"no", 403)],
    "no answer": [b""],
    "not HTTP": [b"what?\r\n\r\n"],
    "half a chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"],
    "not JSON": [chunked(b"{not json}\n")],
    "an event without an object": [chunked(b'{"type": "ADDED"}\n')],
    "an event of nothing": [chunked(b'{"type": "ADDED", "object": null}\n')],
    "a list for an event": [chunked(b"[]\n")],
    "a chunk without an end": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * (1 << 17)],
}


@pytest.mark.parametrize("case", TROUBLE)
async def test_trouble_in_a_watch_is_tried_again_from_the_same_version(tmp_path: Path, case: str) -> None:
    answers = [listing(5), *TROUBLE[case], chunked(event("ADDED", 6, "b"))]
    steps, asked = await followed(tmp_path, answers, 2)
    assert steps == [[], "+b"]
    assert "resourceVersion=5 " in asked[-1] or "resourceVersion=5 " in asked[-2]


@pytest.mark.parametrize("gone", [chunked(GONE), whole(b"gone", 410)])
async def test_a_version_that_is_too_old_means_a_new_list(tmp_path: Path, gone: bytes) -> None:
    steps, _ = await followed(tmp_path, [listing(5, "a"), gone, listing(9, "b")], 2)
    assert steps == [["a"], ["b"]]


@pytest.mark.parametrize("ending", [chunked(), chunked(event("BOOKMARK", 5))])
async def test_a_watch_that_ends_at_once_is_begun_again_after_a_pause(
    tmp_path: Path, ending: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a proxy that cuts streams off: not hundreds of connections a second."""
    monkeypatch.setattr(watch, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(watch, "_LONGEST_DELAY", 0.02)
    begun = asyncio.get_running_loop().time()
    steps, asked = await followed(tmp_path, [listing(5), *[ending] * 5, chunked(event("ADDED", 6, "b"))], 2)
    assert asyncio.get_running_loop().time() - begun >= 5 * 0.02
    assert (steps, "resourceVersion=5 " in asked[6]) == ([[], "+b"], True)


class FakeApi:
    """Lists as often as asked; every watch ends as `ending` says. An hour of it takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ending: Exception | dict[str, Any] | None) -> None:
        self.ending, self.asked, self.now = ending, list[tuple[float, str]](), 0.0
        monkeypatch.undo()  # the pauses are the real ones
        monkeypatch.setattr(watch.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > 3600:
            raise asyncio.CancelledError

    async def list(self, *_: Any) -> dict[str, Any]:
        self.asked.append((self.now, "list"))
        return {"metadata": {"resourceVersion": "5"}, "items": []}

    async def watch(self, *_: Any) -> AsyncIterator[dict[str, Any]]:
        self.asked.append((self.now, "watch"))
        if isinstance(self.ending, Exception):
            raise self.ending
        if self.ending is not None:
            yield self.ending

    async def run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await follow(self, "/things", {}, Seen(1 << 30))  # type: ignore[arg-type]


def error(code: int) -> dict[str, Any]:
    return {"type": "ERROR", "object": {"code": code, "message": "no"}}


@pytest.mark.parametrize("ending", [error(500), error(504), HttpError(400, "bad version"), ValueError("half a line")])
async def test_a_version_that_is_refused_again_and_again_means_a_list_and_long_pauses(
    monkeypatch: pytest.MonkeyPatch, ending: Any
) -> None:
    api = FakeApi(monkeypatch, ending)
    await api.run()
    kinds = [kind for _, kind in api.asked]
    assert kinds[:7] == ["list", "watch", "watch", "watch", "list", "watch", "list"]
    assert len(api.asked) < 2 * 3600 / 5 + 20, "no more than a list and a watch in five seconds"
    lists = [at for at, kind in api.asked if kind == "list"]
    assert max(b - a for a, b in itertools.pairwise(lists)) < 7, "and what changes is still known soon"


async def test_a_version_that_is_gone_is_listed_at_once_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi(monkeypatch, error(410))
    await api.run()
    assert api.asked[:3] == [(0.0, "list"), (0.0, "watch"), (0.0, "list")]
    assert len(api.asked) < 2 * 3600 / 5 + 20


@pytest.mark.parametrize("ending", [ConnectionRefusedError("away"), TimeoutError(), None])
async def test_a_server_that_is_away_is_asked_every_second_from_the_same_version(
    monkeypatch: pytest.MonkeyPatch, ending: Any
) -> None:
    api = FakeApi(monkeypatch, ending)
    await api.run()
    assert [kind for _, kind in api.asked].count("list") == 1
    assert 3600 / 1.25 <= len(api.asked) < 3620


async def test_a_list_that_fails_is_tried_again(tmp_path: Path) -> None:
    steps, _ = await followed(tmp_path, [whole(b"", 500), whole(b"[]"), listing(9, "b")], 1)
    assert steps == [["b"]]


async def test_who_is_trusted_is_read_again_when_the_clusters_authority_is_replaced(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    old, new = map(Authority, folders)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*new.certificate("127.0.0.1"))
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(old.path.read_bytes())
    async with server([listing(5)], tls) as (base, _):
        api = Api(base, tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError):
            await api.list("/things", {})
        trusted.write_bytes(new.path.read_bytes())
        assert (await api.list("/things", {}))["metadata"] == {"resourceVersion": "5"}


async def test_silence_ends_a_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_SILENCE", 0.05)
    ended = asyncio.Event()
    requests = 0

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        if requests == 1:
            writer.write(listing(5))
        elif requests == 2:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await reader.read()
        else:
            ended.set()
        writer.close()

    made = await asyncio.start_server(attend, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
    async with made:
        task = asyncio.create_task(follow(Api(base, tmp_path), "/things", {}, Seen(99)))
        async with asyncio.timeout(5):
            await ended.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_client_keeps_its_connection_and_replaces_it_once_when_the_server_closed_it() -> None:
    connections, close = 0, False

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while not close:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    made = await asyncio.start_server(attend, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}")
    async with made:
        assert [await client.get("/"), await client.get("/")] == [b"ok", b"ok"]
        assert connections == 1
        client.close()
        assert await client.get("/") == b"ok"
        assert connections == 2
        client.close()


async def test_another_status_than_200_is_an_error_with_its_words() -> None:
    async with server([whole(b"not here", 404)]) as (base, _):
        with pytest.raises(HttpError, match="404 not here") as caught:
            await Client(base).get("/x")
        assert caught.value.status == 404
