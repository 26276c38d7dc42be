"""The node cache over HTTP: who gets what, how often the store is asked, and what happens when something breaks."""

import http.client
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock_runtime.nodecache import server as server_module
from penstock_runtime.nodecache import shelf as shelf_module
from penstock_runtime.nodecache.gate import REMEMBERED_SECONDS, Gate
from penstock_runtime.registry import Reference

from .nodecaches import Clock, digest_of, fake_store, node_cache

MODEL = os.urandom(1_500_000)
DIGEST = digest_of(MODEL)
VISION, AUDIO = "token-of-vision", "token-of-audio"


@pytest.fixture
def store():
    with fake_store() as found:
        found.tokens = {VISION: {"vision"}, AUDIO: {"audio"}}
        found.put("vision", MODEL)
        yield found


@pytest.fixture
def node(store, tmp_path):
    with node_cache(tmp_path, store) as found:
        yield found


def test_the_second_time_it_comes_from_the_node(node, store):
    assert [node.get("vision", DIGEST, VISION) for _ in range(3)] == [(200, MODEL)] * 3
    assert (store.count("GET"), store.count("HEAD")) == (1, 1)
    assert node.outcomes() == {"miss": 1, "hit": 2}


# who may have what

REFUSED = {
    "another namespace's token": (401, ("vision", DIGEST, AUDIO), 1),
    "another namespace's content in one's own repository": (404, ("audio", DIGEST, AUDIO), 1),
    "a token that nobody knows": (401, ("vision", DIGEST, "made-up"), 1),
    "no token": (401, ("vision", DIGEST, ""), 0),
    "content that is nowhere": (404, ("vision", digest_of(b"nowhere"), VISION), 1),
    "another host": (403, ("vision", DIGEST, VISION, "169.254.169.254"), 0),
    "another port": (403, ("vision", DIGEST, VISION, "127.0.0.1:1"), 0),
    "two hosts": (400, ("vision", DIGEST, VISION, "a&ns=b"), 0),
    "a host with a path": (400, ("vision", DIGEST, VISION, "a/b"), 0),
    "a user before the host": (400, ("vision", DIGEST, VISION, "a@b"), 0),
    "a tag in the repository": (400, ("vision:v1", DIGEST, VISION), 0),
    "a climbing repository": (400, ("../vision", DIGEST, VISION), 0),
    "a digest that is none": (404, ("vision", "sha256:12", VISION), 0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_content_that_is_here_is_refused_as_the_store_refuses_it(case, node, store):
    status, asked, questions = REFUSED[case]
    node.get("vision", DIGEST, VISION)
    store.seen.clear()
    answered, body = node.get(*asked)
    assert answered == status, body
    assert MODEL[:64] not in body
    assert len(store.seen) == questions
    assert node.outcomes() == {"miss": 1, "refused": 1}


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic dTpw"}, {"Authorization": "Bearer "}])
def test_other_ways_to_be_known_are_none(node, store, header):
    connection, response = node.request("GET", f"/v2/vision/blobs/{DIGEST}?ns={store.host}", header)
    with response:
        assert response.status == 401
    connection.close()
    assert store.seen == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "CONNECT"])
def test_it_can_be_asked_for_content_and_nothing_else(node, store, method):
    connection, response = node.request(method, f"/v2/vision/blobs/{DIGEST}?ns={store.host}", {})
    with response:
        assert response.status == 501
    connection.close()
    assert store.seen == []


def test_the_store_sees_the_clients_own_token(node, store):
    node.get("vision", DIGEST, VISION)
    assert set(store.seen) == {("HEAD", "vision", VISION), ("GET", "vision", VISION)}


def test_a_yes_holds_for_a_minute_and_a_no_for_no_time(node, store):
    node.get("vision", DIGEST, VISION)
    store.tokens = {AUDIO: {"vision"}}
    assert node.get("vision", DIGEST, VISION)[0] == 200
    node.clock.now += REMEMBERED_SECONDS
    assert node.get("vision", DIGEST, VISION)[0] == 401
    store.tokens = {VISION: {"vision"}}
    assert node.get("vision", DIGEST, VISION)[0] == 200
    assert store.count("HEAD") == 3


def test_a_yes_counts_from_when_it_was_asked_and_not_for_ever_many():
    clock, asked = Clock(), []

    def slowly(reference, token):
        asked.append(token)
        clock.now += 50

    gate = Gate(slowly, clock)
    reference = Reference("host", "vision", digest=DIGEST)
    gate.admit(reference, "a")
    clock.now += 11
    gate.admit(reference, "a")
    assert asked == ["a", "a"]
    quick = Gate(lambda *_: None, clock)
    for number in range(5000):
        quick.admit(reference, str(number))
    assert len(quick._until) == 4096
    clock.now += REMEMBERED_SECONDS
    quick.admit(reference, "one more")
    assert len(quick._until) == 1


def test_no_token_is_logged_or_measured(node, store, caplog):
    caplog.set_level(logging.DEBUG)
    for token in (VISION, AUDIO, "", "made-up"):
        node.get("vision", DIGEST, token)
        node.get("vision", DIGEST, token, "elsewhere")
    store.failing = True
    node.clock.now += REMEMBERED_SECONDS
    node.get("vision", DIGEST, VISION)
    node.outcomes()
    told = caplog.text + node.figures.text()
    assert "vision" in caplog.text
    assert not [token for token in (VISION, AUDIO, "made-up") if token in told]
    assert "vision" not in node.figures.text()


# how often the store is asked


def test_pods_that_start_together_make_one_download(node, store):
    store.gate.clear()
    all_have_headers = threading.Barrier(9)

    def ask(_: int) -> bytes:
        connection, response = node.open("vision", DIGEST, VISION)
        all_have_headers.wait(10)
        with response:
            data = response.read()
        connection.close()
        return data

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, number) for number in range(8)]
        all_have_headers.wait(10)
        store.gate.set()
        assert all(answer.result() == MODEL for answer in answers)
    assert store.count("GET") == 1
    assert node.outcomes() == {"miss": 1, "joined": 7}


def test_it_is_sent_while_it_comes(node, store):
    store.gate.clear()
    connection, response = node.open("vision", DIGEST, VISION)
    with response:
        assert response.headers["Content-Length"] == str(len(MODEL))
        early = response.read(1000)
        store.gate.set()
        assert early + response.read() == MODEL
    connection.close()


def test_who_goes_away_ends_no_download(node, store):
    store.gate.clear()
    connection, response = node.open("vision", DIGEST, VISION)
    response.close()
    connection.close()
    other, second = node.open("vision", DIGEST, VISION)
    store.gate.set()
    with second:
        assert second.read() == MODEL
    other.close()
    assert store.count("GET") == 1


def test_other_namespaces_need_their_own_right_to_join(node, store):
    store.gate.clear()
    connection, response = node.open("vision", DIGEST, VISION)
    assert node.get("vision", DIGEST, AUDIO)[0] == 401
    assert node.get("audio", DIGEST, AUDIO)[0] == 404
    store.put("audio", MODEL)
    other, second = node.open("audio", DIGEST, AUDIO)
    store.gate.set()
    with response, second:
        assert response.read() == second.read() == MODEL
    connection.close()
    other.close()
    assert store.count("GET") == 1, "the same content is fetched once, whoever has the right to it"


# what breaks


def broken_off(node) -> bool:
    try:
        status, body = node.get("vision", DIGEST, VISION)
    except http.client.IncompleteRead as error:
        return error.partial != MODEL
    return status >= 500 and MODEL[:64] not in body


@pytest.mark.parametrize("spoil", ["other bytes", "fewer bytes"])
def test_bytes_that_are_not_right_never_make_a_whole_answer(node, store, spoil):
    store.truncated = spoil == "fewer bytes"
    if spoil == "other bytes":
        store.sent[DIGEST] = MODEL[:-1] + b"!"
    assert broken_off(node)
    assert broken_off(node)
    assert (node.shelf.digests, node.outcomes()) == ((), {"failed": 2})
    assert node.shelf.used == 0
    store.sent.clear()
    store.truncated = False
    assert node.get("vision", DIGEST, VISION) == (200, MODEL)
    assert store.count("GET") == 3


def test_without_the_store_nothing_is_given(node, store):
    node.get("vision", DIGEST, VISION)
    store.failing = True
    assert node.get("vision", DIGEST, VISION)[0] == 200, "for a minute"
    node.clock.now += REMEMBERED_SECONDS
    assert node.get("vision", DIGEST, VISION)[0] == 502
    assert node.outcomes() == {"miss": 1, "hit": 1, "failed": 1}


def test_a_store_that_is_away_is_a_gateways_error(node, store):
    with fake_store() as gone:
        pass
    store.host, before = gone.host, store.host
    assert node.get("vision", DIGEST, VISION)[0] == 403
    store.host = before
    store.tokens = {}
    assert node.get("vision", DIGEST, VISION)[0] == 401


def test_content_damaged_on_the_disk_is_found_out_and_fetched_anew(store, tmp_path):
    with node_cache(tmp_path, store) as node:
        node.get("vision", DIGEST, VISION)
    path = tmp_path / "sha256" / DIGEST[7:]
    path.write_bytes(MODEL[:-1] + b"!")
    with node_cache(tmp_path, store) as node:
        assert broken_off(node)
        assert node.outcomes() == {"failed": 1}
        assert node.get("vision", DIGEST, VISION) == (200, MODEL)
        assert node.get("vision", DIGEST, VISION) == (200, MODEL)
        assert node.outcomes() == {"failed": 1, "miss": 1, "hit": 1}
        assert node.shelf.damaged == 1
    assert store.count("GET") == 2


@pytest.mark.parametrize(("limit", "room"), [(len(MODEL) - 1, 1 << 30), (1 << 30, len(MODEL) - 1), (1 << 30, 0)])
def test_without_room_it_sends_its_client_to_the_store(store, tmp_path, limit, room):
    with node_cache(tmp_path, store, limit, room) as node:
        for _ in range(2):
            assert node.get("vision", DIGEST, VISION)[0] == 507
        assert (node.shelf.digests, node.outcomes()) == ((), {"passed": 2})


def test_the_least_recently_used_goes_and_what_is_being_read_stays(store, tmp_path):
    big = [os.urandom(4 << 20) for _ in range(3)]
    for data in big:
        store.put("vision", data)
    first, second, third = map(digest_of, big)
    with node_cache(tmp_path, store, limit=9 << 20) as node:
        assert node.get("vision", first, VISION)[1] == big[0]
        assert node.get("vision", second, VISION)[1] == big[1]
        connection, response = node.open("vision", first, VISION)
        with response:
            begun = response.read(1)
            assert node.get("vision", third, VISION)[1] == big[2]
            assert node.shelf.digests == (first, third), "the second was used longer ago"
            assert node.get("vision", third, VISION)[1] == big[2]
            assert node.get("vision", second, VISION)[1] == big[1]
            assert node.shelf.digests == (first, second)
            assert begun + response.read() == big[0]
        connection.close()
        assert node.shelf.evicted == 2


def test_one_connection_too_many_is_closed_at_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 1)
    with node_cache(tmp_path, store) as node:
        host, port = node.host.split(":")
        with socket.create_connection((host, int(port)), 5) as silent:
            while node.server._left:
                threading.Event().wait(0.005)
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                node.get("vision", DIGEST, VISION)
            silent.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert silent.recv(100).startswith(b"HTTP/1.0 404")
        assert node.server.finish_requests(5)
        assert node.get("vision", DIGEST, VISION)[0] == 200


def test_health_and_figures(node, store):
    for _ in range(2):
        node.get("vision", DIGEST, VISION)
    node.outcomes()

    def told(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(node.told, timeout=5)
        connection.request("GET", path)
        with connection.getresponse() as response:
            answer = response.status, response.read().decode()
        connection.close()
        return answer

    assert told("/healthz") == (200, "ok\n")
    assert told(f"/v2/vision/blobs/{DIGEST}")[0] == 404
    status, text = told("/metrics")
    assert status == 200
    for line in (
        'penstock_node_cache_requests_total{outcome="hit"} 1',
        "penstock_node_cache_downloads_total 1",
        f"penstock_node_cache_downloaded_bytes_total {len(MODEL)}",
        "penstock_node_cache_evictions_total 0",
        "penstock_node_cache_contents 1",
        f"penstock_node_cache_bytes {len(MODEL)}",
        f"penstock_node_cache_limit_bytes {1 << 24}",
    ):
        assert line in text.splitlines()


def test_a_download_that_ends_without_a_word_ends_for_those_who_follow_as_well(node, monkeypatch):
    def without_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(shelf_module.Filling, "write", without_memory)
    for _ in range(2):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            node.get("vision", DIGEST, VISION)
    assert node.outcomes() == {"failed": 2}


def test_a_connection_that_gets_no_thread_costs_no_place(node, monkeypatch):
    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(server_module.threading.Thread, "start", none_left)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            node.get("vision", DIGEST, VISION)
    assert node.server.finish_requests(5)
    assert node.get("vision", DIGEST, VISION)[0] == 200
