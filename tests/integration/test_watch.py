"""The watch on a real API server: complete, quiet, harmless, and repaired after every kind of break."""

import asyncio
import gc
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.controller.watch import Changed, Watch, WatchEnded
from penstock.core.names import ObjectKey
from penstock.kube.cache import Cache, DeploymentKey
from penstock.kube.client import KubeClient
from penstock.kube.objects import deployment_key
from penstock.kube.queue import KeyedQueue
from tests.integration.apiserver import connected, model_deployment, owned
from tests.integration.proxy import FaultProxy, gone

SECONDS = 60.0


class Seen:
    """Watch events by (kind, type)."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        self.counts: dict[str, int] = {}

    def event(self, kind: str, type_: str) -> None:
        self.events[kind, type_] += 1

    def objects(self, counts: Any) -> None:
        self.counts = dict(counts)


@dataclass
class Running:
    """A watch at work, and what it feeds."""

    watch: Watch
    task: asyncio.Task[None]
    stop: asyncio.Event
    ready: asyncio.Event
    cache: Cache
    queue: KeyedQueue[DeploymentKey]
    seen: Seen = field(default_factory=Seen)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110 - any of several parts may make it true
                await asyncio.sleep(0.01)

    def drain(self) -> set[DeploymentKey]:
        keys = set()
        while (key := self.queue.take()) is not None:
            keys.add(key)
            self.queue.done(key)
        return keys


def waking(queue: KeyedQueue[DeploymentKey]) -> Changed:
    def changed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        for manifest in (before, after):
            if manifest is not None and (key := deployment_key(manifest)):
                queue.add(key)

    return changed


@asynccontextmanager
async def watching(client: KubeClient, *namespaces: str) -> AsyncIterator[Running]:
    cache, queue, ready, stop, seen = Cache(), KeyedQueue[DeploymentKey](), asyncio.Event(), asyncio.Event(), Seen()
    watch = Watch(client, cache, waking(queue), ready, namespaces, observer=seen)
    running = Running(watch, asyncio.create_task(watch.run(stop)), stop, ready, cache, queue, seen)
    try:
        await running.until(lambda: ready.is_set() or running.task.done())
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(running.task, return_exceptions=True), SECONDS)
        gc.collect()  # errors that kopf's tasks ended with are logged now and not in the middle of a later import


async def test_ready_means_that_every_object_is_known(client: KubeClient, namespace: str) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    for number in range(30):
        await client.create(owned(owner, "ConfigMap", f"c{number}", data={}))
    async with watching(client, namespace) as running:
        assert len(running.cache.children((namespace, "digits"))) == 30
        assert running.cache.get_deployment((namespace, "digits")) is not None
        assert running.drain() == {(namespace, "digits")}


async def test_an_empty_cluster_is_ready_too(client: KubeClient, namespace: str) -> None:
    async with watching(client, namespace) as running:
        assert running.ready.is_set()
        assert len(running.cache) == 0


async def test_changes_of_a_child_wake_its_deployment_and_strangers_are_not_even_sent(
    client: KubeClient, namespace: str
) -> None:
    async with watching(client) as running:
        owner = await client.post(model_deployment(namespace=namespace))
        key = (namespace, "digits")
        await running.until(lambda: running.cache.get_deployment(key) is not None)
        running.drain()
        stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stranger", "namespace": namespace}}
        await client.post(stranger)
        child = await client.create(owned(owner, "ConfigMap", "child", data={"a": "1"}))
        await running.until(lambda: bool(running.cache.children(key)))
        assert running.drain() == {key}
        await client.delete("ConfigMap", namespace, "child", child["metadata"]["uid"])
        await running.until(lambda: not running.cache.children(key))
        assert running.drain() == {key}
        assert running.cache.get(ObjectKey("ConfigMap", namespace, "stranger")) is None
        assert running.seen.events["ConfigMap", "added"] == 1, "the selector is the API server's work"


async def test_our_own_writes_wake_nobody_when_the_watch_delivers_them(
    control_plane: Any, client: KubeClient, namespace: str, tmp_path: Path
) -> None:
    async with (
        FaultProxy(control_plane.kubeconfig) as proxy,
        connected(proxy.kubeconfig(tmp_path)) as through,
        watching(through, namespace) as running,
    ):
        owner = await client.post(model_deployment(namespace=namespace))
        key = (namespace, "digits")
        await running.until(lambda: running.cache.get_deployment(key) is not None)
        running.drain()
        proxy.flow.clear()
        running.cache.put(await client.apply_status(owner, {"phase": "Pending"}))
        running.cache.put(await client.create(owned(owner, "ConfigMap", "child", data={})))
        gone_again = await client.create(owned(owner, "ConfigMap", "short", data={}))
        await client.delete("ConfigMap", namespace, "short", gone_again["metadata"]["uid"])
        running.cache.forget(ObjectKey("ConfigMap", namespace, "short"), gone_again["metadata"]["uid"])
        proxy.flow.set()
        await running.until(lambda: running.seen.events["ConfigMap", "deleted"] == 1)
        await running.until(lambda: running.seen.events["ModelDeployment", "modified"] == 1)
        assert running.drain() == set()
        assert [name.name for name in running.cache.children(key)] == ["child"]


async def test_a_pods_status_wakes_its_deployment_and_its_other_fields_do_not(
    client: KubeClient, namespace: str
) -> None:
    async with watching(client, namespace) as running:
        owner = await client.post(model_deployment(namespace=namespace))
        await client.create(owned(owner, "Pod", "p", spec={"containers": [{"name": "c", "image": "i"}]}))
        await running.until(lambda: running.seen.events["Pod", "added"] == 1)
        await running.until(lambda: running.seen.events["ModelDeployment", "added"] == 1)
        running.drain()
        path = f"/api/v1/namespaces/{namespace}/pods/p/status"
        quiet = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"hostIP": "10.0.0.9"}}
        await client.connection.send("PATCH", path, body=quiet, content_type="application/merge-patch+json")
        await running.until(lambda: running.seen.events["Pod", "modified"] == 1)
        assert running.drain() == set()
        loud = {**quiet, "status": {"phase": "Running"}}
        await client.connection.send("PATCH", path, body=loud, content_type="application/merge-patch+json")
        await running.until(lambda: running.seen.events["Pod", "modified"] == 2)
        assert running.drain() == {(namespace, "digits")}
        kept = running.cache.get(ObjectKey("Pod", namespace, "p"))
        assert kept is not None
        assert "spec" not in kept


async def test_nothing_is_ever_written(control_plane: Any, client: KubeClient, namespace: str, tmp_path: Path) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    await client.create(owned(owner, "ConfigMap", "child", data={}))
    before = [await client.get(kind, namespace, name) for kind, name in _BOTH]
    async with FaultProxy(control_plane.kubeconfig) as proxy, connected(proxy.kubeconfig(tmp_path)) as through:
        for turn in range(2):
            async with watching(through, namespace) as running:
                await client.create(owned(owner, "Service", f"s{turn}", spec={"ports": [{"port": 80}]}))
                await running.until(lambda: running.seen.events["Service", "added"] == 1)
        assert proxy.writes == 0
    after = [await client.get(kind, namespace, name) for kind, name in _BOTH]
    for old, new in zip(before, after, strict=True):
        assert new["metadata"].get("annotations") == old["metadata"].get("annotations")
        assert "finalizers" not in new["metadata"]


_BOTH = (("ModelDeployment", "digits"), ("ConfigMap", "child"))


async def test_a_broken_stream_is_taken_up_again(
    control_plane: Any, client: KubeClient, namespace: str, tmp_path: Path
) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    async with (
        FaultProxy(control_plane.kubeconfig) as proxy,
        connected(proxy.kubeconfig(tmp_path)) as through,
        watching(through, namespace) as running,
    ):
        await client.create(owned(owner, "ConfigMap", "one", data={}))
        await running.until(lambda: len(running.cache.children((namespace, "digits"))) == 1)
        proxy.cut()
        await client.create(owned(owner, "ConfigMap", "two", data={}))
        await running.until(lambda: len(running.cache.children((namespace, "digits"))) == 2)
        assert not running.task.done()


async def test_what_was_deleted_while_the_watch_was_away_is_dropped(
    control_plane: Any, client: KubeClient, namespace: str, tmp_path: Path
) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    key = (namespace, "digits")
    children = [await client.create(owned(owner, "ConfigMap", f"c{n}", data={})) for n in range(3)]
    async with (
        FaultProxy(control_plane.kubeconfig) as proxy,
        connected(proxy.kubeconfig(tmp_path)) as through,
        watching(through, namespace) as running,
    ):
        assert len(running.cache.children(key)) == 3
        running.drain()
        away = asyncio.Event()
        proxy.fault = lambda request: _unavailable(request, away)
        proxy.cut()
        for child in children:
            await client.delete("ConfigMap", namespace, child["metadata"]["name"], child["metadata"]["uid"])
        expired = {"left": 1}
        proxy.fault = lambda request: _expire_once(request, expired)
        await running.until(lambda: not running.cache.children(key))
        assert expired["left"] == 0, "the list was empty, so that only a complete list could tell"
        assert running.drain() == {key}
        assert proxy.writes == 0


def _unavailable(request: web.Request, away: asyncio.Event) -> web.Response | None:
    return web.Response(status=503) if "watch" in request.query and not away.is_set() else None


def _expire_once(request: web.Request, state: dict[str, int]) -> web.Response | None:
    if "watch" in request.query and request.path.endswith("/configmaps") and state["left"]:
        state["left"] -= 1
        return gone()
    return None


async def test_an_engine_that_ends_by_itself_ends_the_process(
    control_plane: Any, namespace: str, tmp_path: Path
) -> None:
    async with FaultProxy(control_plane.kubeconfig) as proxy, connected(proxy.kubeconfig(tmp_path)) as through:
        proxy.fault = lambda request: web.Response(status=400, text="{}") if "watch" in request.query else None
        async with watching(through, namespace) as running:
            with pytest.raises(WatchEnded):
                await asyncio.wait_for(running.task, SECONDS)


async def test_signals_reach_us_and_not_the_engine(client: KubeClient, namespace: str) -> None:
    asked = asyncio.Event()
    cache, queue, ready, stop = Cache(), KeyedQueue[DeploymentKey](), asyncio.Event(), asyncio.Event()
    watch = Watch(client, cache, waking(queue), ready, (namespace,))
    task = asyncio.create_task(watch.run(stop, on_signal=asked.set))
    await asyncio.wait_for(ready.wait(), SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(asked.wait(), SECONDS)
    assert not task.done()
    stop.set()
    await asyncio.wait_for(task, SECONDS)


async def test_stopping_leaves_the_rest_of_the_process_alone(client: KubeClient, namespace: str) -> None:
    async with watching(client, namespace) as running:
        bystander = asyncio.create_task(asyncio.Event().wait())
        running.stop.set()
        await asyncio.wait_for(running.task, SECONDS)
        await asyncio.sleep(0)
        assert not bystander.done()
        bystander.cancel()


async def test_age_grows_from_the_last_request_of_the_quietest_stream(client: KubeClient, namespace: str) -> None:
    async with watching(client, namespace) as running:
        await running.until(lambda: running.watch.age() < SECONDS)
        before = running.watch.age()
        await asyncio.sleep(0.05)
        assert running.watch.age() > before
