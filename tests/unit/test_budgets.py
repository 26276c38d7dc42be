"""Disruption budgets: one for each revision that gets requests for longer than a moment, and never two over one pod."""

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest

from penstock.core.names import REVISION_LABEL, ObjectKey

from .test_pd_cases import CANARY, at_step, command
from .world import V1, V2, Crash, World, copied, manifest

KIND = "PodDisruptionBudget"
BLUE_GREEN = {"strategy": "BlueGreen", "blueGreen": {"hold": "5s", "keepPrevious": "0s"}}


class Watched(World):
    """Looks after each write, as an eviction could come at any moment."""

    def budgets(self) -> dict[str, str]:
        """The revision that each selects, by name."""
        return {
            key.name: item["spec"]["selector"]["matchLabels"][REVISION_LABEL]
            for key, item in self.objects.items()
            if key.kind == KIND
        }

    def look(self) -> None:
        twice = [name for name, count in Counter(self.budgets().values()).items() if count > 1]
        assert twice == [], "a pod with two budgets cannot be evicted"
        first = self.status.get("stable", {}).get("revision")
        for name, weight in self.weights().items():
            assert not weight or not first or name in self.budgets().values() or name == self.serving_alone()

    def serving_alone(self) -> str | None:
        """Who has all requests may wait one pass for the budget of its own."""
        weights = self.weights()
        return next(iter(weights)) if len(weights) == 1 else None

    def _apply(self, write: Any) -> None:
        super()._apply(write)
        self.look()

    def _delete(self, key: ObjectKey) -> None:
        super()._delete(key)
        self.look()


def serving(rollout: dict[str, Any]) -> Watched:
    return copied(_serving(json.dumps(rollout)))


@cache
def _serving(rollout: str) -> Watched:
    world = Watched(manifest(V1, rollout=json.loads(rollout)), rate=2000)
    world.settle()
    for _ in range(60):
        world.step()
    world.log.clear()
    return world


@pytest.mark.parametrize("rollout", [CANARY, BLUE_GREEN], ids=["canary", "blue/green"])
def test_a_candidate_with_requests_has_one_until_it_serves(rollout: dict[str, Any]) -> None:
    world = serving(rollout)
    old = world.status["stable"]["revision"]
    assert world.budgets() == {"digits": old}
    new = at_step(world, 1)
    assert world.budgets() == {"digits": old, new: new}
    spec = world.objects[ObjectKey(KIND, "vision", new)]["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert world.log.index(f"apply {KIND} {new}") < len(world.log) - world.log[::-1].index("apply TrafficSplit digits")
    world.settle()
    assert world.status["stable"]["revision"] == new
    assert world.budgets() == {"digits": new}
    assert [line for line in world.log if KIND in line] == [
        f"apply {KIND} {new}", f"delete {KIND} {new}", f"apply {KIND} digits"
    ]  # fmt: skip


def test_one_that_is_taken_back_keeps_it_until_it_has_drained() -> None:
    world = serving(CANARY)
    old = world.status["stable"]["revision"]
    new = at_step(world, 1)
    command(world, abort=new)
    world.run(3)
    assert world.budgets() == {"digits": old, new: new}
    world.run(40)
    assert world.budgets() == {"digits": old}


@pytest.mark.parametrize("traffic", [{}, {"provider": "Service"}])
def test_none_for_a_moment(traffic: dict[str, Any]) -> None:
    world = serving({"strategy": "Immediate"})
    if traffic:
        world.edit(traffic=traffic)
        world.settle()
    world.log.clear()
    world.point_to(V2)
    world.settle()
    assert [line for line in world.log if KIND in line] == [f"apply {KIND} digits"]


@pytest.mark.parametrize("fuse", range(4))
def test_killed_at_the_change_of_roles(fuse: int) -> None:
    world = serving(CANARY)
    new = at_step(world, 2)
    world.run_until(lambda w: w.candidate().get("stage") == "Promoting")
    world.fuse = fuse
    with pytest.raises(Crash):
        world.run(60)
    world.watching = ""
    world.settle()
    assert world.budgets() == {"digits": new}
