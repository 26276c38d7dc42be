"""Whom a change of an object concerns: ModelDeployments, Routers, models that are being judged."""

from collections.abc import Mapping
from typing import Any

from penstock.api.resource import KIND
from penstock.api.router import ROUTER_KIND, SPLIT_KIND
from penstock.core.names import ROUTER_LABEL
from penstock.kube.cache import Cache, DeploymentKey, RouterKey
from penstock.kube.objects import deployment_key, router_key
from penstock.kube.queue import KeyedQueue

from .fleetwatch import FleetWatch

__all__ = ["Wakes", "wanted_router"]

Manifest = Mapping[str, Any]


def wanted_router(deployment: Manifest) -> str | None:
    """The name of the Router that a ModelDeployment's spec asks for; None with another provider."""
    traffic = deployment.get("spec", {}).get("traffic") or {}
    if traffic.get("provider", "Router") != "Router":
        return None
    return str((traffic.get("router") or {}).get("name") or "default")


class Wakes:
    """Called by the watch for each change of the cache, with the object before and after it."""

    def __init__(
        self,
        cache: Cache,
        deployments: KeyedQueue[DeploymentKey],
        routers: KeyedQueue[RouterKey],
        fleets: FleetWatch,
    ) -> None:
        self._cache, self._deployments, self._routers, self._fleets = cache, deployments, routers, fleets

    def changed(self, before: Manifest | None, after: Manifest | None) -> None:
        """One object became another: `before` None for a new one, `after` None for one that is gone."""
        for manifest in (before, after):
            if manifest is not None:
                self._wake_deployment(manifest)
                self._wake_routers(manifest)
        manifest = after or before
        if manifest is None:
            return
        if manifest["kind"] == ROUTER_KIND:
            self._wake_users(manifest, before, after)
        if manifest["kind"] == "Pod" and (fleet := router_key(manifest)):
            self._fleets.wake(fleet)

    def published(self) -> None:
        """The Gateway API came or went: whoever asks for a Gateway has to be looked at."""
        for item in self._cache.of_kind(KIND):
            if (item.get("spec", {}).get("traffic") or {}).get("parentRefs"):
                self._deployments.add((item["metadata"].get("namespace", ""), item["metadata"]["name"]))

    def _wake_deployment(self, manifest: Manifest) -> None:
        key = deployment_key(manifest)
        if key is not None:
            self._deployments.add(key)

    def _wake_routers(self, manifest: Manifest) -> None:
        namespace = manifest["metadata"].get("namespace", "")
        names: set[str | None] = set()
        if manifest["kind"] == KIND:
            names.add(wanted_router(manifest))
        elif manifest["kind"] == SPLIT_KIND:
            names.add(manifest["spec"].get("router"))
        elif manifest["kind"] == "Deployment" and ROUTER_LABEL in (manifest["metadata"].get("labels") or {}):
            # fleets of a namespace are replaced one after the other: each waits for the others
            names.update(item["metadata"]["name"] for item in self._cache.of_kind(ROUTER_KIND, namespace))
        key = router_key(manifest)
        names.add(key[1] if key else None)
        for name in names - {None}:
            self._routers.add((namespace, str(name)))

    def _wake_users(self, router: Manifest, before: Manifest | None, after: Manifest | None) -> None:
        """Models whose Router came, went or was changed by people, and those that lost their hold on it.

        Not of a mere new status, nor of one more model that joins: with 200 models each would look at all others.
        """
        namespace, name = router["metadata"].get("namespace", ""), router["metadata"]["name"]
        if before is None or after is None or before.get("spec") != after.get("spec"):
            for item in self._cache.of_kind(KIND, namespace):
                if wanted_router(item) == name:
                    self._deployments.add((namespace, item["metadata"]["name"]))
            return
        for owner in _owners(before) - _owners(after):
            self._deployments.add((namespace, owner))


def _owners(manifest: Manifest) -> set[str]:
    return {owner["name"] for owner in manifest["metadata"].get("ownerReferences") or () if owner["kind"] == KIND}
