"""The chart by the real helm: upgraded, taken away and put back while models serve."""

import subprocess

import pytest
from hack.cluster.settings import Settings

from .cluster import SYSTEM, find, items, the_only_operator
from .conftest import nothing_lost
from .deployments import KIND, condition
from .models import linear_model

FIRST, SECOND = linear_model(41), linear_model(42)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def served(deploy, store):
    """A model that serves, with its pods."""
    served = deploy("served")
    served.apply(store.push(FIRST, "chart"))
    served.wait_ready()
    served.wait_answers_as(FIRST)
    return served


def test_an_upgrade_touches_no_served_pod_and_loses_no_request(cluster, chart, deploy, load, store, served):
    pods, before = served.serving_pods(), served.get()
    (old,) = the_only_operator(cluster)
    changed = {f"images__{name}__tag": "e2e-next" for name in ("operator", "jobs", "triton")} if cluster.local else {}
    if cluster.local:
        tag_images(chart.images, "e2e-next")

    with load(served) as traffic:
        traffic.wait_for(100)
        with chart.changed(operator__logLevel="DEBUG", **changed):
            (new,) = the_only_operator(cluster)
            assert new != old
            other = deploy("other")
            other.apply(store.push(SECOND, "other"))
            other.wait_ready()
            nothing_lost(traffic, at_least=500)

            assert served.serving_pods() == pods
            # the new release's images wait to be asked for
            after = served.wait(lambda md: bool(condition(md, "RuntimeOutdated")) == cluster.local)
            assert after["spec"] == before["spec"]
            assert after["status"]["stable"] == before["status"]["stable"]


def test_uninstalled_it_leaves_models_serving_and_reinstalled_it_takes_them_up_again(
    cluster, chart, deploy, load, store, served
):
    pods, before = served.serving_pods(), served.get()

    with load(served) as traffic:
        traffic.wait_for(100)
        with chart.absent():
            assert not items(cluster, "deployments,services,configmaps,serviceaccounts", SYSTEM, "helm.sh/chart")
            assert not find(cluster, "clusterrole", "penstock")
            assert find(cluster, "crd", KIND)
            assert served.serving_pods() == pods
            assert served.answers_as(FIRST)
        served.wait(lambda md: condition(md, "Ready").get("status") == "True")
        traffic.wait_for(1000)
        nothing_lost(traffic, at_least=1000)

    assert served.serving_pods() == pods
    assert served.get()["metadata"]["uid"] == before["metadata"]["uid"]
    served.apply(store.push(SECOND, "other"))
    served.wait_ready()
    served.wait_answers_as(SECOND)
    if cluster.local:
        served.apply(store.uri("chart"))
        served.wait_ready()
        served.wait_answers_as(FIRST)


def tag_images(images, tag):
    """The same images under another tag, as a new release would have them."""
    socket = Settings.from_environment().containerd_socket
    for name in ("operator", "jobs", "triton"):
        target = f"{images[name].rpartition(':')[0]}:{tag}"
        command = ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "tag", "--force", images[name], target]
        subprocess.run(command, check=True, capture_output=True)
