"""Where rollouts are measured: the digits models and their faulty kin in the registry, a namespace, and the load."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from examples.demo.chart import image_values, install_chart
from examples.demo.cluster import Cluster, build_images, find_cluster
from examples.demo.faults import MODEL_SPEC, Fault, faulty_repository
from examples.demo.screen import Screen
from hack.cluster.settings import CHECKOUT
from tests.e2e.cluster import apply, find
from tests.e2e.deployments import KIND, Deployed
from tests.e2e.mixedload import Settings
from tests.e2e.offered import SHARES, Offered, offered
from tests.e2e.store import Store

FOLDER = CHECKOUT / "build" / "bench"
NAME = "digits"
CLIENT_TIMEOUT = 5.0
"""Seconds after which a client gives up; a hanging revision is not heard of before."""


@dataclass(frozen=True)
class Version:
    """What spec says of one version of the model."""

    uri: str
    model: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One namespace of the cluster with one deployment."""

    cluster: Cluster
    store: Store
    models: Path
    deployed: Deployed
    images: Mapping[str, str]

    def version(self, name: str) -> Version:
        """A good one, `linear` or `mlp`, in the registry."""
        self.store.push_files({"model.onnx": (self.models / f"{name}.onnx").read_bytes()}, name)
        return Version(self.store.uri(name))

    def faulty(self, name: str, fault: Fault) -> Version:
        """One that answers as `mlp` does, but for its fault."""
        files = faulty_repository(NAME, (self.models / "mlp.onnx").read_bytes(), fault)
        self.store.push_files(files, f"faulty-{name}")
        server = {"flags": fault.flags} if fault.flags else {}
        return Version(self.store.uri(f"faulty-{name}"), MODEL_SPEC, server)

    def apply(self, version: Version, mark: str, **spec: Any) -> None:
        """Ask for it; another mark is another revision of the same content."""
        server = {"server": dict(version.server)} if version.server else {}
        manifest = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME, "namespace": self.deployed.namespace},
            "spec": {
                "model": {"uri": version.uri, **version.model},
                "pod": {"env": [{"name": "BENCH_RUN", "value": mark}]},
                **server,
                **spec,
            },
        }
        apply(self.cluster, manifest)

    def command(self, **fields: str) -> None:
        """One of the commands that are fields of spec.rollout."""
        patch = json.dumps({"spec": {"rollout": fields}})
        target = (KIND, NAME, "-n", self.deployed.namespace)
        self.cluster.call(self.cluster.kubectl, "patch", *target, "--type=merge", "-p", patch)

    @contextmanager
    def load(self, rate: float, **changes: Any) -> Iterator[Offered]:
        """Requests over every door, recorded in build/bench."""
        address = self.cluster.get("service", NAME, "-n", self.deployed.namespace)["spec"]["clusterIP"]
        images = np.load(self.models / "held_out.npz")["image"][:64]
        settings = Settings(
            **{
                "host": address,
                "model": NAME,
                "tensor": "image",
                "data": images.tolist(),
                "records": str(FOLDER / f"load-{self.deployed.namespace}.jsonl"),
                "rate": rate,
                "seconds": 6 * 3600,
                "timeout": CLIENT_TIMEOUT,
                "shares": SHARES,
                **changes,
            }
        )
        with offered(settings, FOLDER) as load:
            yield load


def find_place(screen: Screen, namespace: str, *, install: bool = True, keep: bool = False) -> Place:
    """The cluster with the chart of this checkout, models trained, and the namespace; `keep` what is in it."""
    cluster = find_cluster(screen)
    images = build_images(screen) if install else json.loads((CHECKOUT / "build" / "images.json").read_text())
    if install:
        with screen.stage("chart", "Penstock, by its chart"):
            install_chart(cluster, image_values(images))
    models = FOLDER / "models"
    if not (models / "metrics.json").exists():
        with screen.stage("train", "two models of handwritten digits"):
            program = str(CHECKOUT / "examples" / "digits" / "train.py")
            subprocess.run([sys.executable, program, str(models)], check=True, capture_output=True)
    place = Place(cluster, Store(cluster, "models/bench"), models, Deployed(cluster, namespace, NAME), images)
    if not keep and find(cluster, "namespace", namespace):
        with screen.stage("clean", f"namespace {namespace} of an earlier run goes"):
            cluster.call(cluster.kubectl, "delete", KIND, "--all", "-n", namespace, "--wait=true")
            cluster.call(cluster.kubectl, "delete", "namespace", namespace, "--timeout=180s")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    return place


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(path)


def busy() -> float:
    """The machine's load average over a minute: timings of a busy machine are to be read as such."""
    return round(os.getloadavg()[0], 2)
