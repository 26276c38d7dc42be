"""The books of the cache: what is held, how many bytes that is, who reads it, and what goes first; pure."""

from dataclasses import dataclass

__all__ = ["Ledger"]


@dataclass
class _Entry:
    size: int
    readers: int = 0
    whole: bool = False
    condemned: bool = False

    @property
    def spare(self) -> bool:
        """Whether its room can be had at once."""
        return self.whole and not self.readers


class Ledger:
    """Least recently used first, by bytes. What is being read or written is never chosen to go.

    Bytes are counted from the moment they are reserved until they can be gone from the disk, so that `used` never
    exceeds `limit`, also while many downloads run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: dict[str, _Entry] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes held or reserved."""
        return self._used

    @property
    def digests(self) -> tuple[str, ...]:
        """What is whole, the least recently used first."""
        return tuple(digest for digest, entry in self._entries.items() if entry.whole and not entry.condemned)

    def take(self, digest: str) -> int | None:
        """The size of whole content, which stays until `release`; None where there is none."""
        entry = self._entries.get(digest)
        if entry is None or not entry.whole or entry.condemned:
            return None
        self._entries[digest] = self._entries.pop(digest)
        entry.readers += 1
        return entry.size

    def reserve(self, digest: str, size: int, free: int) -> tuple[str, ...] | None:
        """Room for new content, held until `release`; returns what has to go for it, None where that is too little.

        `free` is what the disk has left. Nothing goes in vain: None changes nothing.
        """
        if digest in self._entries:
            return None
        room, victims = min(self.limit - self._used, free), []
        for name, entry in self._entries.items():
            if room >= size:
                break
            if entry.spare:
                victims.append(name)
                room += entry.size
        if room < size:
            return None
        for name in victims:
            self._remove(name)
        self._entries[digest] = _Entry(size, readers=1)
        self._used += size
        return tuple(victims)

    def fill(self, digest: str) -> None:
        """What was reserved is whole; whoever reserved it still holds it."""
        self._entries[digest].whole = True

    def condemn(self, digest: str) -> None:
        """Give it to nobody any more; its bytes count until its last reader has gone."""
        entry = self._entries.get(digest)
        if entry is None:
            return
        entry.condemned = True
        if not entry.readers:
            self._remove(digest)

    def release(self, digest: str) -> None:
        """One reader, or the writer, has gone."""
        entry = self._entries[digest]
        entry.readers -= 1
        if not entry.readers and (entry.condemned or not entry.whole):
            self._remove(digest)

    def _remove(self, digest: str) -> None:
        self._used -= self._entries.pop(digest).size
