"""Whatever a preparation finds and a user writes: a config that keeps every rule, or a refusal with a path."""

from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import (
    Context,
    ServerSettings,
    build_repository,
    check_config,
    config_text,
    parse_config,
    render_config,
    resolve_settings,
)

TYPES = ["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "STRING"]
DIGEST = "sha256:" + "0" * 64

tensors = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text(min_size=1, max_size=6) | st.sampled_from(["x", "y", "input:0", 'a"b', "\\"]),
            "dataType": st.sampled_from(TYPES),
            "dims": st.lists(st.integers(-1, 5) | st.just(-1), max_size=4)
            | st.lists(st.just(-1) | st.integers(1, 5), min_size=1, max_size=3).map(lambda dims: [-1, *dims]),
        }
    ),
    max_size=4,
)
facts = st.builds(
    lambda inputs, outputs, batching: ModelFacts.model_validate(
        {
            "format": "ONNX",
            "digest": DIGEST,
            "artifact": {"repository": "r/n", "manifest": DIGEST, "layer": DIGEST, "sizeBytes": 9},
            "inputs": inputs,
            "outputs": outputs,
            "batching": batching,
        }
    ),
    tensors,
    tensors,
    st.booleans(),
)
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.sampled_from(["DELAY", "REJECT"])
names = st.sampled_from(
    [
        "optimization", "graph", "level", "dynamic_batching", "preserve_ordering", "priority_levels",
        "default_priority_level", "default_queue_policy", "timeout_action", "metric_tags", "parameters",
        "execution_mode", "string_value", "model_warmup", "name", "batch_size", "inputs", "x", "data_type", "dims",
        "zero_data", "priority", "cuda", "graphs", "input", "backend", "model_metrics", "response_cache", "é",
    ]
)  # fmt: skip
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2))
specs = st.builds(
    lambda **fields: ServerSpec.model_validate({name: value for name, value in fields.items() if value is not None}),
    batching=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "maxBatchSize": st.integers(0, 64),
            "preferredBatchSizes": st.lists(st.integers(1, 64), max_size=3),
            "maxQueueDelay": st.sampled_from(["0s", "1ms", "2s"]),
            "maxQueueSize": st.integers(1, 999),
            "queueTimeout": st.sampled_from(["1ms", "1s", "1h"]),
        },
    ),
    instances=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "count": st.integers(1, 5),
            "kind": st.sampled_from(["CPU", "GPU"]),
            "threads": st.integers(1, 9),
        },
    ),
    warmup=st.none() | st.sampled_from(["Auto", "None"]),
    responseCache=st.none() | st.just({"size": "1Mi"}),
    config=st.none() | st.dictionaries(names, junk, max_size=2),
    flags=st.none() | st.dictionaries(st.sampled_from(["log-verbose", "id", "x", "rate-limit"]), st.text(max_size=3)),
)
cpus = st.fractions(min_value=Fraction(1, 10), max_value=9)
served = st.sampled_from(["digits", "resnet50_v2", "a.b-c"]) | st.text(max_size=4)


@settings(max_examples=120, deadline=None)
@given(facts, specs, cpus, served)
def test_it_renders_and_keeps_every_rule_or_is_refused_with_a_path(
    known: ModelFacts, spec: ServerSpec, cpu: Fraction, name: str
) -> None:
    chosen = resolve_settings(spec, known, cpu)
    plan = build_repository(known, name, chosen)
    if plan.config_text is None:
        assert plan.errors
        assert all(problem.path.startswith("spec.") and problem.message for problem in plan.errors)
        return
    config = parse_config(plan.config_text)
    assert config == render_config(known, name, chosen)
    assert config_text(config) == plan.config_text
    context = Context(directory=name, strict=True)
    assert [problem for problem in check_config(config, context) if problem.severity == "error"] == []
    stored = ServerSettings.from_json(chosen.to_json())
    assert build_repository(known, name, stored) == plan


@given(st.dictionaries(names, junk, max_size=3))
def test_any_extra_config_is_merged_or_refused(config: dict[str, Any]) -> None:
    known = ModelFacts.model_validate(
        {
            "format": "ONNX",
            "digest": DIGEST,
            "artifact": {"repository": "r/n", "manifest": DIGEST, "layer": DIGEST, "sizeBytes": 9},
            "inputs": [{"name": "x", "dataType": "FP32", "dims": [-1, 4]}],
            "outputs": [{"name": "y", "dataType": "FP32", "dims": [-1, 2]}],
            "batching": True,
        }
    )
    plan = build_repository(known, "m", resolve_settings(ServerSpec(config=config), known, 2))
    assert (plan.config_text is None) == bool(plan.errors)
    assert all(problem.path.startswith("spec.server") for problem in plan.errors)
