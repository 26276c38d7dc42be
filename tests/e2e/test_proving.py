"""Proving on a real cluster: a person's own images, the search for settings, content that is mounted, and the report.

Rows of build/e2e/model-path.json say what was seen. Without PENSTOCK_FULL the shortest alone; `make e2e-model-path` is
all of them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .cluster import run_program
from .deployments import Deployed, condition
from .modelpath import Rows, predict
from .models import linear_model, some_rows
from .proving import (
    BROKEN,
    COPY,
    DISTIL,
    FAIR,
    MISLEAD,
    Claim,
    answers,
    claim,
    labelled_rows,
    program,
    teacher,
    wide_model,
)

zoo = pytest.importorskip("tests.models.zoo", reason="make venv-models")

FULL = bool(os.environ.get("PENSTOCK_FULL"))
PATIENCE = 540
KIND, KEY = "proving", "part"
STABLE = linear_model(81)
LIMITS = {"resources": {"limits": {"cpu": "1", "memory": "512Mi"}}}
pytestmark = pytest.mark.timeout(900)
only_full = pytest.mark.skipif(not FULL, reason="make e2e-model-path")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def taught(store) -> dict[str, str]:
    """The teacher's uri and that of its rows."""
    store.push_files({"model.onnx": teacher()}, "teacher")
    store.push_files({"rows.npz": zoo.npz(labelled_rows(teacher()))}, "teacher-rows")
    return {"model": store.uri("teacher"), "rows": store.uri("teacher-rows")}


@pytest.fixture(scope="module")
def steady(cluster, namespace, store) -> Deployed:
    """What serves while candidates are refused."""
    deployed = Deployed(cluster, namespace, "steady")
    deployed.apply(store.push(STABLE, "proving-steady"))
    deployed.wait_ready(PATIENCE)
    deployed.wait_answers_as(STABLE)
    return deployed


def report_of(deployed: Deployed) -> dict[str, Any]:
    """What `penstock report` reads from the artifact store."""
    return json.loads(told(deployed, "--output", "json"))


def told(deployed: Deployed, *options: str) -> str:
    return run_program(deployed.cluster, "report", deployed.name, "-n", deployed.namespace, *options)


def gates_of(found: Mapping[str, Any]) -> dict[str, str]:
    """What the gates of a status have measured, by name."""
    return {gate["name"]: gate["measured"] for gate in found["status"]["preparation"].get("gates", ())}


def candidate(report: Mapping[str, Any], name: str = "hook") -> dict[str, Any]:
    return next(item for item in report["optimization"]["candidates"] if item["name"] == name)


# a metric of one's own


def judged(image: str, taught: Mapping[str, str], **bounds: str) -> dict[str, Any]:
    return {"dataset": {"uri": taught["rows"]}, "accuracy": {**program(image, FAIR), **bounds}}


def test_a_metric_image_decides(chart, deploy, taught, rows):
    with rows.row(KIND, KEY, "metric image, passed") as row:
        passing = deploy("metric")
        passing.apply(taught["model"], gates=judged(chart.images["jobs"], taught, minimum="0.9", maxDropPercent="1"))

        measured = gates_of(passing.wait_ready(PATIENCE))

        row.update(measured={name: measured[name] for name in ("accuracy", "accuracy.drop")})
        assert 0.9 < float(measured["accuracy"]) < 1
        assert measured["accuracy.drop"] == "0 points"


@only_full
def test_a_metric_image_refuses_with_its_number_and_stable_serves_on(chart, steady, taught, rows):
    pods, stable = steady.serving_pods(), steady.get()["status"]["stable"]["revision"]
    with rows.row(KIND, KEY, "metric image, refused") as row:
        steady.apply(taught["model"], gates=judged(chart.images["jobs"], taught, minimum="0.999"))

        found = steady.wait_refused("AccuracyFailed", seconds=PATIENCE)

        message = condition(found, "Stalled")["message"]
        row.update(reason="AccuracyFailed", message=message, measured=gates_of(found)["accuracy"])
        row["stable_untouched"] = untouched(steady, pods, stable)
        assert row["stable_untouched"]
        assert row["measured"] in message
        assert "at least 0.999" in message


def untouched(steady: Deployed, pods: dict[str, int], revision: str) -> bool:
    now = steady.get()["status"]["stable"]["revision"]
    return steady.serving_pods() == pods and steady.answers_as(STABLE) and now == revision


# a training step of one's own


def trained(image: str, code: str, taught: Mapping[str, str], **gates: Any) -> dict[str, Any]:
    data = {"uri": taught["rows"]}
    accuracy = {"metric": "Top1", "minimum": "0.9", "maxDropPercent": "5"}
    return {
        "optimize": {"hook": program(image, code), "calibration": data},
        "gates": {"dataset": data, "accuracy": accuracy, **gates},
    }


@pytest.fixture(scope="module")
def distilled(chart, cluster, namespace, taught, rows) -> Iterator[Deployed]:
    """A candidate of a hook that is served, with everything measured in the server that a report can show."""
    deployed = Deployed(cluster, namespace, "distilled")
    measured = {
        "latency": {"p95": "2s", "p99": "5s", "concurrency": 4},
        "throughput": {"minPerSecond": 10, "concurrency": 4},
        "memory": {"max": "512Mi"},
    }
    asked = trained(chart.images["jobs"], DISTIL, taught, **measured)
    with rows.row(KIND, KEY, "hook image, everything measured") as row:
        deployed.apply(taught["model"], server={**LIMITS}, **asked)
        row["gates"] = gates_of(deployed.wait_ready(PATIENCE))
    yield deployed
    deployed.delete()


@only_full
def test_a_hook_whose_candidate_is_better_is_served(distilled, rows):
    with rows.row(KIND, KEY, "hook image, kept") as row:
        kept = candidate(report_of(distilled))
        feed = labelled_rows(teacher(), 64)["features"]
        served, source = predict(distilled, feed).outputs["scores"], answers(teacher(), feed)

        row.update(speedup=kept["speedup"], why=kept["why"])
        row.update(source_bytes=len(teacher()), served_bytes=kept["size_bytes"])
        row["agreement"] = float(np.mean(served.argmax(1) == source.argmax(1)))
        assert kept["kept"]
        assert kept["speedup"] > 1.2
        assert kept["size_bytes"] < len(teacher()) / 100
        assert row["agreement"] > 0.9
        assert not np.allclose(served, source, atol=1e-4), "the teacher itself is served"


@only_full
@pytest.mark.parametrize(
    ("code", "words"), [(MISLEAD, "its gates fail: Top1 is"), (COPY, "times as fast as the model")]
)
def test_a_hook_whose_candidate_is_worse_is_not_served(chart, code, words, deploy, taught, rows):
    name = "wrong" if code is MISLEAD else "not faster"
    with rows.row(KIND, KEY, f"hook image, {name}") as row:
        refused = deploy("misled" if code is MISLEAD else "copied")
        refused.apply(taught["model"], server={**LIMITS}, **trained(chart.images["jobs"], code, taught))

        refused.wait_ready(PATIENCE)

        worse = candidate(report_of(refused))
        row.update(speedup=worse["speedup"], why=worse["why"])
        feed = labelled_rows(teacher(), 32)["features"]
        row.update(predict(refused, feed).against((answers(teacher(), feed),), 1e-4))
        assert not worse["kept"]
        assert words in worse["why"]
        assert re.search(r"\d", worse["why"])


# images that go wrong


@only_full
@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_goes_wrong_is_told_by_its_field(name, chart, steady, taught, store, rows):
    case = BROKEN[name]
    pods, stable = steady.serving_pods(), steady.get()["status"]["stable"]["revision"]
    own = program(chart.images["jobs"], case.code)
    gates = {"dataset": {"uri": taught["rows"]}, "accuracy": {"metric": "Top1", "minimum": "0.5"}}
    spec: dict[str, Any] = {"optimize": {"hook": own}} if case.hook else {}
    if case.prepare:
        spec["prepare"] = dict(case.prepare)
    if not case.hook:
        gates["accuracy"] = {**own, "minimum": "0.5"}
    with rows.row(KIND, KEY, name) as row:
        steady.apply(taught["model"], gates=gates, **spec)

        found = steady.wait_refused(case.reason, seconds=PATIENCE)

        row.update(reason=case.reason, message=condition(found, "Stalled")["message"])
        row["stable_untouched"] = untouched(steady, pods, stable)
        assert row["stable_untouched"]
        for words in case.words:
            assert words in row["message"]
    steady.apply(store.uri("proving-steady"))
    steady.wait_ready()


# the search for settings


@pytest.fixture(scope="module")
def tuned(cluster, namespace, store, rows) -> Iterator[Deployed]:
    """One core, eight callers: by default one instance answers row by row, and batches are what helps."""
    store.push_files({"model.onnx": wide_model()}, "wide")
    deployed = Deployed(cluster, namespace, "tuned")
    gates = {"throughput": {"minPerSecond": 1, "concurrency": 8}, "tune": {"goal": "Throughput", "trials": 4}}
    with rows.row(KIND, KEY, "tune, eight visits") as row:
        deployed.apply(store.uri("wide"), server={**LIMITS}, gates=gates)
        row["gates"] = gates_of(deployed.wait_ready(PATIENCE))
    yield deployed
    deployed.delete()


@only_full
def test_what_a_search_has_chosen_is_served(tuned, cluster, rows):
    with rows.row(KIND, KEY, "tune") as row:
        revision = tuned.get()["status"]["stable"]["revision"]
        trials = report_of(tuned)["serving"]["trials"]
        (chosen,) = [trial for trial in trials if trial["chosen"]]
        config = cluster.get("configmap", revision, "-n", tuned.namespace)["data"]["config.pbtxt"]

        row.update(goal="Throughput", trials=trials, chosen=chosen["settings"])
        row["instances"] = int(re.search(r"instance_group \{[^}]*count: (\d+)", config)[1])
        row["dynamic_batching"] = "dynamic_batching" in config
        feed = some_rows()
        row.update(predict(tuned, feed).against((answers(wide_model(), feed),), 1e-4))
        assert len(trials) > 2
        assert all(trial["value"] > 0 for trial in trials)
        assert chosen["settings"]["instances"] == row["instances"] > 1, "no search has chosen the defaults here yet"
        assert row["dynamic_batching"]
        assert chosen["value"] > 1.03 * trials[0]["value"]


# content that stays on its claim


@pytest.fixture
def content(cluster, namespace) -> Iterator[Claim]:
    if not cluster.local:
        pytest.skip("the volume is a folder of the local node")
    with claim(cluster, namespace, "content") as made:
        yield made


@only_full
def test_mounted_content_is_measured_served_and_watched(content, deploy, rows):
    mounted = deploy("mounted")
    model = linear_model(82, padding=2**20)
    data = {"features": some_rows(100), "label": model.answer(some_rows(100)).argmax(1)}
    with rows.row(KIND, KEY, "mount with server gates") as row:
        file = content.write("models/7/model.onnx", model.data)
        content.write("rows.npz", zoo.npz(data))
        gates = {
            "dataset": {"uri": "pvc://content/rows.npz"},
            "accuracy": {"metric": "Top1", "minimum": "0.99"},
            "latency": {"p95": "2s"},
        }
        mounted.apply("pvc://content/models/7", {"delivery": "Mount"}, gates=gates)
        preparation = mounted.wait_ready(PATIENCE)["status"]["preparation"]
        mounted.wait_answers_as(model)
        row.update(gates={gate["name"]: gate["measured"] for gate in preparation["gates"]})
        assert {"accuracy", "latency.p95"} <= row["gates"].keys()

    with rows.row(KIND, KEY, "mounted content that was changed") as row:
        changed = bytearray(model.data)
        changed[-1] ^= 1
        file.write_bytes(changed)
        restart(mounted)
        found = mounted.wait_reason("DigestMismatch", PATIENCE)
        row.update(reason="DigestMismatch", message=condition(found, "Ready")["message"])
        assert "models/7/model.onnx" in row["message"] or "model.onnx" in row["message"]
        assert "sha256" in row["message"]

        file.write_bytes(model.data)
        mounted.wait_ready(PATIENCE)
        mounted.wait_answers_as(model)


def restart(deployed: Deployed) -> None:
    """Its serving pods begin anew."""
    labels = f"penstock.dev/deployment={deployed.name},app.kubernetes.io/component=server"
    pods = ("delete", "pods", "-n", deployed.namespace, "-l", labels, "--wait=false")
    deployed.cluster.call(deployed.cluster.kubectl, *pods)


# the report


@only_full
def test_a_report_tells_what_was_optimized_and_measured(distilled, tuned, tmp_path, rows):
    with rows.row(KIND, KEY, "report") as row:
        text, search = told(distilled), told(tuned)
        file = tmp_path / "report.html"
        told(distilled, "--output", "html", "--file", str(file))
        html = Path(file).read_text()

        row.update(text_lines=len(text.splitlines()), html_bytes=len(html))
        for words in ("hook", "kept", "latency", "rows/s", "memory", "accuracy", "passed"):
            assert words in text
        for words in ("settings tried", "instances 2", "chosen"):
            assert words in search
        for words in ("Optimization", "Latency in the server", "Rows answered per second", "Memory", "<svg"):
            assert words in html
        for shown in (text, search, html):
            assert not re.search(r"\de\+\d", shown), "a number that only programmers read"
