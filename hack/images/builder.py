"""Building what is missing, and only that: an image is its content's hash."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries, containers, host, record
from hack.cluster.progress import step
from hack.cluster.settings import CHECKOUT, Settings
from hack.images import debian, inputs
from hack.images.buildah import Buildah
from hack.images.table import BASE, Debian, Dockerfile, Program

_REPOSITORY = "localhost/penstock"
_KEPT = 3
_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
_FORMAT = 1
"""Raised when the builder itself starts to make other images of the same inputs."""


@dataclass(frozen=True)
class Built:
    """An image that exists: its content-addressed reference and its archive."""

    name: str
    reference: str
    archive: Path


class Builder:
    """Builds images of one checkout into the shared cache."""

    def __init__(self, settings: Settings, root: Path = CHECKOUT) -> None:
        self._settings = settings
        self._root = root
        self._archives = settings.cache / "images"
        self._buildah = Buildah(settings.cache / "buildah")

    def build(self, image: Debian | Program | Dockerfile) -> Built:
        """Return the image, built now unless its archive is there."""
        reference = self.reference(image)
        archive = self._archives / f"{reference.rpartition('/')[2].replace(':', '-')}.tar"
        if not archive.exists():
            self._archives.mkdir(parents=True, exist_ok=True)
            with self._locked(image.name):
                if not archive.exists():
                    self._make(image, reference, archive)
                    self._prune(image.name)
        archive.touch()
        return Built(image.name, reference, archive)

    def reference(self, image: Debian | Program | Dockerfile) -> str:
        """Return the reference that the image has, or will have once it is built."""
        match image:
            case Debian():
                value = inputs.digest(self._root, [], image=image, format=_FORMAT)
            case Program():
                program = binaries.binary(image.program, self._settings.cache)
                value = inputs.digest(self._root, [], image=image, build=program.parent.name, format=_FORMAT)
            case Dockerfile():
                value = inputs.digest(self._root, self._inputs(image), base=self.reference(BASE), format=_FORMAT)
        return f"{_REPOSITORY}/{image.name}:{value}"

    def import_(self, built: Built) -> None:
        """Load the image into the cluster on this machine, if one runs and lacks it."""
        found = record.read(self._settings.record)
        if not found or not found.ready or not self._settings.containerd_socket.exists():
            return
        if built.reference not in containers.images(self._settings):
            with step(f"import {built.name}"):
                containers.import_image(self._settings, built.archive)

    def push(self, built: Built, registry: str, version: str, *, plain_http: bool) -> str:
        """Push the image under the project's version; return the reference that was pushed."""
        target = f"{registry}/penstock-{built.name}:{version}"
        with step(f"push {target}"):
            if not self._buildah.has(built.reference):
                self._buildah.load(built.archive)
            self._buildah.push(built.reference, target, plain_http=plain_http)
        return target

    def _make(self, image: Debian | Program | Dockerfile, reference: str, archive: Path) -> None:
        match image:
            case Debian():
                host.require_packages(_PACKAGES)
                with step(f"build {image.name}", expect="about 1.5 minutes"):
                    self._make_base(image, reference, archive)
            case Program():
                with step(f"build {image.name}"):
                    program = binaries.binary(image.program, self._settings.cache)
                    containers.write_image(archive, reference, program, image.user, image.arguments, image.files)
            case Dockerfile():
                base = self.build(BASE)
                with step(f"build {image.name}", expect="minutes when its dependencies changed"):
                    self._make_from_dockerfile(image, base, reference, archive)

    def _make_base(self, image: Debian, reference: str, archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self._archives) as scratch:
            tree = Path(scratch) / "tree.tar"
            debian.make_tree(image, tree)
            self._buildah.commit_tree(tree, reference)
        self._buildah.save(reference, archive)

    def _make_from_dockerfile(self, image: Dockerfile, base: Built, reference: str, archive: Path) -> None:
        host.require_packages(_PACKAGES)
        if not self._buildah.has(base.reference):
            self._buildah.load(base.archive)
        with tempfile.TemporaryDirectory(dir=self._archives) as scratch:
            context = Path(scratch)
            inputs.stage(self._root, self._inputs(image), context)
            self._buildah.build(context / image.path, context, reference, {"BASE": base.reference})
        self._buildah.save(reference, archive)

    def _inputs(self, image: Dockerfile) -> list[Path]:
        patterns = inputs.sources((self._root / image.path).read_text())
        return inputs.files(self._root, [*patterns, str(image.path)])

    def _prune(self, name: str) -> None:
        """Keep the newest archives and tags of an image; the layers they share stay."""
        archives = sorted(self._archives.glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime)
        for archive in archives[:-_KEPT]:
            archive.unlink()
        if name not in {"pause", "registry"}:
            self._buildah.remove(self._buildah.tags(f"{_REPOSITORY}/{name}")[_KEPT:])

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Let one process at a time build an image; a second one then finds it."""
        with (self._archives / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
