"""Leader election on a real Lease: two contenders, a death, a release."""

import asyncio
from typing import Any

import pytest

from penstock.kube.client import KubeClient
from penstock.kube.errors import Fenced
from penstock.kube.lease import LeaderLease, LeaseTimes
from tests.integration.apiserver import connected

FAST = LeaseTimes(duration=3.0, renew_deadline=2.2, retry=0.1, request=1.5)
"""Slow enough for an API server whose machine is busy with other tests: one late answer must not lose the lease."""


def contender(client: KubeClient, namespace: str, identity: str) -> LeaderLease:
    return LeaderLease(client, namespace=namespace, name="penstock", identity=identity, times=FAST)


async def holder(client: KubeClient, namespace: str) -> str:
    return str((await client.get("Lease", namespace, "penstock"))["spec"].get("holderIdentity", ""))


async def test_the_second_takes_over_from_a_dead_first(client: KubeClient, namespace: str) -> None:
    first, second = contender(client, namespace, "a"), contender(client, namespace, "b")
    stop = asyncio.Event()
    leading = asyncio.create_task(first.run(stop))
    await asyncio.wait_for(first.acquired.wait(), 60)
    waiting = asyncio.create_task(second.run(stop))
    await asyncio.sleep(FAST.duration * 1.5)
    assert first.held
    assert not second.acquired.is_set(), "the first renews"
    leading.cancel()
    overlap = []
    while not second.acquired.is_set():
        overlap.append(first.held and second.held)
        await asyncio.sleep(0.01)
    assert not first.held
    assert not any(overlap)
    assert (await client.get("Lease", namespace, "penstock"))["spec"]["leaseTransitions"] == 1
    stop.set()
    await waiting
    assert await holder(client, namespace) == ""


async def test_a_release_hands_over_at_once(client: KubeClient, namespace: str) -> None:
    first, second = contender(client, namespace, "a"), contender(client, namespace, "b")
    stop_first, stop_second = asyncio.Event(), asyncio.Event()
    leading = asyncio.create_task(first.run(stop_first))
    await asyncio.wait_for(first.acquired.wait(), 60)
    waiting = asyncio.create_task(second.run(stop_second))
    stop_first.set()
    await leading
    released = asyncio.get_running_loop().time()
    await asyncio.wait_for(second.acquired.wait(), 60)
    assert asyncio.get_running_loop().time() - released < FAST.duration / 2
    stop_second.set()
    await waiting


async def test_a_restarted_container_goes_on_at_once(client: KubeClient, namespace: str) -> None:
    assert await contender(client, namespace, "pod-uid").attempt()
    assert await contender(client, namespace, "pod-uid").attempt()
    assert not await contender(client, namespace, "other-uid").attempt()


async def test_a_client_behind_the_fence_stops_writing_with_the_lease(
    control_plane: Any, client: KubeClient, namespace: str
) -> None:
    lease = contender(client, namespace, "a")
    async with connected(control_plane.kubeconfig, fence=lambda: lease.held) as fenced:
        wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": namespace}}
        with pytest.raises(Fenced):
            await fenced.create(wanted)
        await lease.attempt()
        await fenced.create(wanted)
        await lease.release()
        with pytest.raises(Fenced):
            await fenced.create({**wanted, "metadata": {"name": "y", "namespace": namespace}})
    assert await client.find("ConfigMap", namespace, "y") is None
