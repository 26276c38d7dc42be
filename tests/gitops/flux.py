"""Flux's source-controller and kustomize-controller, as processes of this machine beside any API server."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from hack.cluster import binaries, process
from hack.cluster.host import free_ports

from .githttp import Repository, serving
from .kubectl import Kubectl, eventually
from .tools import tool

__all__ = ["Flux", "Synced", "flux"]

_MODULES = {
    "flux-source": "github.com/fluxcd/source-controller",
    "flux-kustomize": "github.com/fluxcd/kustomize-controller",
}
_ASKED = "reconcile.fluxcd.io/requestedAt"


@contextmanager
def flux(kubectl: Kubectl, folder: Path) -> Iterator["Flux"]:
    """Both controllers with a namespace of their own, ended and removed with the block."""
    namespace = f"flux-{uuid4().hex[:6]}"
    kubectl.run("create", "namespace", namespace)
    crds = [crd for item in _MODULES.items() for crd in sorted(_sources(*item).glob("config/crd/bases/*.yaml"))]
    for crd in crds:
        kubectl.apply_file(crd)
    kubectl.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
    running = []
    try:
        with serving(folder) as url:
            for name, command in _commands(folder).items():
                running.append(_start(name, command, namespace, kubectl, folder))
            yield Flux(kubectl, namespace, folder, url)
            # While its controller lives: what a Kustomization applied is removed with it, and its finalizer goes.
            kubectl.run("delete", "kustomizations,gitrepositories", "--all", "-n", namespace, "--timeout=120s")
    finally:
        process.stop(running, 5)
        kubectl.run("delete", "namespace", namespace, "--wait=false")
        for crd in crds:
            kubectl.run("delete", "-f", str(crd), "--wait=false", "--ignore-not-found")


def _sources(tool: str, module: str) -> Path:
    """Where Go keeps the module's files, fetched if they are gone."""
    command = ("go", "mod", "download", "-json", module)
    done = subprocess.run(command, cwd=binaries.MODULES / tool, capture_output=True, text=True, check=True)
    return Path(json.loads(done.stdout)["Dir"])


def _commands(folder: Path) -> Mapping[str, tuple[str, ...]]:
    storage, *ports = (f"127.0.0.1:{port}" for port in free_ports(5))
    common = ("--enable-leader-election=false", "--watch-all-namespaces=false", "--events-addr=")
    return {
        "source-controller": (
            f"--storage-path={folder / 'storage'}",
            f"--storage-addr={storage}",
            f"--storage-adv-addr={storage}",
            f"--metrics-addr={ports[0]}",
            f"--health-addr={ports[1]}",
            *common,
        ),
        "kustomize-controller": (f"--metrics-addr={ports[2]}", f"--health-addr={ports[3]}", *common),
    }


def _start(name: str, options: tuple[str, ...], namespace: str, kubectl: Kubectl, folder: Path) -> process.Process:
    (folder / "storage").mkdir(exist_ok=True)
    environment = (f"KUBECONFIG={kubectl.kubeconfig}", f"RUNTIME_NAMESPACE={namespace}")
    program = tool(name)
    command = ("setpriv", "--pdeathsig", "KILL", "env", *environment, program, *options)
    return process.start(name, command, folder / f"{name}.log")


class Flux:
    """The two controllers and the repositories that they may clone."""

    def __init__(self, kubectl: Kubectl, namespace: str, folder: Path, url: str) -> None:
        self.kubectl, self.namespace = kubectl, namespace
        self._folder, self._url = folder, url

    def sync(self, name: str, timeout: str = "30s") -> "Synced":
        """A GitRepository and a Kustomization that waits."""
        repository = Repository(self._folder, name)
        metadata = {"name": name, "namespace": self.namespace}
        source = {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": metadata,
            "spec": {"interval": "1m", "url": f"{self._url}/{name}.git", "ref": {"branch": "main"}},
        }
        kustomization = {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "metadata": metadata,
            "spec": {
                "interval": "1m",
                "retryInterval": "5s",
                "timeout": timeout,
                "path": "./app",
                "prune": True,
                "wait": True,
                "sourceRef": {"kind": "GitRepository", "name": name},
            },
        }
        return Synced(self, repository, (source, kustomization))


class Synced:
    """One Git repository that Flux keeps applied."""

    def __init__(self, flux: Flux, repository: Repository, manifests: tuple[Mapping[str, Any], ...]) -> None:
        self._flux, self._repository, self._manifests = flux, repository, manifests
        self._started = False
        self.commit = ""

    def push(self, **files: str) -> None:
        """Commit files below app/ and have Flux look at once."""
        self.commit = self._repository.commit(**{f"app__{name}": text for name, text in files.items()})
        if not self._started:
            self._flux.kubectl.apply(*self._manifests)
            self._started = True
        self.again()

    def remove(self) -> None:
        """No longer applied, and what was applied is gone."""
        for kind in ("kustomization", "gitrepository"):
            self._flux.kubectl.run("delete", kind, self._repository.name, "-n", self._flux.namespace, "--timeout=120s")

    def again(self) -> None:
        """Have Flux fetch and apply once more."""
        for kind in ("gitrepository", "kustomization"):
            name, now = self._repository.name, time.time_ns()
            where = ("-n", self._flux.namespace)
            self._flux.kubectl.run("annotate", "--overwrite", f"{kind}/{name}", *where, f"{_ASKED}={now}")

    def conditions(self) -> dict[str, Any]:
        """Of the Kustomization, by type."""
        return {item["type"]: item for item in self._status().get("conditions") or ()}

    def wait(self, wanted: Callable[[dict[str, Any]], bool], seconds: float, what: str) -> dict[str, Any]:
        """The conditions once they are as wanted."""

        def look() -> dict[str, Any] | None:
            found = self.conditions()
            return found if wanted(found) else None

        found: dict[str, Any] = eventually(look, seconds, f"{what}; Flux says {self.conditions()}")
        return found

    def wait_ready(self, seconds: float = 180) -> None:
        """Ready with the newest commit."""
        self.wait(lambda found: self._is_newest() and is_true(found, "Ready"), seconds, "Ready")

    def wait_failed(self, seconds: float = 180) -> str:
        """HealthCheckFailed of the newest commit; the message."""

        def failed(found: dict[str, Any]) -> bool:
            ready = found.get("Ready", {})
            return self._is_newest("lastAttemptedRevision") and ready.get("reason") == "HealthCheckFailed"

        return str(self.wait(failed, seconds, "HealthCheckFailed")["Ready"]["message"])

    def _status(self) -> dict[str, Any]:
        where = (self._flux.namespace, self._repository.name)
        return dict(self._flux.kubectl.get("kustomization", *where).get("status") or {})

    def _is_newest(self, field: str = "lastAppliedRevision") -> bool:
        return str(self._status().get(field, "")).endswith(self.commit)


def is_true(conditions: Mapping[str, Any], kind: str) -> bool:
    return bool(conditions.get(kind, {}).get("status") == "True")
