"""Which port of a router pod belongs to which model.

Router pods listen on one port for each model. The stored TrafficSplits say who has which; what was given away and is
not stored yet is remembered here, so that two reconciles at the same time never choose the same. All of it happens in
one step of the event loop.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.api.router import FIRST_PORT, LAST_PORT, SPLIT_KIND
from penstock.kube.cache import Cache, DeploymentKey

__all__ = ["NoPortLeft", "PortBook"]


class NoPortLeft(Exception):
    """All ports of a router are taken."""


class PortBook:
    """Ports by router, lowest first; a model keeps the port it has."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._promised: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        """Port by name of the ModelDeployment, by (namespace, router)."""

    def port_for(self, key: DeploymentKey, router: str) -> int:
        """The port of a ModelDeployment at a router of its namespace; raises NoPortLeft.

        Of several stored splits with one port, as a restored backup may bring, the one with the lowest uid of its
        ModelDeployment keeps it and the others move.
        """
        namespace, name = key
        splits = list(self._cache.of_kind(SPLIT_KIND, namespace))
        stored = _stored(splits, router)
        promised = self._promised[namespace, router]
        for other, port in list(promised.items()):
            if stored.get(port, other) != other or other in stored.values():
                del promised[other]
        own = next((port for port, owner in stored.items() if owner == name), None) or promised.get(name)
        if own is not None:
            return own
        taken = {*stored, *promised.values()}
        wished = (split["spec"]["port"] for split in splits if split["metadata"]["name"] == name)
        free = _first_free([*wished, *range(FIRST_PORT, LAST_PORT + 1)], taken)
        if free is None:
            raise NoPortLeft(f"Router {namespace}/{router} has no port left; give some models a Router of their own")
        promised[name] = free
        return free

    def forget(self, key: DeploymentKey) -> None:
        """The ModelDeployment is gone, or needs no port."""
        for (namespace, _), promised in self._promised.items():
            if namespace == key[0]:
                promised.pop(key[1], None)


def _stored(splits: Iterable[Mapping[str, Any]], router: str) -> dict[int, str]:
    """Name of the rightful owner by port."""
    found: dict[int, str] = {}
    for split in sorted(splits, key=lambda item: str(item["spec"].get("deploymentUid", ""))):
        if split["spec"].get("router") == router and "port" in split["spec"]:
            found.setdefault(split["spec"]["port"], split["metadata"]["name"])
    return found


def _first_free(ports: Iterable[int], taken: set[int]) -> int | None:
    return next((port for port in ports if FIRST_PORT <= port <= LAST_PORT and port not in taken), None)
