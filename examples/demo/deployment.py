"""The ModelDeployment of the demo: applied, watched until it is Ready, and its revision's own counter read."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .cluster import Cluster
from .screen import DemoError, Screen

__all__ = [
    "NAME",
    "NAMESPACE",
    "Serving",
    "TakenBack",
    "apply_deployment",
    "prepare_namespace",
    "requests_answered",
    "wait_until_ready",
    "wait_until_taken_back",
]

NAMESPACE, NAME = "penstock-demo", "digits"
_OWNED = "deployments,services,configmaps,jobs,poddisruptionbudgets,controllerrevisions"
_COUNTER = re.compile(rf'^nv_inference_request_success{{[^}}]*model="{NAME}"[^}}]*}} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Serving:
    """What status says of the revision that serves."""

    revision: str
    digest: str


@dataclass(frozen=True)
class TakenBack:
    """What status says of a revision that did not go live."""

    revision: str
    reason: str
    message: str


def prepare_namespace(cluster: Cluster, screen: Screen) -> None:
    """The namespace under restricted Pod Security, without what an earlier run left in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    cluster.call(cluster.kubectl, "delete", "modeldeployment", NAME, "-n", NAMESPACE, "--ignore-not-found")
    deadline = time.monotonic() + 120
    while left := cluster.get(_OWNED, "-n", NAMESPACE, "-l", f"penstock.dev/deployment={NAME}")["items"]:
        screen.now(f"{len(left)} objects of an earlier run are being removed")
        if time.monotonic() > deadline:
            raise DemoError(
                f"{len(left)} objects of an earlier run are still in namespace {NAMESPACE}; delete the namespace."
            )
        time.sleep(0.5)


def apply_deployment(cluster: Cluster, model: Mapping[str, Any], mark: str, rollout: Mapping[str, Any]) -> None:
    """Apply the manifest; another `mark` in the server's environment makes it another revision of the same model."""
    cluster.apply(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "model": dict(model),
                "pod": {"env": [{"name": "DEMO_ROUND", "value": mark}]},
                "rollout": dict(rollout),
            },
        }
    )


def wait_until_ready(
    cluster: Cluster, screen: Screen, digest: str, *, other_than: str = "", seconds: float = 120
) -> Serving:
    """Show the status message until Ready is True for the digest, in a revision `other_than` the one before."""
    message = ""
    for status in _statuses(cluster, screen, seconds):
        message = status.get("message", "")
        conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
        if conditions.get("Stalled", {}).get("status") == "True":
            raise DemoError(f"ModelDeployment {NAME} is stalled: {conditions['Stalled']['reason']}: {message}")
        serving = status.get("stable") or {}
        ready = conditions.get("Ready", {}).get("status") == "True"
        if ready and serving.get("digest") == digest and serving["revision"] != other_than:
            return Serving(serving["revision"], serving["digest"])
    raise DemoError(
        f"ModelDeployment {NAME} is not Ready with {digest} after {seconds:.0f} s; its status says: {message}"
    )


def wait_until_taken_back(cluster: Cluster, screen: Screen, *, stable: str, seconds: float = 120) -> TakenBack:
    """Show the status message until a revision was taken back and `stable` serves alone."""
    message = ""
    for status in _statuses(cluster, screen, seconds):
        message = status.get("message", "")
        serving, failed = (status.get("stable") or {}).get("revision"), status.get("failedRevision") or {}
        if serving != stable:
            raise DemoError(f"{serving} serves instead of {stable}; the faulty revision should have been taken back.")
        if failed and status.get("phase") == "RolledBack" and not status.get("candidate"):
            return TakenBack(failed["revision"], failed["reason"], failed["message"])
    raise DemoError(f"the faulty revision is not taken back after {seconds:.0f} s; status says: {message}")


def _statuses(cluster: Cluster, screen: Screen, seconds: float) -> Iterator[dict[str, Any]]:
    """Each status of the spec as it is, its message shown, for so many seconds."""
    message = "the operator has not looked at it yet"
    for found in _watch(cluster, time.monotonic() + seconds):
        status = found.get("status", {})
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        message = status.get("message", "") if current else message
        screen.now(message)
        if current:
            yield status


def _watch(cluster: Cluster, deadline: float) -> Iterator[dict[str, Any]]:
    """The object as it is and after each change, until the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        arguments = ("get", "modeldeployment", NAME, "-n", NAMESPACE, "-o", "json", "--watch")
        with cluster.start(*arguments, f"--request-timeout={left + 1:.0f}s") as watching:
            assert watching.stdout
            decoder, text = json.JSONDecoder(), ""
            for line in watching.stdout:
                text += line
                if line.rstrip() == "}":
                    yield decoder.decode(text)
                    text = ""


def requests_answered(cluster: Cluster, revision: str) -> int:
    """Triton's own count of successful requests, over the pods of one revision that run."""
    pods = cluster.get("pods", "-n", NAMESPACE, "-l", f"penstock.dev/revision={revision}")["items"]
    total = 0.0
    for pod in pods:
        if pod["status"].get("phase") != "Running":
            continue
        with cluster.reach(NAMESPACE, f"pod/{pod['metadata']['name']}", 8002) as address:
            total += sum(float(value) for value in _COUNTER.findall(_metrics(address)))
    return round(total)


def _metrics(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
    except OSError as error:
        raise DemoError(f"Triton's metrics at {address} cannot be read: {error}") from error
    return text
