"""What a year of changes and accidents costs clients, in an hour: `make bench-disruption`.

Under 200 requests a second over new and kept connections, HTTP and gRPC, from a client that looks the name up in the
cluster's DNS and keeps the answer for 30 s, with streams beside them that are shorter and longer than the drain:

- `replacements`: 100 whole revision replacements of 10 steps each, a step ended as soon as every router attests it;
- `killed`: 20 rollouts, every fourth of them bad, while the operator's process is killed with -9 every 10 s;
- `image`: a new image for the router fleet;
- `away`: the API server away for 3 minutes while a canary has traffic;
- `leader`: a leader that is stopped in its tracks, succeeded by another, and goes on late.

Writes build/bench/disruption.json after each rollout; `--only`, `--replacements`, `--rollouts` run less, and a second
start goes on. Exit code 1 when a unary request or a short stream was lost, or an outcome was another than it must be.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.demo.faults import Fault  # noqa: E402 - after the path
from examples.demo.screen import DemoError, Screen  # noqa: E402
from hack.cluster.settings import Settings as ClusterSettings  # noqa: E402
from tests.bench.rollback import candidate_of, ended, outcome_of  # noqa: E402
from tests.bench.rollout_place import FOLDER, NAME, Place, Version, busy, find_place, write_json  # noqa: E402
from tests.e2e.cluster import SYSTEM, items, wait_for  # noqa: E402
from tests.e2e.deployments import is_current  # noqa: E402
from tests.e2e.disturb import component, container_pids, frozen, kill, wait_until  # noqa: E402
from tests.e2e.fleet import ROUTER, Fleet, RouteWatch  # noqa: E402
from tests.e2e.offered import Offered, Outcome, describe, lost, requests, tally  # noqa: E402

NAMESPACE = "penstock-bench-disruption"
STEPS = [{"weight": weight, "hold": "1s"} for weight in range(5, 55, 5)]
KILLED_STEPS = [{"weight": 10, "hold": "8s"}, {"weight": 50, "hold": "8s"}]
DRAIN = 60
STREAMS = {"stream-short": 10.0, "stream-long": 150.0}
PARTS = ("replacements", "killed", "image", "away", "leader")
OPERATORS = "app.kubernetes.io/name=penstock,app.kubernetes.io/component=operator"
PATIENCE = 300.0


@dataclass
class Stage:
    """The place under load; everything lost meanwhile is kept."""

    place: Place
    screen: Screen
    load: Offered
    versions: Mapping[str, Version]
    found: dict[str, Any]
    output: Path
    turn: int = 0

    def next_version(self) -> Version:
        """The one of the two good models that does not serve now."""
        self.turn += 1
        return self.versions["mlp" if self.turn % 2 else "linear"]

    def rollout(
        self, version: Version, seconds: float = PATIENCE, *, hurried: bool = False, **rollout: Any
    ) -> dict[str, Any]:
        """One revision from apply to its end, and the weight changes on the way."""
        deployed, start = self.place.deployed, time.monotonic()
        before = deployed.get()["status"]["stable"]["revision"]
        with (
            RouteWatch(self.place.cluster, deployed.namespace, NAME) as route,
            hurrying(self.place, route, rollout["canary"]["steps"]) if hurried else nullcontext(),
        ):
            self.place.apply(version, f"{time.time():.3f}", rollout=rollout)
            found = deployed.wait(lambda md: ended(md, before), seconds)
            revision = candidate_of(found, before)
            weights = [(route.written[number], route.weights[number].get(revision, 0)) for number in route.weights]
        return {
            "revision": revision,
            "outcome": outcome_of(found, revision),
            "seconds": round(time.monotonic() - start, 1),
            "changes": sum(one[1] != other[1] for one, other in pairwise(weights)),
            "shares": [[round(at - weights[0][0], 2), weight] for at, weight in weights],
            "message": found["status"].get("message", ""),
        }

    def count(self, part: str, **more: Any) -> None:
        """Add what the client has seen since the last time to a part of the report, and write it."""
        self.load.new()
        outcomes, self.load.outcomes = self.load.outcomes, []
        entry = self.found.setdefault(part, {"unary": {}, "streams": {}, "lost": 0, "shown": ""})
        for kind, of_kind in (("unary", requests(outcomes)), ("streams", streams(outcomes))):
            for door, counted in tally(of_kind).items():
                sums = entry[kind].setdefault(door, {"requests": 0, "failed": 0})
                entry[kind][door] = {name: sums[name] + counted[name] for name in sums}
        failed = [one for one in lost(outcomes) if "fault on purpose" not in one.wrong]
        entry["lost"] += len(failed)
        entry["shown"] = entry["shown"] or (describe(failed) if failed else "")
        cut = [one for one in streams(outcomes) if one.wrong]
        if cut:
            entry["streams_shown"] = entry.get("streams_shown") or describe(cut)
        entry.update(more)
        entry["load_average"] = busy()
        write_json(self.output, {**self.found, "missed": missed(self.found)})


@contextmanager
def hurrying(place: Place, route: RouteWatch, steps: list[dict[str, Any]]) -> Iterator[None]:
    """Each step but the last is ended by command as soon as every router pod attests its weight."""
    over = threading.Event()
    stepping = {10 * step["weight"]: number for number, step in enumerate(steps[:-1], 1)}

    def loop() -> None:
        done = ""
        while not over.wait(0.05):
            generation = max(route.weights)
            for revision, weight in dict(route.weights[generation]).items():
                command = f"{revision}/{stepping.get(weight)}"
                if weight in stepping and command != done and route.attested(generation):
                    place.command(promote=command)
                    done = command

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def streams(outcomes: list[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.door.startswith("stream")]


def replacements(stage: Stage, count: int) -> None:
    """Whole revisions, one after the other, by ten changes each."""
    runs = stage.found.get("replacements", {}).get("runs", [])
    for number in range(len(runs) + 1, count + 1):
        with stage.screen.stage(f"replacement_{number}", f"replacement {number} of {count}"):
            runs.append(stage.rollout(stage.next_version(), hurried=True, canary={"steps": STEPS}))
        changes = sum(run["changes"] for run in runs)
        stage.count("replacements", runs=runs, changes=changes, wanted="Promoted")
        stage.screen.say(f"  {changes} weight changes, {stage.found['replacements']['lost']} requests lost in all")


def killed(stage: Stage, count: int) -> None:
    """Rollouts whose operator dies every ten seconds; every fourth revision is a bad one."""
    runs = stage.found.get("killed", {}).get("runs", [])
    with killing(stage.place) as kills:
        for number in range(len(runs) + 1, count + 1):
            bad = number % 4 == 0
            with stage.screen.stage(f"killed_{number}", f"rollout {number} of {count}, {'bad' if bad else 'good'}"):
                version = stage.versions["bad"] if bad else stage.next_version()
                run = stage.rollout(version, canary={"steps": KILLED_STEPS}, analysis={})
                run["wanted"] = "RolledBack" if bad else "Promoted"
                run["shortest_step_s"] = shortest_step(run["shares"])
                runs.append(run)
            stage.count("killed", runs=runs, kills=len(kills))
            stage.screen.say(f"  {run['outcome']} after {run['seconds']} s, {len(kills)} kills")


def shortest_step(shares: list[list[float]]) -> float | None:
    """Seconds between the first two rises of the weight and the next; None where there was none."""
    rises = [(at, weight) for at, weight in shares if weight]
    seen: dict[float, float] = {}
    for at, weight in rises:
        seen.setdefault(weight, at)
    moments = sorted(seen.items())
    gaps = [later[1] - earlier[1] for earlier, later in pairwise(moments)]
    return round(min(gaps), 2) if gaps else None


@contextmanager
def killing(place: Place, every: float = 10) -> Iterator[list[float]]:
    """The operator's process, not its container, dies again and again."""
    over, kills = threading.Event(), list[float]()

    def loop() -> None:
        while not over.wait(every):
            for pod in items(place.cluster, "pods", SYSTEM, OPERATORS):
                pids = container_pids(pod, "operator")[1:]
                kill(*pids)
                kills.append(time.time())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


def image(stage: Stage) -> None:
    """The same router image under another tag, as a new release has it."""
    fleet, old = Fleet(stage.place.cluster, NAMESPACE), stage.place.images["router"]
    new = f"{old.rpartition(':')[0]}:bench-next"
    socket = str(ClusterSettings.from_environment().containerd_socket)
    command = ["ctr", "-a", socket, "-n", "k8s.io", "images", "tag", "--force", old, new]
    subprocess.run(command, check=True, capture_output=True)
    stage.load.forget()
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    with stage.screen.stage("image", "a new image for the fleet"):
        fleet.shape(image=new, drain=f"{DRAIN}s")
        start = time.monotonic()
        wait_until(lambda: not before & {pod["metadata"]["uid"] for pod in fleet.pods()}, "all pods are new", 600)
        fleet.wait_ready(240)
        seconds = time.monotonic() - start
        stage.load.wait_count(4000)
    fleet.shape(drain=f"{DRAIN}s")
    stage.count("image", seconds=round(seconds, 1))


def away(stage: Stage) -> None:
    """The API server stands still for 3 minutes: everything goes to stable after the timeout, and nothing is lost."""
    with canary_at_step(stage) as candidate:
        with stage.screen.stage("away", "the API server away for 180 s"), frozen(component("kube-apiserver")):
            start = time.time()
            time.sleep(180)
        stage.load.new()
        last = max(one.time for one in stage.load.outcomes if one.revision == candidate and one.time < start + 170)
        stage.count("away", stable_after_s=round(last - start, 1))


def leader(stage: Stage) -> None:
    """A leader is stopped for longer than its lease, another leads on, and the first wakes up in the middle of it."""
    cluster = stage.place.cluster
    cluster.call(cluster.kubectl, "scale", "deployment/penstock", "-n", SYSTEM, "--replicas=2")
    cluster.call(cluster.kubectl, "rollout", "status", "deployment/penstock", "-n", SYSTEM, "--timeout=120s")
    try:
        with canary_at_step(stage) as candidate:
            holder = holder_of(cluster)
            (pod,) = [pod for pod in items(cluster, "pods", SYSTEM, OPERATORS) if pod["metadata"]["uid"] == holder]
            with stage.screen.stage("leader", "a leader stops, the other one takes over"):
                with frozen(*container_pids(pod, "operator")):
                    wait_until(lambda: holder_of(cluster) not in ("", holder), "another one leads", 150, every=1)
                    stage.place.deployed.wait(lambda md: md["status"]["observedGeneration"] > 0)
                    abort(stage, candidate)
                    generation = split_generation(stage)
                time.sleep(15)
            back = {one["name"]: one["weight"] for one in split(stage)["spec"]["revisions"]}
            stage.count(
                "leader",
                late_raise=bool(back.get(candidate)),
                generation_before=generation,
                generation_after=split_generation(stage),
            )
    finally:
        cluster.call(cluster.kubectl, "scale", "deployment/penstock", "-n", SYSTEM, "--replicas=1")


def abort(stage: Stage, candidate: str) -> None:
    """Take the candidate back, by whoever leads."""
    stage.place.command(abort=candidate)
    stage.place.deployed.wait(lambda md: not md["status"].get("candidate"), 60)


@contextmanager
def canary_at_step(stage: Stage) -> Iterator[str]:
    """A good candidate that keeps its 20 % until the block ends; its name."""
    deployed, before = stage.place.deployed, stage.place.deployed.get()["status"]["stable"]["revision"]
    steps = {"steps": [{"weight": 20, "hold": "1h"}]}
    stage.place.apply(stage.next_version(), f"{time.time():.3f}", rollout={"canary": steps})
    weighted: Callable[[Mapping[str, Any]], bool] = lambda md: (  # noqa: E731
        float((md["status"].get("candidate") or {}).get("weight") or 0) > 0
    )
    candidate = deployed.wait(weighted, 60)["status"]["candidate"]["revision"]
    stage.load.forget()
    try:
        yield candidate
    finally:
        if (deployed.get()["status"].get("candidate") or {}).get("revision") == candidate:
            abort(stage, candidate)
        stage.turn += 1
        assert deployed.get()["status"]["stable"]["revision"] == before


def split(stage: Stage) -> Mapping[str, Any]:
    return stage.place.cluster.get("trafficsplits.penstock.dev", NAME, "-n", NAMESPACE)


def split_generation(stage: Stage) -> int:
    return int(split(stage)["spec"]["generation"])


def holder_of(cluster: Any) -> str:
    return str(cluster.get("lease", "penstock", "-n", SYSTEM)["spec"].get("holderIdentity") or "")


def missed(found: Mapping[str, Any]) -> list[str]:
    """What is not as it must be, one sentence each."""
    said = []
    for part in PARTS:
        entry = found.get(part) or {}
        if entry.get("lost"):
            said.append(f"{part}: {entry['lost']} unary requests lost: {entry['shown']}")
        short = entry.get("streams", {}).get("stream-short", {})
        if short.get("failed"):
            said.append(f"{part}: {short['failed']} of {short['requests']} short streams failed")
        for run in entry.get("runs", ()):
            wanted = run.get("wanted", "Promoted")
            if run["outcome"] != wanted:
                said.append(f"{part}: {run['revision']} ended as {run['outcome']}, {wanted} was expected")
            if (run.get("shortest_step_s") or 99) < 8:
                said.append(f"{part}: {run['revision']} had a step of {run['shortest_step_s']} s, 8 s were asked for")
    if (found.get("leader") or {}).get("late_raise"):
        said.append("leader: the late leader has given the candidate traffic again")
    return said


def measure(stage_of: Place, screen: Screen, options: argparse.Namespace, found: dict[str, Any]) -> None:
    """All parts that are asked for."""
    place = stage_of
    with screen.stage("models", "good and faulty models to the registry"):
        versions = {name: place.version(name) for name in ("linear", "mlp")}
        versions["bad"] = place.faulty("error-100", Fault("Error", 100))
    with screen.stage("ready", "the first model, from apply to Ready"):
        place.apply(versions["linear"], "first", rollout={"strategy": "Immediate"})
        place.deployed.wait(lambda md: is_current(md) and md["status"].get("phase") == "Available", PATIENCE)
        wait_for(place.cluster, ROUTER, NAMESPACE, "default", lambda one: True, 30)
    dns = {"host": f"{NAME}.{NAMESPACE}.svc.cluster.local", "dns": ClusterSettings.from_environment().bridge_address}
    with place.load(options.rate, streams=STREAMS, **dns) as load:
        load.wait_count(int(options.rate * options.history))
        load.forget()
        stage = Stage(place, screen, load, versions, found, options.output)
        if "replacements" in options.only:
            replacements(stage, options.replacements)
        if "killed" in options.only:
            killed(stage, options.rollouts)
        for name, part in (("image", image), ("away", away), ("leader", leader)):
            if name in options.only and name not in found:
                part(stage)


def main() -> int:
    """Measure, write the file, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--replacements", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=20, help="with a dying operator")
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--history", type=float, default=60, help="seconds of load before anything is done")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier start has measured")
    parser.add_argument("--installed", action="store_true", help="take the release as it is")
    parser.add_argument("--output", type=Path, default=FOLDER / "disruption.json")
    options = parser.parse_args()
    kept = options.output.exists() and not options.fresh
    found: dict[str, Any] = json.loads(options.output.read_text()) if kept else {}
    screen = Screen()
    try:
        measure(find_place(screen, NAMESPACE, install=not options.installed), screen, options, found)
    except (DemoError, AssertionError) as error:
        screen.say(f"The benchmark has stopped, another start goes on: {error}")
        return 1
    said = missed(found)
    for sentence in said:
        screen.say(f"missed: {sentence}")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
