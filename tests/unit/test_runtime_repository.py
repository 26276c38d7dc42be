"""Ready Triton repositories: found by content, laid out for serving, code only with trust."""

from pathlib import Path

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Finding, RepositoryModel
from penstock_runtime.stages import inspect_source

TENSORS = (
    'input { name: "x" data_type: TYPE_FP32 dims: [4] } output { name: "y" data_type: TYPE_FP32 dims: [4] } '
    "instance_group { count: 1 kind: KIND_CPU } "
)
ONNX = f'backend: "onnxruntime" max_batch_size: 8 {TENSORS}'
PYTHON = f'backend: "python" {TENSORS}'
ENSEMBLE = (
    'platform: "ensemble" input { name: "x" data_type: TYPE_FP32 dims: [4] } '
    'output { name: "y" data_type: TYPE_FP32 dims: [4] } ensemble_scheduling { step { model_name: "m" '
    'model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }'
)


def inspected(root: Path, files: dict[str, str], **asked: str) -> Finding:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return inspect_source(root, Asked(**asked), lambda _: None)


def refused(root: Path, files: dict[str, str], **asked: str) -> Failure:
    with pytest.raises(Failure) as caught:
        inspected(root, files, **asked)
    return caught.value


TREE = {"m/config.pbtxt": ONNX, "m/1/model.onnx": "x", "m/labels.txt": "cat"}


@pytest.mark.parametrize("around", ["", "repo/", "a/b/"])
def test_the_repository_is_found_however_deep(tmp_path: Path, around: str) -> None:
    found = inspected(tmp_path, {f"{around}{path}": text for path, text in TREE.items()})
    assert found.files == {path: f"{around}{path}" for path in TREE}
    assert found.models == (RepositoryModel("m", "onnxruntime"),)
    assert found.format == "TritonRepository"


def test_one_models_own_directory_takes_the_name_of_its_config(tmp_path: Path) -> None:
    files = {"config.pbtxt": f'name: "digits" {ONNX}', "1/model.onnx": "x"}
    assert inspected(tmp_path, files).files == {f"digits/{path}": path for path in files}
    nameless = refused(tmp_path, {"config.pbtxt": ONNX})
    assert (nameless.reason, "name" in nameless.message) == (Reason.INVALID_CONFIG, True)


def test_hidden_files_and_strangers_stay_away(tmp_path: Path) -> None:
    found = inspected(tmp_path, {**TREE, ".git/config": "x", "m/.cache/x": "x", "README.md": "x"})
    assert set(found.files) == {*TREE, "README.md"}
    assert [model.name for model in found.models] == ["m"]


def test_an_ensemble_gets_the_empty_version_that_no_store_can_hold(tmp_path: Path) -> None:
    found = inspected(tmp_path, {**TREE, "e/config.pbtxt": ENSEMBLE})
    assert found.folders == ("e/1",)
    assert found.models == (RepositoryModel("e", "", ensemble=True), RepositoryModel("m", "onnxruntime"))


def test_a_model_without_config_is_known_by_its_file(tmp_path: Path) -> None:
    found = inspected(tmp_path, {"t/3/model.plan": "x"})
    assert found.models == (RepositoryModel("t", "tensorrt"),)
    assert any("config.pbtxt" in warning for warning in found.warnings)


CODE = {
    "python backend": ({"p/config.pbtxt": PYTHON, "p/1/model.txt": ""}, "backend python"),
    "runtime": ({"p/config.pbtxt": 'runtime: "model.py" ' + ONNX, "p/1/model.onnx": ""}, "runtime model.py"),
    "model.py without config": ({"p/1/model.py": ""}, "backend python"),
    "model.py beside": ({"p/config.pbtxt": ONNX, "p/1/model.onnx": "", "p/model.py": ""}, "file model.py"),
    "library": ({"p/config.pbtxt": ONNX, "p/1/model.onnx": "", "p/1/libtriton_x.so": ""}, "libtriton_x.so"),
    "environment": (
        {"p/config.pbtxt": ONNX + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/x" } }', "p/1/x": ""},
        "EXECUTION_ENV_PATH",
    ),
    "operators": ({"p/config.pbtxt": ONNX + 'model_operations { op_library_filename: "o.so" }', "p/1/x": ""}, "o.so"),
    "agent": ({"p/config.pbtxt": ONNX + 'model_repository_agents { agents { name: "a" } }', "p/1/x": ""}, "agent a"),
}


@pytest.mark.parametrize(("files", "word"), CODE.values(), ids=CODE.keys())
def test_code_needs_trust(tmp_path: Path, files: dict[str, str], word: str) -> None:
    failure = refused(tmp_path, files)
    assert failure.reason is Reason.CODE_NOT_TRUSTED
    assert word in failure.message
    assert "spec.model.trust" in failure.message
    assert inspected(tmp_path, files, trust="Code").models[0].name == "p"


DANGEROUS = {
    "syntax": ({"m/config.pbtxt": "name: ", "m/1/x": ""}, "m/config.pbtxt:1:"),
    "shell in a file name": ({"m/config.pbtxt": ONNX + 'default_model_filename: "$(id).onnx"', "m/1/x": ""}, "$(id)"),
    "shell in a directory": ({"m$(id)/config.pbtxt": ONNX, "m$(id)/1/x": ""}, "m$(id)"),
    "not text": ({"m/config.pbtxt": "\udc80", "m/1/x": ""}, "m/config.pbtxt"),
}


@pytest.mark.parametrize(("files", "word"), list(DANGEROUS.values())[:3], ids=list(DANGEROUS)[:3])
@pytest.mark.parametrize("trust", ["Data", "Code"])
def test_what_no_server_should_see_is_refused_even_with_trust(tmp_path: Path, files, word: str, trust: str) -> None:
    failure = refused(tmp_path, files, trust=trust)
    assert failure.reason is Reason.INVALID_CONFIG
    assert word in failure.message


def test_other_faults_are_warnings_since_the_repository_is_served_as_it_is(tmp_path: Path) -> None:
    wrong = ONNX + "dynamic_batching { preferred_batch_size: [99] }"
    found = inspected(tmp_path, {**TREE, "m/config.pbtxt": wrong})
    assert any(w.startswith("m/config.pbtxt: dynamic_batching.preferred_batch_size[0]") for w in found.warnings)


def test_many_warnings_stay_few(tmp_path: Path) -> None:
    files = {f"m{i}/1/model.plan": "x" for i in range(20)}
    answer = inspected(tmp_path, files).to_answer()
    assert len(answer["facts"]["warnings"]) == 8
    assert "more warnings" in answer["facts"]["warnings"][-1]


def test_asked_for_a_repository_and_found_none(tmp_path: Path) -> None:
    failure = refused(tmp_path, {"model.onnx": "x"}, format="TritonRepository")
    assert (failure.reason, "model.onnx" in failure.message) == (Reason.UNKNOWN_FORMAT, True)


def test_more_models_than_one_server_is_for(tmp_path: Path) -> None:
    assert refused(tmp_path, {f"m{i}/1/model.plan": "" for i in range(65)}).reason is Reason.UNSUPPORTED_MODEL
