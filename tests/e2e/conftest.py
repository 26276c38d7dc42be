"""One cluster, one release of the chart and one repository for all; a restricted namespace for each file of tests."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from examples.demo.cluster import Cluster, current_cluster, local_cluster
from examples.demo.traffic import Traffic, start_traffic
from hack.cluster.settings import CHECKOUT

from .chart import FILES, Chart, chart_images
from .cluster import SYSTEM, apply, run_hack
from .deployments import Deployed
from .fileserver import file_server
from .store import Store

HERE = Path(__file__).parent
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the operator used is counted when all else is done; waits end before a test's time is up."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: item.path == HERE / "test_rbac.py")


@pytest.fixture(scope="session")
def session_start() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if os.environ.get("CLUSTER") == "existing":
        return current_cluster()
    run_hack("hack/cluster", "up")
    return local_cluster()


@pytest.fixture(scope="session")
def chart(cluster: Cluster, session_start: datetime) -> Iterator[Chart]:
    """The release with the images of this checkout; afterwards as before, unless E2E_RELEASE=keep.

    E2E_RELEASE=installed takes the one that is there as it is; a test that changes it does so nonetheless.
    """
    if os.environ.get("E2E_RELEASE") == "installed":
        yield Chart(cluster, json.loads((CHECKOUT / "build" / "images.json").read_text()))
        return
    chart = Chart(cluster, chart_images(cluster))
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": RESTRICTED}})
    chart.offer_volume()
    chart.install()
    yield chart
    if os.environ.get("E2E_RELEASE") != "keep":
        chart.restore()


@pytest.fixture(scope="session")
def store(cluster: Cluster, chart: Chart) -> Store:
    return Store(cluster, "models/e2e")


@pytest.fixture(scope="session")
def files(cluster: Cluster, chart: Chart) -> Iterator[str]:
    """host:port of a web server in the cluster that misbehaves when asked to."""
    apply(cluster, *restricted_namespace(FILES))
    with file_server(cluster, FILES, chart.images["jobs"]) as host:
        yield host
    remove_namespace(cluster, FILES)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, chart: Chart, request: pytest.FixtureRequest) -> Iterator[str]:
    """Under restricted Pod Security, a quota and default limits at once."""
    name = f"e2e-{request.path.stem.removeprefix('test_').replace('_', '-')}-{uuid4().hex[:4]}"
    apply(cluster, *restricted_namespace(name))
    yield name
    remove_namespace(cluster, name)


@pytest.fixture
def deploy(cluster: Cluster, namespace: str) -> Iterator[Callable[[str], Deployed]]:
    """A ModelDeployment's name taken; removed after the test."""
    made: list[Deployed] = []

    def make(name: str) -> Deployed:
        made.append(Deployed(cluster, namespace, name))
        return made[-1]

    yield make
    for deployed in made:
        deployed.delete()


@pytest.fixture
def load(cluster: Cluster, chart: Chart, tmp_path: Path) -> Callable[[Deployed], "object"]:
    """100 requests a second against a deployment, each on a new connection and never repeated."""

    def start(deployed: Deployed):
        path = f"/v2/models/{deployed.name}/infer"
        place = (deployed.namespace, deployed.name, path)
        image = chart.images["jobs"]
        return start_traffic(cluster, *place, deployed.load_requests(), folder=tmp_path, image=image)

    return start


def nothing_lost(traffic: Traffic, at_least: int = 100) -> None:
    """End the load when it is enough: every request was answered."""
    traffic.wait_for(at_least)
    result = traffic.finish()
    told = json.dumps({name: result[name] for name in ("requests", "answered", "failed", "seconds", "failures")})
    assert result["failed"] == 0, told
    assert result["answered"] == result["requests"], told


def restricted_namespace(name: str) -> list[dict[str, object]]:
    """A namespace as careful platform teams hand them out."""
    hard = {"requests.cpu": "1500m", "limits.cpu": "16", "requests.memory": "6Gi", "limits.memory": "16Gi"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "quota", "namespace": name},
            "spec": {"hard": {**hard, "pods": "20", "count/jobs.batch": "40"}},
        },
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "limits", "namespace": name},
            "spec": {
                "limits": [
                    {
                        "type": "Container",
                        "default": {"cpu": "500m", "memory": "256Mi"},
                        "defaultRequest": {"cpu": "20m", "memory": "64Mi"},
                        "max": {"cpu": "8", "memory": "4Gi"},
                    }
                ]
            },
        },
    ]


def remove_namespace(cluster: Cluster, name: str) -> None:
    """Begun, not waited for: pods that serve take their time to stop."""
    cluster.call(cluster.kubectl, "delete", "namespace", name, "--wait=false", "--ignore-not-found")
