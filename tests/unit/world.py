"""A made-up cluster of plain dictionaries: plans are obeyed in it, and its controllers move one step at a time.

It stands in for the API server where thousands of runs are wanted; the same sequences run on the real one in
tests/integration and tests/e2e.
"""

import json
import pickle
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from penstock.api.base import wire
from penstock.api.facts import ArtifactRef, ModelFacts, Tensor
from penstock.api.preparation import PreparationError, PreparationReport
from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.router import TrafficSplitSpec
from penstock.core.fleet import FleetView, RevisionCounts, RouterPodView, Row
from penstock.core.names import COMPONENT_LABEL, REVISION_LABEL, ROUTER_LABEL, ObjectKey, key_of
from penstock.core.observed import Observed
from penstock.core.plan import HandOver, Join, Leave, Plan, Write, plan
from penstock.core.router import default_router
from penstock.core.settings import Settings

from .kubelet import is_ready, tend

V1, V2, V3 = (f"oci://models.example/digits:v{number}" for number in (1, 2, 3))
GOING = 3
"""Seconds that a serving pod takes to end."""
AWAY = 16
"""Seconds until another operator leads where one was killed: the lease has to end first."""
DIRECT = {"provider": "Service"}
"""spec.traffic without a router: what rollouts without evidence are tested with."""
BOUNDS = (5, 10, 20, 50, 100)
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SETTINGS = Settings(
    jobs_image="jobs:1", triton_image="triton:1", convert_image="convert:1", server_images={"openvino": "openvino:1"}
)


class Crash(Exception):
    """The operator was killed after a write."""


T = TypeVar("T")
W = TypeVar("W", bound="World")


def copied(value: T) -> T:
    """A deep copy; through pickle it takes a fifth of what copy.deepcopy does."""
    found: T = pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    return found


def facts(version: str = "v1", **changes: Any) -> ModelFacts:
    """Facts of a small model; each version has a digest of its own."""
    digest = "sha256:" + f"{sum(map(ord, version)):x}".rjust(64, "0")
    artifact = ArtifactRef(
        repository="registry.penstock-system:5000/vision", manifest=digest, layer=digest, size_bytes=9000
    )
    known: dict[str, Any] = {
        "format": "ONNX",
        "digest": digest,
        "artifact": artifact,
        "inputs": (Tensor(name="X", data_type="FP32", dims=(-1, 64)),),
        "outputs": (Tensor(name="probabilities", data_type="FP32", dims=(-1, 10)),),
        "batching": True,
        "opset": 20,
        "ir_version": 10,
    }
    return ModelFacts(**{**known, **changes})


def manifest(uri: str = "oci://models.example/digits:v1", **spec: Any) -> dict[str, Any]:
    """A ModelDeployment as a user writes it."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "md-uid-1", "generation": 1},
        "spec": {"model": {"uri": uri}, **spec},
    }


@dataclass
class RouterPod:
    """One router pod: Envoy with its agent, as far as one model goes."""

    name: str
    split: TrafficSplitSpec | None = None
    renewed: tuple[str, datetime] | None = None
    """The last renewal it saw, and when."""
    expired: bool = False
    cut: bool = False
    """It has lost the API server: it serves on, and hears of no new split."""
    deaf: bool = False
    """It does not answer the operator."""

    def follow(self, split: TrafficSplitSpec | None, now: datetime) -> None:
        """What the agent does each second."""
        if not self.cut and split != self.split:
            if split and (self.split is None or split.generation != self.split.generation):
                self.expired = False
            self.split = split
        supervision = self.split.supervision if self.split else None
        if supervision is None:
            self.renewed = None
            return
        if self.renewed is None or self.renewed[0] != supervision.renew_time:
            self.renewed = (supervision.renew_time, now)
        if now - self.renewed[1] >= timedelta(seconds=supervision.timeout_seconds):
            self.expired = supervision.on_loss == "Stable"

    @property
    def weights(self) -> dict[str, int]:
        """In force."""
        if self.split is None:
            return {}
        if self.expired and self.split.stable:
            return {self.split.stable: 1000}
        return {item.name: item.weight for item in self.split.revisions if item.weight}

    @property
    def shadow(self) -> tuple[str, int] | None:
        found = self.split.shadow if self.split and not self.expired else None
        return (found.name, found.share) if found else None


@dataclass
class World:
    """One ModelDeployment and everything of it."""

    deployment: dict[str, Any] = field(default_factory=manifest)
    objects: dict[ObjectKey, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str | tuple[str, str], PreparationReport] = field(default_factory=dict)
    """By uri, or by uri and opener."""
    meanings: dict[str, PreparationReport | str] = field(default_factory=dict)
    """What a resolve Job answers, by uri."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Of the Jobs that have run."""
    broken: dict[str, str] = field(default_factory=dict)
    """uri -> the message tritonserver ends with."""
    lost_artifacts: dict[str, str] = field(default_factory=dict)
    """Revisions whose content is not in the artifact store, and when a pod has noticed."""
    slow: set[str] = field(default_factory=set)
    """Models that are still loading."""
    now: datetime = START
    settings: Settings = SETTINGS
    counter: int = 0
    writes: int = 0
    log: list[str] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    fuse: int | None = None
    """Writes left before the operator is killed."""
    router: dict[str, Any] | None = None
    routers: dict[str, RouterPod] = field(default_factory=dict)
    fleet_size: int = 2
    rows: list[Row] = field(default_factory=list)
    counters: bool = True
    """The routers' counters can be read."""
    watching: str = ""
    """How closely the last plan wanted the routers to be watched."""
    rate: int = 200
    """Requests a second."""
    errors: dict[str, float] = field(default_factory=dict)
    """uri -> share of its requests that fail."""
    slowness: dict[str, float] = field(default_factory=dict)
    """uri -> share of its requests that are slow."""
    outage: float = 0.0
    """Share of all requests that fail whichever revision answers: something that they share is down."""
    cold: set[str] = field(default_factory=set)
    """Revisions of which the routers say that they reach no pod."""
    lost: int = 0
    """Requests that nobody was there to answer."""
    random: Random = field(default_factory=lambda: Random(1))
    credit: dict[str, float] = field(default_factory=dict)
    served: frozenset[str] = frozenset()
    """Kinds of the Gateway API."""
    unpublished: dict[ObjectKey, tuple[Reason, str]] = field(default_factory=dict)
    skew: int = 0
    """Seconds by which the node's clock is ahead of everybody else's."""

    def observe(self) -> Observed:
        return Observed(
            deployment=ModelDeployment.parse(self.deployment),
            settings=self.settings,
            objects=dict(self.objects),
            pods=tuple(self.pods.values()),
            fleet=self._fleet() if self.watching else None,
            router=self.router,
            served=self.served,
            unpublished=self.unpublished,
        )

    def _fleet(self) -> FleetView:
        """What a poll of all router pods brings; rows that status has used are forgotten."""
        candidate = self.status.get("candidate") or {}
        used = candidate.get("analysis", {}).get("asOf", 0)
        pods = tuple(self._view(pod) for pod in self.routers.values())
        silent = not self.counters or any(pod.deaf for pod in self.routers.values())
        rows = () if silent or not candidate else tuple(row for row in self.rows if row.second > used)
        return FleetView(pods, rows)

    def _view(self, pod: RouterPod) -> RouterPodView:
        generation = pod.split.generation if pod.split else 0
        listed = [item.name for item in pod.split.revisions] if pod.split else []
        warm = {name: 0 if name in self.cold else self.ready(name) for name in listed}
        return RouterPodView(pod.name, not pod.deaf, generation, pod.expired, warm)

    def ready(self, revision: str) -> int:
        """Ready pods of a revision."""
        found = self.objects.get(ObjectKey("Deployment", "vision", revision), {})
        return int(found.get("status", {}).get("readyReplicas", 0))

    def edit(self, **spec: Any) -> None:
        """The user changes the spec."""
        self.deployment["spec"].update(spec)
        self.deployment["metadata"]["generation"] += 1

    def point_to(self, uri: str) -> None:
        self.edit(model={**self.deployment["spec"]["model"], "uri": uri})

    # the operator
    def reconcile(self) -> Plan:
        """One pass: plan, write, remember."""
        found = plan(self.observe(), self.now)
        self.watching = found.observe
        for write in found.writes:
            self._write(write)
        status = wire(found.status)
        if status != self.deployment.get("status"):
            self._burn("status")
            self.deployment["status"] = status
        for write in found.raises:
            self._write(write)
        for key in found.deletes:
            if key in self.objects:
                self._burn(f"delete {key.kind} {key.name}")
                self._delete(key)
        for write in found.routes:
            self._write(write)
        self.events += [(event.reason, event.message) for event in found.events]
        return found

    def _write(self, write: Write | HandOver | Join | Leave) -> None:
        match write:
            case HandOver():
                self._burn(f"hand over {write.key.name} {write.replicas}")
                self.objects[write.key]["spec"]["replicas"] = write.replicas
            case Join():
                self._burn(f"join {write.router}")
                router = self.router or default_router("vision", write.router)
                self.router = router | {"metadata": router["metadata"] | {"ownerReferences": [{"uid": "md-uid-1"}]}}
            case Leave():
                self._burn(f"leave {write.router}")
                self.router, self.routers = None, {}
            case Write():
                self._burn(f"apply {key_of(write.manifest).kind} {key_of(write.manifest).name}")
                self._apply(write)

    def _burn(self, what: str) -> None:
        if self.fuse is not None:
            if self.fuse == 0:
                self.fuse = None
                raise Crash
            self.fuse -= 1
        self.writes += 1
        self.log.append(what)

    def _apply(self, write: Write) -> None:
        desired, key = copied(write.manifest), key_of(write.manifest)
        live = self.objects.get(key)
        self.counter += 1
        if live is None:
            desired["metadata"].update(uid=f"uid-{self.counter}", generation=1, creationTimestamp=self._time())
            if key.kind == "Deployment":
                desired["spec"].setdefault("replicas", 1)
            self.objects[key] = desired
            return
        metadata = {**desired["metadata"], **{k: live["metadata"][k] for k in ("uid", "creationTimestamp")}}
        changed = desired.get("spec") != {k: v for k, v in live.get("spec", {}).items() if k != "replicas"}
        metadata["generation"] = live["metadata"]["generation"] + int(changed)
        if key.kind == "Deployment":
            desired["spec"].setdefault("replicas", live["spec"]["replicas"])
        self.objects[key] = {**desired, "metadata": metadata, "status": live.get("status", {})}

    def _delete(self, key: ObjectKey) -> None:
        self.objects.pop(key, None)
        for name, pod in list(self.pods.items()):
            if pod["owner"] == key:
                self._end(name)

    def _end(self, name: str) -> None:
        """A pod that is asked to go is there for as long as its server takes to end; that of a Job has ended."""
        pod = self.pods[name]
        if pod["owner"].kind == "Job":
            del self.pods[name]
        elif "deletionTimestamp" not in pod["metadata"]:
            self.pods[name] = {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": self._time()}}

    def _time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    # the cluster's own controllers
    def step(self) -> None:
        """Jobs report, Deployments become ready or fail, a second passes."""
        self.now += timedelta(seconds=1)
        self._route()
        self._bury()
        for key, item in list(self.objects.items()):
            if key.kind == "Job" and "status" not in item:
                self._run_job(key, item)
            if key.kind == "Deployment":
                self._run_deployment(key, item)

    def _route(self) -> None:
        """The routers follow the split, and a second of traffic passes."""
        if self.router and not self.routers:
            self.routers = {f"router-{n}": RouterPod(f"router-{n}") for n in range(self.fleet_size)}
        before = [(pod.weights, pod.shadow) for pod in self.routers.values()]
        live = self.objects.get(ObjectKey("TrafficSplit", "vision", "digits"))
        split = TrafficSplitSpec.model_validate(live["spec"]) if live else None
        for pod in self.routers.values():
            pod.follow(split, self.now)
        after = [(pod.weights, pod.shadow) for pod in self.routers.values()]
        through = ROUTER_LABEL in self.service().get("selector", {})
        weights = after[0][0] if through and after else {}
        counts = {name: self._answer(name, weight) for name, weight in weights.items()}
        if through and self.status.get("stable") and not weights:
            self.lost += self.rate
        direct = self.service().get("selector", {}).get(REVISION_LABEL)
        if direct and self.status.get("stable") and not self.ready(direct) and not self.idle():
            self.lost += self.rate
        shadow = after[0][1] if through and after else None
        if shadow:
            counts[shadow[0]] = self._answer(*shadow)
        if through and before and len({repr(state) for state in (*before, *after)}) == 1:
            generation = max(pod.split.generation if pod.split else 0 for pod in self.routers.values())
            self.rows.append(Row(int(self.now.timestamp()), generation, weights, counts, BOUNDS, shadow))
            del self.rows[:-900]

    def _answer(self, revision: str, weight: int) -> RevisionCounts:
        """How one revision does in one second; shares are exact over time, errors are drawn."""
        due = self.credit.get(revision, 0.0) + self.rate * weight / 1000
        requests = int(due)
        self.credit[revision] = due - requests
        if not self.ready(revision) and not self.idle():
            self.lost += requests
            return RevisionCounts(requests, errors=requests, latency=(0, requests, 0, 0, 0, 0))
        record = self.objects.get(ObjectKey("ControllerRevision", "vision", revision))
        uri = record["data"]["model"]["uri"] if record else ""
        failing = self._draw(requests, max(self.errors.get(uri, 0.0), self.outage))
        slow = self._draw(requests, self.slowness.get(uri, 0.0))
        return RevisionCounts(requests, errors=failing, latency=(0, requests - slow, 0, 0, 0, slow))

    def _draw(self, requests: int, share: float) -> int:
        """Binomial, by its normal form where many are drawn."""
        if not share or requests < 50:
            return sum(self.random.random() < share for _ in range(requests)) if share else 0
        drawn = self.random.gauss(requests * share, (requests * share * (1 - share)) ** 0.5)
        return min(requests, max(0, round(drawn)))

    def idle(self) -> bool:
        """Whether nobody asked for pods."""
        return self.deployment["spec"].get("replicas", 1) == 0

    def _run_job(self, key: ObjectKey, job: dict[str, Any]) -> None:
        request = self._request(job)
        uri = request["uri"]
        report = self.reports.get((uri, request["opener"])) or self.reports.get(uri)
        if job["metadata"]["labels"][COMPONENT_LABEL] == "resolve":
            meaning = self.meanings.get(uri, "first")
            report = PreparationReport(resolved=meaning) if isinstance(meaning, str) else meaning
        else:
            self.requests.append(request)
        report = report or PreparationReport(facts=facts(uri))
        good = report.error is None and report.needs is None
        end = {"type": "Complete" if good else "Failed", "status": "True", "lastTransitionTime": self._time()}
        job["status"] = {"succeeded" if good else "failed": 1, "conditions": [end]}
        ended = {"exitCode": 0 if good else 1, "message": report.encode(), "finishedAt": self._time()}
        self.pods[f"{key.name}-pod"] = {
            "owner": key,
            "metadata": {"labels": {}, "ownerReferences": [{"uid": job["metadata"]["uid"]}]},
            "status": {"containerStatuses": [{"name": "transfer", "state": {"terminated": ended}}]},
        }

    def _request(self, job: dict[str, Any]) -> dict[str, Any]:
        container = job["spec"]["template"]["spec"]["containers"][0]
        found: dict[str, Any] = json.loads(container["env"][0]["value"])
        return found

    def _run_deployment(self, key: ObjectKey, item: dict[str, Any]) -> None:
        record = self.objects.get(ObjectKey("ControllerRevision", key.namespace, key.name))
        if record is None:
            return
        uri, replicas = record["data"]["model"]["uri"], item["spec"]["replicas"]
        name = self._tend(key, uri, replicas)
        ready = replicas if name and is_ready(self.pods[name]) else 0
        item["status"] = {
            "observedGeneration": item["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": ready,
        }

    def _tend(self, key: ObjectKey, uri: str, replicas: int) -> str | None:
        """One pod stands for all of a Deployment; a new one runs for a second before it can end."""
        staying = (n for n, p in self.pods.items() if p["owner"] == key and "deletionTimestamp" not in p["metadata"])
        name = next(staying, None)
        if not replicas:
            if name:
                self._end(name)
            return None
        if name is None:
            self.counter += 1
            name = f"{key.name}-{self.counter}"
            metadata = {"name": name, "labels": {REVISION_LABEL: key.name}, "creationTimestamp": self._time()}
            self.pods[name] = {"owner": key, "metadata": metadata, "status": {}}
        if key.name in self.lost_artifacts:
            missing = json.dumps({"reason": "ArtifactMissing", "message": "no blob"})
            ended = {"exitCode": 1, "message": missing, "finishedAt": self.lost_artifacts[key.name]}
            fetch = {"name": "fetch", "state": {"terminated": ended}, "restartCount": 0}
            self.pods[name] = {**self.pods[name], "status": {"initContainerStatuses": [fetch]}}
        else:
            clock = self.now + timedelta(seconds=self.skew)
            self.pods[name] = tend(self.pods[name], clock, self.broken.get(uri), loads=uri not in self.slow)
        return name

    def _bury(self) -> None:
        """Pods that have had their time to end are gone."""
        for name, pod in list(self.pods.items()):
            asked = pod["metadata"].get("deletionTimestamp")
            if asked and self.now >= datetime.fromisoformat(asked) + timedelta(seconds=GOING):
                del self.pods[name]

    def be_away(self, seconds: int = AWAY) -> None:
        """Nobody leads for so long; whoever does then knows nothing but what is stored."""
        self.watching = ""
        for _ in range(seconds):
            self.step()

    def settle(self, passes: int = 400) -> None:
        """Passes and steps until a pass writes nothing, watches nothing, and nothing moves."""
        quiet = 0
        for _ in range(passes):
            before = self.writes
            self.reconcile()
            quiet = quiet + 1 if self.writes == before and not self.watching else 0
            if quiet >= 2:
                return
            self.step()
        raise AssertionError(f"still writing after {passes} passes: {self.log[-10:]}")

    def run(self, seconds: int) -> None:
        """So many seconds with a pass in each."""
        for _ in range(seconds):
            self.reconcile()
            self.step()
        self.reconcile()

    def run_until(self, done: Any, limit: int = 600) -> None:
        """Passes and steps until `done(world)`."""
        for _ in range(limit):
            self.reconcile()
            if done(self):
                return
            self.step()
        raise AssertionError(f"not within {limit} s: {self.status.get('message')} {self.log[-5:]}")

    # what tests ask
    @property
    def status(self) -> dict[str, Any]:
        return self.deployment.get("status", {})

    def condition(self, kind: str) -> dict[str, Any] | None:
        return next((c for c in self.status.get("conditions", ()) if c["type"] == kind), None)

    def names(self, kind: str) -> list[str]:
        return [key.name for key in sorted(self.objects) if key.kind == kind]

    def service(self) -> dict[str, Any]:
        """The client Service's spec."""
        found: dict[str, Any] = self.objects.get(ObjectKey("Service", "vision", "digits"), {}).get("spec", {})
        return found

    def selected_router(self) -> str | None:
        """The router behind the client Service."""
        found: str | None = self.service().get("selector", {}).get(ROUTER_LABEL)
        return found

    def split(self) -> dict[str, Any]:
        """The live split's spec."""
        live = self.objects.get(ObjectKey("TrafficSplit", "vision", "digits"), {})
        found: dict[str, Any] = live.get("spec", {"revisions": []})
        return found

    def weights(self) -> dict[str, int]:
        """What the split gives to each revision."""
        return {item["name"]: item["weight"] for item in self.split()["revisions"] if item["weight"]}

    def candidate(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status.get("candidate") or {}
        return found

    def outcomes(self) -> list[str]:
        """Of history, oldest first."""
        return [entry["outcome"] for entry in reversed(self.status.get("history", ()))]

    def selected(self) -> str:
        """The revision behind the client Service."""
        service = self.objects[ObjectKey("Service", "vision", "digits")]
        found: str = service["spec"]["selector"][REVISION_LABEL]
        return found


def killed(eve: W, fuses: Iterable[int]) -> Iterator[W]:
    """The world as a kill at each of these writes of its next pass leaves it; the way there is gone only once."""
    for fuse in fuses:
        world = copied(eve)
        world.fuse = fuse
        try:
            world.reconcile()
        except Crash:
            yield world
        else:
            raise AssertionError(f"the pass makes fewer than {fuse + 1} writes")


def killed_at_writes(start: W, passes: int, writes: Container[int] | None = None) -> Iterator[tuple[int, W]]:
    """Where so many passes from `start`, a step after each, lead to with a kill at one of these writes, or at any.

    The way to a kill is gone once for all of them.
    """
    undisturbed = copied(start)
    for left in reversed(range(passes)):
        eve = copied(undisturbed)
        undisturbed.reconcile()
        made = range(eve.writes, undisturbed.writes)
        chosen = [write for write in made if writes is None or write in writes]
        for write, world in zip(chosen, killed(eve, (write - eve.writes for write in chosen)), strict=True):
            world.be_away()
            for _ in range(left):
                world.reconcile()
                world.step()
            yield write, world
        undisturbed.step()


def failing(reason: Reason, message: str = "because") -> PreparationReport:
    """A report of a preparation that failed."""
    return PreparationReport(error=PreparationError(reason=reason, message=message))
