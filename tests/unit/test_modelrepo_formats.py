"""Repositories of every format that is served as it is: golden configs, refusals with their sentence, sizes, images."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import (
    RepositoryPlan,
    backend_of,
    build_repository,
    content_bytes,
    memory_bytes,
    parse_config,
    resolve_settings,
    shm_bytes,
)
from penstock.core.serverimages import missing_image, server_image
from penstock.core.settings import Settings

GOLDEN = Path(__file__).parent.parent / "golden" / "configs"
DIGEST = "sha256:" + "0" * 64
MIB = 1 << 20
GPU = {"resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "2"}}}


def tensor(name: str, *dims: int, kind: str = "FP32") -> dict[str, Any]:
    return {"name": name, "dataType": kind, "dims": list(dims)}


def forest(model_type: str, classes: int, values: int) -> dict[str, Any]:
    names = {"lightgbm": "LightGBM", "treelite_checkpoint": "Treelite"}
    return {
        "format": names.get(model_type, "XGBoost"),
        "inputs": [tensor("input__0", -1, 30)],
        "outputs": [tensor("output__0", -1, values)],
        "forest": {"modelType": model_type, "classes": classes},
    }


TORCH = {
    "format": "TorchScript",
    "inputs": [tensor("INPUT__0", -1, 3, 224, 224), tensor("INPUT__1", -1, 1, kind="INT64")],
    "outputs": [tensor("OUTPUT__0", -1, 10)],
}
OPENVINO = {"format": "OpenVINO", "inputs": [tensor("rows", -1, 8)], "outputs": [tensor("scores", -1, 2)]}
TENSORRT = {
    "format": "TensorRT",
    "inputs": [tensor("image", -1, 3, 32, 32, kind="FP16")],
    "outputs": [tensor("label", -1, kind="INT32")],
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "torchscript": (TORCH, {}),
    "openvino": (OPENVINO, {}),
    "openvino-batches": (OPENVINO, {"batching": {"maxBatchSize": 16}}),
    "tensorrt": (TENSORRT, GPU),
    "xgboost-classes": (forest("xgboost_json", 3, 3), {}),
    "xgboost-label": (forest("xgboost_ubj", 2, 1), {"config": {"parameters": {"threshold": {"string_value": "0.3"}}}}),
    "lightgbm-value": (forest("lightgbm", 0, 1), {}),
    "treelite": (forest("treelite_checkpoint", 2, 2), {}),
}


def facts(about: dict[str, Any], **more: Any) -> ModelFacts:
    artifact = {"repository": "r/n", "manifest": DIGEST, "layer": DIGEST, "sizeBytes": 1000}
    return ModelFacts.model_validate({"digest": DIGEST, "artifact": artifact, "batching": True, **about, **more})


def plan(about: dict[str, Any], server: dict[str, Any] | None = None, cpu: str = "2", **more: Any) -> RepositoryPlan:
    known, spec = facts(about, **more), ServerSpec.model_validate(server or {})
    return build_repository(known, "model", resolve_settings(spec, known, Fraction(cpu)))


@pytest.mark.parametrize("case", CASES)
def test_golden_configs(case: str) -> None:
    made = plan(*CASES[case])
    assert made.problems == ()
    text, place = made.config_text or "", GOLDEN / f"{case}.pbtxt"
    if os.environ.get("GOLDEN") == "write":
        place.write_text(text)
    assert text == place.read_text(), "a rendered config changed; if that is meant, run `make golden` and read the diff"


@pytest.mark.parametrize(
    ("about", "server", "path", "words"),
    [
        (TENSORRT, {}, "spec.server.resources.limits", "nvidia.com/gpu"),
        (TENSORRT, {**GPU, "instances": {"kind": "CPU"}}, "spec.server.instances.kind", "runs on GPUs alone"),
        (
            {**TENSORRT, "inputs": [tensor("text", -1, 1, kind="STRING")]}, GPU,
            "spec.model.inputs[0].dataType", "the tensorrt backend takes",
        ),
        (
            {**TORCH, "inputs": [tensor("INPUT__0", -1, 1, kind="UINT32")]}, {},
            "spec.model.inputs[0].dataType", "INPUT__0 is UINT32",
        ),
        (
            {**forest("lightgbm", 0, 1), "inputs": [tensor("input__0", -1, 4, kind="FP64")]}, {},
            "spec.model.inputs[0].dataType", "FP32",
        ),
        (
            {**forest("lightgbm", 0, 1), "inputs": [tensor("rows", -1, 4)]}, {},
            "spec.model.inputs", "input__0 of shape [-1, n]",
        ),
        (
            {**forest("lightgbm", 0, 1), "outputs": [tensor("output__0", -1)]}, {},
            "spec.model.outputs", "output__0 of shape [-1, n]",
        ),
        (forest("xgboost_json", 3, 2), {}, "spec.model.outputs[0].dims", "these trees give 1 or 3"),
        (forest("lightgbm", 0, 2), {}, "spec.model.outputs[0].dims", "these trees give 1"),
        (
            forest("lightgbm", 0, 1), {"batching": {"maxBatchSize": 0}},
            "spec.server.batching.maxBatchSize", "write 1 or more",
        ),
        (
            TORCH, {"config": {"parameters": {"INTRA_OP_THREAD_COUNT": {"string_value": "9"}}}},
            "spec.server.config.parameters['INTRA_OP_THREAD_COUNT']", "instances.threads",
        ),
        (
            TORCH, {"config": {"parameters": {"INTER_OP_THREAD_COUNT": {"string_value": "9"}}}},
            "spec.server.config.parameters['INTER_OP_THREAD_COUNT']", "sets it to 1",
        ),
        (
            TORCH, {"config": {"parameters": {"execution_mode": {"string_value": "1"}}}},
            "spec.server.config.parameters['execution_mode']", "INFERENCE_MODE",
        ),
        (
            forest("xgboost_json", 3, 3), {"config": {"parameters": {"predict_proba": {"string_value": "false"}}}},
            "spec.server.config.parameters['predict_proba']", "spec.model.outputs",
        ),
        (
            OPENVINO, {"config": {"parameters": {"ENABLE_BATCH_PADDING": {"string_value": "NO"}}}},
            "spec.server.config.parameters['ENABLE_BATCH_PADDING']", "maxBatchSize",
        ),
        (
            OPENVINO, {"config": {"parameters": {"CPU_EXTENSION_PATH": {"string_value": "/x.so"}}}},
            "spec.server.config.parameters['CPU_EXTENSION_PATH']", "not a parameter of the openvino backend",
        ),
    ],
)  # fmt: skip
def test_what_a_backend_cannot_do_is_refused(about: dict[str, Any], server: Any, path: str, words: str) -> None:
    made = plan(about, server)
    assert made.config_text is None
    (problem,) = made.errors
    assert problem.path == path
    assert words in problem.message


def test_openvino_takes_the_batches_of_clients() -> None:
    """NVIDIA's backend computes every batch at the largest size, so there is none unless somebody asks for it."""
    config = parse_config(plan(OPENVINO).config_text or "")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 8])
    assert not config.HasField("dynamic_batching")


def test_the_first_runs_of_torchscript_are_not_a_clients() -> None:
    (warmup,) = parse_config(plan(TORCH).config_text or "").model_warmup
    assert warmup.count == 3


def test_a_mounted_model_is_sized_by_what_is_mounted() -> None:
    mount = {"claim": "large", "path": "a", "sizeBytes": 100 * MIB}
    here, there = facts(TORCH), facts(TORCH, mount=mount)
    settings = resolve_settings(None, there, 1)
    assert (content_bytes(here), content_bytes(there)) == (1000, 100 * MIB)
    assert memory_bytes(there, settings) - memory_bytes(here, settings) >= 249 * MIB


def test_heavier_backends_get_more_memory() -> None:
    sizes = {}
    for about in (TORCH, OPENVINO, forest("lightgbm", 0, 1)):
        small = facts({**about, "inputs": about["inputs"][-1:]})
        sizes[about["format"]] = memory_bytes(small, resolve_settings(None, small, 1))
    assert sizes["TorchScript"] > sizes["OpenVINO"] > sizes["LightGBM"]


def test_shared_memory_has_room_for_a_clients_batch() -> None:
    wide = facts({**OPENVINO, "inputs": [tensor("rows", -1, 1 << 20)]})
    assert shm_bytes(wide, resolve_settings(None, wide, 1)) >= 64 * MIB + 32 * 4 * MIB * 3 // 2


SETTINGS = Settings(jobs_image="jobs:1", triton_image="triton:1", server_images={"pytorch": "torch:1"})


@pytest.mark.parametrize(
    ("about", "server", "image"),
    [
        (TORCH, None, "torch:1"),
        (TORCH, {"image": "own:1"}, "own:1"),
        (forest("lightgbm", 0, 1), None, "triton:1"),
        (OPENVINO, {"image": "own:1"}, "own:1"),
        ({"format": "TritonRepository", "models": [{"name": "a", "backend": "pytorch"}]}, None, "torch:1"),
        ({"format": "TritonRepository", "models": [{"name": "a", "backend": "openvino"}]}, None, "triton:1"),
    ],
)
def test_the_image_that_serves(about: dict[str, Any], server: dict[str, Any] | None, image: str) -> None:
    spec = ServerSpec.model_validate(server) if server else None
    assert missing_image(spec, facts(about), SETTINGS) is None
    assert server_image(spec, facts(about), SETTINGS) == image


@pytest.mark.parametrize(("about", "value"), [(OPENVINO, "images.tritonOpenVINO"), (TENSORRT, "images.tritonTensorRT")])
def test_a_backend_that_is_not_installed_is_named_with_the_charts_value(about: dict[str, Any], value: str) -> None:
    problem = missing_image(None, facts(about), SETTINGS)
    assert problem is not None
    assert problem.path == "spec.server.image"
    assert value in problem.message


def test_a_repository_names_its_backends_itself() -> None:
    assert backend_of(facts({"format": "TritonRepository"})) is None
