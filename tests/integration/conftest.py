"""One API server for all integration tests of a run; each test takes names of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from hack.cluster.controlplane import ControlPlane

from penstock.kube.client import KubeClient
from tests.integration.apiserver import connected, running_control_plane
from tests.integration.fakecluster import install_crds, pretending_kubelet
from tests.integration.operators import Nursery
from tests.integration.stage import Stage


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


@pytest.fixture(scope="session")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With the CRDs as released and the controllers: Jobs and Deployments make pods, what has no owner goes."""
    with ControlPlane(tmp_path_factory.mktemp("controlled"), controllers=True) as started:
        asyncio.run(_prepare(started))
        yield started


async def _prepare(cluster: ControlPlane) -> None:
    async with connected(cluster.kubeconfig) as client:
        await install_crds(client)


@pytest_asyncio.fixture
async def stage(controlled: ControlPlane, tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        connected(controlled.kubeconfig) as client,
        pretending_kubelet(controlled.kubeconfig) as routers,
        Nursery() as nursery,
    ):
        yield Stage(client, controlled.kubeconfig, nursery, tmp_path, routers)
