"""Every pass, whatever went before it: who may gain requests, who may lose pods, and that nothing is written twice.

`test_rollout_properties` looks at what a pass leaves; this looks at what a pass does, against the world that it saw.
"""

import copy
import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.core.fleet import FleetView
from penstock.core.names import ObjectKey
from penstock.core.rollout.course import find_course

from .test_rollout_properties import COMMANDS, ROLLOUTS, act, order
from .world import DIRECT, V1, V2, V3, Crash, World, manifest

DISTURBANCES = ("mend", "bad", "deaf", "cut", "blind", "cold", "stale", "silent", "sleepy")
"""Those after which somebody is always there to answer; what breaks pods is in `test_rollout_properties`."""
CLOCK = {"back": -3600, "a bit back": -15, "later": 15, "next day": 86400}
OFTEN = (V2, V2, "step", "many", "many")
RARE = (
    *(
        V1,
        V3,
        "steps",
        "crash",
        "end step",
        "edit",
        "forget",
        "leave",
        "return",
        "Observe",
        "Enforce",
        "ahead",
        1,
        2,
        3,
    ),
    *(*CLOCK, *ROLLOUTS, *DISTURBANCES, *COMMANDS),
)
ACTIONS = st.sets(st.sampled_from(RARE), min_size=2, max_size=6).flatmap(
    lambda some: st.lists(st.sampled_from([*OFTEN, *sorted(some, key=RARE.index)]), min_size=4, max_size=14)
)
"""Of few kinds in each run: what needs two orders in a row is never met among forty."""
PASSES = 6
"""Within so many at one moment everything is written that this moment asks for."""
EXAMPLES = int(os.environ.get("PENSTOCK_EXAMPLES", "15"))


class Watched(World):
    """A world in which every pass is checked."""

    view: FleetView | None = None
    stale = silent = False

    def observe(self) -> Any:
        """A view that is old, or that nobody has yet, where a disturbance says so."""
        found = super().observe()
        if found.fleet is None or self.silent:
            found = copy.copy(found)
            object.__setattr__(found, "fleet", None)
        elif self.stale and self.view is not None:
            object.__setattr__(found, "fleet", self.view)
        else:
            self.view = found.fleet
        return found

    def reconcile(self) -> Any:
        before = copy.copy(self.deployment), self.split()
        seen = self.observe()
        found = super().reconcile()
        look(self, *before, seen, found)
        return found


def share(split: dict[str, Any], name: str | None) -> int:
    copies = (split.get("shadow") or {}).get("share", 0) if (split.get("shadow") or {}).get("name") == name else 0
    return max([copies, *(item["weight"] for item in split["revisions"] if item["name"] == name)])


def look(world: World, deployment: dict[str, Any], before: dict[str, Any], seen: Any, found: Any) -> None:
    """What one whole pass may have done."""
    after, told = world.split(), deployment.get("status", {})
    if after["revisions"]:
        assert sum(item["weight"] for item in after["revisions"]) == 1000
    serving = told.get("stable", {}).get("revision")
    rollout = seen.deployment.spec.rollout
    for item in after["revisions"]:
        name = item["name"]
        if not serving or name == serving or share(after, name) <= share(before, name):
            continue
        gains(world, name, seen, found, share(after, name))
    candidate = told.get("candidate", {}).get("revision")
    if rollout and candidate and rollout.abort == candidate and candidate != serving:
        assert share(after, candidate) == 0, "abort waits for nothing"
        assert found.status.stable.revision == serving, "and beats promote"
    size = world.deployment["spec"].get("replicas", 1)
    if serving and share(after, serving) and "autoscaling" not in world.deployment["spec"]:
        live = world.objects[ObjectKey("Deployment", "vision", serving)]
        assert live["spec"]["replicas"] >= size, "stable has room for all requests"


def gains(world: World, name: str, seen: Any, found: Any, gained: int) -> None:
    """A revision beside stable is given more than it had."""
    rollout, spec = seen.deployment.spec.rollout, world.deployment["spec"]
    told = seen.deployment.status.candidate
    candidate = found.status.candidate
    if candidate is None or candidate.revision != name:
        took_over(world, name, seen, found)
        return
    course = find_course(told, rollout, routed=True)
    assert rollout.abort != name
    assert not rollout.paused, "a paused rollout gains nothing"
    assert candidate.verdict != "Fail" or (rollout.analysis and rollout.analysis.mode == "Observe")
    assert world.ready(name) >= course.pods(spec.get("replicas", 1), gained), "capacity before traffic"
    assert {pod.answered for pod in seen.fleet.pods} == {True}
    if course.strategy != "Immediate":
        rows, used = seen.fleet.rows, told.analysis.as_of if told and told.analysis else 0
        newest = max(used, rows[-1].second if rows else 0)
        assert abs(world.now.timestamp() - newest) <= 10, "counters are fresh"


def took_over(world: World, name: str, seen: Any, found: Any) -> None:
    """It is stable now, at once: one that was kept warm, or one behind a Service, which knows no shares."""
    assert found.status.stable.revision == name
    assert not seen.deployment.spec.rollout.paused
    direct = seen.deployment.spec.traffic.provider == "Service"
    assert direct or "Returned" in {entry.reason for entry in found.status.history}
    assert world.ready(name) >= world.deployment["spec"].get("replicas", 1)


def do(world: Watched, action: str | int) -> None:
    candidate = world.candidate()
    match action:
        case "end step":
            name = f"{candidate['revision']}/{candidate.get('step', 0)}" if candidate else None
            world.edit(rollout={**(world.deployment["spec"].get("rollout") or {}), "promote": name})
        case "Observe" | "Enforce":
            world.edit(rollout={**(world.deployment["spec"].get("rollout") or {}), "analysis": {"mode": action}})
        case "leave" | "return":
            world.edit(traffic=DIRECT if action == "leave" else {})
        case "ahead" if "analysis" in candidate:
            candidate["analysis"]["asOf"] += 3600
        case "many":
            world.run(12)
        case "stale" | "silent":
            setattr(world, str(action), True)
        case "sleepy":
            world.watching = ""
        case "mend":
            world.stale = world.silent = False
            act(world, "mend")
        case str() if action in CLOCK:
            world.now += timedelta(seconds=CLOCK[action])
        case _:
            act(world, action)


def check_fixpoint(world: Watched) -> None:
    """At one moment the plan is soon obeyed: then a pass writes nothing."""
    for _ in range(PASSES):
        before = world.writes
        world.reconcile()
        if world.writes == before:
            return
    raise AssertionError(f"still writing: {world.log[-8:]}")


def check_way_back(world: Watched) -> None:
    """One pass takes back whoever is named, from wherever it stands, and whatever the routers say."""
    candidate, serving = world.candidate().get("revision"), world.status.get("stable", {}).get("revision")
    if candidate and serving and serving != candidate:
        other = copy.copy(world)
        other.deployment, other.objects = copy.deepcopy((world.deployment, world.objects))
        other.pods, other.log, other.events = dict(world.pods), [], []
        order(other, "promote", candidate)
        order(other, "abort", candidate)
        other.fuse = None
        other.reconcile()
        assert share(other.split(), candidate) == 0
        assert other.status["stable"]["revision"] == serving


@pytest.mark.timeout(0 if EXAMPLES > 100 else 300)
@settings(max_examples=EXAMPLES, deadline=None)
@example(["service", "pause", V2, "many"])
@example([V2, "steps", "pause", "leave"])
@given(ACTIONS)
def test_whatever_happens_each_pass_is_safe_and_the_last_of_them_writes_nothing(actions):
    world = Watched(manifest(V1, rollout=ROLLOUTS["canary"], traffic={"timeout": "1s"}), rate=2000)
    world.settle()
    for action in actions:
        with suppress(Crash):
            do(world, action)
            world.reconcile()
            check_way_back(world)
            if world.fuse is None:
                check_fixpoint(world)
        assert world.lost == 0, "somebody is there to answer"
