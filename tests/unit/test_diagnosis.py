"""The sentence about a revision that was taken back: what it says, when it is asked for; it decides nothing."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest

from penstock.api.reasons import Reason
from penstock.core.diagnosis import Total, describe_servers, total_counts
from penstock.core.observed import Observed
from penstock.core.plan import Plan, plan
from penstock.core.servercounts import Examination, Findings, ModelCounts

from .test_pd_cases import CANARY, at_step, command
from .world import START, V1, V2, Crash, World, manifest

ERRORS, REFUSED, SLOW = Reason.ERROR_RATE_WORSE, Reason.CLIENT_ERROR_RATE_WORSE, Reason.LATENCY_WORSE
STABLE = Total(1, 1, served=9000, queued=0.12, computed=9.04)
USUAL = "0.1 ms in the queue and 9.0 ms in the model"


@pytest.mark.parametrize(
    ("reason", "candidate", "sentence"),
    [
        (
            ERRORS,
            Total(1, 1, 11106, {"BACKEND": 1204}, 3.0, 41.0),
            (
                "Triton counted 1204 failures of 12310 requests (BACKEND: the model's own code raised an error); "
                f"one that it served took 3.0 ms in the queue and 41 ms in the model, stable's {USUAL}"
            ),
        ),
        (
            Reason.ERROR_RATE_ABOVE_MAXIMUM,
            Total(1, 1, 0, {"REJECTED": 4, "OTHER": 1, "BACKEND": 4}),
            (
                "Triton counted 9 failures of 9 requests"
                " (4 BACKEND, 4 REJECTED, 1 OTHER: the model's own code raised an error)"
            ),
        ),
        (
            ERRORS,
            Total(1, 1, 0, {"OTHER": 8}, inner="tokenizer"),
            "Triton counted 8 failures of 8 requests (OTHER) inside its model tokenizer",
        ),
        (
            ERRORS,
            Total(2, 3, 40, waiting=7),
            (
                "Triton counted 40 requests as served and none as failed: the errors are answers of the model's own"
                " code, or requests without one (timeout, lost connection, full queue);"
                " 7 wait in its queue (2 of 3 pods answered)"
            ),
        ),
        (ERRORS, Total(1, 1), "No request reached its model in Triton: they were refused before it, or did not arrive"),
        (
            REFUSED,
            Total(1, 1, 412),
            (
                "Triton does not count what it refuses as bad (names, shapes or types of inputs, an unknown model);"
                " 412 others reached the model"
            ),
        ),
        (
            SLOW,
            Total(1, 1, 50, queued=120.4, computed=9.1),
            f"A request took Triton 120 ms in the queue and 9.1 ms in the model, stable's {USUAL}",
        ),
        (
            SLOW,
            Total(1, 1, 50, queued=0.2, computed=9.1),
            (
                f"A request took Triton 0.2 ms in the queue and 9.1 ms in the model, stable's {USUAL}:"
                " the time is lost before Triton, or after the model's code has returned"
            ),
        ),
        (SLOW, Total(1, 1), "No request was finished by its model in Triton"),
        (ERRORS, None, ""),
    ],
)
def test_what_is_said(reason: Reason, candidate: Total | None, sentence: str) -> None:
    assert describe_servers(reason, candidate, STABLE, "") == sentence


def test_restarts_come_first_and_stable_may_be_unknown() -> None:
    counted = "Triton counted 2 failures of 2 requests (CANCELED: their clients gave up)"
    again = "Its server was restarted once (code 139)"
    candidate = Total(1, 1, 0, {"CANCELED": 2})
    assert describe_servers(ERRORS, candidate, None, "once (code 139)") == f"{again} and counts anew since: {counted}"
    assert describe_servers(ERRORS, None, None, "once (code 139)") == again
    slow = describe_servers(SLOW, Total(1, 1, 50, queued=2, computed=3), None, "")
    assert slow == "A request took Triton 2.0 ms in the queue and 3.0 ms in the model"


def test_servers_are_added_up_and_what_fails_inside_an_ensemble_is_named() -> None:
    inner = {"tokenizer": ModelCounts(1, {"BACKEND": 3}), "encoder": ModelCounts(4)}
    one = {"whole": ModelCounts(3, {"OTHER": 2}, 3000, 9000, 1), **inner}
    other = {"whole": ModelCounts(1, {"OTHER": 1, "REJECTED": 1}, 1000, 3000), **inner}
    found = total_counts((one, other), "whole", 3)
    assert found == Total(2, 3, 4, {"OTHER": 3, "REJECTED": 1}, 1.0, 3.0, 1, "tokenizer")
    assert total_counts((one,), "another") is None
    assert total_counts((one,), None) is None
    assert total_counts((), "whole") is None


@dataclass
class Told(World):
    """With serving pods that can be asked, and an operator that asks when the plan says so."""

    counts: dict[str, ModelCounts] = field(default_factory=lambda: {"digits": ModelCounts(30, {"BACKEND": 10}, 3, 9)})
    answers: bool = True
    findings: Findings | None = None
    examined: list[Examination] = field(default_factory=list)
    seen: list[tuple[Observed, Any]] = field(default_factory=list)
    restarts: int = 0
    started: str = "2026-01-01T12:00:01Z"
    """Since when the servers run."""

    def observe(self) -> Observed:
        found = super().observe()
        pods = tuple(self._with_address(pod, number) for number, pod in enumerate(found.pods))
        found = replace(found, pods=pods, findings=self.findings)
        self.seen.append((found, self.now))
        return found

    def _with_address(self, pod: dict[str, Any], number: int) -> dict[str, Any]:
        ready = {"podIP": f"10.0.0.{number}", "conditions": [{"type": "Ready", "status": "True"}]}
        pod = copy.deepcopy(pod)
        pod["status"].update(ready)
        for container in pod["status"].get("containerStatuses", ()):
            container["restartCount"] = self.restarts
            if container["name"] == "server" and "running" in container["state"]:
                container["state"] = {"running": {"startedAt": self.started}}
            if self.restarts:
                container["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        return pod

    def reconcile(self) -> Plan:
        found = super().reconcile()
        self.attend(found.examine)
        return found

    def attend(self, wanted: Examination | None) -> None:
        """What the examiner does, in no time."""
        if wanted is None or (self.findings and self.findings.about != wanted.about):
            self.findings = None
        if wanted and self.findings is None:
            self.examined.append(wanted)
            counts = (self.counts,) if self.answers else ()
            self.findings = Findings(wanted.about, len(wanted.candidate), counts, counts)

    def die(self) -> None:
        """The operator's memory is gone."""
        self.findings, self.watching = None, ""

    @property
    def diagnosis(self) -> str | None:
        found: str | None = (self.status.get("failedRevision") or {}).get("diagnosis")
        return found


@cache
def at_rest() -> Told:
    """V1 serves, and the routers have a minute of its history."""
    world = Told(manifest(V1, rollout=CANARY), rate=2000)
    world.settle()
    for _ in range(60):
        world.step()
    world.seen.clear()
    world.events.clear()
    world.log.clear()
    return world


def serving(*, answers: bool = True, errors: float = 0.5) -> Told:
    """V2 is going to fail so many of its requests."""
    world = copy.deepcopy(at_rest())
    world.answers, world.errors[V2] = answers, errors
    return world


def taken_back(world: Told) -> str:
    """The name of the revision that was just taken back, before anybody has been asked."""
    name = at_step(world, 1)
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    return name


def test_it_is_asked_for_once_the_traffic_is_back_and_said_in_one_write() -> None:
    world = serving()
    name = taken_back(world)
    told = world.status["failedRevision"]
    assert "diagnosis" not in told
    assert (world.examined, world.weights().get(name)) == ([], None)
    before, writes = world.status["message"], world.writes
    world.run(3)
    assert [(item.revision, item.time) for item in world.examined] == [(name, told["time"])]
    assert (world.examined[0].candidate, len(world.examined[0].stable)) == (("10.0.0.3",), 1)
    sentence = "Triton counted 10 failures of 40 requests (BACKEND: the model's own code raised an error)"
    assert world.diagnosis is not None
    assert world.diagnosis.startswith(sentence)
    assert world.status["failedRevision"] == {**told, "diagnosis": world.diagnosis}
    assert world.status["message"] == f"{before}. {world.diagnosis}"
    assert world.condition("Stalled")["message"] == world.status["message"]  # type: ignore[index]
    assert [reason for reason, _ in world.events if reason == "RolledBack"] == ["RolledBack"]
    assert world.log[-(world.writes - writes) :].count("status") <= 2, (
        "one when the routers have followed, one for this"
    )
    world.settle()
    assert len(world.examined) == 1
    assert len(world.status["message"]) <= 600


def test_nobody_is_asked_at_rest_nor_while_it_is_judged() -> None:
    world = serving(errors=0)
    at_step(world, 2)
    world.settle()
    assert world.outcomes() == ["Promoted", "Promoted"]
    assert world.examined == []


def test_who_was_aborted_needs_no_diagnosis() -> None:
    world = serving(errors=0)
    command(world, abort=at_step(world, 1))
    world.settle()
    assert world.outcomes()[-1] == "Aborted"
    assert world.examined == []


def test_silence_says_nothing_and_ends_by_itself() -> None:
    world = serving(answers=False)
    taken_back(world)
    world.run(5)
    message = world.status["message"]
    world.settle()
    assert len(world.examined) == 1
    assert (world.diagnosis, world.status["message"]) == (None, message)
    world.run(15)
    assert world.reconcile().examine is None
    assert len(world.examined) == 1


def test_restarts_are_known_without_asking() -> None:
    world = serving(answers=False)
    taken_back(world)
    world.restarts = 3
    world.run(3)
    assert world.diagnosis == "Its server was restarted 3 times (OOMKilled)"


@pytest.mark.parametrize("away", [0, 3, 30])
def test_killed_before_the_sentence(away: int) -> None:
    world = serving()
    taken_back(world)
    world.die()
    for _ in range(away):
        world.step()
    world.settle()
    assert (world.diagnosis is not None) is (away < 15)
    assert [reason for reason, _ in world.events].count("RolledBack") == 1
    assert len(world.examined) == (1 if away < 15 else 0)


def test_killed_while_it_writes_the_sentence() -> None:
    world = serving()
    taken_back(world)
    world.run_until(lambda w: w.findings is not None)
    world.fuse = 0
    with pytest.raises(Crash):
        world.run(5)
    world.die()
    world.settle()
    assert world.diagnosis is not None
    assert [reason for reason, _ in world.events].count("RolledBack") == 1


def test_another_revision_and_a_retry_leave_it_behind() -> None:
    world = serving()
    taken_back(world)
    world.run(3)
    assert world.diagnosis
    command(world, retryToken="2")
    world.reconcile()
    assert "failedRevision" not in world.status
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    assert world.diagnosis is None
    world.run(3)
    assert world.diagnosis
    assert len(world.examined) == 2


@pytest.mark.parametrize("again", ["the same pods", "servers started since"])
def test_what_servers_counted_before_this_attempt_is_said(again: str) -> None:
    """Pods that are kept for their last requests are there still when the revision is tried again, and count on."""
    world = serving()
    taken_back(world)
    world.run(3)
    assert world.diagnosis is not None
    assert world.diagnosis.startswith("Triton counted")
    world.restarts = 2
    if again != "the same pods":
        world.started = f"{world.now + timedelta(seconds=2):%Y-%m-%dT%H:%M:%SZ}"
    command(world, retryToken="2")
    world.run_until(lambda w: w.status["phase"] == "RolledBack")
    world.run(3)
    sentence = "Triton counted 10 failures of 40 requests (BACKEND: the model's own code raised an error)"
    before = "Counted since 2026-01-01T12:00:01Z, before this attempt began: "
    if again != "the same pods":
        before = "Its server was restarted 2 times (OOMKilled) and counts anew since: "
    assert (world.diagnosis or "").startswith(before + sentence)


# never a gate


@pytest.mark.parametrize("errors", [0.5, 0.0])
def test_whatever_servers_say_decides_nothing(errors: float) -> None:
    """In every pass of a rollout, whatever is found, everything but the words is the same."""
    world = serving(errors=errors)
    world.point_to(V2)
    world.run(30)
    said = 0
    for observed, now in world.seen:
        plain = plan(replace(observed, findings=None), now)
        for findings in some_findings(observed, f"{now:%Y-%m-%dT%H:%M:%SZ}"):
            found = plan(replace(observed, findings=findings), now)
            said += found.status != plain.status
            assert without_words(found) == without_words(plain)
    assert (said > 0) is bool(errors)


def some_findings(observed: Observed, now: str) -> Iterator[Findings]:
    """About the candidate as if it had failed this second, and about what has failed."""
    status = observed.deployment.status
    abouts = [(status.candidate.revision, now)] if status.candidate else []
    abouts += [(status.failed_revision.revision, status.failed_revision.time)] if status.failed_revision else []
    awful = {"digits": ModelCounts(0, {"BACKEND": 10**9}, waiting=9)}
    for about in abouts:
        yield Findings(about, 1, (awful,), ({"digits": ModelCounts(10**9)},))
        yield Findings(about, 1, (), (awful,))


def without_words(found: Plan) -> Plan:
    """The plan with a status that has no sentence in it."""
    status = found.status
    failed = status.failed_revision.model_copy(update={"diagnosis": None}) if status.failed_revision else None
    quiet = [item.model_copy(update={"message": ""}) for item in status.conditions or ()]
    silent = status.model_copy(update={"failed_revision": failed, "message": "", "conditions": tuple(quiet)})
    return replace(found, status=silent)


def test_a_rollout_ends_the_same_in_the_same_second_with_and_without() -> None:
    worlds = [serving(answers=answers) for answers in (True, False)]
    for world in worlds:
        world.point_to(V2)
        world.run(40)
    with_it, without = worlds
    assert with_it.diagnosis
    assert without.diagnosis is None
    assert with_it.rows == without.rows
    assert with_it.objects == without.objects
    assert with_it.events == without.events
    assert with_it.status["history"] == without.status["history"]
    assert with_it.now == without.now > START
