"""Plans of whole repositories: rendered ones, ones served as they are, extra fields, sizes."""

from fractions import Fraction
from typing import Any

import pytest

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import (
    RepositoryPlan,
    build_repository,
    memory_bytes,
    parse_config,
    render_config,
    resolve_settings,
    shm_bytes,
)

MIB = 1 << 20
DIGEST = "sha256:" + "0" * 64


def facts(**about: Any) -> ModelFacts:
    size = about.pop("size", 1000)
    return ModelFacts.model_validate(
        {
            "format": "ONNX",
            "digest": DIGEST,
            "artifact": {"repository": "r/n", "manifest": DIGEST, "layer": DIGEST, "sizeBytes": size},
            "inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}],
            "outputs": [{"name": "y", "dataType": "FP32", "dims": [-1, 2]}],
            "batching": True,
        }
        | about
    )


def ready_repository(*models: dict[str, Any], **about: Any) -> ModelFacts:
    return facts(format="TritonRepository", inputs=[], outputs=[], batching=False, models=list(models), **about)


def plan(server: dict[str, Any] | None = None, cpu: str = "2", name: str = "digits", **about: Any) -> RepositoryPlan:
    known, spec = facts(**about), ServerSpec.model_validate(server or {})
    return build_repository(known, name, resolve_settings(spec, known, Fraction(cpu)))


def test_a_rendered_plan() -> None:
    made = plan()
    assert made.problems == ()
    assert (made.entry_model, made.load_models) == ("digits", ("digits",))
    assert made.config_text is not None
    config = parse_config(made.config_text)
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 32)
    assert [group.count for group in config.instance_group] == [2]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 256
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.model_warmup[0].batch_size == 1


def test_a_value_per_row_is_reshaped_away() -> None:
    made = plan(outputs=[{"name": "label", "dataType": "INT64", "dims": [-1]}])
    output = parse_config(made.config_text or "").output[0]
    assert (list(output.dims), output.HasField("reshape"), list(output.reshape.shape)) == ([1], True, [])


@pytest.mark.parametrize(
    ("dims", "expected"),
    [([-1, 4], [4]), ([-1, -1], [1]), ([-1, 3, -1], [3, 1]), ([-1, -1, -1, 3], None)],
)
def test_warm_up_gives_free_dimensions_a_size_where_one_is_safe(dims: list[int], expected: list[int] | None) -> None:
    config = parse_config(plan(inputs=[{"name": "x", "dataType": "INT64", "dims": dims}]).config_text or "")
    samples = [list(warmup.inputs["x"].dims) for warmup in config.model_warmup]
    assert samples == ([] if expected is None else [expected])


@pytest.mark.parametrize("name", ["a/b", "$(x)", "a b", "..", "a..b", "", "é"])
def test_an_unsafe_served_name_is_refused(name: str) -> None:
    made = plan(name=name)
    assert made.config_text is None
    assert [(problem.path, problem.rule) for problem in made.errors] == [("spec.model.servedName", "unsafe-name")]


@pytest.mark.parametrize(
    ("about", "path", "rule"),
    [
        ({"inputs": []}, "spec.model.inputs", "tensors-missing"),
        ({"outputs": []}, "spec.model.outputs", "tensors-missing"),
        (
            {"inputs": [{"name": "x", "dataType": "FP32", "dims": [1, 4]}]},
            "spec.model.inputs[0].dims", "batch-dimension",
        ),
        (
            {"inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 0]}]},
            "spec.model.inputs[0].dims[0]", "tensor-dims",
        ),
        (
            {"outputs": [{"name": "y", "dataType": "FP32", "dims": []}], "batching": False},
            "spec.model.outputs[0].dims", "scalar-tensor",
        ),
        (
            {"inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}] * 2},
            "spec.model.inputs[1].name", "tensor-duplicate",
        ),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be_served_are_named(about: dict[str, Any], path: str, rule: str) -> None:
    made = plan(**about)
    assert made.config_text is None
    assert (path, rule) in [(problem.path, problem.rule) for problem in made.errors]


@pytest.mark.parametrize(
    ("config", "path", "rule", "words"),
    [
        ({"name": "x"}, "name", "extra-owned", "servedName"),
        ({"backend": "python"}, "backend", "extra-owned", "format"),
        ({"default_model_filename": "$(x)"}, "default_model_filename", "extra-owned", "format"),
        ({"max_batch_size": 4}, "max_batch_size", "extra-owned", "maxBatchSize"),
        ({"instance_group": []}, "instance_group", "extra-owned", "instances"),
        ({"sequence_batching": {}}, "sequence_batching", "extra-owned", "TritonRepository"),
        ({"maxBatchSize": 4}, "maxBatchSize", "extra-field", "no field"),
        ({"optimization": {"graph": {"levle": 1}}}, "optimization.graph.levle", "extra-field", "Graph"),
        ({"optimization": {"graph": {"level": "1"}}}, "optimization.graph.level", "extra-value", "integer"),
        ({"optimization": {"graph": {"level": 2**40}}}, "optimization.graph.level", "extra-value", "integer"),
        ({"optimization": {"graph": 3}}, "optimization.graph", "extra-value", "object"),
        ({"optimization": {"priority": "HIGH"}}, "optimization.priority", "extra-value", "PRIORITY_MAX"),
        ({"optimization": {"eager_batching": 1}}, "optimization.eager_batching", "extra-value", "true or false"),
        ({"metric_tags": ["a"]}, "metric_tags", "extra-value", "object"),
        ({"metric_tags": {"a b": "1"}}, "metric_tags['a b']", "unsafe-name", "metric tag"),
        ({"metric_tags": {"a": 1}}, "metric_tags['a']", "extra-value", "quote it"),
        ({"metric_tags": {"a": "x\ny"}}, "metric_tags['a']", "extra-value", "printable"),
        (
            {"parameters": {"EXECUTION_ENV_PATH": {"string_value": "/x"}}},
            "parameters['EXECUTION_ENV_PATH']", "extra-parameter", "execution_mode",
        ),
        (
            {"parameters": {"intra_op_thread_count": {"string_value": "9"}}},
            "parameters['intra_op_thread_count']", "extra-owned", "threads",
        ),
        (
            {"dynamic_batching": {"default_queue_policy": {"max_queue_size": 1}}},
            "dynamic_batching.default_queue_policy.max_queue_size", "extra-owned", "maxQueueSize",
        ),
        (
            {"model_warmup": [{"inputs": {"x": {"input_data_file": "../x"}}}]},
            "model_warmup[0].inputs['x'].input_data_file", "extra-owned", "zero_data",
        ),
        ({"model_warmup": {}}, "model_warmup", "extra-value", "list"),
        (
            {"model_metrics": {"metric_control": [{"histogram_options": {"buckets": [1, float("nan")]}}]}},
            "model_metrics.metric_control[0].histogram_options.buckets[1]", "extra-value", "number",
        ),
        (
            {"model_metrics": {"metric_control": [{"histogram_options": {"buckets": [10**400]}}]}},
            "model_metrics.metric_control[0].histogram_options.buckets[0]", "extra-value", "number",
        ),
        ({"model_metrics": {"metric_control": [{}]}}, "model_metrics", "field-unavailable", "2.52"),
        (
            {"dynamic_batching": {"priority_levels": 2, "default_priority_level": 3}},
            "dynamic_batching.default_priority_level", "priority-level", "1 to 2",
        ),
        (
            {"dynamic_batching": {"preserve_ordering": True, "default_queue_policy": {"timeout_action": "DELAY"}}},
            "dynamic_batching.default_queue_policy.timeout_action", "delay-ordering", "REJECT",
        ),
        (
            {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}},
            "optimization.execution_accelerators.cpu_execution_accelerator[0]", "accelerator-ignored", "openvino",
        ),
        (
            {"model_warmup": [{"name": "w", "batch_size": 64, "inputs": {"x": {
                "data_type": "TYPE_FP32", "dims": [4], "zero_data": True}}}]},
            "model_warmup[0].batch_size", "warmup-batch", "crash",
        ),
    ],
)  # fmt: skip
def test_extra_fields_are_checked_by_path(config: dict[str, Any], path: str, rule: str, words: str) -> None:
    made = plan({"config": config})
    assert made.config_text is None
    (problem,) = made.errors
    assert (problem.path, problem.rule) == (f"spec.server.config.{path}", rule)
    assert words in problem.message


def test_dynamic_fields_need_dynamic_batching() -> None:
    (problem,) = plan({"config": {"dynamic_batching": {"preserve_ordering": True}}}, cpu="1").errors
    assert problem.path == "spec.server.config.dynamic_batching"


def test_keys_that_yaml_reads_as_numbers_are_text() -> None:
    policies = {1: {"max_queue_size": 4}, "2": {"max_queue_size": 8}}
    batching = {"priority_levels": 2, "default_priority_level": 1, "priority_queue_policy": policies}
    text = plan({"config": {"dynamic_batching": batching}}).config_text or ""
    assert sorted(parse_config(text).dynamic_batching.priority_queue_policy) == [1, 2]


def test_one_of_two_data_sources_is_refused_not_crashed_on() -> None:
    warmup = {"name": "w", "inputs": {"x": {"data_type": "TYPE_FP32", "zero_data": True, "random_data": True}}}
    assert [problem.rule for problem in plan({"config": {"model_warmup": [warmup]}}).errors] == ["extra-value"]


@pytest.mark.parametrize(
    ("models", "served", "entry"),
    [
        ([{"name": "a"}], "md", "a"),
        ([{"name": "a"}, {"name": "b"}], "b", "b"),
        ([{"name": "a"}, {"name": "all", "ensemble": True}, {"name": "b"}], "md", "all"),
        ([{"name": "a"}, {"name": "all", "ensemble": True}], "a", "a"),
    ],
)
def test_the_entry_of_a_ready_repository(models: list[dict[str, Any]], served: str, entry: str) -> None:
    known = ready_repository(*models)
    made = build_repository(known, served, resolve_settings(None, known, 1))
    assert (made.config_text, made.entry_model, made.problems) == (None, entry, ())
    assert made.load_models == tuple(sorted(model["name"] for model in models))


@pytest.mark.parametrize(
    ("models", "path"),
    [
        ([], "spec.model.uri"),
        ([{"name": "a"}, {"name": "b"}], "spec.model.servedName"),
        ([{"name": "a", "ensemble": True}, {"name": "b", "ensemble": True}], "spec.model.servedName"),
    ],
)
def test_an_ambiguous_repository_names_the_candidates(models: list[dict[str, Any]], path: str) -> None:
    known = ready_repository(*models)
    (problem,) = build_repository(known, "md", resolve_settings(None, known, 1)).errors
    assert problem.path == path
    assert all(model["name"] in problem.message for model in models)


def test_a_ready_repository_is_never_rendered() -> None:
    known = ready_repository({"name": "a"})
    with pytest.raises(ValueError, match=r"config\.pbtxt"):
        render_config(known, "a", resolve_settings(None, known, 1))


def test_shared_memory_follows_from_instances_batch_and_rows() -> None:
    image = facts(inputs=[{"name": "x", "dataType": "FP32", "dims": [-1, 3, 224, 224]}])
    settings = resolve_settings(None, image, 2)
    row = 4 * 3 * 224 * 224 + 4 * 2
    assert shm_bytes(image, settings) == -(-(64 * MIB + 2 * 32 * row * 3 // 2) // MIB) * MIB


def test_memory_follows_from_the_size_of_the_model() -> None:
    small, large = facts(size=1000), facts(size=100 * MIB)
    one = resolve_settings(None, small, 1)
    assert memory_bytes(small, one) == 256 * MIB
    assert memory_bytes(large, one) == 64 * 8 * MIB
    assert memory_bytes(large, resolve_settings(None, large, 2)) > memory_bytes(large, one)
    cached = resolve_settings(ServerSpec.model_validate({"responseCache": {"size": "1Gi"}}), small, 1)
    assert memory_bytes(small, cached) == (256 + 1024) * MIB


def test_a_ready_repository_is_sized_by_its_models_and_content() -> None:
    one, three = ready_repository({"name": "a"}), ready_repository(*({"name": name} for name in "abc"))
    settings = resolve_settings(None, one, 1)
    assert shm_bytes(one, settings) == 128 * MIB
    assert shm_bytes(three, settings) == 256 * MIB
    assert memory_bytes(three, settings) > memory_bytes(one, settings)
