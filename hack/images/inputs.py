"""What an image is made of, found by reading its Dockerfile, and the hash of all that.

Reading COPY instead of keeping a list beside it means that no input can be forgotten: the build
sees only what was found here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from hack.cluster.errors import ClusterError

_CONTINUED = re.compile(r"\\\s*\n")
_COPY = re.compile(r"^\s*(?:COPY|ADD)\s+(?P<rest>.+)$", re.IGNORECASE | re.MULTILINE)
_BIND = re.compile(r"--mount=(?P<options>\S*type=bind\S*)")
_JUNK = {"__pycache__", ".git", ".venv", "build", "dist", ".mypy_cache", ".ruff_cache"}


def sources(dockerfile: str) -> list[str]:
    """Return the patterns, relative to the build context, that a Dockerfile copies or mounts."""
    text = _CONTINUED.sub(" ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    found: list[str] = []
    for match in _COPY.finditer(text):
        found += _copied(match["rest"])
    for match in _BIND.finditer(text):
        options = dict(part.partition("=")[::2] for part in match["options"].split(","))
        if "from" not in options:
            found.append(options.get("source") or options.get("src") or ".")
    return sorted({pattern.strip("/") for pattern in found if "://" not in pattern})


def files(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files below ``root`` that ``patterns`` name, relative to it, sorted."""
    found: set[Path] = set()
    for pattern in patterns:
        if pattern in {"", "."}:
            raise ClusterError("COPY . makes every file an input: name the folders instead.")
        matches = sorted(root.glob(pattern))
        if not matches:
            raise ClusterError(f"COPY {pattern}: there is no such file in {root}.")
        for match in matches:
            found.update(_below(match) if match.is_dir() else [match])
    return sorted(path.relative_to(root) for path in found)


def digest(root: Path, paths: Iterable[Path], **more: object) -> str:
    """Hash names, modes and contents of files, and whatever else decides the image."""
    total = hashlib.sha256(json.dumps(more, sort_keys=True, default=str).encode())
    for path in paths:
        mode = "x" if os.access(root / path, os.X_OK) else "-"
        total.update(f"\0{path}\0{mode}\0".encode())
        total.update(hashlib.sha256((root / path).read_bytes()).digest())
    return total.hexdigest()[:12]


def stage(root: Path, paths: Iterable[Path], context: Path) -> None:
    """Copy the inputs alone into ``context``, so that nothing undeclared can enter the image."""
    for path in paths:
        target = context / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target)


def _copied(arguments: str) -> list[str]:
    """Return the sources of one COPY; those of another build stage are not inputs."""
    flags, rest = [], arguments.strip()
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        flags.append(flag)
        rest = rest.strip()
    if any(flag.startswith("--from") for flag in flags) or rest.startswith("<<"):
        return []
    words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
    return [str(word) for word in words[:-1]]


def _below(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not _JUNK.intersection(path.relative_to(folder).parts):
            yield path
