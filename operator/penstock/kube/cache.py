"""What is known of the cluster: trimmed objects by key and by the ModelDeployment they belong to.

Two streams write here, the watch and the answers to our own writes, and the watch lags. Of two versions of one
object the higher resourceVersion wins. Comparing them as numbers is sound for what is compared here, two versions of
the same object from one etcd: they are revisions of the store, and Kubernetes guarantees since 1.35 (KEP 5504) that
they order as integers; should one ever not be a number, the later arrival wins, which is what a watch cache without
the guard does.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import inf
from typing import Any

from penstock.api.resource import KIND
from penstock.api.router import ROUTER_KIND
from penstock.core.names import ObjectKey, key_of

from .objects import Manifest, deployment_key, resource_version, router_key, trim

__all__ = ["Cache", "DeploymentKey", "RouterKey"]

DeploymentKey = tuple[str, str]
"""(namespace, name) of a ModelDeployment: what the work queue holds."""
RouterKey = tuple[str, str]
"""(namespace, name) of a Router."""


class Cache:
    """The observed objects. Belongs to one event loop; what it returns is shared and must not be changed.

    Objects that are gone are remembered for a while (`remember` of them), so that an answer or a watch event that
    was on its way cannot bring one back.
    """

    def __init__(self, remember: int = 4096) -> None:
        self._objects: dict[ObjectKey, Manifest] = {}
        self._children: defaultdict[DeploymentKey, set[ObjectKey]] = defaultdict(set)
        self._fleets: defaultdict[RouterKey, set[ObjectKey]] = defaultdict(set)
        self._by_kind: defaultdict[str, defaultdict[str, set[ObjectKey]]] = defaultdict(lambda: defaultdict(set))
        self._gone: OrderedDict[str, float] = OrderedDict()
        self._remember = remember

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, manifest: Mapping[str, Any]) -> bool:
        """Take in one version of an object, from a watch event or from the answer to a write.

        True when something that decisions read has changed: a version older than the known one, an object known to
        be gone, and a mere change of resourceVersion or of a trimmed field are False.
        """
        key = key_of(dict(manifest))
        known = self._objects.get(key)
        if self._is_gone(manifest) or (known is not None and not _is_newer(manifest, known)):
            return False
        kept = trim(manifest)
        changed = known is None or _without_version(known) != _without_version(kept)
        self._store(key, kept, known)
        return changed

    def drop(self, manifest: Mapping[str, Any]) -> bool:
        """A watch event says that this object was deleted. True if it was known until now."""
        version = _number(resource_version(manifest))
        return self._remove(key_of(dict(manifest)), str(manifest["metadata"].get("uid", "")), version or 0.0)

    def forget(self, key: ObjectKey, uid: str) -> bool:
        """We have deleted this object: gone at once, whatever the watch still delivers of it."""
        return self._remove(key, uid, inf)

    def retain(
        self, kind: str, namespace: str | None, uids: Collection[str], version: str, *, name: str = ""
    ) -> list[Mapping[str, Any]]:
        """Drop all objects of a kind that a complete list at `version` did not contain, and return them.

        With `name` the list was of that name alone, and so is what is dropped.
        A watch that starts anew never reports what was deleted in between. Objects newer than the list stay.
        """
        limit = _number(version) or inf
        missing = [
            manifest
            for key, manifest in self._objects.items()
            if key.kind == kind
            and namespace in (None, key.namespace)
            and name in ("", key.name)
            and manifest["metadata"].get("uid") not in uids
            and (_number(resource_version(manifest)) or 0.0) <= limit
        ]
        for manifest in missing:
            self._remove(key_of(manifest), manifest["metadata"].get("uid", ""), limit)
        return list(missing)

    def lose_sight(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        """Drop all objects of a kind that is not served any more, and return them.

        Nothing says that they are gone: served again, the same ones are there at the versions that they had.
        """
        lost = [manifest for key, manifest in self._objects.items() if key.kind == kind]
        for manifest in lost:
            self._drop(key_of(manifest), manifest)
        return tuple(lost)

    def get(self, key: ObjectKey) -> Mapping[str, Any] | None:
        """One object, or None."""
        return self._objects.get(key)

    def get_deployment(self, deployment: DeploymentKey) -> Mapping[str, Any] | None:
        """The ModelDeployment of that key, or None."""
        return self._objects.get(ObjectKey(KIND, *deployment))

    def children(self, deployment: DeploymentKey) -> dict[ObjectKey, Mapping[str, Any]]:
        """Everything labelled as belonging to a ModelDeployment, pods included, itself not.

        A label is a claim anybody can write; whether an object is owned is told by its ownerReference.
        """
        return {key: self._objects[key] for key in sorted(self._children.get(deployment, ()))}

    def fleet(self, router: RouterKey) -> dict[ObjectKey, Mapping[str, Any]]:
        """Everything labelled as belonging to a Router, pods included, itself not; a claim like any label."""
        return {key: self._objects[key] for key in sorted(self._fleets.get(router, ()))}

    def of_kind(self, kind: str, namespace: str | None = None) -> Iterator[Mapping[str, Any]]:
        """All objects of a kind, everywhere or in one namespace; the cost is theirs, not the cache's."""
        places = self._by_kind[kind]
        for keys in list(places.values()) if namespace is None else [places.get(namespace, set())]:
            for key in sorted(keys):
                yield self._objects[key]

    def counts(self) -> dict[str, int]:
        """How many objects of each kind are known."""
        found: defaultdict[str, int] = defaultdict(int)
        for key in self._objects:
            found[key.kind] += 1
        return dict(found)

    def _is_gone(self, manifest: Mapping[str, Any]) -> bool:
        last = self._gone.get(str(manifest["metadata"].get("uid", "")))
        return last is not None and (_number(resource_version(manifest)) or 0.0) <= last

    def _store(self, key: ObjectKey, kept: Manifest, known: Manifest | None) -> None:
        if known is not None:
            self._unlink(key, known)
        self._objects[key] = kept
        self._by_kind[key.kind][key.namespace].add(key)
        owner = deployment_key(kept)
        if owner is not None and not _is_owner(key, owner):
            self._children[owner].add(key)
        router = router_key(kept)
        if router is not None and key.kind != ROUTER_KIND:
            self._fleets[router].add(key)

    def _remove(self, key: ObjectKey, uid: str, version: float) -> bool:
        if uid:
            self._gone[uid] = max(version, self._gone.pop(uid, 0.0))
            while len(self._gone) > self._remember:
                self._gone.popitem(last=False)
        known = self._objects.get(key)
        if known is None or (uid and known["metadata"].get("uid") != uid):
            return False
        self._drop(key, known)
        return True

    def _drop(self, key: ObjectKey, known: Mapping[str, Any]) -> None:
        del self._objects[key]
        self._by_kind[key.kind][key.namespace].discard(key)
        self._unlink(key, known)

    def _unlink(self, key: ObjectKey, known: Mapping[str, Any]) -> None:
        _leave(self._children, deployment_key(known), key)
        _leave(self._fleets, router_key(known), key)


def _leave(groups: dict[tuple[str, str], set[ObjectKey]], owner: tuple[str, str] | None, key: ObjectKey) -> None:
    if owner is not None and owner in groups:
        groups[owner].discard(key)
        if not groups[owner]:
            del groups[owner]


def _is_owner(key: ObjectKey, owner: DeploymentKey) -> bool:
    return key.kind == KIND and (key.namespace, key.name) == owner


def _is_newer(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    new, old = _number(resource_version(manifest)), _number(resource_version(known))
    return new is None or old is None or new > old


def _number(version: str) -> float | None:
    return int(version) if version.isdecimal() else None


def _without_version(manifest: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
    return {**manifest, "metadata": metadata}
