"""A made-up cluster of plain dictionaries: plans are obeyed in it, and its controllers move one step at a time.

It stands in for the API server where thousands of runs are wanted; the same sequences run on the real one in
tests/integration and tests/e2e.
"""

import copy
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.api.base import wire
from penstock.api.facts import ArtifactRef, ModelFacts, Tensor
from penstock.api.preparation import PreparationError, PreparationReport
from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.core.names import REVISION_LABEL, ObjectKey, key_of
from penstock.core.observed import Observed
from penstock.core.plan import HandOver, Plan, Write, plan
from penstock.core.settings import Settings

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SETTINGS = Settings(jobs_image="jobs:1", triton_image="triton:1")


class Crash(Exception):
    """The operator was killed after a write."""


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
        "metadata": {"name": "digits", "namespace": "vision", "uid": "md-1", "generation": 1},
        "spec": {"model": {"uri": uri}, **spec},
    }


@dataclass
class World:
    """One ModelDeployment and everything of it."""

    deployment: dict[str, Any] = field(default_factory=manifest)
    objects: dict[ObjectKey, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, PreparationReport] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """uri -> the message tritonserver ends with."""
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

    def observe(self) -> Observed:
        return Observed(
            deployment=ModelDeployment.parse(self.deployment),
            settings=self.settings,
            objects=dict(self.objects),
            pods=tuple(self.pods.values()),
        )

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
        for write in found.writes:
            if isinstance(write, HandOver):
                self._burn(f"hand over {write.key.name} {write.replicas}")
                self.objects[write.key]["spec"]["replicas"] = write.replicas
            else:
                self._burn(f"apply {key_of(write.manifest).kind} {key_of(write.manifest).name}")
                self._apply(write)
        status = wire(found.status)
        if status != self.deployment.get("status"):
            self._burn("status")
            self.deployment["status"] = status
        for key in found.deletes:
            if key in self.objects:
                self._burn(f"delete {key.kind} {key.name}")
                self._delete(key)
        self.events += [(event.reason, event.message) for event in found.events]
        return found

    def _burn(self, what: str) -> None:
        if self.fuse is not None:
            if self.fuse == 0:
                self.fuse = None
                raise Crash
            self.fuse -= 1
        self.writes += 1
        self.log.append(what)

    def _apply(self, write: Write) -> None:
        desired, key = copy.deepcopy(write.manifest), key_of(write.manifest)
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
                del self.pods[name]

    def _time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    # the cluster's own controllers
    def step(self) -> None:
        """Jobs report, Deployments become ready or fail, a second passes."""
        self.now += timedelta(seconds=1)
        for key, item in list(self.objects.items()):
            if key.kind == "Job" and "status" not in item:
                self._run_job(key, item)
            if key.kind == "Deployment":
                self._run_deployment(key, item)

    def _run_job(self, key: ObjectKey, job: dict[str, Any]) -> None:
        uri = self._request(job)["uri"]
        report = self.reports.get(uri, PreparationReport(facts=facts(uri)))
        job["status"] = {"succeeded": 1} if report.facts else {"failed": 1}
        ended = {"exitCode": 0 if report.facts else 1, "message": report.encode(), "finishedAt": self._time()}
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
        message = self.broken.get(uri)
        ready = 0 if message or uri in self.slow else replicas
        item["status"] = {
            "observedGeneration": item["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": ready,
        }
        state: dict[str, Any] = {"running": {}}
        if message:
            state = {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "finishedAt": self._time()}}
        self.pods[f"{key.name}-pod"] = {
            "owner": key,
            "metadata": {"labels": {REVISION_LABEL: key.name}},
            "status": {"containerStatuses": [{"name": "server", "state": state, "restartCount": 0}]},
        }

    def settle(self, passes: int = 60) -> None:
        """Passes and steps until a pass writes nothing and nothing moves."""
        quiet = 0
        for _ in range(passes):
            before = self.writes
            self.reconcile()
            quiet = quiet + 1 if self.writes == before else 0
            if quiet >= 3:
                return
            self.step()
        raise AssertionError(f"still writing after {passes} passes: {self.log[-10:]}")

    # what tests ask
    @property
    def status(self) -> dict[str, Any]:
        return self.deployment.get("status", {})

    def condition(self, kind: str) -> dict[str, Any] | None:
        return next((c for c in self.status.get("conditions", ()) if c["type"] == kind), None)

    def names(self, kind: str) -> list[str]:
        return [key.name for key in sorted(self.objects) if key.kind == kind]

    def selected(self) -> str:
        """The revision behind the client Service."""
        service = self.objects[ObjectKey("Service", "vision", "digits")]
        found: str = service["spec"]["selector"][REVISION_LABEL]
        return found


def failing(reason: Reason, message: str = "because") -> PreparationReport:
    """A report of a preparation that failed."""
    return PreparationReport(error=PreparationError(reason=reason, message=message))
