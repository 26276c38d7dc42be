"""A model on a Gateway, from a cluster without the Gateway API to one whose routes somebody edits.

No Gateway runs here: the test answers for its controller. What real ones say is tests/integration/test_gateway.py's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock.api.traffic import ROUTE_KINDS
from tests.gatewayapi import ROUTES, gateway_crds
from tests.gitops.kubectl import eventually

from .cluster import find, wait_for, wait_gone
from .deployments import Deployed, condition
from .models import linear_model

MODEL = linear_model(81)
GROUP = "gateway.networking.k8s.io"
PARENT = {"name": "public", "namespace": "infra"}
CLOSED = {"timeout": "1s", "provider": "Service"}
OPEN = {
    **CLOSED,
    "parentRefs": [PARENT],
    "hostnames": ["digits.example.com"],
    "grpcHostnames": ["digits-grpc.example.com"],
}


@pytest.fixture
def gateway_api(cluster):
    """Installs the kinds of routes inside the test; they go with it."""
    if find(cluster, "crd", f"{ROUTES[0]}.{GROUP}"):
        pytest.skip("this cluster has a Gateway API of its own, which is not ours to remove")
    files = [str(path) for path in gateway_crds(*ROUTES)]

    @contextmanager
    def installed() -> Iterator[None]:
        for path in files:
            cluster.call(cluster.kubectl, "apply", "--server-side", "-f", path)
        yield

    yield installed
    for path in files:
        cluster.call(cluster.kubectl, "delete", "--ignore-not-found", "-f", path, "--timeout=120s")


def published(deployed: Deployed, reason: str, seconds: float = 120) -> str:
    """The message of the condition once it gives this reason."""
    found = deployed.wait(lambda md: condition(md, "Published").get("reason") == reason, seconds)
    return str(condition(found, "Published")["message"])


def name_of(deployed: Deployed, kind: str) -> str:
    return deployed.name if kind == "HTTPRoute" else f"{deployed.name}-grpc"


def patch(deployed: Deployed, kind: str, content: dict[str, Any], *options: str) -> None:
    where = (f"{kind.lower()}.{GROUP}", name_of(deployed, kind), "-n", deployed.namespace)
    deployed.cluster.call(
        deployed.cluster.kubectl, "patch", *where, "--type=merge", "-p", json.dumps(content), *options
    )


def answer(deployed: Deployed, kind: str) -> None:
    """As a Gateway's controller does."""
    live = find(deployed.cluster, f"{kind.lower()}.{GROUP}", name_of(deployed, kind), "-n", deployed.namespace)
    conditions = [
        {
            "type": type_,
            "status": "True",
            "reason": type_,
            "message": "",
            "observedGeneration": live["metadata"]["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for type_ in ("Accepted", "ResolvedRefs")
    ]
    (parent,) = live["spec"]["parentRefs"]
    entry = {"controllerName": "example.com/gateway", "parentRef": parent, "conditions": conditions}
    patch(deployed, kind, {"status": {"parents": [entry]}}, "--subresource=status")


def test_published_once_the_gateway_api_is_there_and_mended_when_edited(deploy, store, gateway_api):
    digits = deploy("published")
    digits.apply(store.push(MODEL, "published"), traffic=OPEN)
    digits.wait_ready()
    assert "install the CRDs" in published(digits, "GatewayAPIMissing")

    with gateway_api():
        published(digits, "RoutePending")
        for kind in ROUTE_KINDS:
            answer(digits, kind)
        assert "accepted by example.com/gateway" in published(digits, "Published")

        patch(digits, "HTTPRoute", {"spec": {"rules": [{"backendRefs": [{"name": "elsewhere", "port": 80}]}]}})
        mended = wait_for(
            digits.cluster,
            f"httproutes.{GROUP}",
            digits.namespace,
            digits.name,
            lambda route: route["spec"]["rules"][0]["backendRefs"][0]["name"] == digits.name,
        )
        assert mended["metadata"]["generation"] == 3
        eventually(lambda: "RouteDrift" in reasons(digits), 60, "no event tells of the edit")
        digits.wait_ready()

        digits.apply(store.push(MODEL, "published"), traffic=CLOSED)
        wait_gone(
            digits.cluster,
            ",".join(f"{plural}.{GROUP}" for plural in ROUTES),
            digits.namespace,
            f"penstock.dev/deployment={digits.name}",
        )
        digits.wait(lambda md: not condition(md, "Published"))
        digits.wait_answers_as(MODEL)


def reasons(deployed: Deployed) -> set[str]:
    where = ("-n", deployed.namespace, f"--field-selector=involvedObject.name={deployed.name}")
    return {event["reason"] for event in deployed.cluster.get("events", *where)["items"]}
