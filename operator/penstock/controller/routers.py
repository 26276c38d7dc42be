"""One pass over one Router: its fleet of pods, as core.router plans it.

Passes over Routers are made one after the other, because the pods of two fleets of a namespace are never replaced at
the same time.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from penstock.api.base import wire
from penstock.api.resource import KIND
from penstock.api.router import ROUTER_KIND, SPLIT_KIND, Router
from penstock.core.names import MANAGED_BY, ObjectKey
from penstock.core.router import Fleet, FleetPlan, fleet_name, is_moving, plan_fleet
from penstock.core.settings import Settings
from penstock.kube.cache import Cache, RouterKey
from penstock.kube.client import KubeClient
from penstock.kube.objects import controller_uid

from .wakes import wanted_router
from .writing import Obstacles, Writer, obstacles_of

__all__ = ["RouterReconciler"]

log = logging.getLogger(__name__)
_RETRY_OBSTACLE = 15.0


class RouterReconciler:
    """`reconcile(key)` returns the seconds after which it wants to be called again, or None."""

    def __init__(self, client: KubeClient, cache: Cache, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._client, self._cache, self._settings, self._clock = client, cache, settings, clock
        self._writer = Writer(client, cache)
        self._obstacles: dict[RouterKey, Obstacles] = {}

    async def reconcile(self, key: RouterKey) -> float | None:
        """Make one pass. Raises ApiError for what trying again may mend; the queue does that."""
        raw = self._cache.get(ObjectKey(ROUTER_KIND, *key))
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._obstacles.pop(key, None)
            return None
        try:
            router = Router.parse(dict(raw))
        except ValidationError as error:
            log.warning("Router %s/%s cannot be read, its fleet stays as it is: %s", *key, error.errors()[0]["msg"])
            return None
        decided = self._plan(key, raw, router)
        blocked = await obstacles_of(self._write(decided))
        if blocked != self._obstacles.get(key, {}):
            self._obstacles[key] = blocked
            decided = self._plan(key, raw, router)
        await self._tell(raw, decided)
        for target in decided.deletes:
            await self._writer.delete(target, versioned=True)
        return _RETRY_OBSTACLE if blocked else None

    def _plan(self, key: RouterKey, raw: Mapping[str, Any], router: Router) -> FleetPlan:
        members, uid = self._cache.fleet(key), raw["metadata"]["uid"]
        users = {item["metadata"]["name"]: item for item in self._users(key)}
        fleet = Fleet(
            router=router,
            settings=self._settings,
            objects={found: item for found, item in members.items() if controller_uid(item) == uid},
            pods=_pods(members),
            users=tuple(sorted(users)),
            made=MANAGED_BY.items() <= (raw["metadata"].get("labels") or {}).items(),
            rolling_out=tuple(sorted(user for user, item in users.items() if _is_rolling_out(item))),
            moving=next((other for other in self._others(key) if self._is_moving((key[0], other))), ""),
            obstacles=self._obstacles.get(key, {}),
        )
        return plan_fleet(fleet, self._clock())

    def _users(self, key: RouterKey) -> Iterator[Mapping[str, Any]]:
        namespace, name = key
        for item in self._cache.of_kind(KIND, namespace):
            split = self._cache.get(ObjectKey(SPLIT_KIND, namespace, item["metadata"]["name"]))
            if wanted_router(item) == name or (split is not None and split["spec"].get("router") == name):
                yield item

    def _others(self, key: RouterKey) -> Iterator[str]:
        names = (item["metadata"]["name"] for item in self._cache.of_kind(ROUTER_KIND, key[0]))
        return (name for name in names if name != key[1])

    def _is_moving(self, key: RouterKey) -> bool:
        deployment = self._cache.get(ObjectKey("Deployment", key[0], fleet_name(key[1])))
        return is_moving(deployment, _pods(self._cache.fleet(key)))

    async def _write(self, decided: FleetPlan) -> None:
        for manifest in decided.writes:
            await self._writer.write(manifest)

    async def _tell(self, raw: Mapping[str, Any], decided: FleetPlan) -> None:
        wanted = wire(decided.status)
        if wanted != raw.get("status"):
            self._cache.put(await self._client.apply_status(raw, wanted))


def _pods(members: Mapping[ObjectKey, Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(item for key, item in members.items() if key.kind == "Pod")


def _is_rolling_out(deployment: Mapping[str, Any]) -> bool:
    return bool((deployment.get("status") or {}).get("candidate"))
