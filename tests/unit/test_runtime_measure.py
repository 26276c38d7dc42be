"""The measuring container between a person's own: what keeps the metric's image from being run on nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.api.preparation import PreparationReport, PreparationRequest
from penstock.api.reasons import Reason
from penstock_runtime.measure import main
from penstock_runtime.meeting import FETCHED, INSPECTED, MEASURED

SIZE = {
    "name": "size", "asked": "at most 1 MiB", "measured": "3.2 MiB", "passed": False, "reason": "SizeFailed",
    "sentence": "the files to serve have 3.2 MiB, asked: at most 1 MiB",
}  # fmt: skip
METRIC = {"dataset": {"uri": "https://example.org/rows.npz"}, "accuracy": {"image": "metric:1", "minimum": "0.9"}}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_ROOT", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_MODE", "sequential")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / FETCHED).write_text(json.dumps({"root": str(tmp_path / "work/source")}))
    return tmp_path / "work"


def run(work: Path, monkeypatch: pytest.MonkeyPatch, told: Any, gates: dict[str, Any]) -> int:
    request = PreparationRequest.model_validate(
        {"uri": "https://example.org/m", "repository": "r", "maxBytes": 1, "gates": gates, "server": {}}
    )
    monkeypatch.setenv("PENSTOCK_REQUEST", request.model_dump_json(by_alias=True))
    (work / INSPECTED).write_text(json.dumps(told))
    return main()


def test_a_refusal_is_told_before_a_metric_that_would_find_nothing_to_read(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions of a format that only the server runs are made here; its image would end with an error of its own."""
    assert run(work, monkeypatch, {"facts": {}, "gates": [SIZE]}, METRIC) == 1
    report = PreparationReport.decode((work.parent / "dev/termination-log").read_text())
    assert report.error is not None
    assert (report.error.reason, report.error.message) == (Reason.SIZE_FAILED, SIZE["sentence"])
    assert [(gate.name, gate.passed) for gate in report.gates] == [("size", False)]


def test_so_is_what_the_server_cannot_be_asked(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(work, monkeypatch, {"facts": {"format": "Treelite"}, "files": {}}, METRIC) == 1
    report = PreparationReport.decode((work.parent / "dev/termination-log").read_text())
    assert report.error is not None
    assert report.error.reason is Reason.INVALID_CONFIG


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"facts": {}, "gates": ["no row"]}, "the gates that inspect answered are malformed"),
        ({"facts": {}, "gates": 7}, "the gates that inspect answered are malformed"),
        ({"facts": {}, "gates": [SIZE, SIZE]}, "gate size was answered twice"),
        ([], "the answer of inspect is not a JSON object"),
    ],
)
def test_so_is_an_answer_of_the_opener_that_cannot_be_read(
    work: Path, monkeypatch: pytest.MonkeyPatch, told: Any, sentence: str
) -> None:
    """The opener is not trusted; whatever it leaves, the container ends with a sentence and not with a traceback."""
    assert run(work, monkeypatch, told, METRIC) == 1
    report = PreparationReport.decode((work.parent / "dev/termination-log").read_text())
    assert report.error is not None
    assert report.error.reason is Reason.PREPARATION_FAILED
    assert sentence in report.error.message


@pytest.mark.parametrize("gates", [METRIC, {"size": {"max": "1Mi"}}])
def test_with_predictions_or_without_a_metric_the_last_container_says_it(
    work: Path, monkeypatch: pytest.MonkeyPatch, gates: dict[str, Any]
) -> None:
    """It publishes the evidence as well."""
    if "accuracy" in gates:
        (work / "metric").mkdir()
        (work / "metric/predictions.npz").write_bytes(b"rows")
    assert run(work, monkeypatch, {"facts": {}, "gates": [SIZE]}, gates) == 0
    assert json.loads((work / MEASURED).read_text()) == {"gates": []}
    assert not (work.parent / "dev/termination-log").exists()
