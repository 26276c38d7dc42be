"""Programs built from Go modules that are pinned, with all their checksums, in ``go/``.

A build is kept under a key of everything that decides its bytes, so a changed pin rebuilds and a
second checkout finds what the first one built.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hack.cluster import shell
from hack.cluster.errors import ClusterError
from hack.cluster.progress import step

MODULES = Path(__file__).resolve().parent / "go"
KUBERNETES_VERSION = "1.34.4"

_VERSION_PACKAGE = "k8s.io/component-base/version"
_ENVIRONMENT = {
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOWORK": "off",
    "CGO_ENABLED": "0",
}
"""The user's module proxy and caches, but no other compiler and no change of pins."""


@dataclass(frozen=True)
class Tool:
    """One Go module and the programs that come out of it.

    ``renamed`` maps what ``go install`` calls a program to what we call it; ``source`` says that
    the module's own main package is the program instead of its ``tool`` directives.
    """

    name: str
    programs: tuple[str, ...]
    expect: str
    ldflags: str = "-s -w"
    tags: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    source: bool = False


TOOLS = (
    Tool(
        "kubernetes",
        (
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ),
        expect="about 5 minutes on two cores",
        ldflags=(
            f"-s -w -X {_VERSION_PACKAGE}.gitVersion=v{KUBERNETES_VERSION}"
            f" -X {_VERSION_PACKAGE}.gitMajor=1"
            f" -X {_VERSION_PACKAGE}.gitMinor={KUBERNETES_VERSION.split('.')[1]}"
        ),
        renamed={"server": "etcd"},
    ),
    Tool("coredns", ("coredns",), expect="about 1.5 minutes"),
    Tool("metrics-server", ("metrics-server",), expect="about 1 minute"),
    Tool("kube-router", ("kube-router",), expect="about 2 minutes"),
    Tool("pause", ("pause",), expect="", source=True),
    Tool(
        "distribution",
        ("registry",),
        expect="about 1 minute",
    ),
    Tool("helm", ("helm",), expect="about 3 minutes"),
    Tool("kwok", ("kwok",), expect="about 2 minutes"),
    Tool("flux-source", ("source-controller",), expect="about 4 minutes"),
    Tool("flux-kustomize", ("kustomize-controller",), expect="about 4 minutes"),
    Tool("kstatus", ("kstatus",), expect="", source=True),
    Tool("argocd-lua", ("argocd-lua",), expect="about 4 minutes", source=True),
    Tool("contour", ("contour",), expect="about 2 minutes"),
)
"""Only `up`'s programs are built by `up`; those of other tools when a test or a person asks for them."""

_BY_PROGRAM = {program: tool for tool in TOOLS for program in tool.programs}
PROGRAMS = tuple(sorted(_BY_PROGRAM))


def binary(program: str, cache_dir: Path) -> Path:
    """Return the path of ``program``, building its module first where that was never done."""
    if program not in _BY_PROGRAM:
        raise ClusterError(f"There is no program {program!r}; known are {', '.join(PROGRAMS)}.")
    tool = _BY_PROGRAM[program]
    folder = location(tool, cache_dir)
    if not folder.is_dir():
        _build_once(tool, folder)
    return folder / program


def built(program: str, cache_dir: Path) -> Path | None:
    """Return the path of ``program`` if it is there already."""
    path = location(_BY_PROGRAM[program], cache_dir) / program
    return path if path.exists() else None


def location(tool: Tool, cache_dir: Path) -> Path:
    """Return the folder that holds the build of ``tool`` as it is pinned now."""
    return cache_dir / "bin" / f"{tool.name}-{key(tool, MODULES / tool.name, go_version())}"


def key(tool: Tool, module: Path, go: str) -> str:
    """Hash whatever changes the built programs: sources, pins, checksums, flags and compiler."""
    digest = hashlib.sha256()
    for part in (go, tool.ldflags, tool.tags, repr(sorted(tool.renamed.items()))):
        digest.update(part.encode() + b"\0")
    for path in sorted(p for p in module.iterdir() if p.suffix in {".mod", ".sum", ".go"}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@cache
def go_version() -> str:
    """Return the compiler's version; raise `ClusterError` where there is no Go."""
    if not shutil.which("go"):
        raise ClusterError(
            "The cluster's programs are built with Go, which was not found on PATH: install Go "
            "1.26 or newer and run this again."
        )
    return shell.run("go", "env", "GOVERSION", environment=_ENVIRONMENT).strip()


def _build_once(tool: Tool, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{tool.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with step(f"build {tool.name}", expect=tool.expect):
                _build(tool, folder)


def _build(tool: Tool, folder: Path) -> None:
    """Build into a scratch folder and rename it, so that a half-made build is never found."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{tool.name}-") as scratch:
        out = Path(scratch) / "bin"
        out.mkdir()
        tags = ["-tags", tool.tags] if tool.tags else []
        shell.run(
            *("go", "install", "-trimpath", "-ldflags", tool.ldflags, *tags),
            "." if tool.source else "tool",
            cwd=MODULES / tool.name,
            environment={**_ENVIRONMENT, "GOBIN": str(out)},
        )
        for made, wanted in tool.renamed.items():
            (out / made).rename(out / wanted)
        shutil.copyfile(MODULES / tool.name / "go.mod", out / "go.mod")
        out.rename(folder)
