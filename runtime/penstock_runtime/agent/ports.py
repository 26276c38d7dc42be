"""The listeners: a port for each model that is routed."""

from .book import Book
from .envoy import Envoy
from .files import Document
from .render.document import compact, resources_document
from .render.listeners import listener_name, model_listener
from .settings import Settings

__all__ = ["PortSet"]


class PortSet:
    """All listeners in one document; `open` are the uids of models whose port Envoy has opened."""

    def __init__(self, settings: Settings, book: Book, envoy: Envoy) -> None:
        self._settings, self._book, self._envoy = settings, book, envoy
        self._document = Document(settings.envoy / "lds" / "lds.json", settings.state / "lds.json", resources_document)
        self._rendered: dict[tuple[str, int], str] = {}
        self.settled = False
        self.open: frozenset[str] = frozenset()

    def restore(self) -> None:
        """Take up what an earlier process wrote."""
        self._document.restore()

    def write(self, routed: frozenset[str]) -> None:
        """Open the ports of the models that are `routed`; close those of models that are gone."""
        splits = {uid: split for uid, split in self._book.splits.items() if uid in routed}
        self._rendered = {(uid, split.port): self._text(uid, split.port) for uid, split in splits.items()}
        wanted = {uid: text for (uid, _), text in self._rendered.items()}
        if not self._book.splits_listed:
            wanted = {**self._document.parts, **wanted}
        if wanted != self._document.parts or not self._document.whole:
            self._document.write(wanted)
            self.settled = False

    async def look(self) -> None:
        """Ask Envoy which ports are open."""
        if self.settled:
            return
        listening = await self._envoy.listeners()
        self.open = frozenset(uid for uid in self._document.parts if listener_name(uid) in listening)
        self.settled = len(self.open) == len(self._document.parts)

    def _text(self, uid: str, port: int) -> str:
        return self._rendered.get((uid, port)) or compact(model_listener(self._settings, uid, port))
