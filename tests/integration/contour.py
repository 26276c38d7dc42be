"""Contour and its Envoy as processes beside any API server: a real implementation of the Gateway API."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from typing import Any

import pytest
from hack.cluster import binaries, process
from hack.cluster.host import free_ports
from hack.cluster.settings import cache_dir

from penstock.kube.client import KubeClient

from .routerpod import envoy_binary

__all__ = ["CONTROLLER", "contour_program", "host_address", "install", "running_gateway", "served"]

CONTROLLER = "projectcontour.io/gateway-controller"
_OFFSET = 8000
"""Contour's Envoy listens at the listener's port and so much."""
_PLURALS = {
    "CustomResourceDefinition": "customresourcedefinitions",
    "EndpointSlice": "endpointslices",
    "Gateway": "gateways",
    "GatewayClass": "gatewayclasses",
}


def contour_program() -> str:
    """Its path; the test is skipped by name where it was never built."""
    found = binaries.built("contour", cache_dir())
    if found is None:
        pytest.skip("contour was never built here; `python hack/cluster binary contour` builds it (2 minutes)")
    return str(found)


def host_address() -> str:
    """An address of this machine that may be an endpoint: loopback ones may not."""
    with closing(socket(AF_INET, SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


async def install(client: KubeClient, *manifests: dict[str, Any]) -> None:
    """Objects of kinds that the operator never touches, and CRDs; each as soon as its kind is served."""
    for manifest in manifests:
        namespace = manifest["metadata"].get("namespace")
        folder = f"/apis/{manifest['apiVersion']}" + (f"/namespaces/{namespace}" if namespace else "")
        path = f"{folder}/{_PLURALS[manifest['kind']]}"
        async with asyncio.timeout(30):
            while (answer := await client.connection.send("POST", path, body=manifest)).code == 404:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert answer.code == 201, answer.body[:500]


async def served(client: KubeClient, definitions: Iterable[dict[str, Any]]) -> bool:
    """Whether discovery has all of these kinds."""
    places = [
        (item["spec"]["group"], version["name"], item["spec"]["names"]["plural"])
        for item in definitions
        for version in item["spec"]["versions"]
        if version["served"]
    ]
    known: dict[tuple[str, str], set[str]] = {}
    for group, version in {place[:2] for place in places}:
        answer = await client.connection.send("GET", f"/apis/{group}/{version}")
        listed = json.loads(answer.body)["resources"] if answer.code == 200 else ()
        known[group, version] = {item["name"] for item in listed}
    return all(plural in known[group, version] for group, version, plural in places)


@asynccontextmanager
async def running_gateway(
    program: str, client: KubeClient, kubeconfig: Path, folder: Path, namespace: str, name: str
) -> AsyncIterator[int]:
    """A Gateway with one plain listener, `http`, for routes of all namespaces; yields the port it is reached at."""
    port, *ports = free_ports(5)
    await install(client, *_gateway(namespace, name, port - _OFFSET))
    configuration = folder / "contour.json"
    configuration.write_text(json.dumps({"gateway": {"gatewayRef": {"namespace": namespace, "name": name}}}))
    bootstrap, admin = folder / "envoy.json", folder / "admin.sock"
    xds = ("--xds-address=127.0.0.1", f"--xds-port={ports[0]}")
    command = (program, "bootstrap", str(bootstrap), *xds, "--xds-resource-version=v3", f"--admin-address={admin}")
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    bound = ("setpriv", "--pdeathsig", "KILL")
    serve = (program, "serve", "--kubeconfig", str(kubeconfig), "--config-path", str(configuration), "--insecure")
    places = [f"--{what}-address=127.0.0.1" for what in ("http", "health", "debug-http")]
    places += [f"--{what}-port={port}" for what, port in zip(("http", "health", "debug-http"), ports[1:], strict=True)]
    envoy = (str(envoy_binary()), "-c", str(bootstrap), "--service-cluster", namespace, "--service-node", "node")
    quiet = ("--log-level", "warn", "--base-id", str(os.getpid()), "--concurrency", "1")
    started = [
        process.start(
            "contour",
            (*bound, *serve, *xds, *places, "--disable-leader-election"),
            folder / "contour.log",
            {"CONTOUR_NAMESPACE": namespace},
        ),
        process.start("envoy", (*bound, *envoy, *quiet), folder / "gateway-envoy.log"),
    ]
    try:
        await _accepted(client, f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}")
        yield port
    finally:
        process.stop(started, 5)


async def _accepted(client: KubeClient, path: str) -> None:
    """Contour has looked at its Gateway; what it is shown while it starts it may forget to answer."""
    async with asyncio.timeout(60):
        while True:
            found = json.loads((await client.connection.send("GET", path)).body)
            conditions = found.get("status", {}).get("conditions") or ()
            if any(item["type"] == "Accepted" and item["status"] == "True" for item in conditions):
                return
            await asyncio.sleep(0.2)


def _gateway(namespace: str, name: str, port: int) -> tuple[dict[str, Any], ...]:
    api = "gateway.networking.k8s.io/v1"
    listener = {"name": "http", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
    kind = {
        "apiVersion": api,
        "kind": "GatewayClass",
        "metadata": {"name": name},
        "spec": {"controllerName": CONTROLLER},
    }
    gateway = {
        "apiVersion": api,
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"gatewayClassName": name, "listeners": [listener]},
    }
    return kind, gateway
