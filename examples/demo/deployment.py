"""The ModelDeployment of the demo: applied, watched until it is Ready, and its revision's own counter read."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .cluster import Cluster
from .screen import DemoError, Screen

__all__ = [
    "NAME",
    "NAMESPACE",
    "Serving",
    "apply_deployment",
    "prepare_namespace",
    "requests_answered",
    "wait_until_ready",
]

NAMESPACE, NAME = "penstock-demo", "digits"
_OWNED = "deployments,services,configmaps,jobs,poddisruptionbudgets,controllerrevisions"
_COUNTER = re.compile(rf'^nv_inference_request_success{{[^}}]*model="{NAME}"[^}}]*}} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Serving:
    """What status says of the revision that serves."""

    revision: str
    digest: str


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


def apply_deployment(cluster: Cluster, uri: str, digest: str, mark: str) -> None:
    """Apply the manifest; another `mark` in the server's environment makes it another revision of the same model."""
    cluster.apply(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"model": {"uri": uri, "digest": digest}, "pod": {"env": [{"name": "DEMO_ROUND", "value": mark}]}},
        }
    )


def wait_until_ready(
    cluster: Cluster, screen: Screen, digest: str, *, other_than: str = "", seconds: float = 120
) -> Serving:
    """Show the status message until Ready is True for the digest, in a revision `other_than` the one before."""
    deadline = time.monotonic() + seconds
    message = "the operator has not looked at it yet"
    for found in _watch(cluster, deadline):
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            screen.now(message)
            continue
        message = status.get("message", "")
        screen.now(message)
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
