"""A store and a node cache in this process, for tests: who may read what is a table, and the store can misbehave."""

import hashlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from penstock_runtime.nodecache.cache import NodeCache
from penstock_runtime.nodecache.figures import OUTCOMES, Figures
from penstock_runtime.nodecache.server import Server, blob_server, told_server
from penstock_runtime.nodecache.shelf import Shelf
from penstock_runtime.web import Web

ROOM = 1 << 40


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class FakeStore:
    """Blobs by repository, repositories by token; every request is kept as method, repository, token."""

    host: str = ""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead of the right bytes, by digest."""
    truncated: bool = False
    failing: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    """Cleared: a GET sends its headers and half of the body, and waits."""

    def put(self, repository: str, data: bytes) -> str:
        self.blobs[repository, digest_of(data)] = data
        return digest_of(data)

    def count(self, method: str) -> int:
        return sum(seen[0] == method for seen in self.seen)


def _store_handler(state: FakeStore) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            repository, _, digest = self.path.removeprefix("/v2/").partition("/blobs/")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            state.seen.append((self.command, repository, token))
            data = state.blobs.get((repository, digest))
            allowed = repository in state.tokens.get(token, ())
            status = 503 if state.failing else 401 if not allowed else 404 if data is None else 200
            body = state.sent.get(digest, data or b"") if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2])
                state.gate.wait(20)
                self.wfile.write(b"" if state.truncated else body[len(body) // 2 :])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(server: http.server.ThreadingHTTPServer) -> Iterator[str]:
    """Its host:port while it answers."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def fake_store() -> Iterator[FakeStore]:
    state = FakeStore()
    state.gate.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _store_handler(state))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with serving(server) as host:
        state.host = host
        yield state


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Node:
    """A running cache and how to ask it."""

    host: str
    store: FakeStore
    shelf: Shelf
    figures: Figures
    cache: NodeCache
    server: Server
    clock: Clock
    told: str

    def open(
        self, repository: str, digest: str, token: str, ns: str | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        path = f"/v2/{repository}/blobs/{digest}?ns={ns or self.store.host}"
        return self.request("GET", path, {"Authorization": f"Bearer {token}"} if token else {})

    def request(
        self, method: str, path: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.request(method, path, headers=headers)
        return connection, connection.getresponse()

    def get(self, repository: str, digest: str, token: str, ns: str | None = None) -> tuple[int, bytes]:
        """Status and body, when what is new is also kept; http.client.IncompleteRead where it broke off."""
        connection, response = self.open(repository, digest, token, ns)
        try:
            return response.status, response.read()
        finally:
            response.close()
            connection.close()
            assert not self.store.gate.is_set() or self.cache.finish_downloads(10)

    def outcomes(self) -> dict[str, int]:
        """How requests have ended, after all of them have."""
        assert self.server.finish_requests(10)
        lines = dict(line.rsplit(" ", 1) for line in self.figures.text().splitlines() if line[0] != "#")
        found = {name: int(lines[f'penstock_node_cache_requests_total{{outcome="{name}"}}']) for name in OUTCOMES}
        return {name: count for name, count in found.items() if count}


@contextmanager
def node_cache(folder: Path, store: FakeStore, limit: int = 1 << 24, room: int = ROOM) -> Iterator[Node]:
    clock = Clock()
    shelf = Shelf(folder, limit, clock, lambda _: room)
    figures = Figures(shelf)
    cache = NodeCache(shelf, figures, [store.host], Web([store.host], timeout=10, pauses=()), clock)
    server, told = blob_server(("127.0.0.1", 0), cache, figures), told_server(("127.0.0.1", 0), figures)
    with serving(server) as host, serving(told) as told_host:
        yield Node(host, store, shelf, figures, cache, server, clock, told_host)
        store.gate.set()
        assert server.finish_requests(10)
        assert cache.finish_downloads(10)
    shelf.close()
