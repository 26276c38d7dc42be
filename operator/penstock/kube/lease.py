"""Who leads: one Lease, one holder, and a fence that closes before anybody else may take over.

A contender takes a foreign lease only after it has watched it unrenewed for the whole duration (60 s) by its own
monotonic clock, and a holder stops trusting its own after 40 s without a successful renewal, counted from before the
request was sent. No wall clock is compared, so skew between nodes does not matter. The holder is the pod's uid: a
restarted container of the pod finds its own lease and goes on at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any

from .client import KubeClient
from .errors import ApiError, Conflict, NotFound
from .objects import Manifest

__all__ = ["LeaderLease", "LeaseLost", "LeaseTimes"]

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This process led and does not know any more that it does; it must end, and be started again."""


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds: what others wait, how long the holder trusts itself, how often it asks, what one try may take."""

    duration: float = 60.0
    renew_deadline: float = 40.0
    retry: float = 5.0
    request: float = 10.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry + self.request:
            raise ValueError(
                f"lease times {self} are unsafe: expected duration > renew_deadline > retry + request, so that one "
                "failed renewal costs nothing and the fence closes before another replica takes over"
            )


class LeaderLease:
    """One contender for one Lease. `client` must have no fence of its own and retry little."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or LeaseTimes()
        self._clock = clock
        self._now = now
        self._on_change = on_change
        self._held_until = -inf
        self._record: Manifest | None = None
        self._seen: tuple[str, float] | None = None
        self.acquired = asyncio.Event()
        """Set with the first success; never cleared, because a lease once lost ends the process."""

    @property
    def held(self) -> bool:
        """Whether this process may write now. Costs nothing; ask it before every write."""
        return self._clock() < self._held_until

    @property
    def holder(self) -> str:
        """The identity last seen in the Lease; empty when nobody holds it."""
        return str((self._record or {}).get("spec", {}).get("holderIdentity") or "")

    async def run(self, stop: asyncio.Event) -> None:
        """Contend and renew until `stop`, then release. Raises LeaseLost after leading."""
        while not stop.is_set():
            await self.attempt()
            if self.acquired.is_set() and not self.held:
                self._on_change(False)  # noqa: FBT003 - a callback has no keywords
                raise LeaseLost(f"lease {self._namespace}/{self._name} is lost; its holder is now {self.holder!r}")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.retry):
                    await stop.wait()
        await self.release()

    async def attempt(self) -> bool:
        """One try to take or to renew the lease; True when it is held now. API errors are logged, never raised."""
        started = self._clock()
        try:
            async with asyncio.timeout(self._times.request):
                success = await self._renew() if self._is_own() else await self._contend()
        except Conflict:
            self._record = None
            return self.held
        except (ApiError, TimeoutError) as problem:
            log.warning("lease %s/%s was not reached: %s", self._namespace, self._name, problem or "no answer in time")
            return self.held
        if success:
            self._succeed(started)
        else:
            self._held_until = -inf
        return self.held

    async def release(self) -> None:
        """Close the fence and let the next contender take over at once. A failure costs it the duration, no more."""
        record, leading = self._record, self._is_own()
        self._held_until = -inf
        if record is None or not leading:
            return
        self._on_change(False)  # noqa: FBT003 - a callback has no keywords
        spec = {**record["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._time()}
        try:
            async with asyncio.timeout(self._times.request):
                self._record = await self._client.replace({**record, "spec": spec})
        except (ApiError, TimeoutError) as problem:
            log.warning("lease %s/%s was not released: %s", self._namespace, self._name, problem or "no answer in time")

    def _is_own(self) -> bool:
        return self._record is not None and self.holder == self._identity

    def _succeed(self, started: float) -> None:
        self._held_until = started + self._times.renew_deadline
        if not self.acquired.is_set():
            self.acquired.set()
            self._on_change(True)  # noqa: FBT003 - a callback has no keywords

    async def _renew(self) -> bool:
        record = self._record or {}
        self._record = await self._client.replace({**record, "spec": {**record["spec"], **self._terms()}})
        return True

    async def _contend(self) -> bool:
        try:
            self._record = await self._client.get("Lease", self._namespace, self._name)
        except NotFound:
            self._record = await self._client.post(self._new())
            return True
        if self.holder and not self._is_own() and not self._is_expired():
            return False
        spec: dict[str, Any] = self._record["spec"]
        changes = self._terms()
        if not self._is_own():
            changes |= {"acquireTime": self._time(), "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
        self._record = await self._client.replace({**self._record, "spec": {**spec, **changes}})
        return True

    def _is_expired(self) -> bool:
        """Whether this record has stood unchanged for its duration while we looked on."""
        record = self._record or {}
        version = record["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        duration = record["spec"].get("leaseDurationSeconds") or self._times.duration
        return self._clock() - self._seen[1] >= duration

    def _terms(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._times.duration),
            "renewTime": self._time(),
        }

    def _new(self) -> Manifest:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {**self._terms(), "acquireTime": self._time(), "leaseTransitions": 0},
        }

    def _time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
