"""HTTP of the cache: `GET /v2/<repository>/blobs/sha256:…?ns=<host>` for pods, /healthz and /metrics beside it.

The path is a registry's, and `ns` says which one is meant, as container runtimes ask their mirrors. Each connection has
one request. Nothing of a request but its path is logged: the token is in its headers.
"""

import http.server
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from penstock_runtime.registry import Reference, parse_reference

from .cache import Denied, NodeCache
from .content import Content
from .figures import Figures
from .flight import BrokenOff

__all__ = ["Server", "blob_server", "told_server"]

log = logging.getLogger("penstock.nodecache.server")

_PATH = re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_BEARER = "Bearer "
_NO_ROOM, _SERVER_ERROR = 507, 500
MOST_CONNECTIONS = 64


class Server(http.server.ThreadingHTTPServer):
    """A thread for each connection, up to a number; one more is closed at once, and its client asks the store."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        self._left = MOST_CONNECTIONS
        self._changed = threading.Condition()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept one connection, or close it."""
        with self._changed:
            accepted = self._left > 0
            self._left -= accepted
        if not accepted:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._give_back()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._changed:
            self._left += 1
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as the base class calls it
        """What nobody expected; clients that go away are none of it."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.error("a request from %s failed", client_address[0], exc_info=error)

    def finish_requests(self, seconds: float) -> bool:
        """Wait for those under way; whether all have ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._left == MOST_CONNECTIONS, seconds)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 30
    """Seconds that a client may neither say nor read anything."""
    server_version, sys_version = "penstock", ""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the base class
        """The base class would write every line to stderr, malformed ones as they came."""

    def say(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        """A short answer."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def told_server(address: tuple[str, int], figures: Figures) -> Server:
    """Health and metrics, on a port of their own: other peers may ask for them than for content."""

    class Handler(_Handler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/healthz":
                self.say(200, "ok\n")
            elif path == "/metrics":
                self.say(200, figures.text(), "text/plain; version=0.0.4; charset=utf-8")
            else:
                self.say(404, "there are /healthz and /metrics\n")

    return Server(address, Handler)


def blob_server(address: tuple[str, int], cache: NodeCache, figures: Figures) -> Server:
    """Content."""

    class Handler(_Handler):
        def do_GET(self) -> None:
            begun = time.monotonic()
            outcome, reference = "failed", None
            try:
                reference = _reference(self.path)
                token = _token(self.headers.get("Authorization", ""))
                outcome = self._give(cache.open(reference, token))
            except Denied as denied:
                outcome = _outcome(denied.status)
                with suppress(OSError):
                    self.say(denied.status, f"{denied}\n")
            except (BrokenOff, OSError) as error:
                log.warning("%s broke off: %s", self.path, error)
            finally:
                figures.count(outcome)
                name = f"{reference.repository}@{reference.digest}" if reference else "a malformed request"
                log.info("%s %s in %.3f s", outcome, name, time.monotonic() - begun)

        def _give(self, content: Content) -> str:
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(content.size))
                self.end_headers()
                content.send(self.connection)
            finally:
                content.close()
            return content.outcome

    return Server(address, Handler)


def _outcome(status: int) -> str:
    if status == _NO_ROOM:
        return "passed"
    return "failed" if status >= _SERVER_ERROR else "refused"


def _reference(target: str) -> Reference:
    parts = urlsplit(target)
    match = _PATH.fullmatch(parts.path)
    if match is None:
        raise Denied(404, "there is GET /v2/<repository>/blobs/sha256:<hex>?ns=<host>")
    hosts = parse_qs(parts.query).get("ns", [])
    if len(hosts) != 1:
        raise Denied(400, "?ns= must name the artifact store once")
    try:
        reference = parse_reference(f"{hosts[0]}/{match['repository']}@{match['digest']}")
    except ValueError as error:
        raise Denied(400, str(error)) from error
    if (reference.host, reference.repository) != (hosts[0], match["repository"]):
        raise Denied(400, "the repository and ?ns= must be names, without a tag")
    return reference


def _token(header: str) -> str:
    return header.removeprefix(_BEARER).strip() if header.startswith(_BEARER) else ""
