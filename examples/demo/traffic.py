"""Load from outside the demo's own process: on this machine, or in a pod where Services cannot be reached from it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import load
from .cluster import Cluster
from .screen import DemoError

__all__ = ["RATE", "Traffic", "start_traffic"]

RATE = 100
_MOST_SECONDS = 300
_POD = "demo-load"


class Traffic:
    """A running load generator: its latest counts, and once stopped its result."""

    def __init__(self, process: subprocess.Popen[str], stop: Any) -> None:
        self._process, self._stop = process, stop
        self._progress: dict[str, int] = {"sent": 0, "answered": 0, "failed": 0}
        self._result: dict[str, Any] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def progress(self) -> Mapping[str, int]:
        """Requests sent, answered and failed; raises DemoError when the generator has ended by itself."""
        if not self._reader.is_alive() and self._result is None:
            words = (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()
            raise DemoError(f"the load generator has ended: {words[-1] if words else 'no message'}")
        return self._progress

    def wait_for(self, sent: int, seconds: float = 120) -> None:
        """Until so many requests were sent in all."""
        deadline = time.monotonic() + seconds
        while self.progress()["sent"] < sent:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the load generator has sent {self._progress['sent']} of {sent} requests in {seconds:.0f} s."
                )
            time.sleep(0.1)

    def finish(self) -> dict[str, Any]:
        """End the load and return its result."""
        self._stop()
        self._reader.join(60)
        if self._result is None:
            raise DemoError("the load generator was stopped and has given no result within 60 s.")
        return self._result

    def _read(self) -> None:
        for line in self._process.stdout or ():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            self._progress = told.get("progress", self._progress)
            self._result = told.get("result", self._result)


@contextmanager
def start_traffic(
    cluster: Cluster,
    namespace: str,
    service: str,
    path: str,
    requests: list[dict[str, Any]],
    *,
    folder: Path,
    image: str,
) -> Iterator[Traffic]:
    """100 requests a second against a Service's cluster address, each on a new connection, never tried again."""
    address = cluster.get("service", service, "-n", namespace)["spec"]["clusterIP"]
    arguments = (f"http://{address}:8000{path}", "--rate", str(RATE), "--seconds", str(_MOST_SECONDS))
    text = json.dumps(requests)
    with (
        _on_host(arguments, text, folder)
        if cluster.local
        else _in_pod(cluster, namespace, arguments, text, image) as found
    ):
        yield found


@contextmanager
def _on_host(arguments: tuple[str, ...], requests: str, folder: Path) -> Iterator[Traffic]:
    file = folder / "requests.json"
    file.write_text(requests)
    url, *options = arguments
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, load.__file__, url, str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Traffic(process, lambda: process.send_signal(signal.SIGTERM))
        finally:
            process.kill()


@contextmanager
def _in_pod(
    cluster: Cluster, namespace: str, arguments: tuple[str, ...], requests: str, image: str
) -> Iterator[Traffic]:
    where = ("-n", namespace)
    remove = (cluster.kubectl, "delete", f"pod/{_POD}", f"configmap/{_POD}", *where, "--ignore-not-found", "--wait")
    cluster.call(*remove)
    cluster.apply(_files(namespace, requests), _pod(namespace, arguments, image))
    cluster.call(cluster.kubectl, "wait", "--for=condition=Ready", f"pod/{_POD}", *where, "--timeout=120s")
    end = f"import os; os.kill(1, {int(signal.SIGTERM)})"
    try:
        with cluster.start("logs", "-f", f"pod/{_POD}", *where) as logs:
            yield Traffic(logs, lambda: cluster.call(cluster.kubectl, "exec", _POD, *where, "--", "python3", "-c", end))
    finally:
        cluster.call(*remove, "--grace-period=1")


def _files(namespace: str, requests: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _POD, "namespace": namespace},
        "data": {"load.py": Path(load.__file__).read_text(), "requests.json": requests},
    }


def _pod(namespace: str, arguments: tuple[str, ...], image: str) -> dict[str, Any]:
    url, *options = arguments
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _POD, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "load",
                    "image": image,
                    "command": ["python3", "/load/load.py", url, "/load/requests.json", *options],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "load", "mountPath": "/load", "readOnly": True}],
                }
            ],
            "volumes": [{"name": "load", "configMap": {"name": _POD}}],
        },
    }
