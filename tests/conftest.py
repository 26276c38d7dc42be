"""Which tests run side by side: with `pytest -n 2` each worker takes whole groups, in the order of the command line.

A group is what shares something dear: the cluster with its one release (tests/e2e, in its own order), the control
planes of a session fixture; of the rest each file is one. So no session fixture is made twice, and what counts or
measures on the cluster has it for itself.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
"""The same examples each time: what turns a run red is a change. HYPOTHESIS_PROFILE=default looks for new ones."""
SHARING = ("tests/e2e", "tests/integration", "tests/gitops")
"""Folders whose tests share a session fixture: each is one worker's."""


def group_of(nodeid: str) -> str:
    """The folder where its tests share something, else the file."""
    path = nodeid.partition("::")[0]
    return next((folder for folder in SHARING if PurePosixPath(path).is_relative_to(folder)), path)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What is imported stays: it is not looked through for garbage, neither meanwhile nor ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Whole groups to each worker, the first named first."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - not there without -n

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)
