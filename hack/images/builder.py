"""Building what is missing, and only that: an image is its content's hash."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hack.cluster import binaries, containers, host, oci, record
from hack.cluster.oci import Image
from hack.cluster.progress import step
from hack.cluster.settings import CHECKOUT, Settings
from hack.images import debian, inputs
from hack.images.buildah import Buildah
from hack.images.store import Source, Store
from hack.images.table import BASE, IMAGES, Debian, Dockerfile, Program

_REPOSITORY = "localhost/penstock"
_KEPT = 3
_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
_FORMAT = 1
"""Raised when the builder itself starts to make other images of the same inputs."""


class Builder:
    """Builds images of one checkout into the shared cache."""

    def __init__(self, settings: Settings, root: Path = CHECKOUT) -> None:
        self._settings = settings
        self._root = root
        self._folder = settings.cache / "images"
        self._store = Store(self._folder)
        self._buildah = Buildah(settings.cache / "buildah")

    def build(self, image: Debian | Program | Dockerfile) -> Image:
        """Return the image, built now unless it was before."""
        reference = self.reference(image)
        if found := self._store.find(reference):
            return found
        with self._locked(image.name):
            return self._store.find(reference) or self._make(image, reference)

    def reference(self, image: Debian | Program | Dockerfile) -> str:
        """Return the reference that the image has, or will have once it is built."""
        match image:
            case Debian():
                value = inputs.digest(self._root, [], image=image, format=_FORMAT)
            case Program():
                program = binaries.binary(image.program, self._settings.cache)
                value = inputs.digest(self._root, [], image=image, build=program.parent.name, format=_FORMAT)
            case Dockerfile():
                paths = self._inputs(image)
                more = {"above": list(self._above(image).values())} if image.above else {}
                value = inputs.digest(self._root, paths, base=self.reference(BASE), format=_FORMAT, **more)
        return f"{_REPOSITORY}/{image.name}:{value}"

    def import_(self, image: Image) -> None:
        """Load the image into the cluster on this machine, if one runs and lacks it."""
        found = record.read(self._settings.record)
        if not found or not found.ready or not self._settings.containerd_socket.exists():
            return
        if image.reference not in containers.images(self._settings):
            with step(f"import {image.reference}"):
                containers.import_image(self._settings, image)

    def push(self, image: Image, target: str, *, plain_http: bool) -> None:
        """Push the image to a registry as ``target``."""
        with step(f"push {target}"):
            self._require(image)
            self._buildah.push(image.reference, target, plain_http=plain_http)

    def _make(self, image: Debian | Program | Dockerfile, reference: str) -> Image:
        if not isinstance(image, Program):
            host.require_packages(_PACKAGES)
            if self._buildah.has(reference):
                return self._take(reference)
        match image:
            case Debian():
                with step(f"build {image.name}", expect="about 1.5 minutes"):
                    return self._make_base(image, reference)
            case Program():
                with step(f"build {image.name}"):
                    program = binaries.binary(image.program, self._settings.cache)
                    made = oci.of_program(reference, program, image.user, image.arguments, image.files)
                    return self._keep(made)
            case Dockerfile():
                base = self.build(BASE)
                for name in image.above:
                    self._require(self.build(IMAGES[name]))
                with step(f"build {image.name}", expect="minutes when its dependencies changed"):
                    return self._make_from_dockerfile(image, base, reference)

    def _make_base(self, image: Debian, reference: str) -> Image:
        with self._scratch() as scratch:
            tree = scratch / "tree.tar"
            debian.make_tree(image, tree)
            self._buildah.commit_tree(tree, reference)
        return self._take(reference)

    def _make_from_dockerfile(self, image: Dockerfile, base: Image, reference: str) -> Image:
        self._require(base)
        with self._scratch() as context:
            inputs.stage(self._root, self._inputs(image), context)
            arguments = {"BASE": base.reference, **self._above(image)}
            with self._storage(fcntl.LOCK_SH):
                self._buildah.build(context / image.path, context, reference, arguments)
                made = self._take(reference)
        with suppress(BlockingIOError), self._storage(fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._buildah.remove(self._buildah.tags(f"{_REPOSITORY}/{image.name}")[_KEPT:])
        return made

    def _above(self, image: Dockerfile) -> dict[str, str]:
        """Return the references of the images that one takes parts of, by the name of the build argument."""
        return {name.upper().replace("-", "_"): self.reference(IMAGES[name]) for name in image.above}

    def _take(self, reference: str) -> Image:
        """Take over an image that buildah made."""
        return self._store.add(reference, *self._buildah.layers(reference))

    def _keep(self, image: Image) -> Image:
        """Keep an image that is only in memory."""
        sources = [Source(layer.digest, layer.copy_to) for layer in image.layers]
        return self._store.add(image.reference, image.config.read(), sources)

    def _require(self, image: Image) -> None:
        """Give buildah an image that it does not have, or no longer has."""
        if not self._buildah.has(image.reference):
            with self._scratch() as scratch:
                oci.write_archive(image, scratch / "image.tar")
                self._buildah.load(scratch / "image.tar")

    def _inputs(self, image: Dockerfile) -> list[Path]:
        patterns = inputs.sources((self._root / image.path).read_text())
        return inputs.files(self._root, [*patterns, str(image.path)])

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".scratch-") as folder:
            yield Path(folder)

    @contextmanager
    def _storage(self, mode: int) -> Iterator[None]:
        """Share buildah's storage, or have it alone: pruning would take the layers of a build that is under way."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".buildah.lock").open("w") as lock:
            fcntl.flock(lock, mode)
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Let one process at a time build an image; a second one then finds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
