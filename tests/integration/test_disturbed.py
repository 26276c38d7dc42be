"""What else a cluster does to an operator: the API server goes away, errs, breaks off; another one wants to lead."""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import datetime

import pytest
from aiohttp import web

from .fakecluster import V1, V2
from .operators import Operator, operator_environment, start_operator
from .stage import Stage, undisturbed
from .stories import Telling

TAKE_OVER_SECONDS = 6.0
LEASE = "penstock"


async def test_an_api_server_that_is_away_for_a_while(stage: Stage) -> None:
    expected = (await undisturbed(stage))[1]
    async with stage.telling("away") as told:
        await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        async with told.kept_alive():
            told.proxy.disconnect()
            await told.edit({"model": {"uri": V2}})
            await asyncio.sleep(8.0)
            told.proxy.reconnect()
            await told.settled("Available", V2)
        await stage.ends_as(told, expected)


async def test_an_api_server_that_is_away_in_the_middle_of_the_work(stage: Stage) -> None:
    expected = (await undisturbed(stage))[0]
    async with stage.telling("away-midway") as told:

        def away(number: int) -> bool:
            if number == expected.writes // 2:
                told.proxy.disconnect()
                asyncio.get_running_loop().call_later(3.0, told.proxy.reconnect)
            return True

        told.proxy.answered = away
        await told.start()
        async with told.kept_alive():
            await told.create(V1)
            await told.settled("Available", V1)
        await stage.ends_as(told, expected)


class EveryThird:
    """Refuses every third request of the kind, so that every retry meets other luck."""

    def __init__(self, answer: Callable[[], web.Response], *, reads: bool) -> None:
        self._answer, self._reads, self._seen = answer, reads, 0
        self.refused = 0

    def __call__(self, request: web.Request) -> web.Response | None:
        if "watch" in request.query or (request.method == "GET") is not self._reads or "/leases/" in request.path:
            return None
        self._seen += 1
        if self._seen % 3:
            return None
        self.refused += 1
        return self._answer()


def refusal(code: int, reason: str, **headers: str) -> Callable[[], web.Response]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return lambda: web.json_response({**status, "message": f"injected {code}"}, status=code, headers=headers)


REFUSALS = {
    "conflict": (refusal(409, "Conflict"), False),
    "too-many": (refusal(429, "TooManyRequests", **{"Retry-After": "1"}), False),
    "internal": (refusal(500, "InternalError"), False),
    "unavailable": (refusal(503, "ServiceUnavailable"), False),
    "internal-reads": (refusal(500, "InternalError"), True),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_are_survived(stage: Stage, name: str) -> None:
    expected = (await undisturbed(stage))[0]
    answer, reads = REFUSALS[name]
    async with stage.telling(f"refused-{name}") as told:
        fault = EveryThird(answer, reads=reads)
        told.proxy.fault = fault
        operator = await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        assert fault.refused
        assert operator.alive
        told.proxy.fault = lambda request: None
        await stage.ends_as(told, expected)


async def test_watches_that_are_cut_again_and_again(stage: Stage) -> None:
    expected = (await undisturbed(stage))[1]
    async with stage.telling("cut") as told:

        def cut(_: int) -> bool:
            told.proxy.cut()
            return True

        told.proxy.answered = cut
        operator = await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        await told.edit({"model": {"uri": V2}})
        await told.settled("Available", V2)
        assert operator.alive
        await stage.ends_as(told, expected)


async def holder(told: Telling) -> str:
    lease = await told.client.find("Lease", told.namespace, LEASE)
    return str((lease or {}).get("spec", {}).get("holderIdentity", ""))


def contender(told: Telling, identity: str) -> Operator:
    """The command itself, in an interpreter of its own."""
    environment = operator_environment(told.kubeconfig, told.namespace, identity=identity)
    return start_operator(environment, told.folder / f"{identity}.log")


async def test_of_two_one_leads_and_the_other_follows_when_it_is_asked_to_go(
    stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    async with stage.telling("contenders") as told:
        both = {name: contender(told, name) for name in ("pod-a", "pod-b")}
        try:
            await told.create(V1)
            await told.settled("Available", V1)
            first = await holder(told)
            second = next(name for name in both if name != first)
            assert "leading" not in both[second].log.read_text()
            both[first].signal(signal.SIGTERM)
            await both[first].ended()
            released = time.time()

            async def taken_over() -> bool:
                return await holder(told) == second

            await told.until(taken_over, f"{second} leads")
            lease = await told.client.get("Lease", told.namespace, LEASE)
            took = datetime.fromisoformat(lease["spec"]["acquireTime"]).timestamp() - released
            record_property("take_over_s", round(took, 2))
            assert took < TAKE_OVER_SECONDS, f"{took:.1f} s"
            before = len(told.proxy.written)
            await told.edit({"model": {"uri": V2}})
            await told.settled("Available", V2)
            assert len(told.proxy.written) > before
            assert both[second].alive
        finally:
            for operator in both.values():
                await operator.kill()


async def test_who_lost_the_lease_writes_nothing(stage: Stage) -> None:
    """Another holder takes the lease by force; the stale operator, with work to do, must not touch anything."""
    async with stage.telling("stale") as told:
        operator = await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        lease = await told.client.get("Lease", told.namespace, LEASE)
        await told.client.replace({**lease, "spec": {**lease["spec"], "holderIdentity": "somebody-else"}})
        await operator.ended()
        before = list(told.proxy.written)
        await told.edit({"model": {"uri": V2}})
        await told.start("pod-1")
        await asyncio.sleep(4.0)
        assert told.proxy.written == before
        assert await holder(told) == "somebody-else"


async def test_a_frozen_leader_wakes_up_fenced(stage: Stage) -> None:
    """Stopped for longer than it trusts its lease, it may have been replaced: not one more write.

    The renewals of the stopped process are not what decides: the clock is, and it is asked before every write.
    """
    async with stage.telling("frozen") as told:
        operator = await told.start()
        await told.create(V1)
        await told.settled("Available", V1)
        before = list(told.proxy.written)
        operator.signal(signal.SIGSTOP)
        await told.edit({"model": {"uri": V2}})
        lease = await told.client.get("Lease", told.namespace, LEASE)
        await told.client.replace({**lease, "spec": {**lease["spec"], "holderIdentity": "somebody-else"}})
        await asyncio.sleep(42.0)
        operator.signal(signal.SIGCONT)
        await operator.ended()
        assert told.proxy.written == before
