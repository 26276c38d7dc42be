"""A deployment under load with short rollouts: what the tests of rollouts do and ask."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from examples.demo.faults import MODEL_SPEC, Fault, faulty_repository
from examples.demo.screen import DemoError

from .cluster import Object, TimedOut, wait_passed
from .deployments import Deployed, condition, is_current
from .disturb import wait_until
from .fleet import SPLIT, Fleet, RouteWatch
from .mixedload import Settings
from .models import linear_model, some_rows
from .offered import SHARES, Offered, Outcome, describe, lost, offered, requests
from .store import Store

STEPS = {"steps": [{"weight": 20, "hold": "3s"}, {"weight": 50, "hold": "3s"}]}
QUICK_CANARY = {"canary": STEPS, "supervision": {"timeout": "12s"}}
LONG_CANARY = {"canary": {"steps": [{"weight": 20, "hold": "10m"}]}, "supervision": {"timeout": "12s"}}
"""Stays at its step until a person or a fault ends it."""
RATE = 120
TIMEOUT = "2s"
PATIENCE = 20
"""Seconds after which the client gives up; ten times what the router allows, for this machine may be late itself."""
ENOUGH = 50
"""Requests of which a candidate with a fifth of them would have had one, but for once in 70,000 times."""
_marks = count(1)


@dataclass(frozen=True)
class Version:
    """What spec says of one version."""

    uri: str
    model: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)


class Versions:
    """Versions of one model in the registry, pushed on first use."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._made: dict[str, Version] = {}

    def good(self, seed: int) -> Version:
        """The linear model with this seed."""
        tag = f"{self._name}-{seed}"
        if tag not in self._made:
            self._made[tag] = Version(self._store.push(linear_model(seed), tag))
        return self._made[tag]

    def faulty(self, fault: Fault, seed: int = 1) -> Version:
        """A repository around the linear model."""
        tag = f"{self._name}-{fault.kind}-{fault.percent:g}-{fault.seconds:g}-{fault.after}".lower()
        if tag not in self._made:
            self._store.push_files(faulty_repository(self._name, linear_model(seed).data, fault), tag)
            server = {"flags": fault.flags} if fault.flags else {}
            self._made[tag] = Version(self._store.uri(tag), MODEL_SPEC, server)
        return self._made[tag]


@dataclass
class Rolled:
    """One deployment, the fleet before it and the load on it; `at` is what spec asks for while nothing rolls out."""

    deployed: Deployed
    versions: Versions
    load: Offered
    at: tuple[Version, str]
    candidate: str = ""

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.deployed.cluster, self.deployed.namespace)

    @property
    def stable(self) -> str:
        """The stable revision's name."""
        return str(self.status()["stable"]["revision"])

    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.deployed.get()["status"]
        return found

    def split(self) -> Object:
        """The route as it is asked for."""
        return self.deployed.cluster.get(SPLIT, self.deployed.name, "-n", self.deployed.namespace)

    def apply(self, version: Version, mark: str, rollout: Mapping[str, Any], **spec: Any) -> None:
        server = {"server": dict(version.server)} if version.server else {}
        traffic = {"timeout": TIMEOUT, **spec.pop("traffic", {})}
        pod = {"env": [{"name": "MARK", "value": mark}]}
        self.deployed.apply(
            version.uri, dict(version.model), pod=pod, rollout=dict(rollout), traffic=traffic, **server, **spec
        )

    def start(self, version: Version, rollout: Mapping[str, Any] = QUICK_CANARY, **spec: Any) -> str:
        """Ask for it as a revision never seen before; its name, once it is the candidate."""
        before, mark = self.stable, f"m{next(_marks)}"
        self.asked = (version, mark, dict(rollout), spec)
        self.apply(version, mark, rollout, **spec)

        def is_candidate(md: Object) -> bool:
            status = md["status"]
            return bool(
                status.get("candidate") or (status.get("stable") or {}).get("revision") != before
                or status.get("phase") == "RolledBack"
            )  # fmt: skip

        status = self.deployed.wait(is_candidate)["status"]
        candidate = status.get("candidate") or {}
        failed, stable = status.get("failedRevision") or {}, status["stable"]["revision"]
        self.candidate = candidate.get("revision") or (stable if stable != before else failed["revision"])
        return self.candidate

    def start_next(self, version: Version, rollout: Mapping[str, Any] = QUICK_CANARY) -> str:
        """Another one while a candidate is on its way; its name, once it has taken the place or even gone live."""
        before, stable, mark = self.candidate, self.stable, f"m{next(_marks)}"
        self.asked = (version, mark, dict(rollout), {})
        self.apply(version, mark, rollout)

        def newer(now: Mapping[str, Any]) -> str:
            names = [(now.get(role) or {}).get("revision") for role in ("candidate", "stable")]
            return next((name for name in names if name not in (None, before, stable)), "")

        self.candidate = newer(self.wait(lambda now: bool(newer(now))))
        return self.candidate

    def change(self, **rollout: Any) -> None:
        """The same spec with other words in rollout: a command."""
        version, mark, before, spec = self.asked
        self.asked = (version, mark, {**before, **rollout}, spec)
        self.apply(version, mark, self.asked[2], **spec)

    def wait(self, wanted: Callable[[Mapping[str, Any]], bool], seconds: float = 120) -> Mapping[str, Any]:
        """Status, once this holds of it; of what lasts."""
        found: Mapping[str, Any] = self.deployed.wait(lambda md: wanted(md["status"]), seconds)["status"]
        return found

    def wait_passed(self, since: Object, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """The first status after this state of the deployment of which it holds, over by now or not."""
        found: Mapping[str, Any] = wait_passed(
            self.deployed.cluster, since, lambda md: is_current(md) and wanted(md["status"])
        )["status"]
        return found

    def wait_weight(self) -> str:
        """Until the candidate has traffic, attested by every router pod, and has answered some; its weight."""
        status = self.wait(lambda now: float((now.get("candidate") or {}).get("weight") or 0) > 0)
        wait_until(lambda: self.answered_by(self.candidate), f"{self.candidate} answers")
        return str(status["candidate"]["weight"])

    def wait_promoted(self, seconds: float = 120) -> Mapping[str, Any]:
        """Until the candidate is the stable revision and nothing goes on any more."""
        status = self.wait(self._ended, seconds)
        told = {name: status.get(name) for name in ("phase", "message", "failedRevision")}
        assert status["stable"]["revision"] == self.candidate, f"not promoted: {told}"
        assert newest_entry(status, self.candidate)["outcome"] == "Promoted"
        self.at = (self.asked[0], self.asked[1])
        return status

    def wait_taken_back(self, seconds: float = 120, outcome: str = "RolledBack") -> Mapping[str, Any]:
        """Until the candidate is gone; the entry that tells of it."""
        status = self.wait(self._ended, seconds)
        told = {name: status.get(name) for name in ("phase", "message", "stable", "history")}
        assert status["stable"]["revision"] != self.candidate, f"promoted: {told}"
        newest = newest_entry(status, self.candidate)
        assert newest.get("outcome") == outcome, f"{outcome} was expected: {told}"
        return newest

    def _ended(self, status: Mapping[str, Any]) -> bool:
        return not status.get("candidate") and status.get("phase") in ("Available", "RolledBack", "Failed")

    def settle_keeping(self) -> None:
        """Ask for what serves, and wait until nothing rolls out any more."""
        self.apply(*self.at, {"strategy": "Immediate"})
        self.deployed.wait(lambda md: md["status"].get("phase") == "Available" and self._ended(md["status"]), 180)

    def settle(self) -> None:
        """As between two tests: nothing rolls out, and counting starts anew."""
        self.settle_keeping()
        self.fleet.wait_ready()
        self.load.wait_settled(PATIENCE + 60)
        self.load.forget()

    def watch(self) -> RouteWatch:
        """The route, followed to every router pod."""
        return RouteWatch(self.deployed.cluster, self.deployed.namespace, self.deployed.name)

    def outcomes(self) -> list[Outcome]:
        """Requests that have ended since counting started."""
        self.load.new()
        return requests(self.load.outcomes)

    def answered_by(self, revision: str) -> int:
        return sum(one.revision == revision for one in self.outcomes())

    def fresh(self, revision: str, seconds: float = 2) -> bool:
        """Whether it has answered within the last seconds."""
        return any(one.revision == revision for one in self.outcomes() if one.time > time.time() - seconds)

    def reachable(self) -> bool:
        """Whether the API server answers."""
        try:
            self.status()
        except DemoError:
            return False
        return True

    def lost_nothing(self, faulty: str = "", at_least: int = 200, but: tuple[float, float] = (0, 0)) -> None:
        """Every request was answered, but for those that a faulty revision got or that were on their way in `but`.

        Waits for `at_least` of them, which a busy machine sends late, and for all that are sent by then to end.
        """
        self.load.wait_count(at_least // 4)
        wait_until(lambda: len(self.outcomes()) >= at_least, f"{at_least} requests are sent")
        self.load.wait_settled(PATIENCE + 60)
        found = self.outcomes()
        failed = [one for one in lost(found, faulty) if one.time < but[0] or one.due > but[1]]
        assert not failed, f"{len(failed)} of {len(found)} requests lost: {describe(failed)}"

    def all_to_stable(self, after: float = 0, seconds: float = 60) -> float:
        """Until no request goes to the candidate any more; how many seconds after `after` the last that did was due."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.5)
            recent = [one for one in self.outcomes() if one.time > time.time() - 2]
            if len(recent) >= ENOUGH and not any(one.revision == self.candidate for one in recent):
                last = (one.due for one in self.outcomes() if one.revision == self.candidate)
                return max(last, default=after) - after
        raise TimedOut(f"{self.candidate} still gets requests after {seconds:.0f} s")


def newest_entry(status: Mapping[str, Any], revision: str) -> Mapping[str, Any]:
    """What history says last of a revision."""
    entries = [one for one in status.get("history") or () if one["revision"] == revision]
    return max(entries, key=lambda one: one["endTime"], default={})


def stalled(status: Mapping[str, Any]) -> str:
    """The reason of Stalled, empty when it is not."""
    return str(condition({"status": status}, "Stalled").get("reason", ""))


@contextmanager
def rolled_out(
    deployed: Deployed, store: Store, folder: Path, rate: float = RATE, shares: Mapping[str, float] = SHARES
) -> Iterator[Rolled]:
    """The first version serving behind routers that drain quickly, under load."""
    versions = Versions(store, deployed.name)
    Fleet(deployed.cluster, deployed.namespace).shape()
    version = versions.good(1)
    rolled = Rolled(deployed, versions, None, (version, "first"))  # type: ignore[arg-type] - it follows at once
    rolled.apply(*rolled.at, {"strategy": "Immediate"})
    deployed.wait(lambda md: is_current(md) and md["status"].get("phase") == "Available", 240)
    rolled.fleet.wait_ready()
    with offered(load_settings(deployed, folder, rate=rate, shares=dict(shares)), folder) as rolled.load:
        rolled.load.wait_count(int(rate * 3))
        yield rolled


def load_settings(deployed: Deployed, folder: Path, **changes: Any) -> Settings:
    """Load on a deployment of the tests' linear model."""
    address = deployed.cluster.get("service", deployed.name, "-n", deployed.namespace)["spec"]["clusterIP"]
    settings = {
        "host": address,
        "model": deployed.name,
        "tensor": "features",
        "data": some_rows(8).tolist(),
        "records": str(folder / f"{deployed.name}.jsonl"),
        "rate": RATE,
        "timeout": PATIENCE,
    }
    return Settings(**{**settings, **changes})
