"""What the API server wants: splits, endpoints and supervision, kept on disk for the next process of this agent."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .claims import obstacle, takeable
from .clocks import Clocks
from .endpoints import Endpoint, Piece, merged
from .files import replace_file
from .render.routes import Route
from .split import Malformed, Split
from .state import WHOLE
from .supervision import Timer, observe, restored, spend
from .watch import Object

__all__ = ["Book", "SliceSink", "SplitSink"]

log = logging.getLogger("penstock.agent")


class Book:
    """Splits by the uid of their deployment. `changed` is set whenever something may have to be done.

    A split that cannot be routed is refused with a message and leaves what is known of its model as it was.
    """

    def __init__(self, router: str, folder: Path, clocks: Clocks) -> None:
        self._router, self._folder, self._clocks = router, folder, clocks
        self._specs: dict[str, Mapping[str, Any]] = {}
        self._good: dict[str, Mapping[str, Any]] = {}
        self._waiting: dict[str, Split] = {}
        """The newest split by name, where another one has its port or its uid."""
        self._uids: dict[str, str] = {}
        self._timers: dict[str, Timer] = {}
        self._unsaved: set[str] = set()
        self._pieces: dict[str, Piece] = {}
        self._endpoints: dict[str, tuple[Endpoint, ...]] | None = None
        self.splits: dict[str, Split] = {}
        self.refused: dict[str, str] = {}
        self.changed = asyncio.Event()
        self.splits_listed = self.slices_listed = False

    def restore(self) -> None:
        """Take up what an earlier process of this agent knew; endpoints come from the API server alone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.json")):
            try:
                found = json.loads(path.read_text())
                if timer := restored(found["timer"]):
                    self._timers[timer.uid] = timer
                self.put(found["name"], found["spec"])
                self._timers = {uid: timer for uid, timer in self._timers.items() if uid in self.splits}
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: %s; it is left out", path, error)

    def put(self, name: str, spec: Mapping[str, Any]) -> None:
        """A split as it is now; one of another router is gone for this one."""
        if spec.get("router") != self._router:
            self.remove(name)
            return
        uid, before = _uid(spec), _uid(self._specs.get(name, spec))
        self._specs[name] = spec
        if before != uid:
            self.refused.pop(before, None)
        if self._uids.get(name, uid) != uid:
            self._forget(name)
        self._waiting.pop(name, None)
        try:
            self._waiting[name] = Split.parse(name, spec)
        except Malformed as error:
            self._refuse(name, uid, str(error))
        self._settle()
        self.changed.set()

    def remove(self, name: str) -> None:
        """A split that is gone."""
        spec = self._specs.pop(name, None)
        if spec is None:
            return
        self._waiting.pop(name, None)
        self.refused.pop(_uid(spec), None)
        self._forget(name)
        self._settle()
        self.changed.set()

    def replace(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        """All splits that there are."""
        for name in [name for name in self._specs if name not in specs]:
            self.remove(name)
        for name, spec in specs.items():
            self.put(name, spec)
        for path in set(self._folder.iterdir()) - set(map(self._file, self.splits)):
            path.unlink(missing_ok=True)
        self.splits_listed = True
        self.changed.set()

    def place(self, name: str, piece: Object | None) -> None:
        """An EndpointSlice as it is now, None if it is gone."""
        before = self._pieces.pop(name, None)
        if piece is not None:
            self._pieces[name] = Piece.of(piece)
        if self._pieces.get(name) != before:
            self._endpoints = None
            self.changed.set()

    def replace_slices(self, pieces: Iterable[Object]) -> None:
        """All EndpointSlices that there are."""
        found = {piece["metadata"]["name"]: piece for piece in pieces}
        for name in {*self._pieces, *found}:
            self.place(name, found.get(name))
        self.slices_listed = True
        self.changed.set()

    @property
    def listed(self) -> bool:
        """Whether everything was read from the API server once."""
        return self.splits_listed and self.slices_listed

    def endpoints(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """Servers by revision."""
        if self._endpoints is not None:
            return self._endpoints
        pieces: dict[str, list[Piece]] = {}
        for piece in self._pieces.values():
            pieces.setdefault(piece.revision, []).append(piece)
        self._endpoints = {revision: merged(found) for revision, found in pieces.items()}
        return self._endpoints

    def route(self, uid: str) -> Route:
        """What is to be in force: the split's own wish, or stable alone once its supervision was lost."""
        split = self.splits[uid]
        timer = self._timers.get(uid)
        if timer and timer.applied and split.stable:
            return Route(split, {split.stable: WHOLE}, expired=True)
        return Route(split, split.weights, split.shadow)

    def due(self) -> list[str]:
        """Models whose supervision is lost and whose traffic is not at stable yet; what is due now is spent."""
        found = []
        now = self._clocks.monotonic()
        for uid, timer in list(self._timers.items()):
            if uid in self.splits and timer.due(now) and not timer.applied:
                if not timer.expired:
                    log.error("TrafficSplit %s: supervision is lost", self.splits[uid].name)
                    self._remember(uid, spend(timer, applied=False))
                found.append(uid)
        return found

    def next_deadline(self) -> float | None:
        """When the next supervision runs out, on the monotonic clock."""
        deadlines = [t.deadline for t in self._timers.values() if t.deadline is not None and not t.expired]
        return min(deadlines, default=None)

    def fall_back(self, uid: str) -> None:
        """Send the model to stable, until a higher generation comes."""
        self._remember(uid, spend(self._timers[uid], applied=True))
        self.changed.set()

    def _settle(self) -> None:
        """Take what waits and can be taken: what one has let go of another may have waited for."""
        while taken := takeable(self.splits.values(), self._waiting.values()):
            for split in taken:
                del self._waiting[split.name]
                self._accept(split, self._specs[split.name])
        for name, split in self._waiting.items():
            self._refuse(name, split.uid, obstacle(split, [*self.splits.values(), *self._waiting.values()]))

    def _refuse(self, name: str, uid: str, why: str) -> None:
        if self.refused.get(uid) != why:
            log.error("TrafficSplit %s is refused: %s", name, why)
        self.refused[uid] = why

    def _accept(self, split: Split, spec: Mapping[str, Any]) -> None:
        clocks = self._clocks
        timer = observe(
            self._timers.get(split.uid),
            split,
            monotonic=clocks.monotonic(),
            wall=clocks.wall(),
            boot=clocks.boot,
        )
        self.refused.pop(split.uid, None)
        self._uids[split.name] = split.uid
        if self.splits.get(split.uid) != split or self._timers.get(split.uid) != timer:
            self.splits[split.uid] = split
            self._good[split.uid] = spec
            self._remember(split.uid, timer)

    def _forget(self, name: str) -> None:
        uid = self._uids.pop(name, None)
        if uid is not None:
            self.splits.pop(uid, None)
            self._timers.pop(uid, None)
            self._good.pop(uid, None)
            self._unsaved.discard(uid)
            self._file(uid).unlink(missing_ok=True)

    def save(self) -> None:
        """Write what a full disk has kept from being remembered; raises OSError where it still does."""
        for uid in sorted(self._unsaved):
            self._write(uid)

    def _remember(self, uid: str, timer: Timer) -> None:
        """On disk if it goes: what is wanted does not wait for it."""
        self._timers[uid] = timer
        self._unsaved.add(uid)
        with contextlib.suppress(OSError):
            self._write(uid)

    def _write(self, uid: str) -> None:
        found = {"name": self.splits[uid].name, "spec": self._good[uid], "timer": self._timers[uid].store()}
        replace_file(self._file(uid), json.dumps(found))
        self._unsaved.discard(uid)

    def _file(self, uid: str) -> Path:
        return self._folder / f"{uid}.json"


class SplitSink:
    """What the watch of TrafficSplits writes into."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def replace(self, items: Iterable[Object]) -> None:
        """All splits of the namespace."""
        self._book.replace({_name(item): item.get("spec") or {} for item in items})

    def put(self, item: Object) -> None:
        """One is new or has changed."""
        self._book.put(_name(item), item.get("spec") or {})

    def remove(self, item: Object) -> None:
        """One is gone."""
        self._book.remove(_name(item))


class SliceSink:
    """What the watch of EndpointSlices writes into."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def replace(self, items: Iterable[Object]) -> None:
        """All slices of revisions."""
        self._book.replace_slices(items)

    def put(self, item: Object) -> None:
        """One is new or has changed."""
        self._book.place(_name(item), item)

    def remove(self, item: Object) -> None:
        """One is gone."""
        self._book.place(_name(item), None)


def _uid(spec: Mapping[str, Any]) -> str:
    return str(spec.get("deploymentUid", ""))


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])
