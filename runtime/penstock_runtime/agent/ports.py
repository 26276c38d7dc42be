"""The listeners: a port for each model that is routed."""

import json
from collections.abc import Mapping
from functools import lru_cache

from .book import Book
from .envoy import Envoy
from .files import Document
from .render.document import compact, resources_document
from .render.listeners import listener_name, model_listener
from .settings import Settings

__all__ = ["PortSet", "next_step"]


class PortSet:
    """All listeners in one document.

    Envoy refuses a port that another listener has when it reads the document, even if that one moves in the same: so
    models that exchange ports come to theirs in several steps, each after Envoy has taken the one before.
    """

    def __init__(self, settings: Settings, book: Book, envoy: Envoy) -> None:
        self._settings, self._book, self._envoy = settings, book, envoy
        self._document = Document(settings.envoy / "lds" / "lds.json", settings.state / "lds.json", resources_document)
        self._rendered: dict[tuple[str, int], str] = {}
        self._wanted: Mapping[str, int] = {}
        self._listening: Mapping[str, int] | None = None
        self.settled = False

    def restore(self) -> None:
        """Take up what an earlier process wrote."""
        self._document.restore()

    @property
    def open(self) -> frozenset[str]:
        """Models whose port Envoy has opened, as of the last look."""
        listening = self._listening or {}
        return frozenset(uid for uid, port in self._wanted.items() if listening.get(uid) == port)

    def write(self, routed: frozenset[str]) -> None:
        """Open the ports of the models that are `routed`; close those of models that are gone."""
        splits = {uid: split for uid, split in self._book.splits.items() if uid in routed}
        self._rendered = {(uid, split.port): self._text(uid, split.port) for uid, split in splits.items()}
        wanted = {uid: text for (uid, _), text in self._rendered.items()}
        parts = self._document.parts
        if not self._book.splits_listed:
            taken = {split.port for split in splits.values()}
            wanted = {uid: text for uid, text in parts.items() if _port(text) not in taken} | wanted
        self._wanted = {uid: _port(text) for uid, text in wanted.items()}
        step = next_step(wanted, parts, self._listening)
        if step != parts or step != wanted or not self._document.whole:
            self.settled = False
        if step != parts or not self._document.whole:
            self._document.write(step)

    async def look(self) -> None:
        """Ask Envoy which ports are open."""
        if self.settled:
            return
        listening = await self._envoy.listeners()
        uids = self._wanted.keys() | self._document.parts.keys()
        self._listening = {uid: port for uid in uids if (port := listening.get(listener_name(uid)))}
        self.settled = len(self.open) == len(self._wanted) and self._wanted.keys() == self._document.parts.keys()

    def _text(self, uid: str, port: int) -> str:
        return self._rendered.get((uid, port)) or compact(model_listener(self._settings, uid, port))


def next_step(
    wanted: Mapping[str, str], parts: Mapping[str, str], listening: Mapping[str, int] | None
) -> dict[str, str]:
    """The listeners, by uid, that can stand in the next document on the way from `parts` to `wanted`.

    Who waits for a port that is held by one that moves keeps its own for now. Where nobody could go first, because all
    wait for each other, they give up theirs. What an earlier process wrote stays until it is known who is `listening`.
    """
    if listening is None:
        if parts:
            return dict(parts)
        listening = {}
    places = {(_port(text), uid) for uid, text in parts.items()} | {(port, uid) for uid, port in listening.items()}
    moving = {(port, uid) for port, uid in places if uid in wanted and _port(wanted[uid]) != port}
    waiting = {uid for uid, text in wanted.items() for port, other in moving if port == _port(text) and other != uid}
    free = {uid: text for uid, text in wanted.items() if uid not in waiting}
    step = free | {uid: parts[uid] for uid in waiting if uid in parts}
    taken = all(uid not in parts or _port(parts[uid]) == port for port, uid in moving)
    return free if step == parts and taken else step


@lru_cache(maxsize=4096)
def _port(text: str) -> int:
    """Of a listener as it is written."""
    return int(json.loads(text)["address"]["socket_address"]["port_value"])
