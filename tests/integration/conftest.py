"""One API server for all integration tests of a run; each test takes names of its own."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pytest_asyncio
from hack.cluster.controlplane import ControlPlane

from penstock.kube.client import KubeClient
from tests.integration.apiserver import connected, running_control_plane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running_control_plane(tmp_path_factory.mktemp("control-plane")) as started:
        yield started


@pytest_asyncio.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with connected(control_plane.kubeconfig) as connection:
        yield connection


@pytest_asyncio.fixture
async def namespace(client: KubeClient) -> str:
    name = f"test-{uuid4().hex[:8]}"
    await client.post({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name
