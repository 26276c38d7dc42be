"""The chart on the cluster under test, by the real helm."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from examples.demo.chart import image_values, registry_images
from examples.demo.cluster import IMAGES, Cluster
from hack.cluster.settings import CHECKOUT, Settings

from .cluster import SYSTEM, apply, find, run_hack

RELEASE = "penstock"
CHART = CHECKOUT / "helm" / "penstock"
FILES = "e2e-files"
FILES_HOST = f"files.{FILES}:8080"
LARGEST_MODEL = 256 * 2**20
NEEDED = () if os.environ.get("PENSTOCK_FULL") else ("pause", *IMAGES, "convert")
"""Images that the tests need: all of them (no names) only where every format is served."""
_UID = 65532


def chart_images(cluster: Cluster) -> dict[str, str]:
    """References of the images: built and imported locally, else those of REGISTRY=."""
    if not cluster.local:
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        return registry_images(version)
    run_hack("hack/images", *NEEDED)
    found: dict[str, str] = json.loads((CHECKOUT / "build" / "images.json").read_text())
    return found


class Chart:
    """The one release of a cluster; each call says only in what it differs from the values of the tests."""

    def __init__(self, cluster: Cluster, images: dict[str, str]) -> None:
        self._cluster = cluster
        self.images = images
        self.before = self._revision()
        self.absences: list[tuple[datetime, datetime]] = []
        """When it was not installed: what the last operator still asks for then, nobody grants it any more."""

    def install(self, **changes: Any) -> None:
        """`helm upgrade --install`, until everything is ready; `changes` by path, with __ for dots."""
        command = (
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace"),
            *("--wait", "--timeout", "4m", "--values", "-"),
        )
        self._helm(*command, stdin=json.dumps(self.values(**changes)))

    @contextmanager
    def changed(self, **changes: Any) -> Iterator[None]:
        """The release with other values for as long as the block lasts, and as the tests have it even if that fails."""
        try:
            self.install(**changes)
            yield
        finally:
            self.install()

    @contextmanager
    def absent(self) -> Iterator[None]:
        """The release uninstalled for as long as the block lasts; the last operator may outlive it for a while."""
        begun = datetime.now(UTC)
        try:
            self.uninstall()
            yield
        finally:
            self.install()
            self.absences.append((begun, datetime.now(UTC)))

    def uninstall(self) -> None:
        """Until everything of it is gone."""
        self._helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "4m")

    def restore(self) -> None:
        """As it was before the tests; after an uninstallation there is no history to go back to, so it just stays."""
        if self.before and self.absences:
            return
        if self.before:
            self._helm("rollback", RELEASE, self.before, "--namespace", SYSTEM, "--wait", "--timeout", "4m")
        else:
            self.uninstall()

    def template(self, **changes: Any) -> list[dict[str, Any]]:
        """The rendered manifests."""
        command = ("template", RELEASE, str(CHART), "--namespace", SYSTEM, "--values", "-")
        text = self._helm(*command, stdin=json.dumps(self.values(**changes)))
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    def values(self, **changes: Any) -> dict[str, Any]:
        """Values of the tests: small, with a volume where one can be made, and a host without TLS to fetch from."""
        values: dict[str, Any] = {}
        chosen = {
            **image_values(self.images),
            "operator.maxModelSize": f"{LARGEST_MODEL // 2**20}Mi",
            "registry.plainHttp": [FILES_HOST],
            "registry.persistence.enabled": self._cluster.local,
            "registry.persistence.size": "2Gi",
            **{path.replace("__", "."): value for path, value in changes.items()},
        }
        for path, value in chosen.items():
            *parents, last = path.split(".")
            place = values
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value
        return values

    def offer_volume(self) -> None:
        """A volume for the registry on the local node, which has no provisioner; it outlives the release."""
        name = f"{RELEASE}-registry"
        claim = find(self._cluster, "pvc", name, "-n", SYSTEM)
        if not self._cluster.local or (claim and claim["status"].get("phase") == "Bound"):
            return
        folder = Settings.from_environment().directory / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, _UID, _UID)
        folder.chmod(0o2775)  # what fsGroup does where a driver supports it; a folder of the node is left as it is
        apply(self._cluster, host_volume(f"e2e-{name}", folder, SYSTEM, name))

    def _revision(self) -> str:
        releases = json.loads(self._helm("list", "--namespace", SYSTEM, "--filter", f"^{RELEASE}$", "-o", "json"))
        return releases[0]["revision"] if releases else ""

    def _helm(self, *arguments: str, stdin: str | None = None) -> str:
        return self._cluster.call(self._cluster.helm, *arguments, stdin=stdin)


def host_volume(name: str, folder: Path, namespace: str, claim: str) -> dict[str, Any]:
    """A folder of the node for one claim only."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "4Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": str(folder), "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }
