"""What is told of formats that are served as they are: files, tensors, trees, and sentences for what does not fit."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Finding, SourceTree, Tensor
from penstock_runtime.formats.mlmodel import Column, read_mlmodel
from penstock_runtime.formats.served import inspect_served
from penstock_runtime.formats.ubjson import read_ubjson

NETWORK = """<?xml version="1.0"?>
<net name="digits" version="11">
  <layers>
    <layer id="0" name="image" type="Parameter"><data shape="?,1,8,8" element_type="f32"/>
      <output><port id="0" precision="FP32" names="image,x"><dim>-1</dim><dim>1</dim><dim>8</dim></port></output>
    </layer>
    <layer id="1" name="weights" type="Const"><data element_type="f32" offset="0" size="64"/>
      <output><port id="0" precision="FP32"><dim>16</dim></port></output></layer>
    <layer id="2" name="dense" type="MatMul">
      <output><port id="2" precision="FP32" names="logits"><dim>-1</dim><dim>10</dim></port></output></layer>
    <layer id="3" name="logits/sink" type="Result"><input><port id="0"/></input></layer>
  </layers>
  <edges><edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges>
</net>
"""


def served(tmp_path: Path, files: Mapping[str, bytes], format_: str, **asked: Any) -> Finding:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return inspect_served(SourceTree.read(tmp_path), Asked(convert="Never", **asked), format_, lambda _: None)


def test_openvino_names_its_tensors_as_they_are_served(tmp_path: Path) -> None:
    found = served(tmp_path, {"net.xml": NETWORK.encode(), "net.bin": bytes(64)}, "OpenVINO")
    assert found.files == {"model.xml": "net.xml", "model.bin": "net.bin"}
    assert found.inputs == (Tensor("image", "FP32", (-1, 1, 8)),)
    assert found.outputs == (Tensor("logits", "FP32", (-1, 10)),)
    assert found.batching


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"net.xml": NETWORK}, "net.bin are not beside it"),
        ({"net.xml": NETWORK, "net.bin": "x" * 63}, "asks for 64"),
        ({"net.xml": NETWORK[:400], "net.bin": "x" * 64}, "no whole OpenVINO network"),
        ({"net.xml": NETWORK.replace('version="11"', 'version="7"'), "net.bin": "x" * 64}, "version 7"),
        ({"net.xml": NETWORK.replace("Result", "Other"), "net.bin": "x" * 64}, "0 outputs"),
        ({"net.xml": f"<net >{'<!ENTITY a>'}</net>", "net.bin": ""}, "document type"),
        (
            {
                "net.xml": NETWORK.replace('precision="FP32" names="image', 'precision="U4" names="image'),
                "net.bin": "x" * 64,
            },
            "u4",
        ),
    ],
)
def test_what_is_wrong_with_an_openvino_network_is_said(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(Failure, match=words):
        served(tmp_path, {name: text.encode() for name, text in files.items()}, "OpenVINO")


def xgboost_model(objective: str, classes: int = 0, booster: str = "gbtree", targets: int = 1) -> dict[str, Any]:
    settings = {"num_class": str(classes), "num_feature": "4", "num_target": str(targets), "base_score": "[5E-1]"}
    learner = {
        "gradient_booster": {"name": booster, "model": {"trees": []}},
        "learner_model_param": settings,
        "objective": {"name": objective},
    }
    return {"learner": learner, "version": [3, 2, 0]}


def ubj(value: Any) -> bytes:
    def text(item: str) -> bytes:
        return b"L" + struct.pack(">q", len(item.encode())) + item.encode()

    if isinstance(value, dict):
        return b"{" + b"".join(text(name) + ubj(item) for name, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b"".join(ubj(item) for item in value) + b"]"
    if isinstance(value, str):
        return b"S" + text(value)
    return b"l" + struct.pack(">i", value)


@pytest.mark.parametrize(
    ("objective", "classes", "width", "forest_classes"),
    [("binary:logistic", 0, 2, 2), ("multi:softprob", 3, 3, 3), ("reg:squarederror", 0, 1, 0)],
)
def test_xgboost_in_both_its_formats(
    tmp_path: Path, objective: str, classes: int, width: int, forest_classes: int
) -> None:
    model = xgboost_model(objective, classes)
    for content, kind in ((json.dumps(model).encode(), "json"), (ubj(model), "ubj")):
        found = served(tmp_path, {"m": content}, "XGBoost")
        assert found.files == {f"xgboost.{kind}": "m"}
        assert found.inputs == (Tensor("input__0", "FP32", (-1, 4)),)
        assert found.outputs == (Tensor("output__0", "FP32", (-1, width)),)
        assert found.forest == {"modelType": f"xgboost_{kind}", "classes": forest_classes}


@pytest.mark.parametrize("model", [xgboost_model("x", booster="gblinear"), xgboost_model("x", targets=2)])
def test_what_the_forest_server_lacks_is_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(Failure, match="convert: Auto") as raised:
        served(tmp_path, {"m": json.dumps(model).encode()}, "XGBoost")
    assert raised.value.reason is Reason.UNSUPPORTED_MODEL


def test_lightgbm_and_treelite(tmp_path: Path) -> None:
    head = b"tree\nversion=v4\nnum_class=1\nmax_feature_idx=12\nobjective=binary sigmoid:1\n\nTree=0\nnum_class=7\n"
    found = served(tmp_path, {"m": head}, "LightGBM")
    assert (found.inputs[0].dims, found.outputs[0].dims) == ((-1, 13), (-1, 2))
    header = struct.pack("<iiiBBQiBBi", 4, 8, 1, 3, 3, 5, 4, 1, 1, 1) + struct.pack("<Qi", 1, 1) + bytes(64)
    found = served(tmp_path, {"m": header}, "Treelite")
    assert found.files == {"checkpoint.tl": "m"}
    assert found.forest == {"modelType": "treelite_checkpoint", "classes": 0}


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (b'{"learner": 3}', "XGBoost"),
        (b'{"learner": {"x": [', "XGBoost"),
        (ubj(xgboost_model("x"))[:-9], "XGBoost"),
        (b"tree\nversion=v4\n", "LightGBM"),
        (struct.pack("<iiiBBQi", 4, 8, 1, 3, 3, 5, 4), "Treelite"),
    ],
)
def test_damaged_trees_have_a_sentence(tmp_path: Path, content: bytes, format_: str) -> None:
    with pytest.raises(Failure, match="cannot be read") as raised:
        served(tmp_path, {"m": content}, format_)
    assert raised.value.reason is Reason.INVALID_MODEL


def test_tensors_of_trees_are_not_the_users_to_name(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="input__0 FP32"):
        served(
            tmp_path, {"m": json.dumps(xgboost_model("x")).encode()}, "XGBoost", inputs=(Tensor("X", "FP32", (-1, 4)),)
        )


def test_a_classifier_of_trees_may_answer_with_the_class_alone(tmp_path: Path) -> None:
    content, classes = json.dumps(xgboost_model("multi:softprob", 3)).encode(), (Tensor("output__0", "FP32", (-1, 1)),)
    assert served(tmp_path, {"m": content}, "XGBoost", outputs=classes).outputs == classes


def test_a_plan_is_what_its_user_says(tmp_path: Path) -> None:
    tensors = {"inputs": (Tensor("x", "FP32", (-1, 4)),), "outputs": (Tensor("y", "FP32", (-1, 2)),)}
    plan = {"m.plan": b"ftrt" + bytes(4096)}
    found = served(tmp_path, plan, "TensorRT", **tensors)
    assert found.files == {"model.plan": "m.plan"}
    assert found.batching
    assert "not run here" in found.warnings[0]
    with pytest.raises(Failure, match=r"spec\.model\.inputs"):
        served(tmp_path, plan, "TensorRT")
    with pytest.raises(Failure, match="too few"):
        served(tmp_path, {"m.plan": b"ftrt" + bytes(40)}, "TensorRT", **tensors)


def test_ubjson_gives_the_values_of_json() -> None:
    model = xgboost_model("multi:softprob", 3)
    assert read_ubjson(ubj(model)) == model
    assert read_ubjson(b"[$d#L\x00\x00\x00\x00\x00\x00\x00\x02" + bytes(8)) == 2
    for damaged in (b"", b"{", b"[$d#L\x7f" + bytes(7), b"[" * 300, b"S" + b"l\x00\x00\x00\x09abc"):
        with pytest.raises(ValueError, match=r"."):
            read_ubjson(damaged)


MLMODEL = """artifact_path: model
flavors:
  python_function:
    env:
      conda: conda.yaml
    loader_module: mlflow.sklearn
    model_path: model.pkl
  sklearn:
    code: null
    pickled_model: model.pkl
    sklearn_version: 1.9.1
mlflow_version: 3.17.2
saved_input_example_info:
  artifact_path: input_example.json
signature:
  inputs: '[{"type": "double", "name": "sepal length (cm)", "required": true}, {"type":
    "string", "name": "it''s", "required": true}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
"""
TENSOR = r"""flavors: {}
signature:
  inputs: "[{\"type\": \"tensor\", \"tensor-spec\": {\"dtype\": \"float32\", \
    \"shape\": [-1, 13]}}]"
"""


def test_mlmodel_gives_flavours_and_signature(tmp_path: Path) -> None:
    path = tmp_path / "MLmodel"
    path.write_text(MLMODEL)
    model = read_mlmodel(path)
    assert list(model.flavors) == ["python_function", "sklearn"]
    assert model.flavors["sklearn"] == {"code": "", "pickled_model": "model.pkl", "sklearn_version": "1.9.1"}
    assert model.inputs == (Column("sepal length (cm)", "double", None), Column("it's", "string", None))


def test_a_signature_of_tensors_goes_over_lines(tmp_path: Path) -> None:
    path = tmp_path / "MLmodel"
    path.write_text(TENSOR.replace("flavors: {}", "flavors:\n  keras:\n    data: data"))
    assert read_mlmodel(path).inputs == (Column("input_0", "float32", (-1, 13)),)


@pytest.mark.parametrize("text", ["", "flavors: 3\n", "flavors:\n  a:\n    b: c\nsignature:\n  inputs: '[{'\n"])
def test_a_damaged_mlmodel_has_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "MLmodel"
    path.write_text(text)
    with pytest.raises(Failure, match="save the model with MLflow again"):
        read_mlmodel(path)
