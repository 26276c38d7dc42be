"""How fast a bad revision is found and taken back, on the real cluster with the default spec.

`make bench-rollback` writes build/bench/rollback.json: `runs` in order with `fault percent rps detect_s lost evidence`,
and `summary` by fault. One ModelDeployment serves a good model under 200 requests a second, HTTP and gRPC, for
15 minutes; that history stays in the routers for all runs. Each run applies a faulty revision. `detect_s` is from the
end of its first bad response, by the client's record, to the moment every router pod attests that it gets nothing any
more. `lost` are failed requests beside those that the faulty revision itself answered or left unanswered. The file is
written after each run, and a second start goes on where the first one ended. Exit code 1 when a bar is missed.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import json  # noqa: E402 - after the path

from examples.demo.faults import MARK, Fault  # noqa: E402
from examples.demo.screen import DemoError, Screen  # noqa: E402
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from tests.bench.rollout_place import CLIENT_TIMEOUT, FOLDER, NAME, Place, Version, busy, find_place, write_json  # noqa: E402
from tests.e2e.deployments import is_current  # noqa: E402
from tests.e2e.fleet import RouteWatch  # noqa: E402
from tests.e2e.offered import Offered, Outcome, describe, lost, requests  # noqa: E402

NAMESPACE = "penstock-bench-rollback"
FAULTS = {
    "error-100": Fault("Error", 100),
    "error-20": Fault("Error", 20),
    "error-5": Fault("Error", 5),
    "slow": Fault("Slow", 100, seconds=0.15),
    "hang": Fault("Hang", 100),
    "die": Fault("Die", 100, after=20),
    "grpc-only": Fault("GrpcError", 100),
    "client-error": Fault("RenamedInput", 100),
}
RUNS = {"error-100": 10, "error-20": 10, "error-5": 10}
"""Of the others one each."""
GOOD = "none"
BARS = {"error-100": 4.0, "error-20": 6.0, "error-5": 12.0}
"""Median seconds."""
PATIENCE = 240.0
REST = CLIENT_TIMEOUT + 1
"""Seconds between the end of one rollout and the next: the last requests to a revision that hangs end within them."""


@dataclass(frozen=True)
class Trial:
    """One rollout under load, from `apply` to its end."""

    place: Place
    load: Offered
    fault: str
    rate: float

    def run(self, version: Version, mark: str) -> dict[str, Any]:
        """Apply, wait for the outcome, and count."""
        deployed = self.place.deployed
        before = (deployed.get()["status"].get("stable") or {})["revision"]
        self.load.forget()
        start = time.time()
        with RouteWatch(self.place.cluster, deployed.namespace, NAME) as route:
            self.place.apply(version, mark)
            found = deployed.wait(lambda md: ended(md, before), PATIENCE if self.fault != GOOD else 2 * PATIENCE)
            revision = candidate_of(found, before)
            self.settle(route, revision, bad=self.fault != GOOD)
            return self.result(found, revision, route, start)

    def settle(self, route: RouteWatch, revision: str, *, bad: bool) -> None:
        """Until every router pod has let go of the bad revision, and its last requests have ended."""
        deadline = time.monotonic() + 15
        while bad and route.taken_back(revision) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(REST)

    def result(self, found: Mapping[str, Any], revision: str, route: RouteWatch, start: float) -> dict[str, Any]:
        """What the file says of it."""
        self.load.new()
        outcomes = [one for one in requests(self.load.outcomes) if one.time - one.seconds >= start]
        given, back = route.generation_of(revision), route.taken_back(revision)
        window = (route.written.get(given or 0, start), back or time.time())
        bad = [one for one in outcomes if one.wrong and of_candidate(one, revision, window)]
        strange = [one for one in outcomes if one.wrong and not of_candidate(one, revision, window)]
        first = min((one.time for one in bad), default=None)
        slow = self.fault == "slow"
        if slow:
            first = first_answer(outcomes, revision)
        fault = FAULTS.get(self.fault)
        return {
            "fault": self.fault,
            "percent": fault.percent if fault else 0,
            "rps": self.rate,
            "detect_s": round(back - first, 2) if back and first else None,
            "lost": len(strange),
            "evidence": evidence(found, revision),
            "outcome": outcome_of(found, revision),
            "revision": revision,
            "requests": len(outcomes),
            "candidate_requests": sum(one.revision == revision for one in outcomes),
            "candidate_failed": len(bad),
            "traffic_to_taken_back_s": round(back - window[0], 2) if back else None,
            "apply_to_end_s": round(time.time() - start - REST, 1),
            "lost_shown": describe(strange) if strange else "",
            "first_bad": time.strftime("%H:%M:%S", time.gmtime(first)) if first else None,
            "load_average": busy(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
        }


def ended(found: Mapping[str, Any], before: str) -> bool:
    """Whether the rollout away from `before` has come to an end."""
    status = found["status"]
    stable = (status.get("stable") or {}).get("revision")
    return not status.get("candidate") and (
        status.get("phase") in ("RolledBack", "Failed") or (stable != before and status.get("phase") == "Available")
    )


def candidate_of(found: Mapping[str, Any], before: str) -> str:
    """The revision that was tried."""
    status = found["status"]
    stable = (status.get("stable") or {}).get("revision")
    return stable if stable != before else (status.get("failedRevision") or {}).get("revision", "")


def of_candidate(outcome: Outcome, revision: str, window: tuple[float, float]) -> bool:
    """Whether a failed request was the faulty revision's: it says so, or nobody answered one sent while it had traffic.

    Answers without a revision (none within the client's time, or a connection that broke) cannot name one.
    """
    if outcome.revision or MARK in outcome.wrong:
        return outcome.revision == revision or MARK in outcome.wrong
    sent = outcome.time - outcome.seconds
    return outcome.wrong.startswith(("no answer", "grpc DEADLINE")) and window[0] - 0.5 <= sent <= window[1] + 0.5


def first_answer(outcomes: list[Outcome], revision: str) -> float | None:
    """When the first request ended that the revision answered."""
    return min((one.time for one in outcomes if one.revision == revision), default=None)


def outcome_of(found: Mapping[str, Any], revision: str) -> str:
    """As history tells it."""
    entries = [one for one in found["status"].get("history") or () if one["revision"] == revision]
    newest = max(entries, key=lambda one: one["endTime"], default={})
    return newest.get("outcome", "")


def evidence(found: Mapping[str, Any], revision: str) -> dict[str, str]:
    """Reason and numbers as status gives them."""
    failed = found["status"].get("failedRevision") or {}
    if failed.get("revision") == revision:
        return {"reason": failed["reason"], "message": failed["message"]}
    entries = [one for one in found["status"].get("history") or () if one["revision"] == revision]
    return {"reason": entries[-1]["reason"] if entries else "", "message": found["status"].get("message", "")}


def summary(runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """By fault, with the bar where there is one."""
    found = {}
    for fault in dict.fromkeys(run["fault"] for run in runs):
        mine = [run for run in runs if run["fault"] == fault]
        times = [run["detect_s"] for run in mine if run["detect_s"] is not None]
        found[fault] = {
            "runs": len(mine),
            "detect_median_s": round(median(times), 2) if times else None,
            "detect_max_s": max(times, default=None),
            "lost": sum(run["lost"] for run in mine),
            "outcomes": sorted({run["outcome"] for run in mine}),
            "bar_s": BARS.get(fault),
        }
    return found


def missed(found: Mapping[str, Any]) -> list[str]:
    """What is not as it must be, one sentence each."""
    said = []
    for fault, one in found.items():
        wanted = ["Promoted"] if fault == GOOD else ["RolledBack"]
        if one["outcomes"] != wanted:
            said.append(f"{fault}: {one['outcomes']} instead of {wanted}")
        if one["lost"]:
            said.append(f"{fault}: {one['lost']} requests lost")
        if one["bar_s"] and (one["detect_median_s"] is None or one["detect_median_s"] > one["bar_s"]):
            said.append(f"{fault}: median {one['detect_median_s']} s, at most {one['bar_s']} s")
    return said


def measure(place: Place, screen: Screen, options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    """All runs that are asked for and not there yet."""
    wanted = plan_runs(options, runs)
    with screen.stage("models", "good and faulty models to the registry"):
        good = {name: place.version(name) for name in ("linear", "mlp")}
        faulty = {name: place.faulty(name, FAULTS[name]) for name in set(wanted) - {GOOD}}
    with screen.stage("ready", "the first model, from apply to Ready"):
        place.apply(good["linear"], "first")
        place.deployed.wait(lambda md: is_current(md) and md["status"].get("phase") == "Available", PATIENCE)
    with place.load(options.rate) as load:
        rest(load, options.history)
        for number, name in enumerate(wanted, 1):
            version = good["mlp"] if name == GOOD else faulty[name]
            with screen.stage(f"run_{number}", f"{number} of {len(wanted)}: {name}"):
                run = Trial(place, load, name, options.rate).run(version, f"{name}-{len(runs)}-{int(time.time())}")
                runs.append(run)
                save(options.output, runs)
            screen.say("  " + told(run))


def plan_runs(options: argparse.Namespace, done: list[dict[str, Any]]) -> list[str]:
    """Names in the order in which they are run; the good revision last, since it becomes the stable one."""
    names = options.faults or [*FAULTS, GOOD]
    wanted = []
    for name in names:
        count = options.runs or RUNS.get(name, 1)
        wanted += [name] * (count - sum(run["fault"] == name for run in done))
    return wanted


def rest(load: Offered, seconds: float) -> None:
    """History for the routers; a request lost meanwhile ends it all."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("history: 200 requests/s to the stable revision", total=seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            load.new()
            failed = lost(load.outcomes)
            if failed:
                raise DemoError(f"{len(failed)} requests failed while nothing was rolled out: {describe(failed)}")
            load.outcomes.clear()
            progress.update(task, completed=seconds - left)
            time.sleep(min(1, left))


def told(run: Mapping[str, Any]) -> str:
    """One line."""
    detect = f"{run['detect_s']} s" if run["detect_s"] is not None else "-"
    counts = f"{run['candidate_failed']} bad of {run['candidate_requests']} to it, {run['lost']} lost"
    return f"{run['outcome'] or '?'} in {detect}; {counts} of {run['requests']}: {run['evidence']['message']}"


def save(path: Path, runs: list[dict[str, Any]]) -> None:
    """After each run, so that nothing measured is lost."""
    write_json(path, {"runs": runs, "summary": summary(runs), "missed": missed(summary(runs))})


def main() -> int:
    """Measure, write the file, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="*", choices=[*FAULTS, GOOD], help="only these")
    parser.add_argument("--runs", type=int, help="of each fault; default: 10 of errors, 1 of the others")
    parser.add_argument("--history", type=float, default=900, help="seconds of load before the first run")
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--fresh", action="store_true", help="forget the runs of an earlier start")
    parser.add_argument("--installed", action="store_true", help="take the release as it is")
    parser.add_argument("--output", type=Path, default=FOLDER / "rollback.json")
    options = parser.parse_args()
    kept = options.output.exists() and not options.fresh
    runs: list[dict[str, Any]] = json.loads(options.output.read_text())["runs"] if kept else []
    screen = Screen()
    try:
        place = find_place(screen, NAMESPACE, install=not options.installed)
        measure(place, screen, options, runs)
    except (DemoError, AssertionError) as error:
        screen.say(f"The benchmark has stopped, another start goes on: {error}")
        return 1
    said = missed(summary(runs))
    for sentence in said:
        screen.say(f"missed: {sentence}")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
