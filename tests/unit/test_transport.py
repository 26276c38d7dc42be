"""Retries, fences and errors around one request, against scripted answers."""

import json
from typing import Any

import aiohttp
import pytest

from penstock.kube.client import KubeClient
from penstock.kube.connection import Response
from penstock.kube.errors import (
    ApiError,
    Conflict,
    Fenced,
    FieldCause,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)
from penstock.kube.limiter import TokenBucket
from penstock.kube.transport import RetryPolicy

THING = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "ns"}}


def answer(code: int, body: Any = None, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    return Response(code, headers, content)


def status(code: int, message: str = "no", causes: Any = ()) -> Response:
    return answer(code, {"kind": "Status", "message": message, "code": code, "details": {"causes": list(causes)}})


class Scripted:
    """A connection that answers from a list and remembers what it was asked."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, Any]] = []
        self.generation = 0

    async def send(self, method: str, path: str, *, query: Any, body: Any, content_type: str) -> Response:
        self.sent.append((method, path, body))
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def rebuild(self, generation: int) -> None:
        self.generation = generation + 1


class Requests:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def request(self, verb: str, kind: str, code: str, seconds: float) -> None:
        self.seen.append((verb, kind, code))


def client(connection: Scripted, pauses: list[float] | None = None, **more: Any) -> KubeClient:
    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    policy = RetryPolicy(attempts=3, base=1.0, cap=10.0, jitter=lambda: 1.0, sleep=sleep)
    return KubeClient(connection, limiter=TokenBucket(1e6, 1000), retries=policy, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, Invalid), (403, Forbidden), (404, NotFound), (409, Conflict), (410, Gone), (422, Invalid), (418, ApiError)],
)
async def test_final_answers_become_typed_errors_at_once(code: int, error: type[ApiError]) -> None:
    connection = Scripted(status(code, "the sentence of the server"))
    with pytest.raises(error) as caught:
        await client(connection).get("ConfigMap", "ns", "x")
    assert type(caught.value) is error
    assert caught.value.message == "the sentence of the server"
    assert str(caught.value) == "get ConfigMap ns/x: the sentence of the server"
    assert caught.value.code == code
    assert len(connection.sent) == 1


async def test_refused_fields_are_named() -> None:
    causes = [{"field": "spec.replicas", "message": "must be positive", "reason": "FieldValueInvalid"}]
    with pytest.raises(Invalid) as caught:
        await client(Scripted(status(422, "bad", causes))).apply(THING, uid="u1")
    assert caught.value.causes == (FieldCause("spec.replicas", "must be positive"),)


async def test_a_manifest_with_fields_its_kind_lacks_is_invalid_and_not_tried_again() -> None:
    words = "failed to create typed patch object (ns/x; apps/v1, Kind=Deployment): .spec.affinity.x: field not declared"
    connection = Scripted(status(500, words))
    with pytest.raises(Invalid, match="field not declared"):
        await client(connection).apply(THING, uid="u")
    assert len(connection.sent) == 1


async def test_another_uid_is_a_conflict_and_not_invalid() -> None:
    causes = [{"field": "metadata.uid", "message": "field is immutable"}]
    with pytest.raises(Conflict):
        await client(Scripted(status(422, "bad", causes))).apply(THING, uid="u1")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: cpu=1', "quota"),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', "quota"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot', "pod_security"),
        ("unable to create new content in namespace x because it is being terminated", "terminating"),
        ('jobs is forbidden: User "y" cannot create resource', None),
    ],
)
async def test_a_refusal_says_which_kind_it_is(message: str, told: str | None) -> None:
    with pytest.raises(Forbidden) as caught:
        await client(Scripted(status(403, message))).create(THING)
    assert {name for name in ("quota", "pod_security", "terminating") if getattr(caught.value, name)} == {told} - {None}


@pytest.mark.parametrize(
    "failure",
    [
        answer(500),
        answer(429),
        answer(503, b"<html>"),
        aiohttp.ClientConnectionError("reset"),
        TimeoutError(),
        ConnectionResetError(),
    ],
)
async def test_passing_trouble_is_retried(failure: Response | Exception) -> None:
    connection, pauses = Scripted(failure, failure, answer(200, THING)), list[float]()
    assert await client(connection, pauses).get("ConfigMap", "ns", "x") == THING
    assert pauses == [1.0, 2.0]


async def test_retries_are_bounded_and_name_the_last_trouble() -> None:
    connection, pauses = Scripted(*[status(503, "etcd is away")] * 3), list[float]()
    with pytest.raises(Unavailable, match="3 attempts; the last one: etcd is away"):
        await client(connection, pauses).get("ConfigMap", "ns", "x")
    assert len(connection.sent) == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(("asked", "pause"), [("7", 7.0), ("3600", 10.0), ("0", 1.0), ("soon", 1.0)])
async def test_retry_after_is_honoured_up_to_the_cap(asked: str, pause: float) -> None:
    pauses: list[float] = []
    await client(Scripted(answer(429, None, **{"retry-after": asked}), answer(200, THING)), pauses).get(
        "ConfigMap", "ns", "x"
    )
    assert pauses == [pause]


async def test_jitter_spreads_pauses_over_their_upper_half() -> None:
    assert RetryPolicy(base=1.0, jitter=lambda: 0.0).pause(0, None) == 0.5
    assert RetryPolicy(base=1.0, jitter=lambda: 1.0).pause(0, None) == 1.0


async def test_refused_credentials_are_read_anew_once() -> None:
    connection, pauses = Scripted(status(401), answer(200, THING)), list[float]()
    assert await client(connection, pauses).get("ConfigMap", "ns", "x") == THING
    assert connection.generation == 1
    assert pauses == []


async def test_credentials_refused_twice_are_an_error() -> None:
    with pytest.raises(Unauthorized):
        await client(Scripted(status(401), status(401))).get("ConfigMap", "ns", "x")


async def test_an_answer_that_is_no_json_names_the_proxy() -> None:
    with pytest.raises(Unavailable, match="is a proxy in between"):
        await client(Scripted(answer(200, b"<html>hello"))).get("ConfigMap", "ns", "x")


async def test_without_the_lease_nothing_is_written_but_reading_goes_on() -> None:
    connection = Scripted(answer(200, THING))
    fenced = client(connection, fence=lambda: False)
    assert await fenced.get("ConfigMap", "ns", "x") == THING
    for write in (
        fenced.create(THING),
        fenced.apply(THING, uid="u"),
        fenced.replace(THING),
        fenced.post(THING),
        fenced.delete("ConfigMap", "ns", "x", "u"),
        fenced.apply_status({**THING, "metadata": {**THING["metadata"], "resourceVersion": "5"}}, {}),  # type: ignore[dict-item]
    ):
        with pytest.raises(Fenced):
            await write
    assert len(connection.sent) == 1


async def test_the_fence_is_asked_again_before_each_retry() -> None:
    held = [True, False]
    connection = Scripted(answer(503), answer(200, THING))
    with pytest.raises(Fenced):
        await client(connection, fence=lambda: held.pop(0)).apply(THING, uid="u")
    assert len(connection.sent) == 1


async def test_every_attempt_is_counted() -> None:
    seen = Requests()
    connection = Scripted(TimeoutError(), answer(429), answer(200, THING))
    await client(connection, observer=seen).get("ConfigMap", "ns", "x")
    assert seen.seen == [("get", "ConfigMap", "error"), ("get", "ConfigMap", "429"), ("get", "ConfigMap", "200")]


async def test_a_list_that_expired_between_pages_is_read_whole() -> None:
    page = {"metadata": {"resourceVersion": "9", "continue": "t"}, "items": [{"metadata": {"name": "a"}}]}
    whole = {"metadata": {"resourceVersion": "12"}, "items": [{"metadata": {"name": "b"}}]}
    listing = await client(Scripted(answer(200, page), status(410), answer(200, whole))).list("ConfigMap")
    assert [item["metadata"]["name"] for item in listing.items] == ["b"]
    assert listing.items[0]["kind"] == "ConfigMap"
    assert listing.resource_version == "12"


async def test_an_object_that_came_and_went_while_it_was_created_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="came and went"):
        await client(Scripted(status(409), answer(200, {"items": []}))).create(THING)
