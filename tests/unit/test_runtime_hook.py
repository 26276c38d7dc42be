"""The candidate of the user's own container: taken in whole, and where it will not do, told whose it is."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked
from penstock_runtime.making import Order
from penstock_runtime.optimize import choose
from penstock_runtime.stages import prepare_model
from tests.unit.optimize_networks import conv_network, dense_network, save

HOOK = {"hook": {"image": "trainer:1"}, "minSpeedup": "1"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's folder with a source; whatever the hook returns is fast enough."""
    for name in ("source", "prepared", "answers", "hook"):
        (tmp_path / name).mkdir()
    save(dense_network(), tmp_path / "source/model.onnx")
    monkeypatch.setattr(choose, "rate", lambda *_: choose.Ratings(None, {}))
    monkeypatch.setattr("penstock_runtime.optimize.verdict._obstacle", lambda *_: "")
    return tmp_path


def prepared(work: Path) -> dict[str, Any]:
    order = Order(
        work / "source",
        None,
        work / "prepared",
        work / "answers",
        work / "hook",
        work / "metric",
        work / "metric-source",
    )
    return prepare_model(order, Asked.read({"optimize": HOOK}), lambda _: None)


def answer(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": np.ones((1, 64), np.float32)})[0]


@pytest.mark.parametrize("external", [False, True])
def test_it_is_taken_in_with_its_weights(work: Path, external: bool) -> None:
    student = work / "hook/student.onnx"
    options = {"save_as_external_data": True, "location": "student.bin", "size_threshold": 0} if external else {}
    onnx.save(dense_network(opset=19), student, **options)

    told = prepared(work)

    assert list(told["prepared"]) == ["model.onnx"]
    served = work / "prepared" / told["prepared"]["model.onnx"]
    assert np.array_equal(answer(served), answer(student))
    assert told["facts"]["opset"] == 19
    assert told["report"]["optimization"]["candidates"][0]["kept"]
    assert any("spec.gates.dataset" in warning for warning in told["facts"]["warnings"]), "nothing has compared it"


def rubbish(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"epoch 1: loss 0.3\n")


def nothing(folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"weights")


def two(folder: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        save(dense_network(), folder / name)


def another(folder: Path) -> None:
    save(conv_network(), folder / "model.onnx")


@pytest.mark.parametrize(
    ("leave", "words"),
    [(rubbish, "not a whole ONNX model"), (nothing, "left 0 .onnx"), (two, "left 2 .onnx"), (another, "image FP32")],
)
def test_one_that_will_not_do_is_told_as_the_hook_s(work: Path, leave: Any, words: str) -> None:
    leave(work / "hook")
    with pytest.raises(Failure, match=words) as told:
        prepared(work)
    assert told.value.reason is Reason.INVALID_MODEL
    assert "spec.optimize.hook" in told.value.message
