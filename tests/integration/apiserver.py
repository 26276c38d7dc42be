"""Shared by the tests that talk to a real API server: its start, clients, and small objects."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hack.cluster.controlplane import ControlPlane

from penstock.api.kinds import DEFINITIONS
from penstock.api.resource import API_VERSION, GROUP
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.limiter import TokenBucket

__all__ = ["CRDS", "connected", "eventually", "model_deployment", "open_crd", "owned", "running_control_plane"]


def open_crd(kind: str, plural: str, group: str = GROUP, version: str = "v1alpha1") -> dict[str, Any]:
    """A kind that takes anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


CRDS = tuple(open_crd(item.kind, item.plural) for item in DEFINITIONS.values())
"""Open schemas: these tests are about requests, not about fields."""


@contextmanager
def running_control_plane(directory: Path) -> Iterator[ControlPlane]:
    """etcd and an API server with the kind installed."""
    with ControlPlane(directory) as control_plane:
        asyncio.run(_install(control_plane))
        yield control_plane


async def _install(control_plane: ControlPlane) -> None:
    async with connected(control_plane.kubeconfig) as client:
        for crd in CRDS:
            await client.create(crd)
            await eventually(partial(_served, client, crd["metadata"]["name"]))


async def _served(client: KubeClient, name: str) -> bool:
    crd = await client.get("CustomResourceDefinition", "", name)
    conditions = crd.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


@asynccontextmanager
async def connected(kubeconfig: Path, **more: Any) -> Any:
    """A client without a rate limit."""
    connection = await Connection.open(kubeconfig)
    try:
        yield KubeClient(connection, limiter=TokenBucket(1e6, 10_000), **more)
    finally:
        await connection.close()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait until it holds; there is nothing to be notified by where the API server is asked."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the API server notifies nobody here
            await asyncio.sleep(0.02)


def model_deployment(name: str = "digits", namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"uri": "oci://registry/models/digits:v1"}},
    }


def owned(owner: Mapping[str, Any], kind: str, name: str, **content: Any) -> dict[str, Any]:
    """A child of a ModelDeployment as the operator would render it."""
    metadata = owner["metadata"]
    reference = {"apiVersion": API_VERSION, "kind": "ModelDeployment", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": content.pop("api_version", "v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {"app.kubernetes.io/managed-by": "penstock", "penstock.dev/deployment": metadata["name"]},
            "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": False}],
        },
        **content,
    }
