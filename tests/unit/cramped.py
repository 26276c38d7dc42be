"""A made-up cluster in which pods are seen one by one: they take time to come and to go, and hold their room."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from penstock.core.fleet import RevisionCounts
from penstock.core.names import REVISION_LABEL, ObjectKey

from .kubelet import is_ready, tend
from .world import GOING, V1, World, copied, manifest

REPLACE = {"capacity": "Replace", "replace": {"hold": "2s"}, "supervision": {"onLoss": "Keep"}}
STARTING = 2
"""Seconds that a pod takes to become ready."""


@dataclass
class Cramped(World):
    """There is room for `room` serving pods; more than that is what must never be asked for."""

    room: int = 1
    most: int = 0
    """Pods there have been at once."""
    ages: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    """Seconds in which routers answered 503 by themselves."""
    shares: list[dict[str, int]] = field(default_factory=list)
    """Weights that the split has had."""

    def pods_of(self, revision: str) -> list[dict[str, Any]]:
        found = self.pods.values()
        return [pod for pod in found if pod["metadata"].get("labels", {}).get(REVISION_LABEL) == revision]

    def count(self, revision: str) -> int:
        return len(self.pods_of(revision))

    def serving_pods(self) -> int:
        return sum(REVISION_LABEL in pod["metadata"].get("labels", {}) for pod in self.pods.values())

    def reconcile(self) -> Any:
        try:
            return super().reconcile()
        finally:
            asked = sum(item["spec"]["replicas"] for key, item in self.objects.items() if key.kind == "Deployment")
            assert asked <= self.room, f"{asked} pods asked for, there is room for {self.room}: {self.log[-6:]}"
            if not self.shares or self.shares[-1] != self.weights():
                self.shares.append(self.weights())

    def step(self) -> None:
        """Pods age as well."""
        self.ages = {name: age + 1 for name, age in self.ages.items() if name in self.pods}
        weights = self.weights()
        super().step()
        self.unanswered += bool(self.status.get("stable")) and not weights
        self.most = max(self.most, self.serving_pods())
        assert self.most <= self.room, f"{self.most} pods, there is room for {self.room}"

    def settle(self, passes: int = 400) -> None:
        """Quiet for longer than a pod takes to come or go."""
        quiet = 0
        for _ in range(passes):
            before = self.writes
            self.reconcile()
            quiet = quiet + 1 if self.writes == before and not self.watching else 0
            if quiet > STARTING + GOING + 1:
                return
            self.step()
        raise AssertionError(f"still writing after {passes} passes: {self.status} {self.log[-10:]}")

    def _answer(self, revision: str, weight: int) -> RevisionCounts:
        assert not weight or self.ready(revision), f"{revision} has {weight} and no ready pod"
        return super()._answer(revision, weight)

    def _run_deployment(self, key: ObjectKey, item: dict[str, Any]) -> None:
        record = self.objects.get(ObjectKey("ControllerRevision", key.namespace, key.name))
        if record is None:
            return
        uri, wanted = record["data"]["model"]["uri"], item["spec"]["replicas"]
        staying = self._staying(key.name)
        for name in staying[wanted:]:
            self._end(name)
        for _ in range(wanted - len(staying)):
            self._start(key)
        staying, ready = self._staying(key.name), 0
        for name in staying:
            loads = self.ages[name] >= STARTING and uri not in self.slow
            self.pods[name] = tend(self.pods[name], self.now, self.broken.get(uri), loads=loads)
            ready += is_ready(self.pods[name])
        generation = item["metadata"]["generation"]
        item["status"] = {"observedGeneration": generation, "readyReplicas": ready}
        item["status"] |= dict.fromkeys(("replicas", "updatedReplicas"), len(staying))

    def _staying(self, revision: str) -> list[str]:
        found = [pod["metadata"] for pod in self.pods_of(revision)]
        return [metadata["name"] for metadata in found if "deletionTimestamp" not in metadata]

    def _start(self, key: ObjectKey) -> None:
        self.counter += 1
        name = f"{key.name}-{self.counter}"
        self.pods[name] = {"owner": key, "metadata": {"name": name, "labels": {REVISION_LABEL: key.name}}, "status": {}}
        self.ages[name] = 0


def cramped(replicas: int = 1, **rollout: Any) -> Cramped:
    """V1 serves with all the pods that there is room for, and has a minute of history."""
    world = copied(_serving(replicas))
    if rollout:
        world.edit(rollout={**REPLACE, **rollout})
        world.reconcile()
    for told in (world.log, world.events, world.shares):
        told.clear()
    return world


@cache
def _serving(replicas: int) -> Cramped:
    spec = {"replicas": replicas, "rollout": REPLACE, "traffic": {"timeout": "1s"}}
    world = Cramped(manifest(V1, **spec), rate=2000, room=replicas)
    world.settle()
    assert world.status["phase"] == "Available", world.status
    for _ in range(60):
        world.step()
    world.lost = world.unanswered = 0
    return world
