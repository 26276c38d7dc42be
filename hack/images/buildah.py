"""The ``buildah`` command with a storage of its own below the cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.images import storage
from hack.images.store import Source

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_VARIABLES = {
    "PIP_INDEX_URL": "index-url",
    "PIP_EXTRA_INDEX_URL": "extra-index-url",
    "PIP_TRUSTED_HOST": "trusted-host",
    "PIP_DEFAULT_TIMEOUT": "timeout",
}
"""Settings of the user's environment that a build needs too, and their names in pip.conf."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - memory, so that an index's password meets no disk


@dataclass(frozen=True)
class Buildah:
    """Builds, reads and pushes images; ``folder`` holds storage, scratch and pip's cache."""

    folder: Path

    def build(self, dockerfile: Path, context: Path, reference: str, args: Mapping[str, str]) -> None:
        """Run a Dockerfile with every layer cached."""
        arguments = [f"--build-arg={name}={value}" for name, value in args.items()]
        with _mounts() as mounts:
            self._run(
                *("build", "--quiet", "--layers", "--format=oci", "--pull-never"),
                *(f"--volume={source}:{target}:ro" for source, target in mounts.items()),
                *arguments,
                *(f"--file={dockerfile}", f"--tag={reference}", str(context)),
            )

    def commit_tree(self, archive: Path, reference: str) -> None:
        """Make an image of a tar archive of a root file system."""
        container = self._run("from", "scratch")
        try:
            self._run("add", "--quiet", container, str(archive), "/")
            self._run("config", "--cmd", "python3", container)
            self._run("commit", "--quiet", container, reference)
        finally:
            self._run("rm", container)

    def has(self, reference: str) -> bool:
        """Say whether the storage holds an image."""
        return reference in self.tags(reference.rpartition(":")[0])

    def tags(self, name: str) -> list[str]:
        """Return the references of an image's tags in the storage, newest first."""
        images = json.loads(self._run("images", "--json") or "[]")
        images.sort(key=lambda image: image["createdatraw"], reverse=True)
        references = [reference for image in images for reference in image["names"] or ()]
        return [reference for reference in references if reference.rpartition(":")[0] == name]

    def remove(self, references: list[str]) -> None:
        """Remove images, and the layers that no other image needs; what another build uses stays for the next time."""
        if references:
            with suppress(ClusterError):
                self._run("rmi", "--force", *references)
                self._run("rmi", "--prune")

    def layers(self, reference: str) -> tuple[bytes, list[Source]]:
        """Return an image's configuration and its layers."""
        config = json.loads(self._run("inspect", "--type=image", reference))["Config"].encode()
        digests = json.loads(config)["rootfs"]["diff_ids"]
        image_id = hashlib.sha256(config).hexdigest()
        return config, storage.layers(self.folder / "root", image_id, digests)

    def load(self, archive: Path) -> None:
        """Read an image from an archive."""
        self._run("pull", "--quiet", f"oci-archive:{archive}")

    def push(self, reference: str, target: str, *, plain_http: bool) -> None:
        """Push an image to a registry."""
        verify = "--tls-verify=false" if plain_http else "--tls-verify=true"
        self._run("push", "--quiet", verify, reference, f"docker://{target}")

    def _run(self, *arguments: str) -> str:
        scratch = self.folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        return shell.run(
            *("buildah", "--root", self.folder / "root", "--runroot", "/run/penstock-buildah"),
            *("--storage-driver", "overlay", *arguments),
            environment={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(scratch)},
        ).strip()


@contextmanager
def _mounts() -> Iterator[dict[Path, str]]:
    """Yield what a build sees of this machine: its certificates and its package index.

    Mounts leave no trace in layers; build arguments would stay readable in the image's history.
    """
    mounts = {_CERTIFICATES: str(_CERTIFICATES)} if _CERTIFICATES.exists() else {}
    settings = {option: value for name, option in _PIP_VARIABLES.items() if (value := os.environ.get(name))}
    memory = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="penstock-") as folder:
        config = Path(folder) / "pip.conf"
        lines = "".join(f"{option} = {value}\n" for option, value in settings.items())
        config.write_text(f"[global]\n{lines}")
        yield mounts | {config: "/etc/pip.conf"}
