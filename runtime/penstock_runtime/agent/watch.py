"""List, then watch: objects of one kind of this namespace, for as long as the agent lives."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from random import uniform
from typing import Any, Protocol
from urllib.parse import urlencode

from .http import Client, HttpError

__all__ = ["Api", "Sink", "follow"]

log = logging.getLogger("penstock.agent.watch")

_SILENCE = 100.0
"""Bookmarks come about once a minute; a connection that is silent for longer is made anew."""
_LONGEST_WATCH = 290
_FIRST_DELAY, _LONGEST_DELAY, _LONGEST_REFUSED = 0.1, 1.0, 5.0
_REFUSALS = 3
_GONE = 410
_AWAY = (OSError, EOFError)
_REFUSED = (HttpError, ValueError, LookupError, TypeError, AttributeError)
"""What an answer raises that is none, or holds what no API server writes."""
_LONGEST_EVENT = 8 << 20

Object = Mapping[str, Any]


class Sink(Protocol):
    """Takes what a watch sees."""

    def replace(self, items: Iterable[Object]) -> None:
        """Everything that there is: what is not among it is gone."""

    def put(self, item: Object) -> None:
        """An object that is new or has changed."""

    def remove(self, item: Object) -> None:
        """An object that is gone."""


class Api:
    """The API server, asked with the pod's own token; that and whom to trust are read for each request: both rotate."""

    def __init__(self, base: str, credentials: Path) -> None:
        self._base = base
        self._token, self._authority = credentials / "token", credentials / "ca.crt"

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """All objects; raises HttpError."""
        async with asyncio.timeout(30), self._client().stream(self._url(path, query), self._headers()) as (head, body):
            text = b"".join([piece async for piece in body])
            if head.status != 200:
                raise HttpError(head.status, text[:200].decode(errors="replace"))
        found = json.loads(text)
        if not isinstance(found, dict):
            raise HttpError(0, f"{path} answered no list")
        return found

    async def watch(self, path: str, query: Mapping[str, str], version: str) -> AsyncIterator[dict[str, Any]]:
        """Events after a version, until the server ends the stream; raises HttpError, TimeoutError after silence."""
        more = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(_LONGEST_WATCH)}
        url = self._url(path, {**query, **more, "resourceVersion": version})
        async with self._client().stream(url, self._headers()) as (head, body):
            if head.status != 200:
                raise HttpError(head.status, f"watch {path}: {head.status}")
            rest = b""
            while True:
                async with asyncio.timeout(_SILENCE):
                    piece = await anext(body, None)
                if piece is None:
                    return
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LONGEST_EVENT:
                    raise HttpError(0, f"watch {path}: an event is longer than {_LONGEST_EVENT} bytes")
                for line in lines:
                    yield json.loads(line)

    def _client(self) -> Client:
        secure = self._base.startswith("https")
        return Client(self._base, ssl.create_default_context(cafile=str(self._authority)) if secure else None)

    def _url(self, path: str, query: Mapping[str, str]) -> str:
        return f"{path}?{urlencode(query)}" if query else path

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "penstock-agent"}
        try:
            headers["Authorization"] = f"Bearer {self._token.read_text().strip()}"
        except FileNotFoundError:
            log.warning("%s is missing; asking without a token", self._token)
        return headers


class _Patience:
    """How long to wait before the next request, and when a version is given up.

    A server that is away is asked again within a second. One that answers and refuses is asked less and less often,
    and from its third refusal on for the whole list, since it may be the version that it does not like: an agent whose
    watches are all refused still learns everything within seconds, and many agents are no storm.
    """

    def __init__(self) -> None:
        self._refusals, self._delay = 0, _FIRST_DELAY

    def forget(self) -> None:
        """The watch has gone on."""
        self._refusals, self._delay = 0, _FIRST_DELAY

    def refuse(self, *, gone: bool) -> bool:
        """Once more; whether to list anew. A version that is gone is given up at once."""
        self._refusals += 1
        if gone and self._refusals == 1:
            self._delay = 0.0
        return gone or self._refusals >= _REFUSALS

    def pause(self) -> float:
        """Seconds, more than the last time."""
        longest = _LONGEST_DELAY if self._refusals < _REFUSALS else _LONGEST_REFUSED
        pause = min(self._delay, longest)
        self._delay = max(2 * pause, _FIRST_DELAY)
        return pause * uniform(1.0, 1.25)  # noqa: S311 - so that agents do not ask all at once


async def follow(api: Api, path: str, query: Mapping[str, str], sink: Sink) -> None:
    """Keep the sink current for ever.

    A failure of any kind is tried again, a 403 too: an API server that has just started does not know its roles yet,
    and a watch that ends without an event. While the server is away the sink keeps what it has; when a version is too
    old, or is refused again and again, all is listed anew.
    """
    version, patience = "", _Patience()
    while True:
        moved = False
        try:
            if not version:
                version = await _list(api, path, query, sink)
            async for event in api.watch(path, query, version):
                before, version = version, _take(event, sink)
                if version != before:
                    moved = True
                    patience.forget()
            pause = 0.0 if moved else patience.pause()
        except (*_AWAY, *_REFUSED) as error:
            if not isinstance(error, _AWAY) and patience.refuse(gone=getattr(error, "status", 0) == _GONE):
                version = ""
            pause = patience.pause()
            log.warning("%s: %s: %s; again in %.1f s", path, type(error).__name__, error, pause)
        await asyncio.sleep(pause)


async def _list(api: Api, path: str, query: Mapping[str, str], sink: Sink) -> str:
    """Fill the sink; returns the version to watch from."""
    listing = await api.list(path, query)
    version = str(listing["metadata"]["resourceVersion"])
    sink.replace(listing.get("items") or ())
    return version


def _take(event: Mapping[str, Any], sink: Sink) -> str:
    """Hand one event on; returns the version to go on from, raises HttpError for one that ends the watch."""
    item = event["object"]
    if event["type"] == "ERROR":
        raise HttpError(item.get("code") or _GONE, item.get("message", "ended by the server"))
    if event["type"] in ("ADDED", "MODIFIED"):
        sink.put(item)
    elif event["type"] == "DELETED":
        sink.remove(item)
    return str(item["metadata"]["resourceVersion"])
