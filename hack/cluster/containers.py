"""Talking to the cluster's own containerd: images in, everything out."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.cluster.node import SANDBOX_IMAGE
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


def import_image(settings: Settings, archive: Path) -> None:
    """Load an archive of images."""
    ctr(settings, "images", "import", "--no-unpack=false", str(archive))


def import_sandbox(settings: Settings, pause: Path) -> None:
    """Make the sandbox image out of one static program and load it."""
    if SANDBOX_IMAGE in images(settings):
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "pause.tar"
        write_image(archive, SANDBOX_IMAGE, pause, user="65535:65535")
        import_image(settings, archive)


def write_image(
    archive: Path,
    reference: str,
    program: Path,
    user: str,
    arguments: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> None:
    """Write an archive of an image that holds only ``program`` and some text files.

    An image of one static program is three small files in a tar; no builder is needed for it.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, program.name, program.read_bytes(), mode=0o755)
        for name, text in (files or {}).items():
            _add(tar, name, text.encode())
    content = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": user, "Entrypoint": [f"/{program.name}"], "Cmd": list(arguments)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", content)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


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


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
