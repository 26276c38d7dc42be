"""Routes are watched where the cluster serves them: CRDs that are missing, come, go, and come again."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from penstock.api.traffic import GATEWAY_GROUP, HTTP_ROUTE
from penstock.controller.routewatch import RouteWatch
from penstock.core.names import ObjectKey
from penstock.kube.cache import Cache
from penstock.kube.client import KubeClient
from penstock.kube.errors import Conflict, NotFound
from penstock.kube.objects import OPTIONAL
from tests.integration.apiserver import eventually, model_deployment, open_crd, owned

SECONDS = 60.0
HTTP = next(kind for kind in OPTIONAL if kind.name == HTTP_ROUTE)
DEFINITIONS = {kind.name: open_crd(kind.name, kind.plural, GATEWAY_GROUP, "v1") for kind in OPTIONAL}


@dataclass
class Running:
    """A watch at work, and what it has told."""

    watch: RouteWatch
    cache: Cache
    stop: asyncio.Event
    told: list[frozenset[str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110 - any of several streams may make it true
                await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(client: KubeClient, namespace: str) -> AsyncIterator[Running]:
    cache, stop = Cache(), asyncio.Event()
    watch = RouteWatch(
        client,
        cache,
        lambda before, after: running.gone.append(before["metadata"]["name"]) if before and after is None else None,
        lambda: running.told.append(watch.served),
        (namespace,),
    )
    running = Running(watch, cache, stop)
    task = asyncio.create_task(watch.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(task, SECONDS)
        gc.collect()  # errors that kopf's tasks ended with are logged now and not in the middle of a later import


async def remove(client: KubeClient, kind: str) -> None:
    name = DEFINITIONS[kind]["metadata"]["name"]
    found = await client.get("CustomResourceDefinition", "", name)
    await client.delete("CustomResourceDefinition", "", name, found["metadata"]["uid"])


async def test_kinds_come_and_go_with_their_crds(client: KubeClient, namespace: str) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    route = owned(owner, HTTP_ROUTE, "digits", api_version=HTTP.api_version, spec={})
    key = ObjectKey(HTTP_ROUTE, namespace, "digits")
    async with watching(client, namespace) as running:
        await asyncio.wait_for(running.watch.known.wait(), SECONDS)
        assert (running.watch.served, running.told) == (frozenset(), []), "no Gateway API, and nobody is disturbed"

        for turn in (1, 2):
            await eventually(partial(_create, client, DEFINITIONS[HTTP_ROUTE]))
            await running.until(lambda: running.watch.served == {HTTP_ROUTE})
            await client.create(route)
            await running.until(lambda: running.cache.get(key) is not None)
            await remove(client, HTTP_ROUTE)
            await running.until(lambda: not running.watch.served)
            assert running.cache.get(key) is None
            assert running.told == [{HTTP_ROUTE}, frozenset()] * turn
            assert running.gone == ["digits"] * turn


async def test_routes_that_are_there_are_known_before_it_says_so(client: KubeClient, namespace: str) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    try:
        for kind, definition in DEFINITIONS.items():
            await eventually(partial(_create, client, definition))
            await eventually(partial(_is_established, client, kind), SECONDS)
            route = owned(owner, kind, "digits", api_version=f"{GATEWAY_GROUP}/v1", spec={})
            await eventually(partial(_create, client, route), SECONDS)
        async with watching(client, namespace) as running:
            await asyncio.wait_for(running.watch.known.wait(), SECONDS)
            assert running.watch.served == set(DEFINITIONS)
            assert {key.kind for key in running.cache.children((namespace, "digits"))} == set(DEFINITIONS)
            assert running.watch.age() < SECONDS
    finally:
        for kind in DEFINITIONS:
            await remove(client, kind)


async def _create(client: KubeClient, manifest: dict[str, Any]) -> bool:
    """A kind is served a moment after its CRD was made, and a CRD of the same name may still be on its way out."""
    try:
        await client.create(manifest)
    except (NotFound, Conflict):
        return False
    return True


async def _is_established(client: KubeClient, kind: str) -> bool:
    crd = await client.get("CustomResourceDefinition", "", DEFINITIONS[kind]["metadata"]["name"])
    conditions = crd.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)
