"""Rollouts through a router: the real operator, API server and controllers; router pods that answer as agents do.

Requests are made up by fakerouters.py, so a step takes as long as its hold and no longer.
"""

import asyncio
import os
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import pytest

from penstock.api.resource import Metadata
from penstock.api.router import SplitRevision, SplitSupervision, TrafficSplitSpec
from penstock.controller.writing import Writer
from penstock.core.router import traffic_split
from penstock.kube.cache import Cache
from penstock.kube.errors import Conflict

from .fakecluster import COUNTING, FAILING, V1, V2
from .portrait import differences, portray
from .stage import Stage, says_nothing_more
from .stories import Telling
from .test_killed import for_each

STEPS = [{"weight": 10, "hold": "3s"}, {"weight": 50, "hold": "3s"}]
ROUTED = {"traffic": {"timeout": "1s"}, "rollout": {"canary": {"steps": STEPS}}}
STRIDE = int(os.environ.get("KILL_STRIDE", "5"))
"""A life of a minute for each write is long: killed after every fifth, KILL_STRIDE=1 for all."""
SPLIT, SERVICE, ROUTER = "TrafficSplit", "Service", "Router"


async def settled(told: Telling, phase: str, uri: str) -> None:
    """Until the phase is this one, `uri` serves alone, nothing drains, and nothing is written any more."""

    async def condition() -> bool:
        status = await told.status()
        return (
            told.still
            and status.get("phase") == phase
            and status.get("stable", {}).get("uri") == uri
            and "candidate" not in status
            and len(await weights(told)) == await told.count("Deployment") == await told.count("Pod") == 1
        )

    await told.until(condition, f"{phase} with {uri}")


async def begin(told: Telling) -> None:
    """V1 serves through the router."""
    await told.start()
    await told.create(V1, **ROUTED)
    await settled(told, "Available", V1)


async def revisions(told: Telling) -> dict[str, str]:
    """Names by URI."""
    records = await told.client.list("ControllerRevision", told.namespace)
    return {item["data"]["model"]["uri"]: item["metadata"]["name"] for item in records.items}


async def weights(told: Telling) -> dict[str, int]:
    split = await told.client.get(SPLIT, told.namespace, told.name)
    return {item["name"]: item["weight"] for item in split["spec"]["revisions"]}


async def test_the_first_revision_is_reached_through_a_router_made_on_first_use(stage: Stage) -> None:
    async with stage.telling("first") as told:
        await begin(told)
        name = (await revisions(told))[V1]
        split = await stage.client.get(SPLIT, told.namespace, told.name)
        assert await weights(told) == {name: 1000}
        service = await stage.client.get(SERVICE, told.namespace, told.name)
        assert service["spec"]["selector"]["penstock.dev/router"] == "default"
        assert {port["targetPort"] for port in service["spec"]["ports"]} == {split["spec"]["port"]}
        router = await stage.client.get(ROUTER, told.namespace, "default")
        assert [owner["name"] for owner in router["metadata"]["ownerReferences"]] == [told.name]
        assert router["status"]["readyReplicas"] == 2
        await says_nothing_more(told)


async def test_a_canary_from_its_start_to_its_promotion(
    stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    async with stage.telling("canary") as told:
        await begin(told)
        before, started = len(told.proxy.written), asyncio.get_running_loop().time()
        await told.edit({"model": {"uri": V2}})
        await settled(told, "Available", V2)
        took = asyncio.get_running_loop().time() - started
        old, new = (await revisions(told))[V1], (await revisions(told))[V2]
        routes = stage.routers.weights(told.namespace)
        assert routes == [{old: 1000}, {old: 900, new: 100}, {old: 500, new: 500}, {new: 1000}], routes
        record_property("took_s", round(took, 1))
        written = [str(write) for write in told.proxy.written[before:]]
        record_property("writes", len(written))
        splits = [line for line in written if "/trafficsplits/" in line]
        statuses = [line for line in written if "/modeldeployments/" in line]
        events = [line for line in written if "/events" in line]
        route = [line for line in written if line in statuses or line in splits]
        told_between = [len(list(group)) for is_split, group in groupby(route, splits.__contains__) if not is_split]
        assert max(told_between[1:-1]) <= 2 + took / 10, "one for a stage, one when the routers follow\n" + "\n".join(
            written
        )
        stages = len(STEPS) + 4  # preparing, starting, warming, promoting
        assert len(splits) <= len(STEPS) + 4 + took / 15, "\n".join(written)  # renewed every 15 s
        assert len(events) <= stages + 2, "\n".join(written)
        assert len(statuses) <= 2 * stages + 2 + took / 10, "\n".join(written)


async def test_while_nothing_is_judged_nobody_is_asked(stage: Stage) -> None:
    async with stage.telling("idle") as told:
        await begin(told)
        await asyncio.sleep(3.0)
        writes, scrapes = len(told.proxy.written), stage.routers.scrapes[told.namespace]
        requests = asked(told)
        await asyncio.sleep(6.0)
        assert len(told.proxy.written) == writes
        assert stage.routers.scrapes[told.namespace] == scrapes
        assert asked(told) == requests


def asked(told: Telling) -> int:
    """Requests but for watches and PUTs: a lease is renewed so, and what else is written is listed anyway."""
    return sum(n for (method, kind), n in told.proxy.requests.items() if kind == "plain" and method != "PUT")


async def test_one_that_fails_is_taken_back(stage: Stage, record_property: Callable[[str, object], None]) -> None:
    async with stage.telling("failing") as told:
        await begin(told)
        await told.edit({"model": {"uri": COUNTING}})
        await settled(told, "RolledBack", V1)
        old, new = (await revisions(told))[V1], (await revisions(told))[COUNTING]
        routes = stage.routers.weights(told.namespace)
        assert routes == [{old: 1000}, {old: 900, new: 100}, {old: 1000}], routes
        status = await told.status()
        assert status["failedRevision"]["revision"] == new
        record_property("message", status["message"])
        sentence = "Triton counted 40 failures of 40 requests (BACKEND: the model's own code raised an error)"
        assert status["failedRevision"]["diagnosis"] == sentence
        assert status["message"].endswith(f". {sentence}")
        assert stage.routers.examined[told.namespace] == 1
        events = await stage.client.list("Event", told.namespace)
        assert [event["reason"] for event in events.items].count("RolledBack") == 1
        await says_nothing_more(told)


async def test_a_split_that_somebody_edits_is_put_right_at_once(stage: Stage) -> None:
    async with stage.telling("edited") as told:
        await begin(told)
        name = (await revisions(told))[V1]
        split = await stage.client.get(SPLIT, told.namespace, told.name)
        spec: dict[str, Any] = {
            **split["spec"],
            "generation": split["spec"]["generation"] + 5,
            "timeoutMilliseconds": 5,
        }
        path = f"/apis/penstock.dev/v1alpha1/namespaces/{told.namespace}/trafficsplits/{told.name}"
        answer = await stage.client.connection.send(
            "PATCH", path, query=[("fieldManager", "somebody")], body={"spec": spec},
            content_type="application/merge-patch+json",
        )  # fmt: skip
        assert answer.code == 200, answer.body

        async def put_right() -> bool:
            found = await stage.client.get(SPLIT, told.namespace, told.name)
            return bool(found["spec"]["timeoutMilliseconds"] == 1000)

        await told.until(put_right, "the split as it was", 20)
        found = await stage.client.get(SPLIT, told.namespace, told.name)
        assert found["spec"]["generation"] > spec["generation"]
        assert await weights(told) == {name: 1000}


async def test_a_label_taken_from_a_split_comes_back(stage: Stage) -> None:
    async with stage.telling("unlabelled") as told:
        await begin(told)
        path = f"/apis/penstock.dev/v1alpha1/namespaces/{told.namespace}/trafficsplits/{told.name}"
        body = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None, "penstock.dev/deployment": None}}}
        await stage.client.connection.send("PATCH", path, body=body, content_type="application/merge-patch+json")

        async def labelled() -> bool:
            found = await stage.client.get(SPLIT, told.namespace, told.name)
            return "penstock.dev/deployment" in (found["metadata"].get("labels") or {})

        await told.until(labelled, "the label as it was", 20)


async def test_deleted_in_the_middle_nothing_is_left(stage: Stage) -> None:
    async with stage.telling("deleted-canary") as told:
        await begin(told)
        await told.edit({"model": {"uri": V2}})

        async def begun() -> bool:
            return len(stage.routers.weights(told.namespace)) > 1

        await told.until(begun, "the first step")
        await told.delete()
        await told.gone()


def assert_no_step_was_short(stage: Stage, told: Telling) -> None:
    """Routes came in order, none was left before its hold was over, none came twice."""
    changes = stage.routers.changes(told.namespace)
    stays = {tuple(sorted(before.values())): later - since for (since, before), (later, _) in pairwise(changes)}
    for step in STEPS:
        weight = int(step["weight"]) * 10
        assert stays[tuple(sorted((weight, 1000 - weight)))] >= 3.0, stays
    assert len(changes) == len(STEPS) + 2, changes


@pytest.mark.timeout(900)
async def test_killed_after_any_write_of_a_canary_it_ends_the_same_and_no_step_is_shorter(stage: Stage) -> None:
    async with stage.telling("whole") as told:
        await begin(told)
        before = len(told.proxy.written)
        await told.edit({"model": {"uri": V2}})
        await settled(told, "Available", V2)
        last = len(told.proxy.written) - before
        expected = await portray(stage.client, told.namespace)
        assert_no_step_was_short(stage, told)

    async def live(number: int) -> None:
        async with stage.telling(f"canary-killed-{number}") as told:
            await begin(told)
            async with told.kept_alive():
                told.kill_after(number)
                await told.edit({"model": {"uri": V2}})
                await settled(told, "Available", V2)
                assert_no_step_was_short(stage, told)

                async def looks_the_same() -> bool:
                    return not differences(await portray(stage.client, told.namespace), expected)

                await told.until(looks_the_same, "the end of one that was not killed")
                await says_nothing_more(told)

    await for_each(live, last, STRIDE, at_once=4)


@pytest.mark.timeout(900)
async def test_killed_after_any_write_of_a_rollback_it_is_taken_back_all_the_same(stage: Stage) -> None:
    async with stage.telling("whole-back") as told:
        await begin(told)
        before = len(told.proxy.written)
        await told.edit({"model": {"uri": FAILING}})
        await settled(told, "RolledBack", V1)
        last = len(told.proxy.written) - before

    async def live(number: int) -> None:
        async with stage.telling(f"back-killed-{number}") as told:
            await begin(told)
            async with told.kept_alive():
                told.kill_after(number)
                await told.edit({"model": {"uri": FAILING}})
                await settled(told, "RolledBack", V1)
                assert len(stage.routers.weights(told.namespace)) == 3
                await says_nothing_more(told)

    await for_each(live, last, STRIDE, at_once=4)


async def test_a_long_step_costs_its_renewals_and_a_status_every_ten_seconds(stage: Stage) -> None:
    spec = {"steps": [{"weight": 10, "hold": "40s"}]}
    rollout = {"canary": spec, "supervision": {"timeout": "20s"}}
    async with stage.telling("long") as told:
        await told.start()
        await told.create(V1, traffic={"timeout": "1s"}, rollout=rollout)
        await settled(told, "Available", V1)
        await told.edit({"model": {"uri": V2}})

        async def stepping() -> bool:
            return (await told.status()).get("candidate", {}).get("weight") == "10"

        await told.until(stepping, "the step")
        await asyncio.sleep(2.0)
        before, began = len(told.proxy.written), asyncio.get_running_loop().time()
        await asyncio.sleep(30.0)
        took = asyncio.get_running_loop().time() - began
        written = [str(write) for write in told.proxy.written[before:]]
        splits = [line for line in written if "/trafficsplits/" in line]
        statuses = [line for line in written if "/modeldeployments/" in line]
        assert took / 5 - 2 <= len(splits) <= took / 5 + 1, "\n".join(written)
        assert len(statuses) <= took / 10 + 1, "\n".join(written)
        assert len(written) == len(splits) + len(statuses), "\n".join(written)


def route(owner: Metadata, generation: int, candidate: int) -> dict[str, Any]:
    """A split that gives the candidate so much."""
    revisions = (
        SplitRevision(name="digits-aaaaaaaa", model="digits", weight=1000 - candidate),
        SplitRevision(name="digits-bbbbbbbb", model="digits", weight=candidate),
    )
    supervision = SplitSupervision(timeout_seconds=60, renew_time="2026-01-01T00:00:00Z") if candidate else None
    spec = TrafficSplitSpec(
        router="default", deployment=owner.name, deployment_uid=owner.uid, generation=generation, port=20000,
        stable="digits-aaaaaaaa", revisions=revisions, supervision=supervision, timeout_milliseconds=1000,
        max_request_bytes=1024, max_concurrent=10,
    )  # fmt: skip
    return traffic_split(owner, spec)


async def test_a_leader_of_yesterday_raises_nothing_and_lowers_nothing_that_matters(stage: Stage) -> None:
    async with stage.telling("stale") as told:
        await told.create(V1)
        owner = Metadata.model_validate(
            (await stage.client.get("ModelDeployment", told.namespace, told.name))["metadata"]
        )
        old, new = Cache(), Cache()
        stale, leader = Writer(stage.client, old), Writer(stage.client, new)
        await leader.write(route(owner, 3, 100))
        for seen in (old, new):
            seen.put(await stage.client.get(SPLIT, told.namespace, told.name))
        await leader.write(route(owner, 4, 0))
        with pytest.raises(Conflict):
            await stale.write(route(owner, 4, 500), fenced=True)
        assert sorted((await weights(told)).values()) == [0, 1000]

        old.forget(next(iter(old.children((told.namespace, told.name)))), "")
        old.put(await stage.client.get(SPLIT, told.namespace, told.name))
        for generation in (5, 6):
            await leader.write(route(owner, generation, 200), fenced=True)
        with pytest.raises(Conflict):
            await stale.write(route(owner, 5, 0))
        assert sorted((await weights(told)).values()) == [200, 800], "an older generation is refused"
        await stale.write(route(owner, 7, 0))
        assert sorted((await weights(told)).values()) == [0, 1000], "having looked again, it may always lower"
