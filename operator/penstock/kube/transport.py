"""One request with everything around it: rate limit, fence, bounded retries, fresh credentials, typed errors, metrics.

Bodies are never logged: they may hold Secrets.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from .connection import Connection, Response
from .errors import (
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
from .limiter import TokenBucket
from .objects import Manifest

__all__ = ["RequestObserver", "RetryPolicy", "Target", "Transport"]

_ERRORS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


class RequestObserver(Protocol):
    """What requests tell to metrics."""

    def request(self, verb: str, kind: str, code: str, seconds: float) -> None:
        """One attempt ended; `code` is the HTTP code, or `error` without an answer."""


@dataclass(frozen=True)
class Target:
    """What a request is about, for errors and metrics."""

    verb: str
    kind: str
    namespace: str
    name: str
    mutating: bool = False


@dataclass(frozen=True)
class RetryPolicy:
    """Pauses between attempts in seconds, doubled each time and spread by `jitter` in [0, 1).

    With the defaults a request gives up after about 6 s of pauses; an answer's Retry-After counts up to `cap`.
    """

    attempts: int = 6
    base: float = 0.2
    cap: float = 30.0
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)

    def pause(self, attempt: int, retry_after: str | None) -> float:
        """Seconds before the next attempt, after `attempt` (from 0) has failed."""
        asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        own = self.base * 2.0**attempt * (0.5 + 0.5 * self.jitter())
        return min(self.cap, max(asked, own))


class Transport:
    """Sends requests over a connection until an answer is final."""

    def __init__(
        self,
        connection: Connection,
        *,
        limiter: TokenBucket,
        retries: RetryPolicy,
        fence: Callable[[], bool] | None = None,
        observer: RequestObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._limiter = limiter
        self._retries = retries
        self._fence = fence
        self._observer = observer
        self._clock = clock

    async def request(
        self,
        target: Target,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Manifest | None = None,
        content_type: str = "application/json",
        urgent: bool = False,
    ) -> Manifest:
        """The decoded answer. Raises an ApiError; Unavailable once all attempts are spent.

        An `urgent` request does not wait behind others for its turn.
        """
        problem = ""
        refused = False
        for attempt in range(self._retries.attempts):
            self._check_fence(target)
            if not urgent:
                await self._limiter.acquire()
            generation = self._connection.generation
            answer = await self._attempt(target, method, path, query, body, content_type)
            if isinstance(answer, Response):
                if answer.code < 300:
                    return _decoded(target, answer)
                if answer.code == 401 and not refused:
                    refused = True
                    await self._connection.rebuild(generation)
                    continue
                if _is_final(answer):
                    raise _error_of(target, answer)
                problem = _message(answer)
                retry_after = answer.headers.get("retry-after")
            else:
                problem, retry_after = answer, None
            if attempt + 1 < self._retries.attempts:
                await self._retries.sleep(self._retries.pause(attempt, retry_after))
        raise _error(Unavailable, target, f"no answer in {self._retries.attempts} attempts; the last one: {problem}")

    async def _attempt(
        self,
        target: Target,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Manifest | None,
        content_type: str,
    ) -> Response | str:
        """The answer, or what went wrong instead of one."""
        started = self._clock()
        code = "error"
        try:
            answer = await self._connection.send(method, path, query=query, body=body, content_type=content_type)
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            return f"{type(problem).__name__}: {problem}"
        else:
            code = str(answer.code)
            return answer
        finally:
            if self._observer is not None:
                self._observer.request(target.verb, target.kind, code, self._clock() - started)

    def _check_fence(self, target: Target) -> None:
        if target.mutating and self._fence is not None and not self._fence():
            raise _error(Fenced, target, "not sent: the lease is not held, another replica may be leading")


def _is_final(answer: Response) -> bool:
    return (answer.code != 429 and answer.code < 500) or _is_untypable(answer)


def _is_untypable(answer: Response) -> bool:
    """Server-side apply answers 500 to a manifest whose fields its kind does not have; no retry changes that."""
    return answer.code == 500 and _message(answer).startswith("failed to create typed patch object")


def _error_of(target: Target, answer: Response) -> ApiError:
    """The typed error of a final answer that is no success."""
    kind = Invalid if _is_untypable(answer) else _ERRORS.get(answer.code, ApiError)
    causes = _causes(answer)
    if kind is Invalid and any(cause.field == "metadata.uid" for cause in causes):
        kind = Conflict
    return kind(
        _message(answer),
        verb=target.verb,
        kind=target.kind,
        namespace=target.namespace,
        name=target.name,
        code=answer.code,
        causes=causes,
    )


def _error(kind: type[ApiError], target: Target, message: str) -> ApiError:
    return kind(message, verb=target.verb, kind=target.kind, namespace=target.namespace, name=target.name)


def _decoded(target: Target, answer: Response) -> Manifest:
    content = _json(answer)
    if content is None:
        raise _error(Unavailable, target, f"the answer ({answer.code}) is not a JSON object; is a proxy in between?")
    return content


def _json(answer: Response) -> Manifest | None:
    try:
        content: Any = json.loads(answer.body)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _message(answer: Response) -> str:
    content = _json(answer) or {}
    text = answer.body[:300].decode("utf-8", "replace").strip()
    return str(content.get("message") or text or f"HTTP {answer.code}")


def _causes(answer: Response) -> tuple[FieldCause, ...]:
    details = (_json(answer) or {}).get("details") or {}
    return tuple(
        FieldCause(str(cause.get("field", "")), str(cause.get("message", ""))) for cause in details.get("causes") or ()
    )
