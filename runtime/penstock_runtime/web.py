"""HTTP for downloads and registries, from the standard library alone: what the fetch container can afford to import.

Redirects are followed here, not by urllib, because four things must hold: credentials never travel to another host,
HTTPS never falls back to plain HTTP, no hop leads further into the private network than the one before, and their
number is bounded. Proxies and certificates are taken from the usual environment variables (HTTPS_PROXY, NO_PROXY,
SSL_CERT_FILE) unless the Web is given certificates of its own.
"""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

from .reach import EVERYWHERE, Forbidden, Network, Reach, Request, Unreachable, handlers

__all__ = ["Answer", "Forbidden", "Truncated", "Unreachable", "Web", "origin"]

Body = Callable[[], Iterable[bytes]]
CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that another try may not meet again."""
_LONGEST_PAUSE = 8.0
_SECRET_HEADERS = ("authorization", "cookie")


class Truncated(Exception):
    """The body ended before its announced length, or its chunks broke off."""


@dataclass
class Answer:
    """A response whose body has not been read yet; use it as a context manager."""

    status: int
    headers: Mapping[str, str]
    url: str
    _response: Any
    reach: Reach = Reach.PUBLIC

    @property
    def length(self) -> int | None:
        """Content-Length, where the server announced one."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() else None

    @property
    def place(self) -> str:
        """Where it came from, for sentences: the URL without what may be secret, its query or a password."""
        return _place(self.url)

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The body in pieces; raises Truncated when less arrives than announced, Unreachable when it stalls."""
        seen, announced = 0, self.length
        try:
            while chunk := self._response.read(size):
                seen += len(chunk)
                yield chunk
        except (http.client.HTTPException, ConnectionError) as error:
            raise Truncated(f"{self.place} broke off after {seen} bytes ({error or type(error).__name__})") from error
        except OSError as error:
            raise Unreachable(f"{self.place} stalled after {seen} bytes: {error}") from error
        if announced is not None and seen != announced:
            raise Truncated(f"{self.place} announced {announced} bytes and sent {seen}")

    def text(self, most: int = 4 << 20) -> bytes:
        """The whole body of a small document; raises Truncated, Unreachable, or ValueError when it is over `most`."""
        parts, seen = [], 0
        for chunk in self.chunks(min(CHUNK, most + 1)):
            seen += len(chunk)
            if seen > most:
                raise ValueError(f"{self.place} is larger than the {most} bytes such a document may have")
            parts.append(chunk)
        return b"".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()


class Web:
    """Sends requests; `plain_http` names the host[:port]s that may be spoken to without TLS.

    `certificates` is a PEM file to trust instead of the public ones, `network` decides which addresses are spoken to.
    """

    def __init__(
        self,
        plain_http: Iterable[str] = (),
        timeout: float = 30,
        pauses: tuple[float, ...] = (0.5, 1, 2, 4),
        sleep: Callable[[float], None] = time.sleep,
        *,
        certificates: Path | None = None,
        network: Network = EVERYWHERE,
    ) -> None:
        self._plain_http = frozenset(plain_http)
        self._timeout = timeout
        self._pauses = pauses
        self._sleep = sleep
        self._certificates = certificates
        self._network = network
        self._opener = urllib.request.OpenerDirector()
        for handler in (urllib.request.ProxyHandler(), *handlers(network, certificates)):
            self._opener.add_handler(handler)

    def adapted(
        self, plain: Iterable[str] = (), certificates: Path | None = None, admitted: Iterable[str] = ()
    ) -> "Web":
        """The same, with more hosts spoken to without TLS, other certificates, or link-local addresses admitted."""
        return Web(
            self._plain_http | set(plain),
            self._timeout,
            self._pauses,
            self._sleep,
            certificates=certificates or self._certificates,
            network=self._network.admitting(admitted),
        )

    def patient(self, seconds: float) -> "Web":
        """The same, that tries again for so long at least."""
        found = copy(self)
        pauses = (*self._pauses, *[_LONGEST_PAUSE] * ceil(seconds / _LONGEST_PAUSE))
        found._pauses = pauses  # noqa: SLF001 - its own copy
        return found

    def base(self, host: str) -> str:
        """`https://host`, or `http://host` where plain HTTP is allowed."""
        return f"{'http' if host in self._plain_http else 'https'}://{host}"

    def send(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Body | None = None) -> Answer:
        """The answer of any status, redirects followed; passing failures are tried again, then Unreachable is raised.

        `body` is called once per try and must give the same bytes each time; its length stands in `headers`.
        """
        for pause in (*self._pauses, None):
            try:
                answer = self._follow(method, url, headers or {}, body)
            except Unreachable as error:
                if pause is None or isinstance(error, Forbidden):
                    raise
            else:
                if pause is None or answer.status not in _PASSING:
                    return answer
                answer._response.close()  # noqa: SLF001 - its own answer, given up
            self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Answer:
        first, furthest = url, Reach.LOOPBACK
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._once(method, url, headers, body, furthest)
            furthest = min(furthest, answer.reach)
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not target or method not in ("GET", "HEAD"):
                return answer
            answer._response.close()  # noqa: SLF001 - its own answer, followed
            target = urljoin(url, target)
            self._admit(url, target)
            if origin(target) != origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
            url = target
        raise Unreachable(f"{_place(first)} redirects more than {_MOST_REDIRECTS} times")

    def _admit(self, source: str, target: str) -> None:
        parts = urlsplit(target)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.netloc in self._plain_http):
            return
        raise Unreachable(f"{_place(source)} redirects to {parts.scheme}://{_host(target)}; only https:// is followed")

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, furthest: Reach) -> Answer:
        request = Request(url, body() if body else None, dict(headers), method=method)
        request.furthest = furthest
        request.add_header("User-Agent", "penstock")
        try:
            self._network.check_literal(urlsplit(url).hostname or "", furthest)
            response = self._opener.open(request, timeout=self._timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unreachable(f"{_host(url)} gives no answer: {reason or type(reason).__name__}") from error
        return Answer(response.status, response.headers, url, response, request.reached)


def _place(url: str) -> str:
    return urlsplit(url)._replace(netloc=_host(url), query="", fragment="").geturl()


def _host(url: str) -> str:
    """With its port; without the name and password that may stand before."""
    return urlsplit(url).netloc.rpartition("@")[2]


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what credentials are bound to."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port
