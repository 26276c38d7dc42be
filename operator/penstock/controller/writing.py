"""Carries out single writes of a plan: what is created, what is applied to a known object, and what is fenced.

The answer to each write goes into the cache, so that the next pass sees it before the watch delivers it.
"""

import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.resource import Metadata
from penstock.api.router import ROUTER_KIND, SPLIT_KIND
from penstock.core.names import MANAGED_BY, ObjectKey, key_of
from penstock.core.objects import differs
from penstock.core.router import default_router, member_manager, membership
from penstock.kube.cache import Cache
from penstock.kube.client import KubeClient
from penstock.kube.errors import AlreadyTaken, ApiError, Conflict, Forbidden, Invalid
from penstock.kube.objects import Manifest, controller_uid, resource_version

__all__ = ["Obstacles", "Writer", "obstacles_of"]

log = logging.getLogger(__name__)
Obstacles = dict[ObjectKey, tuple[Reason, str]]
"""Objects that could not be written, and why."""
_IMMUTABLE = ("Job", "ControllerRevision")


class Writer:
    """Writes through the cache. Raises what the API server raises; Conflict means: look again, then try again."""

    def __init__(self, client: KubeClient, cache: Cache) -> None:
        self._client, self._cache = client, cache

    async def write(self, manifest: Manifest, *, fenced: bool = False, whole: bool = False) -> None:
        """Make an object that its owner controls what the manifest says.

        A `fenced` write meets the very version that the plan was made from, or nothing happens. A `whole` one
        replaces that version, for fields of others that an apply cannot take away. Any other goes to the object of
        the known uid, whatever its version; that of a TrafficSplit waits for no rate limit, because it is the one
        that takes traffic back.
        """
        live = self._cache.get(key_of(manifest))
        if live is None or controller_uid(live) != controller_uid(manifest):
            answer = await self._create(manifest, live, fenced=fenced)
        elif manifest["kind"] == SPLIT_KIND:
            answer = await self._write_split(manifest, live, fenced=fenced, whole=whole)
        else:
            answer = await self._client.apply(manifest, uid=live["metadata"]["uid"])
        self._cache.put(answer)

    async def hand_over(self, key: ObjectKey, replicas: int) -> None:
        """Give `spec.replicas` of a Deployment to a second field manager."""
        live = self._cache.get(key)
        if live is None:
            raise Conflict("it is not in the cache yet; try again", kind=key.kind, name=key.name)
        self._cache.put(await self._client.hand_over_replicas(live, replicas))

    async def join(self, owner: Metadata, router: str, *, member: bool) -> None:
        """Hold on to a Router by an ownerReference of one's own, or let go; one that is missing is made first.

        Never to one that people have made: it would go with its last model.
        """
        live = self._cache.get(ObjectKey(ROUTER_KIND, owner.namespace, router))
        if live is None:
            if not member:
                return
            live = await self._make_router(owner.namespace, router)
            self._cache.put(live)
        if not MANAGED_BY.items() <= (live["metadata"].get("labels") or {}).items():
            return
        uid = live["metadata"]["uid"]
        manifest = membership(owner, router, uid, member=member)
        self._cache.put(await self._client.apply(manifest, uid=uid, manager=member_manager(owner)))

    async def delete(self, key: ObjectKey, *, versioned: bool = False) -> None:
        """Delete the object as it is known; `versioned`: only if it is still that version."""
        live = self._cache.get(key)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return
        uid = live["metadata"]["uid"]
        version = resource_version(live) if versioned else None
        left = await self._client.delete(key.kind, key.namespace, key.name, uid, resource_version=version)
        if left:
            self._cache.put(left)
        else:
            self._cache.forget(key, uid)

    async def _create(self, manifest: Manifest, live: Mapping[str, Any] | None, *, fenced: bool) -> Manifest:
        """Make it, whatever of that name the cache holds; one of ours that the watch has lost is put right as well."""
        if live and _is_left_over(live, _owner(manifest)):
            where = {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}
            raise Conflict("the one of an earlier owner of the same name is still there; try again", **where)
        found = await self._client.create(manifest)
        if manifest["kind"] in _IMMUTABLE or not differs(manifest, found):
            return found
        if fenced:
            self._cache.put(found)
            raise Conflict("there is one that is not in the cache yet; try again", kind=manifest["kind"])
        return await self._client.apply(manifest, uid=found["metadata"]["uid"])

    async def _write_split(self, manifest: Manifest, live: Mapping[str, Any], *, fenced: bool, whole: bool) -> Manifest:
        uid, version = live["metadata"]["uid"], resource_version(live)
        try:
            if whole:
                metadata = {**manifest["metadata"], "uid": uid, "resourceVersion": version}
                return await self._client.replace({**manifest, "metadata": metadata})
            if fenced:
                return await self._client.apply(manifest, uid=uid, resource_version=version)
            return await self._client.apply(manifest, uid=uid, urgent=True)
        except (Conflict, Invalid) as error:
            if isinstance(error, Invalid) and not _is_outrun(error):
                raise
            await self._look_again(key_of(manifest), uid)
            raise Conflict(
                f"it has changed since this was decided: {error.message}",
                verb=error.verb,
                kind=error.kind,
                namespace=error.namespace,
                name=error.name,
                code=error.code,
            ) from error

    async def _look_again(self, key: ObjectKey, uid: str) -> None:
        """Put what the API server holds into the cache, without waiting for the watch."""
        found = await self._client.find(key.kind, key.namespace, key.name)
        if found is None or found["metadata"]["uid"] != uid:
            self._cache.forget(key, uid)
        if found is not None:
            self._cache.put(found)

    async def _make_router(self, namespace: str, name: str) -> Manifest:
        try:
            return await self._client.create(default_router(namespace, name))
        except AlreadyTaken:
            found = await self._client.find(ROUTER_KIND, namespace, name)
            if found is None:
                raise
            return found


async def obstacles_of(work: Awaitable[None]) -> Obstacles:
    """What stood in the way of some writes; what trying again may mend is raised."""
    try:
        await work
    except (AlreadyTaken, Forbidden, Invalid) as error:
        if isinstance(error, Forbidden) and error.terminating:
            raise
        log.warning("refused: %s", error)
        place = ObjectKey(error.kind, error.namespace, error.name)
        return {place: (_reason(error), f"{place}: {error.message}")}
    return {}


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


def _owner(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = manifest["metadata"]["ownerReferences"][0]
    return found


def _is_left_over(live: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether it belongs to a deleted owner of the same name: the garbage collector is on its way."""
    owners = live["metadata"].get("ownerReferences") or ()
    return any((o["kind"], o["name"]) == (owner["kind"], owner["name"]) and o["uid"] != owner["uid"] for o in owners)


def _is_outrun(error: ApiError) -> bool:
    """Whether a split was refused because the stored one has a higher generation."""
    return any(cause.field == "spec.generation" for cause in error.causes)
