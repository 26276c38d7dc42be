"""Talking to the cluster's own containerd: images in, everything out."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hack.cluster import oci, shell
from hack.cluster.errors import ClusterError
from hack.cluster.node import SANDBOX_IMAGE
from hack.cluster.oci import Image
from hack.cluster.settings import Settings

_NAMESPACE = "k8s.io"


def ctr(settings: Settings, *arguments: str, patience: float = 600) -> str:
    """Run containerd's own client in the kubelet's namespace and return its output."""
    return shell.run(
        *("ctr", "--address", settings.containerd_socket, "--namespace", _NAMESPACE),
        *arguments,
        patience=patience,
    )


def images(settings: Settings) -> set[str]:
    """Return the references of all images that pods can start from."""
    return set(ctr(settings, "images", "ls", "--quiet").split())


def import_archive(settings: Settings, archive: Path) -> None:
    """Load an archive of images."""
    ctr(settings, "images", "import", str(archive))


def import_image(settings: Settings, image: Image) -> None:
    """Load an image, carrying only the layers that are not there from another image."""
    if image.reference in images(settings):
        return
    present = ctr(settings, "content", "ls", "--quiet").split()
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "image.tar"
        oci.write_archive(image, archive, present)
        import_archive(settings, archive)


def import_sandbox(settings: Settings, pause: Path) -> None:
    """Load the image of every pod's first container."""
    import_image(settings, oci.of_program(SANDBOX_IMAGE, pause, user="65535:65535"))


def stop_all(settings: Settings) -> None:
    """Kill every container through the socket, so that no shim stays behind."""
    tasks = ctr(settings, "tasks", "ls", "--quiet").split()
    for task in tasks:
        _try(settings, "tasks", "kill", "--signal", "SIGKILL", task)
    for task in ctr(settings, "tasks", "ls", "--quiet").split():
        _try(settings, "tasks", "rm", "--force", task)
    if containers := ctr(settings, "containers", "ls", "--quiet").split():
        _try(settings, "containers", "rm", *containers)


def _try(settings: Settings, *arguments: str) -> None:
    with suppress(ClusterError):
        ctr(settings, *arguments, patience=10)
