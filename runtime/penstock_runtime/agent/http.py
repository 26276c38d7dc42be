"""A small HTTP/1.1 client on asyncio streams: kept connections, and bodies that are read while they grow."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Client", "HttpError", "Response"]

_LARGEST_HEAD = 1 << 16


class HttpError(Exception):
    """An answer that is none, or not the one asked for; `status` is 0 where there was no valid answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Response:
    """The head of an answer."""

    status: int
    headers: Mapping[str, str]


class Client:
    """Requests to one server; short ones share one kept connection, one at a time."""

    def __init__(self, base: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(base)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._netloc = parts.netloc
        self._lock = asyncio.Lock()
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, seconds: float = 5.0) -> bytes:
        """The body of a GET; raises HttpError for anything but 200, OSError and TimeoutError for the network."""
        return await self.request("GET", path, seconds)

    async def request(self, method: str, path: str, seconds: float = 5.0) -> bytes:
        """The body of a request without one; a connection that the server has closed meanwhile is replaced once."""
        async with self._lock, asyncio.timeout(seconds):
            if self._kept is not None:
                try:
                    return await self._exchange(method, path)
                except (OSError, asyncio.IncompleteReadError):
                    self.close()
            self._kept = await self._connect()
            try:
                return await self._exchange(method, path)
            except asyncio.IncompleteReadError as error:
                raise HttpError(0, f"{method} {path}: the server closed the connection") from error

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str], connect_seconds: float = 3.0
    ) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """A GET on a connection of its own: the head, and the pieces of the body as they come."""
        async with asyncio.timeout(connect_seconds):
            reader, writer = await self._connect()
        try:
            writer.write(self._head("GET", path, {**headers, "Connection": "close"}))
            async with asyncio.timeout(30):
                response = await _read_head(reader)
            yield response, _pieces(reader, response)
        finally:
            writer.close()

    def close(self) -> None:
        """Give up the kept connection."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=_LARGEST_HEAD)

    async def _exchange(self, method: str, path: str) -> bytes:
        assert self._kept is not None
        reader, writer = self._kept
        complete = False
        try:
            writer.write(self._head(method, path, {}))
            response = await _read_head(reader)
            body = b"".join([piece async for piece in _pieces(reader, response)])
            complete = response.headers.get("connection", "").lower() != "close" and _is_framed(response)
        finally:
            if not complete:
                self.close()
        if response.status != 200:
            text = body[:200].decode(errors="replace").strip()
            raise HttpError(response.status, f"{method} {path}: {response.status} {text}")
        return body

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        length = {"Content-Length": "0"} if method == "POST" else {}
        lines = [f"{name}: {value}\r\n" for name, value in {"Host": self._netloc, **length, **headers}.items()]
        return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


async def _read_head(reader: asyncio.StreamReader) -> Response:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise HttpError(0, f"the head of an answer is longer than {_LARGEST_HEAD} bytes") from error
    first, *lines = head.split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise HttpError(0, f"answered {first[:80]!r}; expected HTTP/1.1")
    pairs = (line.partition(":") for line in lines if line)
    return Response(int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs})


def _is_framed(response: Response) -> bool:
    return "content-length" in response.headers or "chunked" in response.headers.get("transfer-encoding", "")


async def _pieces(reader: asyncio.StreamReader, response: Response) -> AsyncIterator[bytes]:
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        while size := int((await _line(reader)).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while (await _line(reader)) != b"\r\n":
            pass
        return
    left = int(response.headers.get("content-length", "-1"))
    while left != 0 and (piece := await reader.read(1 << 16 if left < 0 else min(left, 1 << 16))):
        left -= len(piece) if left > 0 else 0
        yield piece
    if left > 0:
        raise asyncio.IncompleteReadError(b"", left)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError as error:
        raise HttpError(0, f"a line between chunks is longer than {_LARGEST_HEAD} bytes") from error
