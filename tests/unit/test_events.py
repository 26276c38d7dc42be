"""Events are told once, later, and never at the cost of a reconcile."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from penstock.kube.errors import Forbidden
from penstock.kube.events import EventObserver, EventRecorder

DIGITS = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "digits", "namespace": "vision", "uid": "u1"},
}


class Server:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refuse = False

    async def post(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.refuse:
            raise Forbidden("no")
        self.events.append(manifest)
        return manifest


class Outcomes(list[str]):
    def event(self, outcome: str) -> None:
        self.append(outcome)


def recorder(server: Server, outcomes: EventObserver | None = None, **more: Any) -> EventRecorder:
    return EventRecorder(
        server,  # type: ignore[arg-type]
        instance="penstock-0",
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        new_name=lambda: "n1",
        observer=outcomes,
        **more,
    )


async def test_an_event_names_what_it_is_about() -> None:
    server = Server()
    events = recorder(server)
    events.record(DIGITS, "RevisionPromoted", "digits-1 serves", action="Promote")
    events.record(DIGITS, "LoadFailed", "bad config", warning=True)
    await events.flush()
    assert server.events[0] == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "digits.n1", "namespace": "vision"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "penstock.dev/operator",
        "reportingInstance": "penstock-0",
        "type": "Normal",
        "reason": "RevisionPromoted",
        "action": "Promote",
        "note": "digits-1 serves",
        "regarding": {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "namespace": "vision",
            "name": "digits",
            "uid": "u1",
        },
    }
    assert server.events[1]["type"] == "Warning"


async def test_the_same_is_said_once() -> None:
    server, outcomes = Server(), Outcomes()
    events = recorder(server, outcomes)
    for _ in range(3):
        events.record(DIGITS, "LoadFailed", "bad config")
    events.record(DIGITS, "LoadFailed", "another sentence")
    events.record({**DIGITS, "metadata": {**DIGITS["metadata"], "uid": "u2"}}, "LoadFailed", "bad config")  # type: ignore[dict-item]
    await events.flush()
    assert len(server.events) == 3
    assert outcomes.count("duplicate") == 2


async def test_memory_of_what_was_said_is_bounded() -> None:
    server = Server()
    events = recorder(server, remember=2)
    for message in ("a", "b", "c", "a"):
        events.record(DIGITS, "LoadFailed", message)
    await events.flush()
    assert len(server.events) == 4


async def test_with_too_many_waiting_the_oldest_goes() -> None:
    server, outcomes = Server(), Outcomes()
    events = recorder(server, outcomes, capacity=2)
    for message in ("a", "b", "c"):
        events.record(DIGITS, "LoadFailed", message)
    await events.flush()
    assert [event["note"] for event in server.events] == ["b", "c"]
    assert outcomes == ["dropped", "sent", "sent"]


async def test_a_refused_event_is_counted_and_the_next_one_sent() -> None:
    outcomes: asyncio.Queue[str] = asyncio.Queue()

    class Observer:
        def event(self, outcome: str) -> None:
            outcomes.put_nowait(outcome)

    server = Server()
    server.refuse = True
    events = recorder(server, Observer())
    running = asyncio.create_task(events.run())
    events.record(DIGITS, "LoadFailed", "a")
    assert await asyncio.wait_for(outcomes.get(), 2) == "failed"
    server.refuse = False
    events.record(DIGITS, "LoadFailed", "b")
    assert await asyncio.wait_for(outcomes.get(), 2) == "sent"
    running.cancel()


async def test_long_messages_are_cut_at_the_servers_limit() -> None:
    server = Server()
    events = recorder(server)
    events.record(DIGITS, "LoadFailed", "ü" * 2000)
    await events.flush()
    note = server.events[0]["note"]
    assert len(note.encode()) <= 1024
    assert note.endswith("ü…")
