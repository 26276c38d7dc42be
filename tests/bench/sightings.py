"""When the objects of a ModelDeployment were first seen in each state, told by watches at the API server.

Object timestamps are whole seconds; a watch sees a change within milliseconds of its write.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from kubernetes.client import ApiClient, AppsV1Api, BatchV1Api, CoreV1Api
from kubernetes.config import new_client_from_config

_DEPLOYMENT, _COMPONENT = "penstock.dev/deployment", "app.kubernetes.io/component"


class Sightings:
    """Watches one namespace for as long as the process lives; a watch that ends is opened again."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self._seen: dict[tuple[str, str], float] = {}
        self._addresses: dict[str, str] = {}
        self._change = threading.Condition()
        client = new_client_from_config(kubeconfig)
        for name, listing in _listings(client).items():
            threading.Thread(target=self._watch, args=(name, listing, namespace), daemon=True).start()

    def when(self, deployment: str, mark: str, deadline: float) -> float:
        """The monotonic time of the first sight; waits for it, and raises TimeoutError with what was seen instead."""
        with self._change:
            while (deployment, mark) not in self._seen:
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = sorted(name for owner, name in self._seen if owner == deployment)
                    raise TimeoutError(
                        f"{deployment}: {mark} was never seen; seen were {', '.join(seen) or 'no objects'}"
                    )
                self._change.wait(left)
            return self._seen[deployment, mark]

    def address(self, deployment: str, deadline: float) -> str:
        """The cluster IP of the client Service, as soon as there is one."""
        self.when(deployment, "service", deadline)
        return self._addresses[deployment]

    def _watch(self, name: str, listing: Callable[..., Any], namespace: str) -> None:
        while True:
            try:
                for line in listing(namespace, watch=True, label_selector=_DEPLOYMENT, _preload_content=False):
                    self._note(name, json.loads(line)["object"])
            except Exception:  # noqa: BLE001 - cut off or refused: asked again, a deadline tells of a lasting one
                time.sleep(0.2)

    def _note(self, name: str, found: dict[str, Any]) -> None:
        labels = found.get("metadata", {}).get("labels", {})
        owner = labels.get(_DEPLOYMENT, "")
        with self._change:
            if name == "service" and found["metadata"]["name"] == owner:
                self._addresses[owner] = found["spec"]["clusterIP"]
                self._seen.setdefault((owner, "service"), time.monotonic())
            for mark in _marks(name, labels, found):
                self._seen.setdefault((owner, mark), time.monotonic())
            self._change.notify_all()


def _listings(client: ApiClient) -> dict[str, Callable[..., Any]]:
    core, apps, batch = CoreV1Api(client), AppsV1Api(client), BatchV1Api(client)
    return {
        "job": batch.list_namespaced_job,
        "record": apps.list_namespaced_controller_revision,
        "deployment": apps.list_namespaced_deployment,
        "service": core.list_namespaced_service,
        "pod": core.list_namespaced_pod,
    }


def _marks(name: str, labels: dict[str, str], found: dict[str, Any]) -> Iterator[str]:
    if name != "pod":
        yield name
        return
    status = found.get("status", {})
    states = {
        one["name"]: one.get("state", {})
        for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    }
    if labels.get(_COMPONENT) == "prepare":
        if {"running", "terminated"} & states.get("transfer", {}).keys():
            yield "prepare_started"
        if "terminated" in states.get("transfer", {}):
            yield "prepared"
        return
    if "terminated" in states.get("fetch", {}):
        yield "fetched"
    if any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())):
        yield "pod_ready"
