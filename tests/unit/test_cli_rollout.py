"""`penstock rollout`: what it shows, what it writes, and how it ends."""

import json
import shlex
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from penstock.cli import main, rollout_rings, rollout_session
from penstock.cli.rollout import rollout
from penstock.cli.rollout_rings import Cell, Rings
from penstock.cli.rollout_view import View, summary
from penstock.kube.connection import Response
from penstock.kube.limiter import TokenBucket
from penstock.kube.transport import RetryPolicy, Transport

from .fakeapi import FakeConnection, answered, run_command

ROOT = Path(__file__).parents[2]
OLD, NEW = "digits-5b8d0c11", "digits-7c9f41d2"
GIT = "kustomize-controller"
NOW = 1_763_734_567


def deployment(status: Mapping[str, Any] | None = None, **rollout: Any) -> dict[str, Any]:
    """As the API server stores it; `rollout` came from Git."""
    found: dict[str, Any] = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "u1", "generation": 3, "managedFields": []},
        "spec": {"model": {"uri": "s3://models/digits/8"}},
        "status": deepcopy(dict(status or STEPPING)),
    }
    if rollout:
        found["spec"]["rollout"] = rollout
        hold(found, GIT, {"f:rollout": {f"f:{name}": {} for name in rollout}})
    return found


def hold(live: dict[str, Any], manager: str, spec: Mapping[str, Any], operation: str = "Apply") -> None:
    """Say that a manager holds these fields of spec."""
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": dict(spec)}}
    live["metadata"]["managedFields"].append(entry)


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


SENTENCE = f"{NEW} at 10 % (step 1 of 2), 412 requests, no evidence against it"
STEPPING: dict[str, Any] = {
    "observedGeneration": 3,
    "phase": "Progressing",
    "message": SENTENCE,
    "stable": {"revision": OLD, "uri": "s3://models/digits/7", "weight": "90", "replicas": 2, "readyReplicas": 2},
    "candidate": {
        "revision": NEW,
        "uri": "s3://models/digits/8",
        "weight": "10",
        "replicas": 1,
        "readyReplicas": 1,
        "stage": "Stepping",
        "step": 1,
        "observedSeconds": 42,
        "stepRequests": 412,
        "plan": [{"weight": "10", "holdSeconds": 60}, {"weight": "50", "holdSeconds": 60}],
        "verdict": "Undecided",
        "analysis": {
            "requests": 412,
            "slowAboveMilliseconds": 40,
            "metrics": [
                {
                    "name": "errors",
                    "stable": "3 of 3700 (0.08 %)",
                    "candidate": "1 of 412 (0.24 %)",
                    "evidence": "1.2",
                    "threshold": "167",
                }
            ],
        },
    },
    "history": [
        {
            "revision": OLD,
            "outcome": "Promoted",
            "reason": "RevisionPromoted",
            "startTime": "2026-11-21T10:00:00Z",
            "endTime": "2026-11-21T10:02:30Z",
        },
        {
            "revision": "digits-00c0ffee",
            "outcome": "RolledBack",
            "reason": "ErrorRateWorse",
            "by": "analysis",
            "startTime": "2026-11-21T11:00:00Z",
            "endTime": "2026-11-21T11:00:12Z",
        },
    ],
    "conditions": [
        condition("Ready", "False", "RolloutInProgress", SENTENCE),
        condition("Reconciling", "True", "RolloutInProgress", SENTENCE),
        condition("Available", "True", "Serving", f"{OLD}: 2 of 2 replicas ready"),
    ],
}
PROMOTED: dict[str, Any] = {
    "observedGeneration": 3,
    "phase": "Available",
    "message": "ok",
    "stable": {"revision": NEW, "weight": "100", "replicas": 2, "readyReplicas": 2},
    "conditions": [condition("Ready", "True", "Ready", "ok")],
}
TAKEN_BACK: dict[str, Any] = {
    "observedGeneration": 3,
    "phase": "RolledBack",
    "message": f"{NEW} was taken back",
    "stable": {"revision": OLD, "weight": "100", "replicas": 2, "readyReplicas": 2},
    "failedRevision": {"revision": NEW, "reason": "ErrorRateWorse", "message": "…", "time": "2026-11-21T11:00:12Z"},
    "observedRetryToken": "4",
    "conditions": [
        condition("Ready", "False", "RolledBack", f"{NEW} was taken back"),
        condition("Stalled", "True", "RolledBack", f"{NEW} was taken back"),
    ],
}


def rows(seconds: int, candidate_errors: int = 0) -> list[Any]:
    """18 and 2 requests a second; stable's end in up to 5 ms, one of the candidate's in up to 20 ms."""
    return [
        [NOW - age, 0, {OLD: [18, 0, 0, 0, [18, 0, 0, 0]], NEW: [2, candidate_errors, 0, 0, [1, 0, 1, 0]]}]
        for age in range(seconds)
    ]


@dataclass
class Answers(FakeConnection):
    """An API server of one deployment and one router pod; each GET of the deployment takes the next of `seen`."""

    seen: list[dict[str, Any]]
    pods: int = 200
    proxy: int = 200
    records: int = 200
    rows: list[Any] = field(default_factory=list)
    applied: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def send(self, method: str, path: str, *, query=(), body=None, content_type="") -> Response:
        self.asked.append(f"{method} {path}")
        if method == "PATCH":
            return self._patch(dict(query), body)
        if path.endswith("/vision/modeldeployments/digits"):
            return answered(200, self.seen.pop(0) if len(self.seen) > 1 else self.seen[0])
        if "/proxy/" in path:
            since = int(dict(query)["since"])
            new = [row for row in self.rows if row[0] > since]
            split = {"bounds": [5, 10, 20], "rows": new}
            return answered(self.proxy, {"now": NOW, "splits": {"u1": split}, "message": "no route to pod"})
        if path.endswith("/pods"):
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            return answered(self.pods, {"items": [{"metadata": {"name": "r-1"}, "status": ready}], "message": "no"})
        if path.endswith("/controllerrevisions"):
            record = {"metadata": {"name": OLD}, "data": {"model": {"uri": "s3://models/digits/7"}}}
            return answered(self.records, {"items": [record], "message": "no"})
        return answered(404, {"message": f"not found: {path}"})

    def _patch(self, query: Mapping[str, str], body: dict[str, Any]) -> Response:
        forced = query["force"] == "true"
        self.applied.append((body, forced))
        assert query["fieldManager"] == "penstock-cli"
        held = {path: owner for path, owner in self.conflicts.items() if path in body["spec"].get("rollout", {})}
        if held and not forced:
            causes = [
                {"field": f".spec.rollout.{path}", "message": f'conflict with "{owner}" using penstock.dev/v1alpha1'}
                for path, owner in held.items()
            ]
            return answered(409, {"message": "Apply failed with 1 conflict", "details": {"causes": causes}})
        return answered(200, self.seen[0])


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_rings, "time", SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def invoke(answers: Answers, *arguments: str) -> Result:
        monkeypatch.setattr(rollout_session, "PAUSE_SECONDS", 0.0)
        return run_command(monkeypatch, answers, "rollout", arguments[0], "digits", "-n", "vision", *arguments[1:])

    return invoke


class TestStatus:
    def test_one_look_tells_revisions_plan_verdict_and_numbers_as_plain_text(self, run):
        result = run(Answers([deployment()], rows=rows(60)), "status")
        assert result.exit_code == 0, result.output
        lines = [" ".join(line.split()) for line in result.output.splitlines()]
        assert lines[:2] == ["vision/digits Progressing", SENTENCE]
        assert f"revision {OLD} {NEW}" in lines
        assert "weight 90 % 10 %" in lines
        assert "ready 2 of 2 1 of 1" in lines
        assert "requests/s 18.0 2.0" in lines
        assert "stage Stepping, step 1 of 2" in lines
        assert "▶ 10 % for 60 s: observed 42 s, 412 requests, 18 s to hold" in lines
        assert "50 % for 60 s" in lines
        assert "verdict Undecided after 412 requests; slow is above 40 ms" in lines
        assert "errors 3 of 3700 (0.08 %) 1 of 412 (0.24 %) 1.2 167" in lines
        assert "\x1b" not in result.output

    @pytest.mark.parametrize(
        ("stage", "step", "marks"),
        [
            ("Starting", 0, ["10 %", "50 %"]),
            ("Replacing", 1, ["10 %", "50 %"]),
            ("Stepping", 1, ["▶ 10 %", "50 %"]),
            ("Replacing", 2, ["✓ 10 %", "50 %"]),
            ("Stepping", 2, ["✓ 10 %", "▶ 50 %"]),
            ("Promoting", 2, ["✓ 10 %", "✓ 50 %"]),
        ],
    )
    def test_the_plan_shows_how_far_the_candidate_is(self, run, stage, step, marks):
        candidate = {**STEPPING["candidate"], "stage": stage, "step": step}
        result = run(Answers([deployment({**STEPPING, "candidate": candidate})]), "status")
        assert result.exit_code == 0, result.output
        lines = [" ".join(line.split()) for line in result.output.splitlines() if " % for 60 s" in line]
        assert [line.partition(" for")[0] for line in lines] == marks

    def test_sentences_are_told_once(self, run):
        assert run(Answers([deployment()]), "status").output.count(SENTENCE) == 1

    def test_lines_of_both_revisions_have_one_scale(self, run):
        result = run(Answers([deployment()], rows=rows(300, candidate_errors=1)), "status")
        (errors,) = (line for line in result.output.splitlines() if line.startswith("errors ") and "%  " in line)
        assert "50.00 %  " + "█" * 30 in errors
        assert "0.00 %  " + "▁" * 30 in errors

    @pytest.mark.parametrize(
        ("answers", "said"),
        [
            (Answers([deployment()], pods=403), "router pods cannot be listed"),
            (Answers([deployment()], proxy=403), "pod r-1 cannot be asked through the API server"),
        ],
    )
    def test_without_the_rings_it_says_so_and_tells_what_status_knows(self, run, answers, said):
        result = run(answers, "status")
        assert result.exit_code == 0
        assert said in result.output
        assert "1 of 412 (0.24 %)" in result.output

    def test_status_alone_asks_no_pod(self, run):
        answers = Answers([deployment()])
        assert run(answers, "status", "--no-rings").exit_code == 0
        assert answers.asked == ["GET /apis/penstock.dev/v1alpha1/namespaces/vision/modeldeployments/digits"]

    def test_json_has_status_and_the_last_minutes(self, run):
        result = run(Answers([deployment()], rows=rows(60)), "status", "--output", "json")
        told = json.loads(result.output)
        assert told["phase"] == "Progressing"
        assert told["current"] is True
        assert told["candidate"]["verdict"] == "Undecided"
        assert told["recent"] == {
            "stable": {"requests": 1080, "errors": 0, "p95Milliseconds": 4.8},
            "candidate": {"requests": 120, "errors": 0, "p95Milliseconds": 19.0},
        }

    def test_before_the_operator_has_looked_nothing_is_missing(self, run):
        live = deployment({"observedGeneration": -1})
        result = run(Answers([live]), "status")
        assert result.exit_code == 0
        assert "the operator has not looked at the newest change yet" in result.output

    def test_conditions_that_say_more_are_told(self, run):
        status = {**PROMOTED, "conditions": [*PROMOTED["conditions"], condition("TrafficSynced", "False", "X", "why")]}
        assert "TrafficSynced=False X: why" in run(Answers([deployment(status)]), "status").output

    def test_an_unknown_name_is_an_error_with_a_way_on(self, run):
        result = run(Answers([deployment()]), "status", "-n", "other")
        assert result.exit_code == 1
        assert "`kubectl get md -A` lists those there are" in result.output

    def test_no_cluster_is_an_error_with_a_way_on(self):
        result = CliRunner().invoke(main, ["rollout", "status", "digits", "--kubeconfig", "/nowhere"])
        assert result.exit_code == 1
        assert "no way to a cluster" in result.output


@pytest.mark.parametrize(
    ("candidate", "lines"),
    [
        (
            {"stage": "Shadowing", "step": 0, "observedSeconds": 250, "stepRequests": 90},
            ["▶ copies of 20 % for 300 s: observed 250 s, 90 requests, 50 s to hold", "10 % for 60 s", "50 % for 60 s"],
        ),
        (
            {"step": 2, "observedSeconds": 61, "stepRequests": 12},
            [
                "✓ copies of 20 % for 300 s",
                "✓ 10 % for 60 s",
                "▶ 50 % for 60 s: observed 61 s, 12 requests, held long enough",
            ],
        ),
        (
            {"stage": "Promoting", "step": 2},
            ["✓ copies of 20 % for 300 s", "✓ 10 % for 60 s", "✓ 50 % for 60 s"],
        ),
        ({"stage": "Warming", "step": 0}, ["copies of 20 % for 300 s", "10 % for 60 s", "50 % for 60 s"]),
    ],
    ids=lambda value: value.get("stage", "Stepping") if isinstance(value, dict) else "",
)
def test_the_plan_shows_what_is_behind_and_what_is_left(run, candidate, lines):
    shadow = {"weight": "20", "holdSeconds": 300}
    status = {**STEPPING, "candidate": {**STEPPING["candidate"], "shadow": shadow, **candidate}}
    output = run(Answers([deployment(status)]), "status").output
    plan = output.partition("stage ")[2].partition("\n")[2].partition("\n\n")[0]
    assert [line.strip() for line in plan.splitlines()] == lines


COMMANDS = sorted(
    {
        line
        for page in ("README.md", "docs/guide.md")
        for line in (ROOT / page).read_text().splitlines()
        if line.startswith("$ penstock rollout ") and "replay" not in line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_docs_commands_are_understood(line):
    verb, *options = shlex.split(line, comments=True)[3:]
    with rollout.make_context("rollout", [verb]) as group:
        command = rollout.get_command(group, verb)
        assert command is not None
        with command.make_context(verb, options, parent=group):
            pass


def story() -> list[Any]:
    """98 requests a second for five minutes, of which the candidate has had a tenth for the last 42 seconds."""
    found = []
    for age in reversed(range(300)):
        slow = 5 + age // 10 % 4
        stable = [88, int(age % 14 == 5), 0, 0, [63 - slow, 20, 5 + slow, 0]]
        alone = [98, int(age % 14 == 5), 0, 0, [73 - slow, 20, 5 + slow, 0]]
        candidate = [10, int(age == 17), 0, 0, [6, 2, 2, 0]]
        found.append([NOW - age, 0, {OLD: stable, NEW: candidate} if age < 42 else {OLD: alone}])
    return found


def metric(name: str, stable: str, candidate: str, evidence: str, threshold: str) -> dict[str, str]:
    return {"name": name, "stable": stable, "candidate": candidate, "evidence": evidence, "threshold": threshold}


REPLAYED = [
    metric("errors", "3 of 3700 (0.0811 %)", "1 of 412 (0.243 %)", "0.709", "167"),
    metric("clientErrors", "0 of 3700 (0 %)", "0 of 412 (0 %)", "0.948", "500"),
    metric("latency", "4 of 3700 (0.108 %)", "1 of 412 (0.243 %)", "0.409", "500"),
]
"""What `penstock rollout replay` says of traffic like the story's."""


def test_the_readme_shows_what_the_command_prints(run):
    candidate = STEPPING["candidate"]
    told = {**candidate, "analysis": {**candidate["analysis"], "metrics": REPLAYED}}
    result = run(Answers([deployment({**STEPPING, "candidate": told})], rows=story()), "status")
    printed = "\n".join(line.rstrip() for line in result.output.splitlines())
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("$ penstock rollout status digits -n vision --watch\n")[2].partition("\n```")[0]
    assert shown == printed


class TestWait:
    def test_promoted_is_0_and_each_change_is_a_line(self, run):
        answers = Answers([deployment(), deployment(), deployment(PROMOTED)])
        result = run(answers, "status", "--wait")
        assert result.exit_code == 0
        assert [line.split(" ", 1)[1] for line in result.output.splitlines()] == [
            f"Progressing: {SENTENCE}",
            "Available: ok",
        ]

    def test_taken_back_is_1(self, run):
        assert run(Answers([deployment(), deployment(TAKEN_BACK)]), "status", "--wait").exit_code == 1

    def test_the_timeout_is_3(self, run):
        result = run(Answers([deployment()]), "status", "--wait", "--timeout", "0s")
        assert result.exit_code == 3
        assert "the rollout goes on" in result.output

    def test_an_api_server_that_is_away_is_waited_for(self, run, monkeypatch):
        monkeypatch.setattr(rollout_session, "RetryPolicy", lambda **_: RetryPolicy(attempts=1))
        answers = Answers([deployment(), deployment(PROMOTED)])
        send, asked = answers.send, []

        async def sometimes(*arguments: Any, **more: Any) -> Response:
            asked.append(arguments)
            return answered(503, {"message": "etcd is away"}) if len(asked) == 1 else await send(*arguments, **more)

        answers.send = sometimes
        result = run(answers, "status", "--wait")
        assert result.exit_code == 0
        assert "the API server does not answer, trying again" in result.output

    def test_a_status_of_an_older_spec_decides_nothing(self):
        assert rollout_session.outcome(View(deployment({**PROMOTED, "observedGeneration": 2}))) is None

    @pytest.mark.parametrize("options", [("--watch", "--output", "json"), ("--timeout", "soon")])
    def test_a_wrong_command_is_2(self, run, options):
        assert run(Answers([deployment()]), "status", *options).exit_code == 2


def written(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = yaml.safe_load(result.output)
    return found


class TestCommands:
    @pytest.mark.parametrize(
        ("arguments", "value"),
        [
            (["promote"], {"promote": f"{NEW}/1"}),
            (["promote", "--step", "2"], {"promote": f"{NEW}/2"}),
            (["promote", "--full"], {"promote": NEW}),
            (["abort"], {"abort": NEW}),
            (["pause"], {"paused": True}),
        ],
    )
    def test_it_applies_one_field_and_prints_it_for_git(self, run, arguments, value):
        answers = Answers([deployment()])
        manifest = written(run(answers, *arguments))
        assert manifest == {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "vision"},
            "spec": {"rollout": value},
        }
        ((body, forced),) = answers.applied
        assert body["spec"] == {"rollout": value}
        assert body["metadata"]["uid"] == "u1"
        assert not forced

    @pytest.mark.parametrize(
        ("candidate", "arguments", "value"),
        [
            ({"step": 2}, [], f"{NEW}/2"),
            ({"stage": "Previewing", "step": 0, "plan": []}, [], NEW),
            ({"stage": "Shadowing", "step": 0}, [], NEW),
            ({"plan": [{"weight": "95", "holdSeconds": 60}]}, ["--full"], f"{NEW}/1"),
        ],
        ids=["last step", "preview", "shadow", "behind the preview promote is spent"],
    )
    def test_promote_by_stage(self, run, candidate, arguments, value):
        gated = {"strategy": "BlueGreen", "blueGreen": {"autoPromote": False}}
        status = {**STEPPING, "candidate": {**STEPPING["candidate"], **candidate}}
        manifest = written(run(Answers([deployment(status, **gated)]), "promote", *arguments))
        assert manifest["spec"]["rollout"]["promote"] == value

    def test_promote_while_paused_says_what_comes_first(self, run):
        assert "penstock rollout resume" in run(Answers([deployment(paused=True)]), "promote").output

    def test_what_the_manager_held_before_is_said_again(self, run):
        live = deployment()
        live["spec"] |= {"server": {"image": "triton:2"}, "rollout": {"abort": "digits-00c0ffee"}}
        hold(live, "penstock-cli", {"f:server": {".": {}, "f:image": {}}, "f:rollout": {"f:abort": {}}})
        answers = Answers([live])
        written(run(answers, "pause"))
        ((body, _),) = answers.applied
        assert body["spec"] == {
            "server": {"image": "triton:2"},
            "rollout": {"abort": "digits-00c0ffee", "paused": True},
        }

    def test_resume_gives_up_a_field_of_its_own(self, run):
        live = deployment()
        live["spec"]["rollout"] = {"paused": True}
        hold(live, "penstock-cli", {"f:rollout": {"f:paused": {}}})
        answers = Answers([live])
        assert written(run(answers, "resume"))["spec"] == {"rollout": {"paused": False}}
        ((body, _),) = answers.applied
        assert "spec" not in body

    def test_resume_overrules_a_person_and_says_so(self, run):
        live = deployment()
        live["spec"]["rollout"] = {"paused": True}
        hold(live, "kubectl-edit", {"f:rollout": {"f:paused": {}}}, "Update")
        answers = Answers([live], conflicts={"paused": "kubectl-edit"})
        result = run(answers, "resume")
        assert written(result)["spec"] == {"rollout": {"paused": False}}
        assert "spec.rollout.paused was kubectl-edit's and is taken over" in result.output
        assert [forced for _, forced in answers.applied] == [False, True]

    def test_a_field_held_from_git_is_left_alone_and_the_change_printed(self, run):
        answers = Answers([deployment(paused=True)], conflicts={"paused": GIT})
        result = run(answers, "resume")
        assert result.exit_code == 1
        assert "nothing was changed. Held from Git: spec.rollout.paused by kustomize-controller" in result.output
        assert yaml.safe_load(result.output.partition("until then:\n")[2])["spec"] == {"rollout": {"paused": False}}
        assert [forced for _, forced in answers.applied] == [False]

    def test_force_takes_it_and_says_whose_it_was(self, run):
        answers = Answers([deployment(paused=True)], conflicts={"paused": GIT})
        result = run(answers, "resume", "--force")
        assert result.exit_code == 0
        assert "spec.rollout.paused was kustomize-controller's and is taken over" in result.output

    def test_retry_takes_a_token_above_all_that_were_used(self, run):
        manifest = written(run(Answers([deployment(TAKEN_BACK, retryToken="2")]), "retry"))
        assert manifest["spec"] == {"rollout": {"retryToken": "5"}}

    def test_retry_tries_a_failed_preparation_again(self, run):
        unprepared = {**PROMOTED, "phase": "Failed", "preparation": {"key": "k", "reason": "PreparationOutOfMemory"}}
        result = run(Answers([deployment(unprepared)]), "retry")
        assert written(result)["spec"] == {"rollout": {"retryToken": "1"}}
        assert "PreparationOutOfMemory" in result.output

    def test_retry_withdraws_what_was_commanded_for_the_revision(self, run):
        live = deployment(TAKEN_BACK)
        live["spec"]["rollout"] = {"abort": NEW, "promote": f"{NEW}/1"}
        hold(live, "penstock-cli", {"f:rollout": {"f:abort": {}}})
        hold(live, GIT, {"f:rollout": {"f:promote": {}}})
        answers = Answers([live])
        assert written(run(answers, "retry"))["spec"] == {"rollout": {"retryToken": "5", "promote": ""}}
        ((body, _),) = answers.applied
        assert body["spec"]["rollout"] == {"retryToken": "5", "promote": ""}

    @pytest.mark.parametrize(
        ("status", "arguments", "said"),
        [
            (PROMOTED, ["promote"], "no candidate is on its way"),
            (TAKEN_BACK, ["promote"], "`penstock rollout retry` tries it again"),
            (PROMOTED, ["abort"], "no candidate is on its way"),
            (PROMOTED, ["retry"], "status names no failedRevision"),
            (STEPPING, ["resume"], "spec.rollout.paused is not set"),
            (STEPPING, ["promote", "--step", "3"], "step 3 cannot be ended"),
            (STEPPING, ["promote", "--step", "1", "--full"], "give --full alone"),
        ],
    )
    def test_what_cannot_be_done_is_said_and_nothing_written(self, run, status, arguments, said):
        answers = Answers([deployment(status)])
        result = run(answers, *arguments)
        assert result.exit_code == 1
        assert said in result.output
        assert not answers.applied

    def test_a_refusal_of_the_api_server_is_its_sentence(self, run):
        answers = Answers([deployment()])
        answers._patch = lambda *_: answered(403, {"message": "ann may not patch"})
        result = run(answers, "abort")
        assert result.exit_code == 1
        assert "ann may not patch" in result.output


class TestHistory:
    def test_newest_first_with_model_reason_and_time_taken(self, run):
        lines = [" ".join(line.split()) for line in run(Answers([deployment()]), "history").output.splitlines()]
        assert lines[1:] == [
            f"- {NEW} under way Stepping - - s3://models/digits/8",
            "2026-11-21T11:00:12Z digits-00c0ffee RolledBack ErrorRateWorse analysis 12s",
            f"2026-11-21T10:02:30Z {OLD} Promoted RevisionPromoted - 2m30s s3://models/digits/7",
        ]

    def test_without_the_right_to_read_records_models_are_left_out(self, run):
        result = run(Answers([deployment()], records=403), "history")
        assert result.exit_code == 0
        assert "s3://models/digits/7" not in result.output


class TestRings:
    @pytest.mark.parametrize(
        ("buckets", "share", "milliseconds"),
        [
            ([18, 0, 0, 0], 0.5, 2.5),
            ([10, 10, 0, 0], 0.75, 7.5),
            ([0, 0, 0, 4], 0.95, float("inf")),
            ([1, 0, 1, 0], 0.5, 5.0),
            ([], 0.95, None),
        ],
    )
    def test_quantiles_are_straight_within_a_bucket(self, buckets, share, milliseconds):
        cell = Cell(sum(buckets), 0, buckets, (5, 10, 20))
        assert cell.quantile(share) == milliseconds

    async def test_a_second_read_asks_for_what_is_new_and_old_rows_go(self):
        answers = Answers([deployment()], rows=rows(400))
        session = rollout_session.Session(transport(answers), transport(answers), "vision", "digits")
        rings = Rings(session.quick, deployment())
        await rings.read()
        assert sum(cell.requests for cell in rings.cells(OLD, 30)) == 300 * 18
        answers.rows = [[NOW + 1, -1, {NEW: [7, 7, 0, 0, [0, 0, 0, 7]]}]]
        await rings.read()
        cells = rings.cells(NEW, 30)
        assert cells[-1].requests == 9 * 2 + 7
        assert cells[-1].errors == 7
        assert summary(View(deployment(), rings))["recent"]["stable"]["requests"] == 299 * 18


def transport(answers: Answers) -> Any:
    return Transport(answers, limiter=TokenBucket(), retries=RetryPolicy(attempts=1))  # type: ignore[arg-type]


def test_help_lists_replay_beside_the_others():
    result = CliRunner().invoke(main, ["rollout", "--help"])
    assert result.exit_code == 0
    assert "replay" in result.output
