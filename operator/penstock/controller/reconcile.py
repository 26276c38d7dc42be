"""One pass over one ModelDeployment: observe, plan, write what the plan says, tell what changed.

Nothing is remembered between passes but what was in the way of a write, and counters that the routers remember too; a
pass cut short anywhere is finished by the next one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from penstock.api.base import wire
from penstock.api.reasons import Reason
from penstock.api.resource import KIND, Metadata, ModelDeployment
from penstock.api.router import FIRST_PORT, ROUTER_KIND, SPLIT_KIND
from penstock.api.status import ModelDeploymentStatus
from penstock.core.announcing import announce
from penstock.core.names import ObjectKey
from penstock.core.observed import Observed
from penstock.core.plan import HandOver, Join, Leave, Plan, Write, plan
from penstock.core.settings import Settings
from penstock.core.statuses import describe_invalid
from penstock.kube.cache import Cache, DeploymentKey, RouterKey
from penstock.kube.client import KubeClient
from penstock.kube.events import EventRecorder
from penstock.kube.objects import controller_uid

from .credentials import RegistryCredentials, shared_repository
from .examiner import Examiner
from .fleetwatch import FleetWatch, Interest
from .ports import PortBook
from .publishing import RETRY, Publisher
from .wakes import wanted_router
from .writing import Obstacles, Writer, obstacles_of

__all__ = ["Reconciler"]

_RETRY_OBSTACLE = 15.0
_AT_ONCE = 0.1
_RENEW_CREDENTIALS = 6 * 3600.0
_NEED_CREDENTIALS = ("Job", "Deployment")


class Reconciler:
    """`reconcile(key)` returns the seconds after which it wants to be called again, or None."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        settings: Settings,
        credentials: RegistryCredentials,
        events: EventRecorder,
        fleets: FleetWatch,
        wake_router: Callable[[RouterKey], None],
        clock: Callable[[], datetime],
        *,
        examiner: Examiner,
        served: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`wake_router` is told of Routers that this has given another model, or taken one.

        `served` names the kinds of the Gateway API that the cluster serves.
        """
        self._client, self._cache, self._settings = client, cache, settings
        self._credentials, self._events, self._clock = credentials, events, clock
        self._fleets, self._examiner, self._wake_router = fleets, examiner, wake_router
        self._writer, self._ports = Writer(client, cache), PortBook(cache)
        self._served, self._publisher = served, Publisher(self._writer, clock)
        self._obstacles: dict[DeploymentKey, Obstacles] = {}
        self._refused_raises: dict[DeploymentKey, Obstacles] = {}

    async def reconcile(self, key: DeploymentKey) -> float | None:
        """Make one pass. Raises ApiError for what trying again may mend; the queue does that."""
        raw = self._cache.get(ObjectKey(KIND, *key))
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return None
        try:
            deployment = ModelDeployment.parse(dict(raw))
        except ValidationError as error:
            await self._refuse(raw, error)
            return None
        before = self._uses(key)
        try:
            return await self._pass(key, raw, deployment)
        finally:
            for router, _ in before ^ self._uses(key):
                self._wake_router((key[0], router))

    async def _pass(self, key: DeploymentKey, raw: Mapping[str, Any], deployment: ModelDeployment) -> float | None:
        observed, now = self._observe(key, raw, deployment), self._clock()
        decided = plan(observed, now)
        self._follow(key, observed, decided)
        blocked = await obstacles_of(self._write(observed, decided))
        refused = self._refused_raises.get(key, {})
        if blocked != self._obstacles.get(key, {}):
            self._obstacles[key] = blocked
            decided = plan(replace(observed, obstacles={**refused, **blocked}), now)
        told = await self._tell(raw, decided)
        self._examiner.follow(key, decided.examine)
        if blocked:
            return self._next(key, decided, blocked, told=told)
        self._refused_raises[key] = await obstacles_of(self._raise(decided))
        if self._refused_raises[key] != refused:
            return _AT_ONCE
        if not refused:
            for target in decided.deletes:
                await self._writer.delete(target)
        if await self._publisher.publish(key, decided.routes):
            return _AT_ONCE
        return self._next(key, decided, refused, told=told)

    def _forget(self, key: DeploymentKey) -> None:
        self._obstacles.pop(key, None)
        self._refused_raises.pop(key, None)
        self._ports.forget(key)
        self._publisher.forget(key)
        self._fleets.follow(key, None)
        self._examiner.follow(key, None)

    def _uses(self, key: DeploymentKey) -> frozenset[tuple[str, bool]]:
        """The Routers that this model keeps busy, and whether by a candidate."""
        raw, split = self._cache.get_deployment(key), self._cache.get(ObjectKey(SPLIT_KIND, *key))
        wanted = wanted_router(raw) if raw else None
        routers = {wanted, split["spec"].get("router") if split else None} - {None}
        rolling = bool(raw and (raw.get("status") or {}).get("candidate"))
        return frozenset((str(router), rolling) for router in routers)

    def _observe(self, key: DeploymentKey, raw: Mapping[str, Any], deployment: ModelDeployment) -> Observed:
        children, wanted = self._cache.children(key), wanted_router(raw)
        uid = raw["metadata"]["uid"]
        objects = {name: item for name, item in children.items() if controller_uid(item) == uid}
        router = _router_in_use(objects.get(ObjectKey(SPLIT_KIND, *key)), wanted)
        if wanted is None:
            self._ports.forget(key)
        return Observed(
            deployment=deployment,
            settings=self._settings,
            objects=objects,
            pods=tuple(item for name, item in children.items() if name.kind == "Pod"),
            obstacles={**self._refused_raises.get(key, {}), **self._obstacles.get(key, {})},
            fleet=self._fleets.view(key),
            findings=self._examiner.findings(key),
            router=self._cache.get(ObjectKey(ROUTER_KIND, key[0], router)) if router else None,
            served=self._served(),
            unpublished=self._publisher.obstacles(key),
            port=self._ports.port_for(key, wanted) if wanted else FIRST_PORT,
        )

    def _follow(self, key: DeploymentKey, observed: Observed, decided: Plan) -> None:
        """Have the router pods read as closely as the plan needs it, with counters while there is a candidate."""
        split = observed.get(SPLIT_KIND, key[1])
        router = _router_in_use(split, wanted_router({"spec": wire(observed.deployment.spec)}))
        if not decided.observe or router is None:
            self._fleets.follow(key, None)
            return
        candidate, used = observed.deployment.status.candidate, None
        if candidate is not None:
            used = candidate.analysis.as_of if candidate.analysis else 0
        uid = observed.deployment.metadata.uid
        self._fleets.follow(key, Interest(uid, router, decided.observe, used))

    async def _write(self, observed: Observed, decided: Plan) -> None:
        """In the order of the plan: it is part of the decision. What takes traffic back waits for nothing at all."""
        metadata = observed.deployment.metadata
        urgent = list(takewhile(_is_split, decided.writes))
        for write in urgent:
            await self._send(write, metadata)
        mounted = _mount_credentials(observed, decided)
        if mounted or decided.needs_credentials:
            await self._ensure_credentials(metadata.namespace, needed=mounted)
        for write in decided.writes[len(urgent) :]:
            await self._send(write, metadata)

    async def _raise(self, decided: Plan) -> None:
        """What status remembers by now."""
        for write in decided.raises:
            await self._writer.write(write.manifest, fenced=write.fenced, whole=write.whole)

    async def _send(self, action: Write | HandOver | Join | Leave, owner: Metadata) -> None:
        match action:
            case Write():
                await self._writer.write(action.manifest, fenced=action.fenced, whole=action.whole)
            case HandOver():
                await self._writer.hand_over(action.key, action.replicas)
            case Join() | Leave():
                await self._writer.join(owner, action.router, member=isinstance(action, Join))
                self._wake_router((owner.namespace, action.router))  # the watch of our own write tells nobody

    async def _ensure_credentials(self, namespace: str, *, needed: bool) -> None:
        siblings = [item for item in self._cache.of_kind(KIND, namespace) if _is_alive(item)]
        registry = self._settings.registry
        shared = {shared_repository(uri, registry) for item in siblings for uri in _sources(item)}
        owners = frozenset((item["metadata"]["name"], item["metadata"]["uid"]) for item in siblings)
        await self._credentials.ensure(namespace, frozenset(filter(None, shared)), owners, verify=needed)

    async def _tell(self, raw: Mapping[str, Any], decided: Plan) -> bool:
        """Whether there was anything to tell."""
        told = await self._write_status(raw, decided.status)
        for event in decided.events:
            self._events.record(raw, event.reason, event.message, warning=event.type == "Warning")
        return told

    async def _write_status(self, raw: Mapping[str, Any], status: ModelDeploymentStatus) -> bool:
        wanted = wire(status)
        if wanted == raw.get("status"):
            return False
        self._cache.put(await self._client.apply_status(raw, wanted))
        return True

    async def _refuse(self, raw: Mapping[str, Any], error: ValidationError) -> None:
        """Say why nothing is done; a status of a newer release is memory that is not written over."""
        first = min(error.errors(), key=lambda item: item["loc"][0] != "status")
        seen = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        if first["loc"][0] == "status":
            sentence = f"{seen}; a newer release wrote this status, which is left as it is; upgrade the operator"
            self._events.record(raw, Reason.INVALID_SPEC.value, sentence, warning=True)
            return
        sentence = f"{seen}; this operator cannot read the spec; correct it, or upgrade the operator"
        before = ModelDeployment.parse({**raw, "spec": {"model": {"uri": "oci://unread"}}})
        status = describe_invalid(before.status, before.metadata.generation, sentence, self._clock())
        await self._write_status(raw, status)
        for kind, reason, message in announce(before, status):
            self._events.record(raw, reason, message, warning=kind == "Warning")

    def _next(self, key: DeploymentKey, decided: Plan, blocked: Mapping[ObjectKey, Any], *, told: bool) -> float | None:
        """Seconds. Status is what the next plan is made from, so one more pass follows what was just told."""
        waits = [_RETRY_OBSTACLE] if blocked else []
        if told:
            waits.append(_AT_ONCE)
        if decided.needs_credentials:
            waits.append(_RENEW_CREDENTIALS)
        if self._publisher.obstacles(key):
            waits.append(RETRY.total_seconds())
        if decided.wake:
            waits.append(max(0.1, (decided.wake - self._clock()).total_seconds()))
        return min(waits, default=None)


def _mount_credentials(observed: Observed, decided: Plan) -> bool:
    """Whether pods are about to be made, or wait to start: a Secret deleted by hand is what they may wait for."""
    made = any(isinstance(w, Write) and w.manifest["kind"] in _NEED_CREDENTIALS for w in decided.writes)
    return made or any(pod.get("status", {}).get("phase") == "Pending" for pod in observed.pods)


def _is_split(action: Write | HandOver | Join | Leave) -> bool:
    return isinstance(action, Write) and action.manifest["kind"] == SPLIT_KIND


def _router_in_use(split: Mapping[str, Any] | None, wanted: str | None) -> str | None:
    """The Router that requests come through: the live split's, else the one asked for."""
    return str(split["spec"]["router"]) if split else wanted


def _sources(deployment: Mapping[str, Any]) -> Iterator[str]:
    """All places that preparations of this ModelDeployment may read from."""
    spec = deployment["spec"]
    others = (
        (spec.get("rollout") or {}).get("initial"),
        (spec.get("gates") or {}).get("dataset"),
        (spec.get("optimize") or {}).get("calibration"),
    )
    yield spec["model"]["uri"]
    if "dvcRemote" in spec["model"]:
        yield spec["model"]["dvcRemote"]
    yield from (other["uri"] for other in others if other)


def _is_alive(manifest: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" not in manifest["metadata"]
