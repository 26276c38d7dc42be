"""Programs of GitOps tools: minutes of compiling each, so a test run uses what is there and says what is not."""

import os

import pytest
from hack.cluster import binaries
from hack.cluster.settings import cache_dir

__all__ = ["tool"]

BUILD = "PENSTOCK_BUILD_TOOLS"


def tool(name: str) -> str:
    """Path of the program; without it the test is skipped by name, with PENSTOCK_BUILD_TOOLS=1 it is built first."""
    if os.environ.get(BUILD) == "1":
        return str(binaries.binary(name, cache_dir()))
    found = binaries.built(name, cache_dir())
    if found is None:
        pytest.skip(f"{name} was never built here; `make gitops` builds it (about 25 minutes for all of them)")
    return str(found)
