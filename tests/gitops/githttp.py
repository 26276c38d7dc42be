"""Git repositories over HTTP, as Flux's source-controller clones them: `git http-backend` behind http.server."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Repository", "serving"]

_AUTHOR = {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


class Repository:
    """A bare repository and a work tree whose commits go there."""

    def __init__(self, root: Path, name: str) -> None:
        self.name, self._work = name, root / f"{name}-work"
        bare = root / f"{name}.git"
        _git("init", "-q", "--bare", "-b", "main", str(bare), at=root)
        _git("clone", "-q", str(bare), str(self._work), at=root)
        _git("checkout", "-q", "-b", "main", at=self._work)

    def commit(self, **files: str) -> str:
        """Write files (`app__digits` is app/digits.yaml), push, and return the commit."""
        for name, text in files.items():
            place = self._work / f"{name.replace('__', '/')}.yaml"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        _git("add", "-A", at=self._work)
        _git("commit", "-q", "--allow-empty", "-m", "change", at=self._work)
        _git("push", "-q", "origin", "main", at=self._work)
        return _git("rev-parse", "HEAD", at=self._work).strip()


def _git(*arguments: str, at: Path) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=at, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **_AUTHOR}


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """http://host:port, below which `NAME.git` can be cloned."""
    handler = type("Handler", (_Handler,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = _environment() | {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
