"""One pass over one ModelDeployment: observe, plan, write what the plan says, tell what changed.

Nothing is remembered between passes but what was in the way of a write; a pass cut short anywhere is finished by the
next one.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from penstock.api.base import wire
from penstock.api.reasons import Reason
from penstock.api.resource import KIND, ModelDeployment
from penstock.api.status import ModelDeploymentStatus
from penstock.core.names import ObjectKey, key_of
from penstock.core.objects import differs
from penstock.core.observed import Observed
from penstock.core.plan import HandOver, Plan, Write, plan
from penstock.core.settings import Settings
from penstock.core.statuses import announce, describe_invalid
from penstock.kube.cache import Cache, DeploymentKey
from penstock.kube.client import KubeClient
from penstock.kube.errors import AlreadyTaken, ApiError, Conflict, Forbidden, Invalid
from penstock.kube.events import EventRecorder
from penstock.kube.objects import controller_uid

from .credentials import RegistryCredentials, shared_repository

__all__ = ["Reconciler"]

log = logging.getLogger(__name__)
_RETRY_OBSTACLE = 15.0
_RENEW_CREDENTIALS = 6 * 3600.0
_NEED_CREDENTIALS = ("Job", "Deployment")
_IMMUTABLE = ("Job", "ControllerRevision")


class Reconciler:
    """`reconcile(key)` returns the seconds after which it wants to be called again, or None."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        settings: Settings,
        credentials: RegistryCredentials,
        events: EventRecorder,
        clock: Callable[[], datetime],
    ) -> None:
        self._client, self._cache, self._settings = client, cache, settings
        self._credentials, self._events, self._clock = credentials, events, clock
        self._obstacles: dict[DeploymentKey, dict[ObjectKey, tuple[Reason, str]]] = {}

    async def reconcile(self, key: DeploymentKey) -> float | None:
        """Make one pass. Raises ApiError for what trying again may mend; the queue does that."""
        raw = self._cache.get(ObjectKey(KIND, *key))
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._obstacles.pop(key, None)
            return None
        try:
            deployment = ModelDeployment.parse(dict(raw))
        except ValidationError as error:
            await self._refuse(raw, error)
            return None
        observed, now = self._observe(key, raw, deployment), self._clock()
        decided = plan(observed, now)
        blocked = await self._write(observed, decided)
        if blocked != observed.obstacles:
            self._obstacles[key] = blocked
            decided = plan(replace(observed, obstacles=blocked), now)
        await self._tell(raw, decided)
        if not blocked:
            await self._delete(decided)
        return self._next(decided, blocked)

    def _observe(self, key: DeploymentKey, raw: Mapping[str, Any], deployment: ModelDeployment) -> Observed:
        children = self._cache.children(key)
        uid = raw["metadata"]["uid"]
        return Observed(
            deployment=deployment,
            settings=self._settings,
            objects={name: item for name, item in children.items() if controller_uid(item) == uid},
            pods=tuple(item for name, item in children.items() if name.kind == "Pod"),
            obstacles=self._obstacles.get(key, {}),
        )

    async def _write(self, observed: Observed, decided: Plan) -> dict[ObjectKey, tuple[Reason, str]]:
        """What stood in the way; the rest of the plan waits behind it, since its order is part of the decision."""
        try:
            mounted = _mount_credentials(observed, decided)
            if mounted or decided.needs_credentials:
                await self._ensure_credentials(observed.deployment.metadata.namespace, needed=mounted)
            for write in decided.writes:
                self._cache.put(await self._send(write))
        except (AlreadyTaken, Forbidden, Invalid) as error:
            if isinstance(error, Forbidden) and error.terminating:
                raise
            log.warning("refused: %s", error)
            place = ObjectKey(error.kind, error.namespace, error.name)
            return {place: (_reason(error), f"{place}: {error.message}")}
        return {}

    async def _send(self, write: Write | HandOver) -> Mapping[str, Any]:
        if isinstance(write, HandOver):
            live = self._cache.get(write.key)
            if live is None:
                raise Conflict("it is not in the cache yet; try again", kind=write.key.kind, name=write.key.name)
            return await self._client.hand_over_replicas(live, write.replicas)
        live = self._cache.get(key_of(write.manifest))
        if live is None or controller_uid(live) != controller_uid(write.manifest):
            return await self._create(write.manifest, live)
        return await self._client.apply(write.manifest, uid=live["metadata"]["uid"])

    async def _create(self, manifest: dict[str, Any], live: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Make it, whatever of that name the cache holds; one of ours that the watch has lost is put right as well."""
        if live and _is_left_over(live, _owner(manifest)):
            where = {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}
            raise Conflict("the one of an earlier ModelDeployment of this name is still there; try again", **where)
        found = await self._client.create(manifest)
        if manifest["kind"] in _IMMUTABLE or not differs(manifest, found):
            return found
        return await self._client.apply(manifest, uid=found["metadata"]["uid"])

    async def _ensure_credentials(self, namespace: str, *, needed: bool) -> None:
        siblings = [item for item in self._cache.of_kind(KIND, namespace) if _is_alive(item)]
        registry = self._settings.registry
        shared = {shared_repository(item["spec"]["model"]["uri"], registry) for item in siblings}
        owners = frozenset((item["metadata"]["name"], item["metadata"]["uid"]) for item in siblings)
        await self._credentials.ensure(namespace, frozenset(filter(None, shared)), owners, verify=needed)

    async def _delete(self, decided: Plan) -> None:
        for target in decided.deletes:
            live = self._cache.get(target)
            if live is None or live["metadata"].get("deletionTimestamp"):
                continue
            uid = live["metadata"]["uid"]
            left = await self._client.delete(target.kind, target.namespace, target.name, uid)
            if left:
                self._cache.put(left)
            else:
                self._cache.forget(target, uid)

    async def _tell(self, raw: Mapping[str, Any], decided: Plan) -> None:
        await self._write_status(raw, decided.status)
        for event in decided.events:
            self._events.record(raw, event.reason, event.message, warning=event.type == "Warning")

    async def _write_status(self, raw: Mapping[str, Any], status: ModelDeploymentStatus) -> None:
        wanted = wire(status)
        if wanted != raw.get("status"):
            self._cache.put(await self._client.apply_status(raw, wanted))

    async def _refuse(self, raw: Mapping[str, Any], error: ValidationError) -> None:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        sentence = f"{path}: {first['msg']}; this operator cannot read the spec; correct it, or upgrade the operator"
        before = ModelDeployment.parse({**raw, "spec": {"model": {"uri": "oci://unread"}}})
        status = describe_invalid(before.status, before.metadata.generation, sentence, self._clock())
        await self._write_status(raw, status)
        for kind, reason, message in announce(before, status):
            self._events.record(raw, reason, message, warning=kind == "Warning")

    def _next(self, decided: Plan, blocked: Mapping[ObjectKey, Any]) -> float | None:
        waits = [_RETRY_OBSTACLE] if blocked else []
        if decided.needs_credentials:
            waits.append(_RENEW_CREDENTIALS)
        if decided.wake:
            waits.append(max(0.1, (decided.wake - self._clock()).total_seconds()))
        return min(waits, default=None)


def _mount_credentials(observed: Observed, decided: Plan) -> bool:
    """Whether pods are about to be made, or wait to start: a Secret deleted by hand is what they may wait for."""
    made = any(isinstance(w, Write) and w.manifest["kind"] in _NEED_CREDENTIALS for w in decided.writes)
    return made or any(pod.get("status", {}).get("phase") == "Pending" for pod in observed.pods)


def _owner(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = manifest["metadata"]["ownerReferences"][0]
    return found


def _is_left_over(live: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether it belongs to a deleted ModelDeployment of the same name: the garbage collector is on its way."""
    owners = live["metadata"].get("ownerReferences") or ()
    return any((o["kind"], o["name"]) == (owner["kind"], owner["name"]) and o["uid"] != owner["uid"] for o in owners)


def _is_alive(manifest: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" not in manifest["metadata"]


def _reason(error: ApiError) -> Reason:
    match error:
        case AlreadyTaken():
            return Reason.NAME_TAKEN
        case Forbidden(quota=True):
            return Reason.QUOTA_EXCEEDED
        case Forbidden():
            return Reason.POD_REFUSED
        case _:
            return Reason.INVALID_SPEC
