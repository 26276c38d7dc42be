"""What a router pod tells: GET only, to the kubelet and to the operator."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

__all__ = ["Answer", "Handler", "serve"]

log = logging.getLogger("penstock.agent.server")

_LARGEST_HEAD = 1 << 16
_IDLE_SECONDS = 75.0
_WORDS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"}


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    body: bytes
    kind: str = "text/plain"

    @classmethod
    def text(cls, status: int, text: str) -> "Answer":
        """A sentence."""
        return cls(status, f"{text}\n".encode())


Handler = Callable[[str, dict[str, str]], Awaitable[Answer]]
"""Answers a GET: address of who asks, and the query."""


async def serve(address: str, port: int, handlers: dict[str, Handler]) -> asyncio.Server:
    """Listen, with kept connections."""

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _exchange(reader, writer, handlers):
                pass
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            log.debug("connection ended: %s", error)
        except asyncio.CancelledError:
            log.debug("connection ended with the agent")  # raised on, asyncio of Python 3.11 logs it as a failure
        finally:
            writer.close()

    return await asyncio.start_server(attend, sock=_listening(address, port), limit=_LARGEST_HEAD)


def _listening(address: str, port: int) -> socket.socket:
    """On `::` for both families; asyncio by itself would refuse IPv4 there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, dualstack_ipv6=address == "::")


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: dict[str, Handler]) -> bool:
    """One request and its answer; whether another may follow."""
    async with asyncio.timeout(_IDLE_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, target, protocol = first.split(" ")
    bodiless = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    keep = protocol == "HTTP/1.1" and headers.get("connection", "").lower() != "close" and bodiless
    answer = await _answer(method, target, str(writer.get_extra_info("peername")[0]), handlers)
    word = _WORDS.get(answer.status, "Service Unavailable")
    writer.write(
        f"HTTP/1.1 {answer.status} {word}\r\ncontent-type: {answer.kind}\r\ncontent-length: {len(answer.body)}\r\n"
        f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        + answer.body
    )
    await writer.drain()
    return keep


async def _answer(method: str, target: str, peer: str, handlers: dict[str, Handler]) -> Answer:
    parts = urlsplit(target)
    handler = handlers.get(parts.path)
    if handler is None:
        return Answer.text(404, f"there is no {parts.path[:80]}; there are {', '.join(sorted(handlers))}")
    if method != "GET":
        return Answer.text(405, "only GET")
    try:
        return await handler(peer, _read_query(parts.query))
    except ValueError as error:
        return Answer.text(400, str(error))


def _read_query(text: str) -> dict[str, str]:
    """Every parameter by name; raises ValueError for one that is there several times, since one of them would count."""
    found = parse_qs(text, keep_blank_values=True)
    for name, values in found.items():
        if len(values) > 1:
            raise ValueError(f"{name[:80]} is given {len(values)} times; expected once")
    return {name: value for name, (value,) in found.items()}
