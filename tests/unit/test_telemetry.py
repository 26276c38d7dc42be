"""Metrics: their names keep the rules, and they say what happened. Logs: one JSON object a line, no credentials."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.telemetry import Telemetry, configure_logging, log_context, redacted

FOREIGN = re.compile(r"^(process|python)_")
"""Names every Prometheus client shares; dashboards know them."""


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def value(telemetry: Telemetry, metric: str, /, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(metric, labels)


def test_every_metric_keeps_the_naming_rules(telemetry: Telemetry) -> None:
    problems = []
    for family in telemetry.registry.collect():
        name, own = family.name, not FOREIGN.match(family.name)
        if own and not re.fullmatch(r"penstock(_[a-z]+)+", name):
            problems.append(f"{name}: expected penstock_ and lower-case words")
        if own and not (
            family.documentation.endswith(".") and family.documentation[0].isupper() | family.documentation[0].isdigit()
        ):
            problems.append(f"{name}: help is not a sentence")
        if family.type == "histogram" and not name.endswith(("_seconds", "_bytes")):
            problems.append(f"{name}: a histogram without a unit")
        if family.type == "gauge" and name.endswith(("_total", "_count", "_sum", "_bucket")):
            problems.append(f"{name}: a gauge named like a counter")
        if own and re.search(r"_(ms|millis|milliseconds|minutes|hours|kb|mb|percent)(_|$)", name):
            problems.append(f"{name}: not a base unit")
        problems += [
            f"{name}: label {label!r}"
            for sample in family.samples
            for label in sample.labels
            if not re.fullmatch(r"[a-z][a-z_]*", label)
        ]
    assert problems == []


def test_counters_end_in_total_on_the_wire(telemetry: Telemetry) -> None:
    families = {f.name: f for f in text_string_to_metric_families(telemetry.exposition().decode())}
    names = {sample.name for f in families.values() if f.type == "counter" for sample in f.samples}
    assert all(name.endswith(("_total", "_created")) for name in names)
    assert "penstock_workqueue_adds_total" in names


def test_the_queue_and_requests_are_counted(telemetry: Telemetry) -> None:
    telemetry.queue.added(3)
    telemetry.queue.taken(2, 0.2)
    telemetry.queue.finished(0.1)
    telemetry.queue.retried()
    telemetry.requests.request("apply", "Deployment", "200", 0.02)
    telemetry.events.event("sent")
    telemetry.watch.event("Pod", "modified")
    telemetry.watch.objects({"Pod": 4})
    telemetry.leading(True)
    assert value(telemetry, "penstock_workqueue_depth") == 2
    assert value(telemetry, "penstock_workqueue_queue_duration_seconds_count") == 1
    assert value(telemetry, "penstock_api_requests_total", verb="apply", kind="Deployment", code="200") == 1
    assert value(telemetry, "penstock_events_total", outcome="sent") == 1
    assert value(telemetry, "penstock_watch_events_total", kind="Pod", type="modified") == 1
    assert value(telemetry, "penstock_cache_objects", kind="Pod") == 4
    assert value(telemetry, "penstock_leader") == 1
    telemetry.watch.objects({})
    assert value(telemetry, "penstock_cache_objects", kind="Pod") is None


def test_a_reconcile_counts_its_result_and_its_time(telemetry: Telemetry) -> None:
    with telemetry.reconcile("Router", ("ns", "a")):
        assert value(telemetry, "penstock_active_workers") == 1
    with telemetry.reconcile("Router", ("ns", "a")) as outcome:
        outcome.result = "fenced"
    with pytest.raises(RuntimeError), telemetry.reconcile("Router", ("ns", "a")):
        raise RuntimeError
    assert value(telemetry, "penstock_active_workers") == 0
    assert value(telemetry, "penstock_reconcile_time_seconds_count") == 3
    for result in ("success", "fenced", "error"):
        assert value(telemetry, "penstock_reconcile_total", kind="Router", result=result) == 1


def test_a_model_has_one_series_that_follows_its_status(telemetry: Telemetry) -> None:
    status = {
        "phase": "Available",
        "stable": {"revision": "digits-1"},
        "preparation": {"format": "ONNX"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    telemetry.observe(("ns", "digits"), {"status": {"phase": "Preparing"}})
    telemetry.observe(("ns", "digits"), {"status": status})
    info = {"namespace": "ns", "name": "digits", "revision": "digits-1", "format": "ONNX"}
    assert value(telemetry, "penstock_model_info", **info) == 1
    assert value(telemetry, "penstock_model_info", **{**info, "revision": "", "format": ""}) is None
    assert value(telemetry, "penstock_model_ready", namespace="ns", name="digits") == 1
    assert value(telemetry, "penstock_modeldeployments", phase="Available") == 1
    assert value(telemetry, "penstock_modeldeployments", phase="Preparing") == 0
    telemetry.observe(("ns", "digits"), None)
    assert value(telemetry, "penstock_model_info", **info) is None
    assert value(telemetry, "penstock_modeldeployments", phase="Available") == 0


def test_a_model_nobody_looked_at_yet_is_pending(telemetry: Telemetry) -> None:
    telemetry.observe(("ns", "new"), {})
    assert value(telemetry, "penstock_modeldeployments", phase="Pending") == 1


def test_named_series_are_bounded_and_the_rest_is_counted(telemetry: Telemetry) -> None:
    telemetry.models._limit = 2
    for name in "abcd":
        telemetry.models.observe("ns", name, phase="Available")
    assert value(telemetry, "penstock_models_unnamed") == 2
    assert value(telemetry, "penstock_modeldeployments", phase="Available") == 4
    telemetry.models.remove("ns", "a")
    telemetry.models.observe("ns", "c", phase="Failed")
    assert value(telemetry, "penstock_models_unnamed") == 1
    assert value(telemetry, "penstock_model_ready", namespace="ns", name="c") == 0


CANDIDATE = {
    "revision": "digits-2",
    "stage": "Stepping",
    "weight": "12.5",
    "step": 2,
    "verdict": "Undecided",
    "analysis": {"metrics": [{"name": "errors", "evidence": "3.5", "threshold": "300"}, {"name": "latency"}]},
}


def test_a_rollout_is_shown_while_it_runs(telemetry: Telemetry) -> None:
    place = {"namespace": "ns", "name": "digits"}
    telemetry.observe(("ns", "digits"), {"status": {"phase": "Progressing", "candidate": CANDIDATE}})
    assert value(telemetry, "penstock_rollout_weight", **place) == 0.125
    assert value(telemetry, "penstock_rollout_step", **place) == 2
    assert value(telemetry, "penstock_rollout_verdict", **place, verdict="Undecided") == 1
    assert value(telemetry, "penstock_rollout_evidence", **place, metric="errors") == 3.5
    assert value(telemetry, "penstock_rollout_evidence_threshold", **place, metric="errors") == 300
    assert value(telemetry, "penstock_rollout_evidence", **place, metric="latency") is None
    shown = {**place, "revision": "digits-2", "stage": "Stepping", "phase": "Progressing"}
    assert value(telemetry, "penstock_rollout_phase", **shown) == 1
    telemetry.observe(("ns", "digits"), {"status": {"phase": "Available"}})
    assert value(telemetry, "penstock_rollout_phase", **shown) is None
    assert value(telemetry, "penstock_rollout_weight", **place) is None


def test_shown_rollouts_are_bounded(telemetry: Telemetry) -> None:
    telemetry.rollouts._limit = 1
    for name in "ab":
        telemetry.observe(("ns", name), {"status": {"candidate": CANDIDATE}})
    assert value(telemetry, "penstock_rollout_step", namespace="ns", name="a") == 2
    assert value(telemetry, "penstock_rollout_step", namespace="ns", name="b") is None
    telemetry.observe(("ns", "a"), None)
    telemetry.observe(("ns", "b"), {"status": {"candidate": CANDIDATE}})
    assert value(telemetry, "penstock_rollout_step", namespace="ns", name="b") == 2


def entry(revision: str, outcome: str) -> dict[str, str]:
    return {"revision": revision, "outcome": outcome, "endTime": f"end of {revision}"}


def test_an_ended_rollout_is_counted_once_and_only_where_its_end_was_seen(telemetry: Telemetry) -> None:
    first, second, third = entry("a", "Promoted"), entry("b", "RolledBack"), entry("c", "Promoted")

    def counts() -> list[float | None]:
        return [value(telemetry, "penstock_rollouts_total", outcome=name) for name in ("Promoted", "RolledBack")]

    telemetry.observe(("ns", "old"), {"status": {"history": [first]}})
    assert counts() == [0, 0]
    telemetry.observe(("ns", "old"), {"status": {"history": [second, first]}})
    telemetry.observe(("ns", "old"), {"status": {"history": [second, first]}})
    assert counts() == [0, 1]
    telemetry.observe(("ns", "new"), {"status": {}})
    telemetry.observe(("ns", "new"), {"status": {"history": [third]}})
    assert counts() == [1, 1]


def test_scrapes_are_counted_by_outcome(telemetry: Telemetry) -> None:
    telemetry.fleets.scraped("ok", 0.01)
    telemetry.fleets.scraped("timeout", 1.0)
    assert value(telemetry, "penstock_fleet_scrapes_total", outcome="timeout") == 1
    assert value(telemetry, "penstock_fleet_scrape_duration_seconds_count") == 2


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("INFO", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    for name in ("kopf.objects", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_context(logged: io.StringIO) -> None:
    log = logging.getLogger("penstock.test")
    with log_context(namespace="vision", name="digits"), log_context(revision="digits-1"):
        log.info("ready\nat %d %%", 90, extra={"replicas": 2})
    log.warning("outside")
    first, second = lines(logged)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first.pop("ts")))
    assert first == {
        "level": "info",
        "logger": "penstock.test",
        "msg": "ready\nat 90 %",
        "namespace": "vision",
        "name": "digits",
        "revision": "digits-1",
        "replicas": 2,
    }
    assert "namespace" not in second


def test_an_exception_is_a_field_of_its_line(logged: io.StringIO) -> None:
    try:
        raise ValueError("token=abcdefgh12345")  # noqa: TRY301
    except ValueError:
        logging.getLogger("penstock.test").exception("failed")
    (line,) = lines(logged)
    assert "ValueError" in str(line["exc"])
    assert "abcdefgh12345" not in str(line["exc"])


def test_kopfs_loggers_go_the_same_way_and_name_their_object(logged: io.StringIO) -> None:
    reference = {"kind": "Pod", "namespace": "ns", "name": "p"}
    logging.getLogger("kopf.objects").warning("look", extra={"k8s_ref": reference, "settings": object()})
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    (line,) = lines(logged)
    assert (line["namespace"], line["name"], line["logger"]) == ("ns", "p", "kopf.objects")
    assert "settings" not in line


JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {JWT}", JWT),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        (f"answer was {JWT}.", JWT),
        ('{"token": "s3cr3t-value"}', "s3cr3t-value"),
        ("https://user:hunter22@registry/v2/", "hunter22"),
        ("aws secret_key=AKIA/abc", "AKIA/abc"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----", "MC4CAQ"),
        ("bearer abcdefgh.ijklmnop", "abcdefgh.ijklmnop"),
    ],
)
def test_credentials_never_reach_a_log(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert "[redacted]" in redacted(text)


@pytest.mark.parametrize(
    "text", ["a bearer of news", "tokens are read", "digits-7c9f41d2 at 10 %", "https://host:5000/v2"]
)
def test_ordinary_words_stay(text: str) -> None:
    assert redacted(text) == text
