"""Openers, gates and refreshes with the real operator, API server and Job controller; the pods are played."""

import asyncio
from typing import Any

import pytest

from .fakecluster import CONVERTED, MOVED, V1, V2, digest_of
from .portrait import differences, portray
from .stage import Stage, says_nothing_more
from .stories import Telling
from .test_killed import for_each

LOOSE, STRICT = ({"latency": {"p95": limit}} for limit in ("20ms", "1ms"))
OPTIMIZE = {
    "hook": {"image": "trainer:1", "command": ["train"]},
    "precision": "Auto",
    "calibration": {"uri": "pvc://rows/calibration"},
}
ACCURACY = {"dataset": {"uri": "pvc://rows/test"}, "accuracy": {"image": "metric:1", "minimum": "0.9"}}


async def job_names(told: Telling) -> list[str]:
    found = await told.client.list("Job", told.namespace)
    return sorted(item["metadata"]["name"] for item in found.items)


async def preparation(told: Telling) -> dict[str, Any]:
    return dict((await told.status())["preparation"])


async def test_content_for_another_image_is_opened_by_it_and_judged(stage: Stage) -> None:
    async with stage.telling("converted") as told:
        await told.start()
        await told.create(CONVERTED, gates=LOOSE)
        await told.settled("Available", CONVERTED)
        found = await preparation(told)
        assert (found["opener"], found["sourceFormat"]) == ("Convert", "SKLearn")
        assert found["gates"] == [{"name": "latency.p95", "asked": "20ms", "measured": "4ms", "passed": True}]
        assert len(await job_names(told)) == 1
        await says_nothing_more(told)


async def test_a_failed_gate_leaves_the_stable_revision_alone(stage: Stage) -> None:
    async with stage.telling("gated") as told:
        await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        stable = (await told.status())["stable"]
        await told.edit({"gates": STRICT})
        await told.settled("Failed", V1)
        status = await told.status()
        stalled = next(item for item in status["conditions"] if item["type"] == "Stalled")
        assert (stalled["reason"], status["stable"]) == ("LatencyFailed", stable)
        await told.edit({"gates": LOOSE})
        await told.settled("Available", V1)
        assert (await told.status())["stable"] == stable
        await says_nothing_more(told)


async def test_the_api_server_takes_a_pod_with_everything_in_it(stage: Stage) -> None:
    async with stage.telling("sequential") as told:
        await told.start()
        placement = {"serviceAccountName": "default", "tolerations": [{"operator": "Exists"}]}
        prepare = {"timeout": "5m", "pod": placement}
        await told.create(V1, optimize=OPTIMIZE, gates={**ACCURACY, **LOOSE}, prepare=prepare)
        await told.settled("Available", V1)
        (job,) = (await told.client.list("Job", told.namespace)).items
        names = [item["name"] for item in job["spec"]["template"]["spec"]["initContainers"]]
        assert names == ["fetch", "hook", "inspect", "server", "measure", "metric"]
        await says_nothing_more(told)


async def test_what_a_uri_has_come_to_mean_is_a_new_revision(stage: Stage) -> None:
    async with stage.telling("refreshed") as told:
        await told.start()
        await told.create(MOVED, model={"uri": MOVED, "refresh": "1h"})
        await told.until(lambda: _serves(told, V2), "the content of now")
        found = await preparation(told)
        assert found["resolved"] == "the second"
        outcomes = [entry["outcome"] for entry in (await told.status())["history"]]
        assert outcomes in (["Promoted", "Promoted"], ["Promoted", "Superseded"], ["Promoted"])
        await told.edit({"model": {"refresh": None}})
        await told.until(lambda: _none_asks(told), "no Job that asks")
        await told.settled("Available", MOVED)
        await says_nothing_more(told)


async def _serves(told: Telling, uri: str) -> bool:
    status = await told.status()
    return bool(status.get("phase") == "Available" and status["stable"]["digest"] == digest_of(uri))


async def _none_asks(told: Telling) -> bool:
    return not [name for name in await job_names(told) if "-resolve-" in name]


@pytest.mark.timeout(600)
async def test_killed_after_any_write_the_same_is_prepared(stage: Stage) -> None:
    """From nothing through another opener and a gate that fails to one that passes."""

    async def play(told: Telling) -> None:
        await told.create(CONVERTED, gates=LOOSE)
        await told.settled("Available", CONVERTED)
        await told.edit({"gates": STRICT})
        await told.settled("Failed", CONVERTED)

    async with stage.telling("calm") as told:
        await told.start()
        await play(told)
        writes, expected = len(told.proxy.written), await portray(stage.client, told.namespace)

    async def live(number: int) -> None:
        async with stage.telling(f"shot-{number}") as told:
            await told.start()
            told.kill_after(number)
            async with told.kept_alive():
                await play(told)
                found = differences(await portray(stage.client, told.namespace), expected)
                if found:
                    await asyncio.sleep(3)
                    found = differences(await portray(stage.client, told.namespace), expected)
                assert not found, "\n".join((*found, *told.writes()))

    await for_each(live, writes, stride=2, at_once=5)
