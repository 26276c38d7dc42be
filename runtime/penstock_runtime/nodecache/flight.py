"""One download that any number of requests follow, so that pods that start together ask the store once."""

import threading
from collections.abc import Iterable

from .shelf import Filling

__all__ = ["BrokenOff", "Flight"]


class BrokenOff(Exception):
    """The content will not become whole; what was sent of it is of no use."""


class Flight:
    """Written by one thread, followed by others in the file as it grows.

    What comes last is held back until the digest is known to be right: an answer that is whole is also right. The file
    and its room are given back when the writer and all who joined have left.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._filling: Filling | None = None
        self._decided = self._landed = False
        self._failed: str | None = None
        self._given = 0
        self._members = 1

    # the writer

    def carry(self, filling: Filling, chunks: Iterable[bytes]) -> None:
        """Write all of it and keep it; raises OSError, what `chunks` does, and BrokenOff for other bytes than named."""
        self._decide(filling)
        before = 0
        for chunk in chunks:
            self._give(before)
            before = filling.write(chunk)
        if not filling.sound:
            raise BrokenOff(f"the store sent other bytes than {filling.digest} names")
        self._give(filling.size)
        filling.keep()

    def pass_by(self) -> None:
        """There is no room for it."""
        self._decide(None)

    def break_off(self, reason: str) -> None:
        """It ended early; who joined is told."""
        with self._changed:
            self._failed, self._decided = reason, True
            self._changed.notify_all()

    def _decide(self, filling: Filling | None) -> None:
        with self._changed:
            self._filling, self._decided = filling, True
            self._changed.notify_all()

    def _give(self, bytes_: int) -> None:
        with self._changed:
            self._given = bytes_
            self._changed.notify_all()

    # those who follow

    def join(self) -> None:
        """One more; each who joins must leave."""
        with self._changed:
            self._members += 1

    def leave(self) -> None:
        """The writer or one who joined goes; the last one closes the file."""
        with self._changed:
            self._members -= 1
            closing = self._filling if not self._members else None
        if closing:
            closing.close()

    def begun(self) -> Filling | None:
        """Wait until it is known where the content goes; None: nowhere. Raises BrokenOff."""
        with self._changed:
            self._changed.wait_for(lambda: self._decided)
            if self._failed is not None and self._filling is None:
                raise BrokenOff(self._failed)
            return self._filling

    def beyond(self, offset: int) -> int:
        """Wait until more than `offset` bytes may be read; returns how many. Raises BrokenOff."""
        with self._changed:
            self._changed.wait_for(lambda: self._given > offset or self._failed is not None)
            if self._given > offset:
                return self._given
            raise BrokenOff(self._failed)
