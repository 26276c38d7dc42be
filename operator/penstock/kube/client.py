"""Requests to the API server in Penstock's own terms, for any kind, in plain JSON.

Law 11 shapes the writes. The first write of an object is a create: server-side apply with a resourceVersion no object
can have creates when there is nothing and answers 409 when there is something (docs/adr/0002). Every later write
names the uid it is meant for. Nothing here decides; all is one request, retried a bounded number of times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core.names import FIELD_MANAGER

from .connection import Connection
from .errors import AlreadyTaken, Conflict, Gone, NotFound
from .limiter import TokenBucket
from .objects import Manifest, controller_uid, kind_of
from .transport import RequestObserver, RetryPolicy, Target, Transport

__all__ = ["SCALE_MANAGER", "STATUS_MANAGER", "KubeClient", "Listing"]

STATUS_MANAGER = f"{FIELD_MANAGER}-status"
SCALE_MANAGER = f"{FIELD_MANAGER}-scale"
APPLY = "application/apply-patch+yaml"
NO_VERSION = "1"
"""A resourceVersion that no object has: etcd's store is at revision 1 before its first write."""
PAGE = 500


@dataclass(frozen=True)
class Listing:
    """All objects of a collection at one version of the store."""

    items: tuple[Manifest, ...]
    resource_version: str


class KubeClient:
    """Asks the API server; answers are the whole object as stored, errors those of `errors.py`.

    `fence` is asked before each attempt of a mutating request; while it says False nothing is sent and Fenced is
    raised. A client for the Lease itself has none.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        manager: str = FIELD_MANAGER,
        limiter: TokenBucket | None = None,
        fence: Callable[[], bool] | None = None,
        observer: RequestObserver | None = None,
        retries: RetryPolicy | None = None,
    ) -> None:
        self.connection = connection
        self._manager = manager
        self._transport = Transport(
            connection,
            limiter=limiter or TokenBucket(),
            fence=fence,
            observer=observer,
            retries=retries or RetryPolicy(),
        )

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """One object; raises NotFound."""
        return await self._transport.request(Target("get", kind, namespace, name), "GET", _path(kind, namespace, name))

    async def find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object or None. Watched kinds are listed by name, which needs no right beyond that of the watch."""
        if not kind_of(kind).watched:
            try:
                return await self.get(kind, namespace, name)
            except NotFound:
                return None
        query = [("fieldSelector", f"metadata.name={name}")]
        page = await self._transport.request(
            Target("list", kind, namespace, name), "GET", _path(kind, namespace), query=query
        )
        return next(iter(_items(kind, page)), None)

    async def list(
        self, kind: str, namespace: str | None = None, *, labels: str = "", object_name: str = ""
    ) -> Listing:
        """All objects of a kind, everywhere or in one namespace, in pages; `labels` is a label selector."""
        query = [("labelSelector", labels)] if labels else []
        query += [("fieldSelector", f"metadata.name={object_name}")] if object_name else []
        try:
            return await self._list(kind, namespace, query, PAGE)
        except Gone:
            return await self._list(kind, namespace, query, 0)

    async def create(self, manifest: Manifest) -> Manifest:
        """Make an object that must not exist yet, owned by this field manager as by any later apply.

        Should one exist that is already ours (the answer to an earlier try was lost, or the watch lags), that one is
        returned unchanged. Raises AlreadyTaken for one that is not ours, Conflict for one that is being deleted.
        """
        try:
            return await self._apply("create", manifest, {"resourceVersion": NO_VERSION}, self._manager)
        except Conflict:
            return await self._existing(manifest)

    async def apply(
        self,
        manifest: Manifest,
        *,
        uid: str,
        resource_version: str | None = None,
        manager: str | None = None,
        urgent: bool = False,
    ) -> Manifest:
        """Make the object of that uid what `manifest` says, taking over fields from other managers.

        Raises Conflict where the object is gone or another one has its name, and where `resource_version` is given
        and is not the stored one. An `urgent` write is not held up by the rate limit.
        """
        precondition = {"uid": uid}
        if resource_version is not None:
            precondition["resourceVersion"] = resource_version
        return await self._apply("apply", manifest, precondition, manager or self._manager, urgent=urgent)

    async def apply_status(self, deployment: Mapping[str, Any], status: Manifest) -> Manifest:
        """Make the status of a ModelDeployment exactly `status`; its spec and metadata stay the user's.

        `deployment` is the object the status was decided from, and must still be the stored version, else Conflict:
        on /status the API server does not check a uid, and a status is memory that a namesake must not inherit.
        """
        manifest = _same_object(deployment) | {"status": status}
        version = {"resourceVersion": deployment["metadata"]["resourceVersion"]}
        return await self._apply("apply", manifest, version, STATUS_MANAGER, "status")

    async def hand_over_replicas(self, deployment: Mapping[str, Any], replicas: int) -> Manifest:
        """Hold `spec.replicas` by a second field manager, so that ours may stop naming it.

        Without this the API server sets a Deployment to 1 replica as soon as no manager owns the field.
        """
        manifest = _same_object(deployment) | {"spec": {"replicas": replicas}}
        return await self._apply("apply", manifest, {"uid": deployment["metadata"]["uid"]}, SCALE_MANAGER)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Write a whole object over the version it carries (optimistic locking); raises Conflict on a newer one."""
        kind, namespace, name = _identity(manifest)
        target = Target("update", kind, namespace, name, mutating=True)
        query = [("fieldManager", self._manager)]
        return await self._transport.request(target, "PUT", _path(kind, namespace, name), query=query, body=manifest)

    async def post(self, manifest: Manifest) -> Manifest:
        """Create by POST, for objects nobody applies later (events, the Lease). Raises Conflict if it exists."""
        kind, namespace, name = _identity(manifest)
        target = Target("create", kind, namespace, name, mutating=True)
        query = [("fieldManager", self._manager)]
        return await self._transport.request(target, "POST", _path(kind, namespace), query=query, body=manifest)

    async def delete(
        self, kind: str, namespace: str, name: str, uid: str, *, resource_version: str | None = None
    ) -> Manifest | None:
        """Delete the object of that uid and, in the background, what it owns.

        Returns the object while something still holds it (a grace period, a finalizer), None when it is gone or was
        gone already. Raises Conflict if another object has the name now, or if it is not of the given version.
        """
        version = {} if resource_version is None else {"resourceVersion": resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, **version},
            "propagationPolicy": "Background",
        }
        target = Target("delete", kind, namespace, name, mutating=True)
        try:
            answer = await self._transport.request(target, "DELETE", _path(kind, namespace, name), body=options)
        except NotFound:
            return None
        return answer if answer.get("kind") == kind else None

    async def _apply(
        self,
        verb: str,
        manifest: Manifest,
        precondition: Mapping[str, str],
        manager: str,
        subresource: str | None = None,
        *,
        urgent: bool = False,
    ) -> Manifest:
        kind, namespace, name = _identity(manifest)
        body = {**manifest, "metadata": {**manifest["metadata"], **precondition}}
        return await self._transport.request(
            Target(verb, kind, namespace, name, mutating=True),
            "PATCH",
            _path(kind, namespace, name, subresource),
            query=[("fieldManager", manager), ("force", "true")],
            body=body,
            content_type=APPLY,
            urgent=urgent,
        )

    async def _existing(self, manifest: Manifest) -> Manifest:
        kind, namespace, name = _identity(manifest)
        found = await self.find(kind, namespace, name)
        where = {"verb": "create", "kind": kind, "namespace": namespace, "name": name, "code": 409}
        if found is None:
            raise Conflict("it came and went while it was created; try again", **where)  # type: ignore[arg-type]
        if not _is_ours(found, manifest, self._manager):
            owner = _owner_sentence(found)
            message = (
                f"an object of this name exists that Penstock did not make ({owner}); rename or remove one of them"
            )
            raise AlreadyTaken(message, **where)  # type: ignore[arg-type]
        if found["metadata"].get("deletionTimestamp"):
            raise Conflict("the one of this name is being deleted; try again", **where)  # type: ignore[arg-type]
        return found

    async def _list(
        self, kind: str, namespace: str | None, selectors: Sequence[tuple[str, str]], page_size: int
    ) -> Listing:
        items: list[Manifest] = []
        token = ""
        while True:
            query = [*selectors]
            query += [("limit", str(page_size))] if page_size else []
            query += [("continue", token)] if token else []
            target = Target("list", kind, namespace or "", "")
            page = await self._transport.request(target, "GET", _path(kind, namespace), query=query)
            items += _items(kind, page)
            token = page["metadata"].get("continue", "")
            if not token:
                return Listing(tuple(items), page["metadata"]["resourceVersion"])


def _path(kind: str, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    return kind_of(kind).path(namespace, name, subresource)


def _identity(manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata.get("name", "")


def _same_object(manifest: Mapping[str, Any]) -> Manifest:
    kind, namespace, name = _identity(manifest)
    return {
        "apiVersion": kind_of(kind).api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }


def _items(kind: str, page: Manifest) -> Sequence[Manifest]:
    """Items of a list do not say what they are."""
    named = {"apiVersion": kind_of(kind).api_version, "kind": kind}
    return [named | item for item in page.get("items") or ()]


def _is_ours(found: Mapping[str, Any], wanted: Mapping[str, Any], manager: str) -> bool:
    """By the owner that both name; where nothing owns the object, by who made it."""
    owner = controller_uid(wanted)
    if owner is not None:
        return controller_uid(found) == owner
    entries = found["metadata"].get("managedFields") or ()
    return any(
        entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
        for entry in entries
    )


def _owner_sentence(found: Mapping[str, Any]) -> str:
    owners = found["metadata"].get("ownerReferences") or ()
    named = [f"{owner['kind']} {owner['name']}" for owner in owners]
    return f"owned by {', '.join(named)}" if named else "it has no owner"
