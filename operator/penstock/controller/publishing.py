"""Writes the routes that publish a model; what stands in their way stops nothing else and is tried again in a while."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.api.reasons import Reason
from penstock.core.names import key_of
from penstock.core.plan import Write
from penstock.kube.cache import DeploymentKey
from penstock.kube.errors import AlreadyTaken, ApiError, Forbidden, Invalid, NotFound

from .writing import Obstacles, Writer

__all__ = ["RETRY", "Publisher"]

RETRY = timedelta(seconds=15)
_REASONS: dict[type[ApiError], Reason] = {
    AlreadyTaken: Reason.NAME_TAKEN,
    NotFound: Reason.GATEWAY_API_MISSING,
    Forbidden: Reason.ROUTE_REFUSED,
    Invalid: Reason.ROUTE_REFUSED,
}


@dataclass(frozen=True)
class _Attempt:
    routes: tuple[Write, ...]
    failed: Obstacles
    when: datetime


class Publisher:
    """Remembers what was in the way of each model's routes, so that a busy rollout does not ask again each second."""

    def __init__(self, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._writer, self._clock = writer, clock
        self._last: dict[DeploymentKey, _Attempt] = {}

    def obstacles(self, key: DeploymentKey) -> Obstacles:
        """Routes that could not be written last time, and why."""
        last = self._last.get(key)
        return last.failed if last else {}

    def forget(self, key: DeploymentKey) -> None:
        """The ModelDeployment is gone."""
        self._last.pop(key, None)

    async def publish(self, key: DeploymentKey, routes: tuple[Write, ...]) -> bool:
        """Write them; whether something else stands in the way than before. Raises what trying again may mend."""
        last, now = self._last.get(key), self._clock()
        if last and last.routes == routes and now - last.when < RETRY:
            return False
        failed: Obstacles = {}
        for write in routes:
            failed |= await self._try(write)
        self._last.pop(key, None)
        if failed:
            self._last[key] = _Attempt(routes, failed, now)
        return failed != (last.failed if last else {})

    async def _try(self, write: Write) -> Obstacles:
        try:
            await self._writer.write(write.manifest)
        except tuple(_REASONS) as error:
            if isinstance(error, Forbidden) and error.terminating:
                raise
            place = key_of(write.manifest)
            return {place: (_REASONS[type(error)], f"{place}: {error.message}")}
        return {}
