"""Who may have what: the artifact store says so to the client's own token, and a yes is remembered for a minute.

The cache cannot read tokens and has none. Remembering makes a hundred pods that start together one question; a token
that is taken back, or has ended, opens for that minute what it opened before, and nothing else.
"""

import hashlib
import threading
from collections.abc import Callable

from penstock_runtime.registry import Reference

__all__ = ["Gate"]

REMEMBERED_SECONDS = 60.0
_MOST = 4096


class Gate:
    """`ask` puts the question to the store and raises for a no, or for no answer; neither is remembered."""

    def __init__(self, ask: Callable[[Reference, str], None], clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._until: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def admit(self, reference: Reference, token: str) -> None:
        """Returns where this token opens this blob of this repository; raises what `ask` raises."""
        parts = (reference.host, reference.repository, reference.version, token)
        key = hashlib.sha256("\0".join(parts).encode()).digest()
        now = self._clock()
        with self._lock:
            if now < self._until.get(key, now):
                return
        self._ask(reference, token)
        with self._lock:
            self._until.pop(key, None)
            self._until[key] = now + REMEMBERED_SECONDS
            self._forget(now)

    def _forget(self, now: float) -> None:
        """The oldest stand first."""
        while self._until:
            key = next(iter(self._until))
            if now < self._until[key] and len(self._until) <= _MOST:
                break
            del self._until[key]
