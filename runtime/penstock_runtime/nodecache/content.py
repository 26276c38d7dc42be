"""What a request gets: content of the shelf, or content on its way there."""

import hashlib
import os
import select
import socket
from typing import Protocol

from .flight import BrokenOff, Flight
from .shelf import Filling, Held

__all__ = ["Content", "Followed", "Kept"]

_PIECE = 256 << 10


class Content(Protocol):
    """Sent once, then closed."""

    outcome: str
    """What the metrics call it."""
    size: int

    def send(self, connection: socket.socket) -> None:
        """Write the bytes; raises BrokenOff before the last of them where they are not right, and OSError."""

    def close(self) -> None:
        """Give back what it holds."""


class Kept:
    """From the shelf: copied by the kernel, or hashed on its way where nobody has looked at it for long."""

    outcome = "hit"

    def __init__(self, held: Held) -> None:
        self._held = held
        self.size = held.size

    def send(self, connection: socket.socket) -> None:
        """See Content."""
        if self._held.unproven:
            self._prove(connection)
        else:
            _copy(self._held.descriptor, 0, self._held.size, connection)

    def _prove(self, connection: socket.socket) -> None:
        digest, offset, last = hashlib.sha256(), 0, b""
        while piece := os.pread(self._held.descriptor, _PIECE, offset):
            connection.sendall(last)
            digest.update(piece)
            offset, last = offset + len(piece), piece
        if not self._held.prove(f"sha256:{digest.hexdigest()}"):
            raise BrokenOff(f"{self._held.digest} is damaged on the disk")
        connection.sendall(last)

    def close(self) -> None:
        """See Content."""
        self._held.close()


class Followed:
    """A download under way, by this request (a miss) or an earlier one."""

    def __init__(self, flight: Flight, filling: Filling, outcome: str) -> None:
        self._flight, self._filling, self.outcome = flight, filling, outcome
        self.size = filling.size

    def send(self, connection: socket.socket) -> None:
        """See Content."""
        sent = 0
        while sent < self._filling.size:
            known = self._flight.beyond(sent)
            _copy(self._filling.descriptor, sent, known, connection)
            sent = known

    def close(self) -> None:
        """See Content."""
        self._flight.leave()


def _copy(descriptor: int, start: int, end: int, connection: socket.socket) -> None:
    """By the kernel, without a detour through this process; raises BrokenOff where the file is shorter, OSError."""
    writable = select.poll()
    writable.register(connection, select.POLLOUT)
    patience = connection.gettimeout()
    while start < end:
        if not writable.poll(None if patience is None else patience * 1000):
            raise TimeoutError("the client reads nothing")
        try:
            sent = os.sendfile(connection.fileno(), descriptor, start, end - start)
        except BlockingIOError:
            continue
        if not sent:
            raise BrokenOff("the file on the disk has become shorter")
        start += sent
