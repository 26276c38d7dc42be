"""The cluster under test: the demo's kubectl and helm, and waiting by watches."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from examples.demo.cluster import Cluster
from hack.cluster.settings import CHECKOUT

Object = dict[str, Any]
SYSTEM = "penstock-system"
OPERATORS = "app.kubernetes.io/name=penstock,app.kubernetes.io/component=operator"


class TimedOut(AssertionError):
    """A condition did not come true; says what was seen last."""


def apply(cluster: Cluster, *manifests: Object) -> None:
    """Server-side, so that nothing but what the manifest says lands on the objects."""
    text = json.dumps({"kind": "List", "apiVersion": "v1", "items": manifests})
    command = ("apply", "--server-side", "--field-manager=e2e", "--force-conflicts", "-f", "-")
    cluster.call(cluster.kubectl, *command, stdin=text)


def find(cluster: Cluster, *arguments: str) -> Object | None:
    """One object, or None where there is none."""
    text = cluster.call(cluster.kubectl, "get", *arguments, "-o", "json", "--ignore-not-found")
    return json.loads(text) if text.strip() else None


def items(cluster: Cluster, kinds: str, namespace: str, labels: str = "") -> list[Object]:
    """Objects of some kinds."""
    return cluster.get(kinds, "-n", namespace, "-l", labels)["items"]


def wait_for(
    cluster: Cluster, kind: str, namespace: str, name: str, condition: Callable[[Object], bool], seconds: float = 120
) -> Object:
    """The object once the condition holds of it; raises TimedOut with its status."""
    seen: Object = {}
    for seen in watch(cluster, kind, namespace, name, seconds):
        if condition(seen):
            return seen
    told = json.dumps(seen.get("status", seen), indent=1)
    raise TimedOut(f"{kind} {namespace}/{name} is not as expected after {seconds:.0f} s: {told}")


def wait_passed(cluster: Cluster, since: Object, condition: Callable[[Object], bool], seconds: float = 120) -> Object:
    """The first state of an object, after the one given, of which the condition holds: one that is over by now too.

    For what lasts seconds: a watch begun afterwards may come too late for it on a busy machine. Raises TimedOut.
    """
    metadata, plural = since["metadata"], f"{since['kind'].lower()}s"
    path = f"/apis/{since['apiVersion']}/namespaces/{metadata['namespace']}/{plural}"
    deadline, seen, version = time.monotonic() + seconds, since, metadata["resourceVersion"]
    while (left := deadline - time.monotonic()) > 0:
        query = f"watch=1&fieldSelector=metadata.name%3D{metadata['name']}&timeoutSeconds={left + 1:.0f}"
        with cluster.start("get", "--raw", f"{path}?{query}&resourceVersion={version}") as watching:
            assert watching.stdout
            for line in watching.stdout:
                event = json.loads(line)
                assert event["type"] != "ERROR", f"what came after version {version} is no longer known: {event}"
                seen = event["object"]
                version = seen["metadata"]["resourceVersion"]
                if condition(seen):
                    return seen
        time.sleep(0.2)
    told = json.dumps(seen.get("status", seen), indent=1)
    raise TimedOut(f"{plural} {metadata['name']} was not as expected within {seconds:.0f} s; it is now: {told}")


def watch(cluster: Cluster, kind: str, namespace: str, name: str, seconds: float) -> Iterator[Object]:
    """The object as it is and after each change, for so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        arguments = (kind, "-n", namespace, f"--field-selector=metadata.name={name}", "--watch", "-o", "json")
        with cluster.start("get", *arguments, f"--request-timeout={left:.1f}s") as watching:
            assert watching.stdout
            text = ""
            for line in watching.stdout:
                text += line
                if line.rstrip() == "}":
                    yield json.loads(text)
                    text = ""


def wait_gone(cluster: Cluster, kinds: str, namespace: str, labels: str, seconds: float = 120) -> None:
    """Until no object of these kinds carries the labels; `kubectl wait` fails where the last goes before it looks."""
    deadline = time.monotonic() + seconds
    while left := [f"{item['kind']}/{item['metadata']['name']}" for item in items(cluster, kinds, namespace, labels)]:
        assert time.monotonic() < deadline, f"still there after {seconds:.0f} s: {left}"
        time.sleep(0.3)


def the_only_operator(cluster: Cluster, after: str = "", seconds: float = 120) -> dict[str, str]:
    """Its pod's name by uid, once there is one and it is not `after`: a Deployment's pods go and come a moment late."""
    deadline = time.monotonic() + seconds
    while True:
        pods = [pod["metadata"] for pod in items(cluster, "pods", SYSTEM, OPERATORS)]
        found = {pod["uid"]: pod["name"] for pod in pods if "deletionTimestamp" not in pod}
        if len(found) == 1 and after not in found.values():
            return found
        assert time.monotonic() < deadline, f"one operator is expected after {seconds:.0f} s, there are {found}"
        time.sleep(0.3)


def run_program(cluster: Cluster, *arguments: str) -> str:
    """`penstock …` against the cluster."""
    return cluster.call(sys.executable, "-m", "penstock.cli", *arguments)


def run_hack(*command: str) -> None:
    """A program of hack/, which shows its own progress."""
    subprocess.run([sys.executable, *command], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
