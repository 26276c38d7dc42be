"""A ModelDeployment of the tests: applied, waited for, asked."""

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from examples.demo.cluster import Cluster
from numpy.typing import NDArray

from .cluster import Object, TimedOut, apply, items, wait_for, wait_gone
from .models import Model, some_rows

KIND = "modeldeployments.penstock.dev"
OWNED = "deployments,services,configmaps,jobs,poddisruptionbudgets,horizontalpodautoscalers,controllerrevisions,pods"
QUICK = {"traffic": {"timeout": "1s"}, "rollout": {"strategy": "Immediate"}}
"""Old revisions drain for the longest request: short here, so that tests see them go; and rollouts have own tests."""


def condition(found: Object, kind: str) -> dict[str, Any]:
    """One condition of a status; empty when it is not there."""
    conditions = found.get("status", {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == kind), {})


def is_current(found: Object) -> bool:
    """Whether status speaks of the spec as it is."""
    return found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]


def is_ready(found: Object) -> bool:
    return is_current(found) and condition(found, "Ready").get("status") == "True"


@dataclass(frozen=True)
class Deployed:
    """One ModelDeployment, there or not."""

    cluster: Cluster
    namespace: str
    name: str

    def apply(self, uri: str, model: dict[str, Any] | None = None, **spec: Any) -> None:
        """The whole spec as the test's own."""
        manifest = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"model": {"uri": uri, **(model or {})}, **QUICK, **spec},
        }
        apply(self.cluster, manifest)

    def get(self) -> Object:
        return self.cluster.get(KIND, self.name, "-n", self.namespace)

    def wait(self, wanted: Callable[[Object], bool], seconds: float = 120) -> Object:
        """Once status speaks of the present spec and the condition holds."""
        return wait_for(
            self.cluster, KIND, self.namespace, self.name, lambda md: is_current(md) and wanted(md), seconds
        )

    def wait_ready(self, seconds: float = 180) -> Object:
        """Once the spec is what serves; fails at once where it is stalled."""

        def settled(md: Object) -> bool:
            stalled = condition(md, "Stalled")
            assert not stalled, f"stalled: {stalled}"
            return is_ready(md)

        return self.wait(settled, seconds)

    def wait_reason(self, reason: str, seconds: float = 120) -> Object:
        """Once Ready names this reason; the message goes with it."""
        return self.wait(lambda md: condition(md, "Ready").get("reason") == reason, seconds)

    def wait_refused(self, *reasons: str, seconds: float = 120) -> Object:
        """Once it is stalled, for one of these reasons; fails at once for another, or when it serves after all."""

        def settled(md: Object) -> bool:
            told = condition(md, "Ready")
            return told.get("status") == "True" or bool(condition(md, "Stalled"))

        found = self.wait(settled, seconds)
        told = condition(found, "Ready")
        assert told["reason"] in reasons, f"{reasons} was expected: {told['reason']}: {told['message']}"
        return found

    def owned(self, kinds: str = OWNED) -> list[Object]:
        """The objects made for it."""
        return items(self.cluster, kinds, self.namespace, f"penstock.dev/deployment={self.name}")

    def serving_pods(self) -> dict[str, int]:
        """uid → restarts of the server, of pods that are not on their way out."""
        labels = f"penstock.dev/deployment={self.name},app.kubernetes.io/component=server"
        pods = items(self.cluster, "pods", self.namespace, labels)
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["uid"]: restarts(pod) for pod in alive}

    def jobs(self) -> set[str]:
        return {job["metadata"]["uid"] for job in self.owned("jobs")}

    def ask(self, rows: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The answer over the v2 protocol through the client Service."""
        rows = some_rows() if rows is None else rows
        tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
        with self.cluster.reach(self.namespace, f"service/{self.name}", 8000) as address:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{address}/v2/models/{self.name}/infer", body, timeout=30) as answer:
                (output,) = json.load(answer)["outputs"]
        return np.array(output["data"], dtype=np.float32).reshape(output["shape"])

    def answers_as(self, model: Model) -> bool:
        """Whether the answers are those of onnxruntime on this model."""
        return bool(np.allclose(self.ask(), model.answer(some_rows()), rtol=0, atol=1e-6))

    def wait_answers_as(self, model: Model, seconds: float = 60) -> None:
        """A Service's new selector reaches the node's rules a moment after it is written; until then nobody answers."""
        deadline, told = time.monotonic() + seconds, ""
        while True:
            try:
                if self.answers_as(model):
                    return
                told = "answers as another model"
            except OSError as error:
                told = f"does not answer: {error}"
            if time.monotonic() > deadline:
                raise TimedOut(f"{self.name} {told}, {seconds:.0f} s after it should")
            time.sleep(0.1)

    def delete(self, *, wait: bool = False) -> None:
        """Remove it; with `wait` also until all that was made for it is gone."""
        where = ("-n", self.namespace, "--ignore-not-found")
        self.cluster.call(self.cluster.kubectl, "delete", KIND, self.name, *where)
        if wait:
            wait_gone(self.cluster, OWNED, self.namespace, f"penstock.dev/deployment={self.name}")

    def load_requests(self) -> list[dict[str, Any]]:
        """What the load generator sends."""
        rows = some_rows(1)
        tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        return [{"body": {"inputs": [tensor]}}]


def restarts(pod: Object) -> int:
    """The most restarts of any of its containers."""
    status = pod.get("status", {})
    found = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return max((item["restartCount"] for item in found), default=0)
