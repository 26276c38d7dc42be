"""`penstock rollout replay`: recorded traffic in, a verdict out, bad lines named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.cli.replay import replay

EXAMPLES = Path(__file__).parents[2] / "examples" / "replay"


def run(*arguments, lines=None):
    return CliRunner().invoke(replay, [*map(str, arguments)], input=lines)


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("bad-candidate", "Fail", "ErrorRateWorse"),
        ("shared-outage", "Inconclusive", "StableAboveMaximum"),
        ("good-candidate", "Pass", "ErrorRateProven"),
    ],
)
def test_examples_come_to_their_verdicts(name, verdict, reason):
    text, machine = run(EXAMPLES / f"{name}.jsonl"), run(EXAMPLES / f"{name}.jsonl", "--output", "json")
    assert (text.exit_code, machine.exit_code) == (0, 0)
    found = json.loads(machine.output)
    assert (found["verdict"], found["reason"]) == (verdict, reason)
    assert {"t", "evidence", "message"} <= found.keys()
    assert text.output.startswith(f"{verdict} ({reason}) at t={found['t']}")
    assert "300 s of history" in text.output


def test_the_analysis_of_a_manifest_counts(tmp_path):
    manifest = tmp_path / "md.yaml"
    manifest.write_text(
        "kind: ModelDeployment\nspec: {rollout: {analysis: {errors: {tolerance: 100, maxPercent: 90}}}}\n"
    )
    found = json.loads(run(EXAMPLES / "bad-candidate.jsonl", "--analysis", manifest, "-o", "json").output)
    assert found["verdict"] == "Pass"
    manifest.write_text("errors: {tolerance: 0}\nlatenzy: {}\n")
    refused = run(EXAMPLES / "bad-candidate.jsonl", "--analysis", manifest)
    assert refused.exit_code == 1
    assert "unknown latenzy" in refused.output


GOOD = '{"t": 1, "weight": 0, "stable": {"requests": 5}}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON object"),
        ("[]", "expected an object"),
        ('{"t": 2, "weight": 100}', "stable is missing"),
        ('{"t": 2, "weight": 1001, "stable": {"requests": 1}}', "expected 0 to 1000"),
        ('{"t": 2, "weight": "10", "stable": {"requests": 1}}', "weight is '10'; expected a whole number"),
        ('{"t": 1, "weight": 100, "stable": {"requests": 1}}', "t is 1 after 1"),
        ('{"t": 2, "weight": 100, "stable": {"requests": 1, "errors": 2}}', "stable.errors is 2 of 1 requests"),
        ('{"t": 2, "weight": 100, "stable": {"requests": 1, "fails": 2}}', "unknown stable.fails"),
        ('{"t": 2, "weight": 100, "stable": 3}', "stable is 3; expected an object"),
        ('{"t": 2, "weight": 100, "stable": {"requests": 1}, "x": 1}', "unknown x"),
        ('{"t": 2, "weight": 100, "stable": {"requests": 1}, "shadow": 1}', "expected true or false"),
        ('{"t": 2, "weight": 0, "stable": {"requests": 1}, "candidate": {"requests": 1}}', "at weight 0"),
    ],
)
def test_bad_lines_are_refused_with_their_number(line, said):
    found = run("-", lines=GOOD + line + "\n")
    assert found.exit_code == 1
    assert "line 2: " in found.output
    assert said in found.output
    assert "A line looks like" in found.output


def test_traffic_without_a_candidate_is_refused():
    assert "nothing to judge" in run("-", lines=GOOD).output


def test_counts_may_be_left_out_and_stickiness_and_copies_said():
    lines = "".join(
        json.dumps({"t": t, "weight": 500, "shadow": True, "stable": {"requests": 50}, "candidate": {"requests": 25}})
        + "\n\n"
        for t in range(1, 30)
    )
    found = json.loads(run("-", "--sticky", "-o", "json", lines=lines).output)
    assert found["verdict"] == "Pass"
    assert found["evidence"][2]["candidate"] == "0 of 0"


def test_a_late_fault_says_when_it_would_have_passed():
    lines = "".join(
        json.dumps(
            {
                "t": t,
                "weight": 500,
                "stable": {"requests": 50},
                "candidate": {"requests": 50, "errors": 0 if t < 60 else 25},
            }
        )
        + "\n"
        for t in range(1, 90)
    )
    found = run("-", lines=lines)
    assert found.output.startswith("Fail")
    assert "would have been promoted" in found.output
