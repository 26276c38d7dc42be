"""Real servers for the sources of models: a registry, a web server that can misbehave, and an S3."""

import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hack.cluster.settings import CHECKOUT

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def registry_binary() -> Path:
    """The CNCF registry of the local cluster; skips where it cannot be built."""
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "hack/cluster"), "binary", "registry"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no registry binary: {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip())


@contextmanager
def running_registry(folder: Path, jwks: str | None = None) -> Iterator[str]:
    """A registry on a loopback port, as the chart's when it is given the public keys; yields host:port."""
    host = f"127.0.0.1:{free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{host}'}}\n" + (_token_authentication(folder, jwks, host) if jwks else "")
    )
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    process = subprocess.Popen([registry_binary(), "serve", str(config)], env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://{host}/v2/", process)
        yield host
    finally:
        process.terminate()
        process.wait(timeout=10)


def _token_authentication(folder: Path, jwks: str, host: str) -> str:
    keys = folder / "jwks.json"
    keys.write_text(jwks)
    return (
        f"auth: {{token: {{realm: 'http://{host}/token', service: penstock-registry, issuer: penstock,"
        f" jwks: {keys}, signingalgorithms: [EdDSA]}}}}\n"
    )


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{url} does not answer; the process ended with {process.poll()}")


@dataclass
class WebServer:
    """Paths with handlers; every request is kept with its headers."""

    host: str
    paths: dict[str, Handler] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, data: bytes, status: int = 200) -> None:
        """Answer a path with these bytes."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)

        self.paths[path] = answer

    def redirect(self, path: str, target: str) -> None:
        """Answer a path with a redirect."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(307)
            request.send_header("Location", target)
            request.send_header("Content-Length", "0")
            request.end_headers()

        self.paths[path] = answer

    def authorizations(self, path: str) -> list[str | None]:
        """The Authorization header of every request for a path."""
        return [headers.get("Authorization") for _, asked, headers in self.seen if asked == path]


@contextmanager
def web_server(address: str = "127.0.0.1", certificate: tuple[Path, Path] | None = None) -> Iterator[WebServer]:
    """A web server on a loopback port, with TLS where it is given a certificate and its key."""
    state = WebServer("")

    class Requests(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            state.seen.append((self.command, self.path, dict(self.headers)))
            handler = state.paths.get(self.path)
            if handler is None:
                self.send_error(404)
            else:
                handler(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Requests)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.host = f"{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()
