"""Kubernetes events: told once per transition, sent beside the work, never a reason to fail.

`events.k8s.io/v1` and not core/v1: it is the API events are stored in, `kubectl describe` and `kubectl get events`
show both, and the operator's role needs one verb on one resource, `create`. Events are never patched into series: a
repeated message is not sent at all.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from uuid import uuid4

from .client import KubeClient
from .errors import ApiError
from .objects import Manifest

__all__ = ["EventObserver", "EventRecorder"]

log = logging.getLogger(__name__)
CONTROLLER = "penstock.dev/operator"
NOTE_LIMIT = 1024


class EventObserver(Protocol):
    """What the recorder tells to metrics."""

    def event(self, outcome: str) -> None:
        """One event was `sent`, `failed`, `dropped` (too many waiting) or a `duplicate`."""


class _Silent:
    def event(self, outcome: str) -> None: ...


@dataclass(frozen=True)
class _Pending:
    regarding: Mapping[str, Any]
    kind: Literal["Normal", "Warning"]
    reason: str
    action: str
    message: str
    time: datetime


class EventRecorder:
    """Takes events without waiting and sends them from `run`.

    What was said last `remember` times, by (uid, reason, message), is not said again; with more than `capacity`
    waiting the oldest is dropped. A message that alternates is therefore told once per process, not once per turn.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        instance: str,
        capacity: int = 256,
        remember: int = 4096,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_name: Callable[[], str] = lambda: uuid4().hex[:16],
        observer: EventObserver | None = None,
    ) -> None:
        self._client = client
        self._instance = instance
        self._capacity = capacity
        self._remember = remember
        self._now = now
        self._new_name = new_name
        self._observer: EventObserver = _Silent() if observer is None else observer
        self._said: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()

    def record(
        self,
        regarding: Mapping[str, Any],
        reason: str,
        message: str,
        *,
        warning: bool = False,
        action: str = "Reconcile",
    ) -> None:
        """Tell users of a transition of `regarding`, an object as observed."""
        if not self._is_new((str(regarding["metadata"].get("uid", "")), reason, message)):
            self._observer.event("duplicate")
            return
        if len(self._pending) >= self._capacity:
            self._pending.popleft()
            self._observer.event("dropped")
        kind: Literal["Normal", "Warning"] = "Warning" if warning else "Normal"
        self._pending.append(_Pending(regarding, kind, reason, action, message, self._now()))
        self._wake.set()

    async def run(self) -> None:
        """Send what was recorded, until cancelled."""
        while True:
            await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send everything that waits now."""
        self._wake.clear()
        while self._pending:
            await self._send(self._pending.popleft())

    async def _send(self, event: _Pending) -> None:
        try:
            await self._client.post(self._manifest(event))
        except ApiError as problem:
            self._observer.event("failed")
            log.info("event %s was not recorded: %s", event.reason, problem)
        else:
            self._observer.event("sent")

    def _is_new(self, said: tuple[str, str, str]) -> bool:
        known = said in self._said
        self._said[said] = None
        self._said.move_to_end(said)
        while len(self._said) > self._remember:
            self._said.popitem(last=False)
        return not known

    def _manifest(self, event: _Pending) -> Manifest:
        metadata = event.regarding["metadata"]
        namespace = metadata.get("namespace") or "default"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{self._new_name()}", "namespace": namespace},
            "eventTime": event.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "type": event.kind,
            "reason": event.reason,
            "action": event.action,
            "note": _shortened(event.message),
            "regarding": {
                "apiVersion": event.regarding["apiVersion"],
                "kind": event.regarding["kind"],
                "namespace": metadata.get("namespace", ""),
                "name": metadata["name"],
                "uid": metadata.get("uid", ""),
            },
        }


def _shortened(message: str) -> str:
    """The API server refuses notes above 1 KiB, counted in bytes."""
    raw = message.encode()
    return message if len(raw) <= NOTE_LIMIT else raw[: NOTE_LIMIT - 3].decode("utf-8", "ignore") + "…"
