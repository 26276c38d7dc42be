"""One request's way: a store that may be asked, the client's own right to the blob, then the shelf or a download."""

import logging
import threading
from collections.abc import Callable, Collection

from penstock_runtime.registry import Reference, Refused, Registry, RegistryAuth
from penstock_runtime.web import Truncated, Unreachable, Web

from .content import Content, Followed, Kept
from .figures import Figures
from .flight import BrokenOff, Flight
from .gate import Gate
from .shelf import Shelf

__all__ = ["Denied", "NodeCache"]

log = logging.getLogger("penstock.nodecache")

_PIECE = 256 << 10
_MOST_FLIGHTS = 64
_TOLD = (401, 403, 404)
"""What a store says that its client should hear as it is; all else is a gateway's error."""


class Denied(Exception):
    """An answer without content: HTTP's status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NodeCache:
    """`stores` are the only hosts it speaks to; the token that it shows them is the one that the request came with."""

    def __init__(
        self, shelf: Shelf, figures: Figures, stores: Collection[str], web: Web, clock: Callable[[], float]
    ) -> None:
        self._shelf, self._figures, self._web = shelf, figures, web
        self._stores = frozenset(stores)
        self._gate = Gate(self._ask_right, clock)
        self._flights: dict[str, Flight] = {}
        self._changed = threading.Condition()

    def open(self, reference: Reference, token: str) -> Content:
        """The content of `reference.digest`, to be sent and closed; raises Denied."""
        if reference.host not in self._stores:
            raise Denied(403, f"{reference.host} is not the artifact store of this installation")
        if not token:
            raise Denied(401, "a request needs a bearer token of the artifact store")
        try:
            self._gate.admit(reference, token)
            return self._find(reference, token)
        except Refused as error:
            raise Denied(error.status if error.status in _TOLD else 502, f"the artifact store: {error}") from error
        except (Unreachable, BrokenOff) as error:
            raise Denied(502, f"the artifact store: {error}") from error

    def finish_downloads(self, seconds: float) -> bool:
        """Wait until what is under way is kept or given up; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._flights, seconds)

    def _ask_right(self, reference: Reference, token: str) -> None:
        if not self._registry(reference, token).has_blob(reference.repository, reference.version):
            raise Refused(404, f"blob {reference.repository}@{reference.version}")

    def _registry(self, reference: Reference, token: str) -> Registry:
        return Registry(reference.host, self._web, RegistryAuth(token=token))

    def _find(self, reference: Reference, token: str) -> Content:
        digest = reference.version
        with self._changed:
            held = self._shelf.open(digest)
            if held:
                return Kept(held)
            flight, outcome = self._flights.get(digest), "joined"
            if flight is None:
                if len(self._flights) >= _MOST_FLIGHTS:
                    raise Denied(503, f"{_MOST_FLIGHTS} downloads are under way already")
                flight, outcome = self._start(reference, token), "miss"
            flight.join()
        try:
            filling = flight.begun()
        except BrokenOff:
            flight.leave()
            raise
        if filling:
            return Followed(flight, filling, outcome)
        flight.leave()
        raise Denied(507, "there is no room for it here; the artifact store has it")

    def _start(self, reference: Reference, token: str) -> Flight:
        flight = Flight()
        name = f"download-{reference.version[7:19]}"
        threading.Thread(target=self._download, args=(flight, reference, token), name=name, daemon=True).start()
        self._flights[reference.version] = flight
        return flight

    def _download(self, flight: Flight, reference: Reference, token: str) -> None:
        """Goes on though the request that began it is given up: the next one will want the same."""
        digest = reference.version
        try:
            with self._registry(reference, token).blob(reference.repository, digest) as answer:
                filling = None if answer.length is None else self._shelf.begin(digest, answer.length)
                if filling is None:
                    flight.pass_by()
                else:
                    flight.carry(filling, answer.chunks(_PIECE))
                    self._figures.count_download(filling.size)
        except Exception as error:
            if not isinstance(error, (Refused, Unreachable, Truncated, BrokenOff, OSError)):
                log.exception("a download ended unexpectedly")
            # whatever it is, those who follow must hear of it, or they wait for ever
            log.warning("%s of %s was not fetched: %s", digest, reference.repository, error)
            flight.break_off(str(error))
        finally:
            with self._changed:
                del self._flights[digest]
                self._changed.notify_all()
            flight.leave()
