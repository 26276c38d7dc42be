"""The base image: a small Debian with Python, made by ``debootstrap``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from hack.cluster import shell
from hack.images.table import Debian

_UNNEEDED = (
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/lib/apt/lists/*",
    "var/log/*",
)


def make_tree(image: Debian, archive: Path) -> None:
    """Write a tar archive of the root file system."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        root = Path(scratch) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(image.packages)}"]
        shell.run(*command, image.suite, str(root), *mirror(image.suite))
        for pattern in _UNNEEDED:
            for path in root.glob(pattern):
                _delete(path)
        shell.run("tar", "--directory", str(root), "--numeric-owner", "-cf", str(archive), ".")


def mirror(suite: str, etc: Path = Path("/etc/apt")) -> list[str]:
    """Return the mirror that this machine uses for ``suite``, or nothing for Debian's own.

    ``PENSTOCK_DEBIAN_MIRROR`` decides where it is set.
    """
    if chosen := os.environ.get("PENSTOCK_DEBIAN_MIRROR"):
        return [chosen]
    for path in sorted((*etc.glob("sources.list"), *etc.glob("sources.list.d/*.list"))):
        for line in path.read_text().splitlines():
            if found := re.match(rf"deb (?:\[.*?\] )?(\S+) {suite} .*\bmain\b", line):
                return [found[1]]
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            if re.search(rf"^Suites:.*\b{suite}(?: |$)", stanza, re.MULTILINE) and (
                found := re.search(r"^URIs: (\S+)", stanza, re.MULTILINE)
            ):
                return [found[1]]
    return []


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
