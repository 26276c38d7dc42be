"""Which images there are, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.settings import CHECKOUT


@dataclass(frozen=True)
class Debian:
    """A Debian root file system with Python: what ``python:3.11-slim-bookworm`` is elsewhere.

    ``libpython3.11`` is there because Triton's Python backend links it.
    """

    name: str
    suite: str = "bookworm"
    packages: tuple[str, ...] = ("ca-certificates", "libpython3.11", "python3", "python3-venv")


@dataclass(frozen=True)
class Program:
    """An image of one static program from ``hack/cluster/go``, and small files beside it."""

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    user: str = "65532:65532"
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dockerfile:
    """An image of the project; what it depends on is read from its COPY instructions.

    ``above`` are images of this table that it takes parts of: its argument of the same name in capitals.
    """

    name: str
    path: Path
    above: tuple[str, ...] = ()


_REGISTRY = """version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: ":5000"}
"""

BASE = Debian("base")

_ALL: tuple[Debian | Program | Dockerfile, ...] = (
    BASE,
    Program("pause", "pause", user="65535:65535"),
    Program(
        "registry",
        "registry",
        ("serve", "/etc/registry.yml"),
        files={"etc/registry.yml": _REGISTRY},
    ),
    Dockerfile("operator", Path("Dockerfile")),
    Dockerfile("jobs", Path("runtime/images/jobs/Dockerfile")),
    Dockerfile("convert", Path("runtime/images/convert/Dockerfile")),
    Dockerfile("tensorflow", Path("runtime/images/tensorflow/Dockerfile")),
    Dockerfile("triton", Path("runtime/images/triton/Dockerfile")),
    Dockerfile("triton-torch", Path("runtime/images/triton-torch/Dockerfile"), above=("triton",)),
    Dockerfile("triton-openvino", Path("runtime/images/triton-openvino/Dockerfile"), above=("triton",)),
    Dockerfile("router", Path("runtime/images/router/Dockerfile")),
)

IMAGES = {image.name: image for image in _ALL}


def chosen(names: list[str], root: Path = CHECKOUT) -> list[Debian | Program | Dockerfile]:
    """Return the images called ``names``; without names, all that this checkout can build."""
    for name in names:
        if name not in IMAGES:
            raise ClusterError(f"There is no image {name!r}; known are {', '.join(IMAGES)}.")
        image = IMAGES[name]
        if isinstance(image, Dockerfile) and not (root / image.path).exists():
            raise ClusterError(f"Image {name} needs {image.path}, which this checkout lacks.")
    return [
        image
        for image in _ALL
        if image.name in names
        or (not names and not (isinstance(image, Dockerfile) and not (root / image.path).exists()))
    ]
