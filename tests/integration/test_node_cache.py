"""The node cache and `fetch` as processes, in front of the real registry with the tokens that the operator makes."""

import hashlib
import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.controller.credentials import Access, SigningKey
from penstock_runtime.registry import Registry, RegistryAuth
from penstock_runtime.web import Web
from tests.archives import packed
from tests.integration.servers import free_port, running_registry

FILES = {"model.onnx": os.urandom(3 << 20)}
LAYER = packed(FILES)
DIGEST = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"


@dataclass
class Relay:
    """Passes requests on to the registry and counts them; `flow` cleared holds downloads in their middle."""

    registry: str
    key: SigningKey
    host: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    flow: threading.Event = field(default_factory=threading.Event)

    def token(self, repository: str, *actions: str) -> str:
        return self.key.token("test", [Access(repository, actions)], int(time.time()))

    def push(self, repository: str) -> None:
        registry = Registry(
            self.registry, Web([self.registry]), RegistryAuth(token=self.token(repository, "pull", "push"))
        )
        registry.upload(repository, DIGEST, len(LAYER), lambda: [LAYER])

    def downloads(self) -> int:
        return sum(method == "GET" for method, _ in self.seen)

    def handler(relay) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                relay.seen.append((self.command, self.path))
                connection = http.client.HTTPConnection(relay.registry, timeout=20)
                connection.request(
                    self.command, self.path, headers={"Authorization": self.headers.get("Authorization", "")}
                )
                with connection.getresponse() as response:
                    body = response.read()
                    self.send_response(response.status)
                    self.send_header("Content-Length", response.headers.get("Content-Length", "0"))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2])
                    relay.flow.wait(20)
                    self.wfile.write(body[len(body) // 2 :])
                connection.close()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, SigningKey]]:
    key = SigningKey.generate()
    with running_registry(tmp_path_factory.mktemp("registry"), key.jwks()) as host:
        yield host, key


@pytest.fixture
def store(registry: tuple[str, SigningKey]) -> Iterator[Relay]:
    relay = Relay(*registry)
    relay.flow.set()
    relay.push("vision")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), relay.handler())
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    relay.host = f"127.0.0.1:{server.server_port}"
    yield relay
    relay.flow.set()
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Node:
    """A node: one folder, and the cache's process while it runs."""

    folder: Path
    store: Relay
    size: str = "64Mi"
    host: str = ""
    told: str = ""
    process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator["Node"]:
        self.folder.mkdir(exist_ok=True)
        port, told = free_port(), free_port()
        self.host, self.told = f"127.0.0.1:{port}", f"127.0.0.1:{told}"
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PENSTOCK_STORES": self.store.host,
            "PENSTOCK_PLAIN_HTTP": f"{self.store.host},other.example",
            "PENSTOCK_CACHE_FOLDER": str(self.folder),
            "PENSTOCK_CACHE_SIZE": self.size,
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": str(told),
        }
        command = [sys.executable, "-m", "penstock_runtime.nodecache"]
        with (self.folder.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, cwd="/", stderr=log)
        try:
            self._wait()
            yield self
        finally:
            self.process.kill()
            self.process.wait(10)

    def _wait(self) -> None:
        assert self.process
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{self.told}/healthz", timeout=5):
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.folder.parent / "log").read_text()

    def outcomes(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://{self.told}/metrics", timeout=5) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if "outcome=" in line]
        return {name.split('"')[1]: int(value) for name, _, value in lines if int(value)}

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()} - {"lock"}


@pytest.fixture
def node(tmp_path: Path, store: Relay) -> Node:
    return Node(tmp_path / "cache", store)


@dataclass
class Fetch:
    """The init container of a serving pod."""

    root: Path
    process: subprocess.Popen[str]

    def end(self) -> tuple[int, str]:
        """Exit code and what it said."""
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said

    @property
    def models(self) -> dict[str, bytes]:
        folder = self.root / "models"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetching(node: Node, root: Path, repository: str, token: str) -> Fetch:
    place = root / "etc/penstock/registry/token"
    place.parent.mkdir(parents=True)
    place.write_text(token)
    artifact = {"repository": f"{node.store.host}/{repository}", "layer": DIGEST, "sizeBytes": len(LAYER)}
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PENSTOCK_ROOT": str(root),
        "PENSTOCK_ARTIFACT": json.dumps(artifact),
        "PENSTOCK_PLAIN_HTTP": node.store.host,
        "PENSTOCK_SERVED_NAME": "digits",
        "PENSTOCK_NODE_CACHE": node.host,
    }
    command = [sys.executable, "-m", "penstock_runtime.fetch"]
    process = subprocess.Popen(
        command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Fetch(root, process)


def test_two_namespaces_one_node(node: Node, store: Relay, tmp_path: Path) -> None:
    vision, audio = store.token("vision", "pull"), store.token("audio", "pull")
    with node.running():
        for name in "ab":
            pod = fetching(node, tmp_path / name, "vision", vision)
            code, said = pod.end()
            assert code == 0, said
            assert "came from the node's cache" in said
            assert pod.models == FILES
        assert store.downloads() == 1

        code, said = fetching(node, tmp_path / "thief", "vision", audio).end()
        assert code == 1
        assert json.loads(said.splitlines()[-1])["reason"] == "StoreUnavailable", "as without a cache"
        code, said = fetching(node, tmp_path / "guesser", "audio", audio).end()
        assert json.loads(said.splitlines()[-1])["reason"] == "ArtifactMissing", "knowing the digest opens nothing"
        asked = store.downloads()

        store.push("audio")
        pod = fetching(node, tmp_path / "c", "audio", audio)
        assert pod.end()[0] == 0
        assert pod.models == FILES
        assert store.downloads() == asked, "what the store says is theirs as well is here already"
        assert node.outcomes() == {"miss": 1, "hit": 2, "refused": 2}
    assert "vision@sha256:" in node.log()
    assert vision not in node.log()
    assert audio not in node.log()


def test_a_token_that_has_ended_opens_nothing(node: Node, store: Relay) -> None:
    ended = store.key.token("test", [Access("vision", ("pull",))], int(time.time()) - 7200, 3600)
    with node.running():
        request = urllib.request.Request(
            f"http://{node.host}/v2/vision/blobs/{DIGEST}?ns={store.host}", headers={"Authorization": f"Bearer {ended}"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        refused.value.close()
    assert (refused.value.code, store.downloads()) == (401, 0)


def test_a_cache_killed_in_the_middle_costs_a_pod_nothing_but_time(node: Node, store: Relay, tmp_path: Path) -> None:
    vision = store.token("vision", "pull")
    store.flow.clear()
    with node.running():
        pod = fetching(node, tmp_path / "a", "vision", vision)
        while not node.files():
            assert pod.process.poll() is None, pod.end()
            time.sleep(0.01)
        assert node.process
        node.process.kill()
        store.flow.set()
        code, said = pod.end()
    assert code == 0, said
    assert "asking the store" in said
    assert pod.models == FILES
    assert len(node.files()) == 1, "what a killed process left"
    with node.running():
        assert node.files() == set()
        for name in "bc":
            assert fetching(node, tmp_path / name, "vision", vision).end()[0] == 0
        assert node.outcomes() == {"miss": 1, "hit": 1}
        assert node.files() == {DIGEST[7:]}
    with node.running():
        assert fetching(node, tmp_path / "d", "vision", vision).end()[0] == 0
        assert node.outcomes() == {"hit": 1}, "what is whole outlives the process"


def test_told_to_end_it_lets_a_pod_finish(node: Node, store: Relay, tmp_path: Path) -> None:
    store.flow.clear()
    with node.running():
        pod = fetching(node, tmp_path / "a", "vision", store.token("vision", "pull"))
        while not node.files():
            assert pod.process.poll() is None, pod.end()
            time.sleep(0.01)
        assert node.process
        node.process.send_signal(signal.SIGTERM)
        store.flow.set()
        code, said = pod.end()
        assert (code, node.process.wait(30)) == (0, 0), said + node.log()
    assert "came from the node's cache" in said
    assert node.files() == {DIGEST[7:]}
