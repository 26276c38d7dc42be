"""What `spec.server` becomes: defaults from the CPU limit, and refusals with the field's path."""

import json
from fractions import Fraction

import pytest

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import Problem, ServerSettings, resolve_settings, server_flags


def facts(batching: bool = True, kind: str = "ONNX") -> ModelFacts:
    digest = "sha256:" + "0" * 64
    return ModelFacts.model_validate(
        {
            "format": kind,
            "digest": digest,
            "artifact": {"repository": "r/n", "manifest": digest, "layer": digest, "sizeBytes": 1000},
            "inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}],
            "outputs": [{"name": "y", "dataType": "FP32", "dims": [-1, 2]}],
            "batching": batching,
            "models": [{"name": "a"}] if kind == "TritonRepository" else [],
        }
    )


def resolve(server: dict | None = None, cpu: str = "1", **about: object) -> ServerSettings:
    spec = ServerSpec.model_validate(server) if server is not None else None
    return resolve_settings(spec, facts(**about), Fraction(cpu))


@pytest.mark.parametrize(
    ("cpu", "server", "instances", "threads", "dynamic", "batch"),
    [
        ("1/4", None, 1, 1, False, 32),
        ("1", None, 1, 1, False, 32),
        ("19/10", None, 1, 1, False, 32),
        ("2", None, 2, 1, True, 32),
        ("7", None, 2, 3, True, 32),
        ("1", {"instances": {"count": 2}}, 2, 1, True, 32),
        ("8", {"instances": {"count": 3}}, 3, 2, True, 32),
        ("8", {"instances": {"count": 3, "threads": 1}}, 3, 1, True, 32),
        ("8", {"instances": {"count": 1}}, 1, 8, False, 32),
        ("8", {"instances": {"count": 1}, "batching": {"maxBatchSize": 0}}, 1, 8, False, 0),
        ("1", {"batching": {"maxBatchSize": 8}}, 1, 1, False, 8),
        ("2", {"batching": {"maxBatchSize": 0}}, 2, 1, False, 0),
    ],
)
def test_instances_threads_and_batching_follow_from_the_cpu_limit(
    cpu: str, server: dict | None, instances: int, threads: int, dynamic: bool, batch: int
) -> None:
    settings = resolve(server, cpu)
    assert settings.refusals == ()
    assert (settings.instances, settings.threads) == (instances, threads)
    assert (settings.dynamic, settings.max_batch_size) == (dynamic, batch)
    assert settings.max_queue_size == (256 if dynamic else 0)


def test_queue_fields_become_microseconds() -> None:
    batching = {"maxQueueDelay": "2ms", "queueTimeout": "1500ms", "maxQueueSize": 9, "preferredBatchSizes": [4, 8]}
    settings = resolve({"batching": batching}, "2")
    assert (settings.max_queue_delay_us, settings.queue_timeout_us) == (2_000, 1_500_000)
    assert (settings.max_queue_size, settings.preferred_batch_sizes) == (9, (4, 8))


def test_without_proof_there_is_no_batching() -> None:
    settings = resolve(None, "4", batching=False)
    assert (settings.max_batch_size, settings.dynamic, settings.instances, settings.refusals) == (0, False, 2, ())


@pytest.mark.parametrize(
    ("server", "cpu", "batching", "path", "words"),
    [
        ({"batching": {"maxBatchSize": 4}}, "2", False, "batching.maxBatchSize", ["could not prove", "maxBatchSize"]),
        ({"batching": {"maxQueueSize": 4}}, "1", True, "batching.maxQueueSize", ["limits.cpu to 2", "count: 2"]),
        ({"batching": {"maxQueueDelay": "1ms"}}, "1", True, "batching.maxQueueDelay", ["limits.cpu to 2", "count: 2"]),
        ({"batching": {"queueTimeout": "1s"}}, "1", True, "batching.queueTimeout", ["half a second"]),
        ({"batching": {"preferredBatchSizes": [2]}}, "1", True, "batching.preferredBatchSizes", ["one instance"]),
        ({"batching": {"maxBatchSize": 0, "maxQueueSize": 4}}, "2", True, "batching.maxQueueSize", ["without batch"]),
        ({"batching": {"maxQueueSize": 4}}, "2", False, "batching.maxQueueSize", ["without batching"]),
        (
            {"batching": {"maxBatchSize": 8, "preferredBatchSizes": [4, 9]}}, "2", True,
            "batching.preferredBatchSizes[1]", ["9", "8"],
        ),
        (
            {"batching": {"maxBatchSize": 8}, "instances": {"count": 1}}, "4", True,
            "instances.count", ["half a second", "count to 2", "maxBatchSize: 0"],
        ),
        (
            {"batching": {"maxQueueSize": 8}, "instances": {"count": 1}}, "4", True,
            "instances.count", ["half a second"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_path(
    server: dict, cpu: str, batching: bool, path: str, words: list[str]
) -> None:
    refusals = resolve(server, cpu, batching=batching).refusals
    assert [problem.path for problem in refusals] == [f"spec.server.{path}"]
    assert all(word in refusals[0].message for word in words), refusals[0].message


@pytest.mark.parametrize(
    "server",
    [{"batching": {"maxBatchSize": 4}}, {"instances": {"count": 2}}, {"warmup": "None"}, {"config": {"a": 1}}],
)
def test_a_repository_served_as_it_is_takes_no_rendering_fields(server: dict) -> None:
    refusals = resolve(server, "4", kind="TritonRepository").refusals
    assert [problem.path for problem in refusals] == [f"spec.server.{next(iter(server))}"]


def test_what_says_nothing_is_not_refused() -> None:
    assert resolve({"batching": {}, "instances": {}}, kind="TritonRepository").refusals == ()


@pytest.mark.parametrize(
    ("flags", "rule", "words"),
    [
        ({"model-repository": "/x"}, "flag-owned", "which models"),
        ({"exit-timeout-secs": "3"}, "flag-owned", "stops"),
        ({"http-port": "1"}, "flag-owned", "ports"),
        ({"cache-config": "local,size=1"}, "flag-owned", "responseCache"),
        ({"backend-directory": "/tmp"}, "flag-owned", "image"),
        ({"no-such-flag": "1"}, "flag-unknown", "no flag"),
        ({"--log-verbose": "1"}, "flag-unknown", "without dashes"),
        ({"log-verbose": "1 --model-repository=/x"}, "flag-value", "one word"),
        ({"log-verbose": "1\n"}, "flag-value", "one word"),
    ],
)
def test_flags_that_are_not_the_users_are_refused(flags: dict[str, str], rule: str, words: str) -> None:
    (problem,) = resolve({"flags": flags}).refusals
    assert (problem.rule, problem.path) == (rule, f"spec.server.flags[{next(iter(flags))!r}]")
    assert words in problem.message


def test_flags_of_the_server() -> None:
    flags = {"rate-limit": "execution_count", "log-verbose": "1"}
    settings = resolve({"flags": flags, "responseCache": {"size": "64Mi"}})
    assert settings.refusals == ()
    assert server_flags(settings) == (
        "--cache-config=local,size=67108864", "--log-verbose=1", "--rate-limit=execution_count",
    )  # fmt: skip


def test_settings_survive_their_record() -> None:
    server = {
        "batching": {"preferredBatchSizes": [4], "queueTimeout": "1s"},
        "config": {"metric_tags": {"b": "2", "a": "é"}},
        "flags": {"log-verbose": "1"},
        "responseCache": {"size": "1Mi"},
        "instances": {"kind": "GPU", "count": 2},
    }
    settings = resolve(server, "2")
    assert ServerSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_record_of_a_newer_release_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="format 2"):
        ServerSettings.from_json(resolve().to_json() | {"format": 2})


def test_refused_settings_are_never_recorded() -> None:
    with pytest.raises(ValueError, match="refused"):
        resolve({"batching": {"maxQueueSize": 4}}).to_json()


def test_a_problem_reads_as_a_line() -> None:
    assert str(Problem("input[0].dims", "tensor-dims", "0 was given")) == "input[0].dims: 0 was given"
    assert str(Problem("", "config-missing", "there is none")) == "there is none"
