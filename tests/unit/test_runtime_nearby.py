"""Fetching with a cache on the node: from there where it can, from the store whatever is wrong with it."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.api.reasons import Reason
from penstock_runtime import fetch as fetch_module
from penstock_runtime import nearby
from penstock_runtime.failure import Failure
from penstock_runtime.fetch import fetch
from penstock_runtime.mounts import Places
from penstock_runtime.web import Web
from tests.archives import packed

from .nodecaches import FakeStore, digest_of, fake_store, node_cache

GRAPH = bytes(range(256)) * 400
LAYER = packed({"model": GRAPH})
SERVED = {"digits/1/model": GRAPH, "digits/config.pbtxt": b"name: 'digits'"}


class Pod:
    """What a serving pod has when `fetch` starts."""

    def __init__(self, root: Path, store: FakeStore) -> None:
        self.places, self._store = Places.below(root), store
        for place, text in ((self.places.config, "name: 'digits'"), (self.places.token, "mine")):
            place.parent.mkdir(parents=True)
            place.write_text(text)

    def fetch(self, cache: str = "", size: int = 0, layer: bytes = LAYER) -> dict[str, bytes]:
        size = size or len(layer)
        artifact = {"repository": f"{self._store.host}/vision", "layer": digest_of(layer), "sizeBytes": size}
        environment = {
            "PENSTOCK_ARTIFACT": json.dumps(artifact),
            "PENSTOCK_SERVED_NAME": "digits",
            **({"PENSTOCK_NODE_CACHE": cache} if cache else {}),
        }
        fetch(environment, self.places, Web([self._store.host], pauses=()))
        folder = self.places.models
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store() -> Iterator[FakeStore]:
    with fake_store() as found:
        found.tokens = {"mine": {"vision"}}
        found.put("vision", LAYER)
        yield found


@pytest.fixture
def pod(tmp_path, store) -> Pod:
    return Pod(tmp_path / "pod", store)


@contextmanager
def answering(answer: bytes, hold: threading.Event | None = None) -> Iterator[str]:
    """Somebody on the node who answers a connection with these bytes, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def attend() -> None:
            made, _ = listening.accept()
            with made:
                made.recv(65536)
                made.sendall(answer)
                if hold:
                    hold.wait(10)

        thread = threading.Thread(target=attend)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_the_second_pod_of_the_node_costs_the_store_nothing(tmp_path, store, capsys):
    folder = tmp_path / "cache"
    folder.mkdir()
    with node_cache(folder, store) as node:
        for name in "ab":
            assert Pod(tmp_path / name, store).fetch(node.host) == SERVED
            assert node.cache.finish_downloads(10)
        assert node.outcomes() == {"miss": 1, "hit": 1}
    assert (store.count("GET"), store.count("HEAD")) == (1, 1)
    assert "came from the node's cache" in capsys.readouterr().out


OK = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"
EVIL = packed({"model": GRAPH[::-1], "evil": b"x"})
ANSWERS = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "a refusal": b"HTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "a redirect": b"HTTP/1.0 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    "another model": OK % len(EVIL) + EVIL,
    "a model with a changed byte": OK % len(LAYER) + LAYER.replace(GRAPH[:64], GRAPH[1:65], 1),
    "a part of it": OK % len(LAYER) + LAYER[: len(LAYER) // 2],
    "more than is on record": OK % (10 * len(LAYER)) + 10 * LAYER,
    "no archive": OK % 2000 + b"!" * 2000,
    "a climbing member": OK % 10240 + packed({"../../evil": b"x"}),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_whatever_the_cache_answers_the_store_is_asked(case, pod, store, capsys):
    with answering(ANSWERS[case]) as cache:
        assert pod.fetch(cache) == SERVED
    assert store.count("GET") == 1
    assert "asking the store" in capsys.readouterr().err
    assert {path.name for path in pod.places.models.iterdir()} == {"digits"}


@pytest.fixture
def impatient(monkeypatch):
    assert nearby._CONNECT_SECONDS <= 2
    monkeypatch.setattr(nearby, "_CONNECT_SECONDS", 0.2)


def test_nobody_there(pod, store, impatient):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gone = listening.getsockname()[1]
    assert pod.fetch(f"127.0.0.1:{gone}") == SERVED
    assert store.count("GET") == 1


@pytest.mark.parametrize("step", ["getaddrinfo", "create_connection"])
def test_names_and_connections_that_take_for_ever_cost_less_than_a_second(pod, monkeypatch, step, impatient):
    ending, before = threading.Event(), socket.getaddrinfo

    def stuck(host: str, *arguments: object, **more: object) -> object:
        if host != "node-cache.penstock-system":
            return before(host, *arguments, **more)
        ending.wait(20)
        raise OSError("no answer")

    def stuck_connection(*_: object) -> None:
        ending.wait(20)
        raise OSError("no answer")

    if step == "getaddrinfo":
        monkeypatch.setattr(socket, "getaddrinfo", stuck)
    else:
        monkeypatch.setattr(nearby.socket, "create_connection", _only_nearby(stuck_connection))
    begun = time.monotonic()
    assert pod.fetch("node-cache.penstock-system:5001") == SERVED
    took = time.monotonic() - begun
    ending.set()
    assert took < 5, "0.2 s of it for the cache; a busy machine has the rest"


def test_a_name_that_is_gone_costs_nothing(pod, store, monkeypatch):
    monkeypatch.setattr(nearby, "_CONNECT_SECONDS", 60)
    before = socket.getaddrinfo

    def gone(host: str, *arguments: object, **more: object) -> object:
        if host == "node-cache.penstock-system":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return before(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", gone)
    assert pod.fetch("node-cache.penstock-system:5001") == SERVED
    assert store.count("GET") == 1


def test_a_connection_refused_at_first_is_tried_again(tmp_path, pod, store, monkeypatch):
    monkeypatch.setattr(nearby, "_CONNECT_SECONDS", 60)
    before, refused = socket.create_connection, []

    def connect(address: tuple[str, int], *arguments: object, **more: object) -> object:
        if address[1] == int(node.host.split(":")[1]) and len(refused) < 2:
            refused.append(address)
            raise ConnectionRefusedError
        return before(address, *arguments, **more)

    folder = tmp_path / "cache"
    folder.mkdir()
    with node_cache(folder, store) as node:
        monkeypatch.setattr(nearby.socket, "create_connection", connect)
        assert pod.fetch(node.host) == SERVED
        assert node.outcomes() == {"miss": 1}


def _only_nearby(stuck: Callable[..., None]) -> Callable[..., object]:
    before = socket.create_connection

    def connect(address: tuple[str, int], *arguments: object, **more: object) -> object:
        if address[0] == "node-cache.penstock-system":
            return stuck()
        return before(address, *arguments, **more)

    return connect


def test_a_cache_that_falls_silent_is_given_up(pod, store, monkeypatch):
    monkeypatch.setattr(nearby, "_SILENT_SECONDS", 0.2)
    for answer in (b"", OK % len(LAYER) + LAYER[:20000]):
        hold = threading.Event()
        with answering(answer, hold) as cache:
            assert pod.fetch(cache) == SERVED
            hold.set()
    assert store.count("GET") == 2


def test_a_full_cache_is_passed_by(tmp_path, pod, store):
    folder = tmp_path / "cache"
    folder.mkdir()
    with node_cache(folder, store, limit=len(LAYER) - 1) as node:
        assert pod.fetch(node.host) == SERVED
        assert node.outcomes() == {"passed": 1}


def test_a_store_that_lost_it_says_so_as_before(tmp_path, pod, store):
    store.blobs.clear()
    folder = tmp_path / "cache"
    folder.mkdir()
    with node_cache(folder, store) as node:
        with pytest.raises(Failure) as failure:
            pod.fetch(node.host)
        assert node.outcomes() == {"refused": 1}
    assert failure.value.reason is Reason.ARTIFACT_MISSING


def test_the_token_is_not_shown_to_another_store(tmp_path, pod, store):
    folder = tmp_path / "cache"
    folder.mkdir()
    with fake_store() as other, node_cache(folder, other) as node:
        assert pod.fetch(node.host) == SERVED
        assert other.seen == []


def test_without_a_cache_nothing_is_different(pod, store):
    assert pod.fetch() == SERVED
    assert [seen[0] for seen in store.seen] == ["GET"]


DAMAGED = {
    "a changed byte": LAYER.replace(GRAPH[:64], GRAPH[1:65], 1),
    "a changed header": b"!" + LAYER[1:],
    "a name that no disk takes": packed({"ö\0": b"x"}),
    "more than is on record": LAYER + bytes(1024),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_other_bytes_than_named_are_the_stores_damage_whatever_they_look_like(case, pod, store):
    store.sent[digest_of(LAYER)] = DAMAGED[case]
    with pytest.raises(Failure, match="its storage is damaged") as caught:
        pod.fetch()
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert {path.name for path in pod.places.models.iterdir()} <= {".staging"}


def test_bytes_beyond_a_layer_that_ends_with_a_piece_are_damage_too(pod, store):
    layer = packed({"model": bytes((5 << 20) - 3 * 512)})
    assert len(layer) == 5 << 20
    store.put("vision", layer)
    store.sent[digest_of(layer)] = layer + bytes(4096)
    with pytest.raises(Failure, match="its storage is damaged"):
        pod.fetch(layer=layer)


FULL = {errno.ENOSPC: Reason.NOT_ENOUGH_DISK, errno.EDQUOT: Reason.NOT_ENOUGH_DISK, errno.EIO: Reason.STORE_UNAVAILABLE}


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("operation", ["mkdir", "write"])
def test_a_disk_that_takes_no_model_is_said_so(number, operation, pod, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if operation == "mkdir":
        monkeypatch.setattr(fetch_module.Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(fetch_module, "_unpack", refuse)
    with pytest.raises(Failure, match=os.strerror(number)) as caught:
        pod.fetch()
    assert caught.value.reason is FULL[number]
