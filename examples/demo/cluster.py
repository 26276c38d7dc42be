"""The cluster that the demo runs on: the local one of `hack/cluster`, or with CLUSTER=existing a kubeconfig alone."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.settings import CHECKOUT, Settings

from .screen import DemoError, Screen

__all__ = ["IMAGES", "Cluster", "build_images", "current_cluster", "find_cluster", "local_cluster"]

IMAGES = ("operator", "jobs", "triton", "router", "registry")
"""Without these there is nothing; what opens other formats than ONNX and trees comes on top."""
_CALL_SECONDS = 300


@dataclass(frozen=True)
class Cluster:
    """kubectl and helm against one cluster; `local` says that pods and Services are reachable from this machine."""

    kubectl: str
    helm: str
    local: bool
    environment: Mapping[str, str]

    def call(self, *command: str, stdin: str | None = None) -> str:
        """Run a program against the cluster and return what it printed; raises DemoError with its own last words."""
        try:
            done = subprocess.run(  # noqa: S603 - kubectl, helm and our own programs
                command,
                input=stdin,
                capture_output=True,
                text=True,
                env=self.environment,
                timeout=_CALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"`{_short(command)}` has not ended after {_CALL_SECONDS} s.") from error
        if done.returncode:
            words = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no message"]
            raise DemoError(f"`{_short(command)}` failed: {words[-1]}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` of manifests."""
        self.call(
            self.kubectl, "apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        found: dict[str, Any] = json.loads(self.call(self.kubectl, "get", *arguments, "-o", "json"))
        return found

    @contextmanager
    def reach(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """host:port of a Service or pod (`service/digits`, `pod/x`): its own address locally, else forwarded."""
        if not self.local:
            with self.forward(namespace, target, port) as address:
                yield address
            return
        found = self.get(target, "-n", namespace)
        yield f"{found['spec'].get('clusterIP') or found['status']['podIP']}:{port}"

    @contextmanager
    def forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """host:port on this machine that `kubectl port-forward` connects with the target."""
        with self.start("port-forward", "-n", namespace, target, f":{port}", "--address=127.0.0.1") as forwarding:
            assert forwarding.stdout is not None
            assert forwarding.stderr is not None
            line = forwarding.stdout.readline()
            if "Forwarding from" not in line:
                words = (forwarding.stderr.read().strip() or "no message").splitlines()[-1]
                raise DemoError(f"kubectl port-forward to {target} port {port} in {namespace} failed: {words}")
            emptying = threading.Thread(target=forwarding.stdout.read, daemon=True)
            emptying.start()
            try:
                yield line.split()[2]
            finally:
                forwarding.terminate()
                emptying.join(10)

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A kubectl that goes on in the background, and is ended with the block."""
        command = [self.kubectl, *arguments]
        process = subprocess.Popen(  # noqa: S603 - kubectl
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()


def find_cluster(screen: Screen) -> Cluster:
    """The cluster to use, started when it is the local one; raises DemoError."""
    if os.environ.get("CLUSTER") == "existing":
        with screen.stage("cluster", "your cluster"):
            cluster = current_cluster()
            cluster.call(cluster.kubectl, "version")
        return cluster
    with screen.stage("cluster", "local cluster", quiet=True):
        _hack("hack/cluster", "up")
        return local_cluster()


def local_cluster() -> Cluster:
    """The cluster of `hack/cluster`, which must be up."""
    kubeconfig = str(Settings.from_environment().kubeconfig)
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    return Cluster(_binary("kubectl"), _binary("helm"), local=True, environment=environment)


def current_cluster() -> Cluster:
    """The cluster of the current kubeconfig, with the programs on PATH; raises DemoError."""
    programs = {name: shutil.which(name) or "" for name in ("kubectl", "helm")}
    for name, path in programs.items():
        if not path:
            raise DemoError(f"{name} was not found on PATH; install it.")
    return Cluster(programs["kubectl"], programs["helm"], local=False, environment=dict(os.environ))


def build_images(screen: Screen) -> dict[str, str]:
    """References of images by name; those that everything needs are built and imported where that was missing."""
    with screen.stage("images", "images", quiet=True):
        _hack("hack/images", "pause", *IMAGES)
        found: dict[str, str] = json.loads((CHECKOUT / "build" / "images.json").read_text())
    return found


def _hack(*command: str) -> None:
    """A program of hack/, which shows its own progress and says in one sentence what is missing."""
    if subprocess.run([sys.executable, *command], cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=False).returncode:  # noqa: S603
        raise DemoError(f"`{' '.join(command)}` failed; what it printed above says why.")


def _binary(name: str) -> str:
    command = [sys.executable, "hack/cluster", "binary", name]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    path = done.stdout.strip()
    if done.returncode or not Path(path).exists():
        raise DemoError(f"{name} could not be built; what was printed above says why.")
    return path


def _short(command: tuple[str, ...]) -> str:
    return " ".join((Path(command[0]).name, *command[1:]))[:160]
