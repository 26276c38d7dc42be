"""HTTP services that hold models: what their answers mean in reasons, and streams that are checked as they pass."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.web import Answer, Forbidden, Truncated, Unreachable, Web

from . import Opened

__all__ = ["Service", "checked", "decoded", "give_up", "no_headers", "reaching", "with_md5"]

_LARGEST_DOCUMENT = 16 << 20
_HINT = "check spec.model.credentialsSecretRef"


def reaching(web: Web, endpoint: str) -> Web:
    """The web, which may follow redirects without TLS on the endpoint's own host where the user wrote http://."""
    parts = urlsplit(endpoint)
    return web.adapted(plain=[parts.netloc]) if parts.scheme == "http" else web


def no_headers(method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Nobody in particular."""
    del method, url, headers
    return {}


@dataclass(frozen=True)
class Service:
    """Requests to one service; `authorize(method, url, headers)` gives the headers that say who asks.

    Every method raises Failure; `place` is what the sentence calls the thing that was asked for.
    """

    web: Web
    authorize: Callable[[str, str, Mapping[str, str]], Mapping[str, str]] = no_headers

    def send(self, url: str, place: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """The answer, if it is 200."""
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            answer = self.web.send(method, url, {**asked, **self.authorize(method, url, asked)})
            if answer.status == 200:
                return answer
            with answer:
                detail = _detail(answer)
        except (Unreachable, Truncated) as error:
            give_up(error)
        raise _refusal(answer.status, place, detail)

    def document(self, url: str, place: str, headers: Mapping[str, str] | None = None) -> tuple[bytes, Answer]:
        """A small document, whole."""
        try:
            with self.send(url, place, headers) as answer:
                return answer.text(_LARGEST_DOCUMENT), answer
        except (Unreachable, Truncated) as error:
            give_up(error)
        except ValueError as error:
            raise Failure(Reason.SOURCE_UNAVAILABLE, str(error)) from error

    def json(self, url: str, place: str) -> Any:
        """A small JSON document."""
        return decoded(*self.document(url, place))

    def open(self, url: str, place: str, headers: Mapping[str, str] | None = None) -> Opened:
        """A file to be read."""
        return self.stream(self.send(url, place, headers))

    @staticmethod
    def stream(answer: Answer) -> Opened:
        """The body of an answer, to be read."""
        return Opened(_stream(answer), answer.length)


def decoded(text: bytes, answer: Answer) -> Any:
    """A JSON document; raises Failure."""
    try:
        return json.loads(text)
    except ValueError as error:
        message = f"{answer.place} answers with something that is not JSON; is spec.model.connection.endpoint right?"
        raise Failure(Reason.SOURCE_UNAVAILABLE, message) from error


def checked(chunks: Iterator[bytes], digest: Any, expected: str, place: str) -> Iterator[bytes]:
    """The same bytes, which must have this digest (in hex) in the end; raises Failure."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    found = digest.hexdigest()
    if found != expected:
        message = f"{place} is recorded with {digest.name} {expected}, the bytes sent have {found}"
        raise Failure(Reason.DIGEST_MISMATCH, message)


def with_md5(opened: Opened, expected: Any, place: str) -> Opened:
    """The same file, checked by the MD5 that its service has on record (in base64), where it has one."""
    if not expected:
        return opened
    try:
        wanted = base64.b64decode(str(expected), validate=True).hex()
    except ValueError as error:
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"{place} is described with an MD5 that is not base64") from error
    return Opened(checked(opened.chunks, hashlib.md5(usedforsecurity=False), wanted, place), opened.size)


def give_up(error: Exception) -> NoReturn:
    """The Failure of a transport error."""
    if isinstance(error, Truncated):
        raise Failure(Reason.SOURCE_TRUNCATED, f"{error}; it is tried again") from error
    reason = Reason.SOURCE_DENIED if isinstance(error, Forbidden) else Reason.SOURCE_UNAVAILABLE
    raise Failure(reason, str(error)) from error


def _stream(answer: Answer) -> Iterator[bytes]:
    try:
        with answer:
            yield from answer.chunks()
    except (Unreachable, Truncated) as error:
        give_up(error)


def _refusal(status: int, place: str, detail: str) -> Failure:
    said = f"status {status}{f', {detail}' if detail else ''}"
    if status in (404, 410):
        return Failure(Reason.SOURCE_NOT_FOUND, f"{place} does not exist ({said})")
    if status in (401, 403):
        return Failure(Reason.SOURCE_DENIED, f"{place} is refused ({said}); {_HINT}")
    if status == 412:
        return Failure(Reason.SOURCE_UNAVAILABLE, f"{place} changed while it was read; it is tried again")
    return Failure(Reason.SOURCE_UNAVAILABLE, f"{place} answers with {said}")


def _detail(answer: Answer) -> str:
    """What the service says about its refusal, of JSON alone: pages for people say nothing in a sentence."""
    try:
        told = json.loads(answer.text(64 << 10))
        said = told.get("error_code") or told.get("error") or told.get("message") or ""
        said = said.get("message", "") if isinstance(said, dict) else said
        return str(said)[:200]
    except (ValueError, AttributeError, Truncated, Unreachable):
        return ""
