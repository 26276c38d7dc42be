"""Whatever people do, and whenever the operator dies: weights, status and capacity never contradict each other."""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.names import ObjectKey

from .world import DIRECT, V1, V2, V3, Crash, World, manifest

QUICK = {"steps": [{"weight": 10, "hold": "1s"}, {"weight": 50, "hold": "2s"}]}
ROLLOUTS: dict[str, dict[str, Any]] = {
    "canary": {"canary": QUICK},
    "shadow": {"canary": QUICK, "shadow": {"percent": 20, "duration": "2s"}},
    "blue": {"strategy": "BlueGreen", "blueGreen": {"hold": "2s", "keepPrevious": "20s"}},
    "gate": {"strategy": "BlueGreen", "blueGreen": {"autoPromote": False, "hold": "2s"}},
    "immediate": {"strategy": "Immediate"},
    "service": {},
}
KINDS = ("TrafficSplit", "Service", "Deployment", "ControllerRevision", "HorizontalPodAutoscaler")
FAULTS = ("mend", "break", "bad", "deaf", "cut", "blind", "cold", "slow")
COMMANDS = ("pause", "go", "promote", "abort", "retry")
ACTIONS = st.one_of(
    st.sampled_from([V1, V2, V3]),
    st.sampled_from(["step", "step", "steps", "steps", "wait", "crash", "edit", "forget", "scaler", "fixed"]),
    st.sampled_from([*ROLLOUTS, *KINDS, *FAULTS, *COMMANDS]),
    st.integers(0, 3),
)


def act(world: World, action: str | int) -> None:
    """One thing that a user, a fault or the clock does."""
    candidate = world.candidate().get("revision")
    match action:
        case int():
            world.edit(replicas=action)
        case str() if action.startswith("oci"):
            world.point_to(action)
        case "step":
            world.step()
        case "steps":
            world.run(4)
        case "wait":
            world.now += timedelta(seconds=70)
        case "crash":
            world.fuse, world.watching = world.random.randrange(4), ""
        case "scaler":
            world.edit(autoscaling={"min": 1, "max": 4, "target": {"cpuPercent": 70}})
        case "fixed":
            world.edit(autoscaling=None)
        case "forget":
            world.deployment.pop("status", None)
        case "edit":
            for item in world.split()["revisions"]:
                item["weight"] = 1000 if item is world.split()["revisions"][0] else 0
        case _ if action in ROLLOUTS:
            world.edit(rollout=ROLLOUTS[action], traffic=DIRECT if action == "service" else {})
        case _ if action in COMMANDS:
            order(world, action, candidate)
        case _ if action in KINDS:
            world.objects = {key: item for key, item in world.objects.items() if key.kind != action}
        case _:
            disturb(world, str(action))


def order(world: World, action: str, candidate: str | None) -> None:
    rollout = dict(world.deployment["spec"].get("rollout") or {})
    change = {
        "pause": {"paused": True},
        "go": {"paused": False, "promote": None, "abort": None},
        "promote": {"promote": candidate},
        "abort": {"abort": candidate},
        "retry": {"retryToken": str(world.deployment["metadata"]["generation"])},
    }
    world.edit(rollout={**rollout, **change[action]})


def disturb(world: World, fault: str) -> None:
    pods = list(world.routers.values())
    match fault:
        case "break":
            world.broken[V2] = "cannot load"
        case "bad":
            world.errors[V2] = 0.5
        case "slow":
            world.slow.add(V3)
        case "blind":
            world.counters = False
        case "cold":
            world.cold.update(world.names("Deployment")[:1])
        case "deaf" | "cut" if pods:
            setattr(pods[-1], fault, True)
        case "mend":
            mend(world)


def mend(world: World) -> None:
    world.broken.clear()
    world.errors.clear()
    world.slow.clear()
    world.cold.clear()
    world.counters = True
    for pod in world.routers.values():
        pod.deaf = pod.cut = False


ALLOWED = {"Starting": (0,), "Warming": (0,), "Previewing": (0,), "Shadowing": (0,), "Promoting": (0, 1000)}


def check(world: World) -> None:
    """What must hold after every pass, however it ended."""
    split, candidate = world.split(), world.candidate()
    weights = [item["weight"] for item in split["revisions"]]
    assert sum(weights) == (1000 if weights else 0)
    serving = world.status.get("stable", {}).get("revision")
    share = next((item["weight"] for item in split["revisions"] if item["name"] == candidate.get("revision")), 0)
    if candidate and serving and candidate["revision"] != serving:
        steps = [int(float(step["weight"]) * 10) for step in candidate.get("plan", ())]
        most = steps[candidate["step"] - 1] if candidate["stage"] == "Stepping" else max(ALLOWED[candidate["stage"]])
        assert share <= most, "nobody has more than status says"
    if share or (split.get("shadow") and serving):
        assert split.get("supervision") or split["stable"] == candidate.get("revision") or not serving
    if serving and split["revisions"]:
        assert split.get("stable")


def check_pass(world: World) -> None:
    """What a pass that was not cut short leaves."""
    serving = world.status.get("stable", {}).get("revision")
    if serving and ObjectKey("ControllerRevision", "vision", serving) in world.objects:
        assert serving in world.names("Deployment")
    target = world.selected_router()
    if target and serving:
        assert target == world.split()["router"] or target == "default"
    for item in world.split()["revisions"]:
        if item["weight"] and serving:
            assert item["name"] in world.names("Deployment") or item["name"] == serving
    split = world.split()
    if split.get("generation") and split["generation"] == world.status.get("attestedGeneration"):
        for role in ("stable", "candidate"):
            told = world.status.get(role)
            if told and "weight" in told and not any(pod.expired for pod in world.routers.values()):
                weights = {item["name"]: item["weight"] for item in split["revisions"]}
                assert float(told["weight"]) * 10 == weights.get(told["revision"], 0)


EXAMPLES = int(os.environ.get("PENSTOCK_EXAMPLES", "8"))
"""Many more when somebody has changed the state machine: `PENSTOCK_EXAMPLES=500`."""


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(ACTIONS, min_size=4, max_size=12))
def test_whatever_happens_weights_status_and_capacity_agree(actions):
    world = World(manifest(V1, rollout=ROLLOUTS["canary"], traffic={"timeout": "1s"}), rate=2000)
    world.settle()
    tampered = False
    for action in actions:
        tampered = tampered or action in ("edit", "forget")
        try:
            act(world, action)
            world.reconcile()
            check_pass(world)
            tampered = False
        except Crash:
            pass
        if not tampered:
            check(world)
    finish(world)


def finish(world: World) -> None:
    """Everything is mended and a last good revision asked for: it serves, alone."""
    world.fuse = None
    mend(world)
    world.edit(
        model={"uri": V3},
        pod={"env": [{"name": "LAST", "value": "1"}]},
        replicas=2,
        autoscaling=None,
        traffic={"timeout": "1s"},
        rollout=ROLLOUTS["canary"] | {"analysis": {"mode": "Observe"}},
    )
    with suppress(Crash):
        world.settle()
    world.now += timedelta(seconds=100)
    world.settle()
    world.run(3)
    world.settle()
    name = world.status["stable"]["revision"]
    assert world.status["phase"] == "Available", world.status
    assert world.status["stable"]["uri"] == V3
    assert world.weights() == {name: 1000}
    assert world.names("Deployment") == [name]
    assert world.selected_router() == "default"
    assert world.condition("TrafficSynced")["status"] == "True"
    assert world.watching == ""
