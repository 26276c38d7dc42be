"""Optimization of real networks: the traps of which no tool says a word, found before a request is answered wrongly."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from skl2onnx import to_onnx
from sklearn.neighbors import KNeighborsClassifier
from tests.models import networks

from penstock.api.reasons import Reason
from penstock_runtime.data import Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.optimize import OptimizeAsked, Optimized, compare_with_source, optimize
from penstock_runtime.optimize.running import difference, open_timed

ANY_SPEED = 0.001
"""Below every ratio: what is kept does not depend on the machine. `make bench-model-path` measures speed."""
DIGITS = networks.digits_images()
CALIBRATION = Dataset({"image": DIGITS.train_images[:256]}, None, 256)
HELD_OUT = Dataset({"image": DIGITS.held_out_images}, DIGITS.held_out_labels, 540)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    return networks.export_onnx(networks.digits_cnn(), DIGITS.held_out_images[:2], folder / "model.onnx")


def optimized(model: Path, out: Path, calibration: Dataset | None = None, **asked) -> Optimized:
    dataset = asked.pop("dataset", None)
    out.mkdir(exist_ok=True)
    wanted = OptimizeAsked(**{"min_speedup": ANY_SPEED, "seconds": 0.1, **asked})
    return optimize(model, out, wanted, calibration, lambda _: None, dataset=dataset)


def labels(model: Path, images: np.ndarray) -> np.ndarray:
    return open_timed(model).run(None, {"image": images})[0].argmax(1)


def accuracy(model: Path) -> float:
    return float(np.mean(labels(model, DIGITS.held_out_images) == DIGITS.held_out_labels))


def test_int8_of_the_digits_cnn_loses_nothing_on_images_it_has_not_seen(cnn: Path, tmp_path: Path) -> None:
    done = optimized(cnn, tmp_path / "out", CALIBRATION, precision="INT8", dataset=HELD_OUT)
    assert (done.precision, done.warnings) == ("INT8", ())
    assert accuracy(cnn) > 0.98
    assert accuracy(cnn) - accuracy(done.model) <= 0.002
    assert cnn.stat().st_size > 3.4 * done.model.stat().st_size


def test_calibration_of_another_scale_is_found_before_it_ruins_the_model(cnn: Path, tmp_path: Path) -> None:
    scaled = Dataset({"image": DIGITS.train_images[:256] / 16}, None, 256)
    with pytest.raises(Failure, match="clipped") as caught:
        optimized(cnn, tmp_path / "refused", scaled, precision="INT8", dataset=HELD_OUT)
    assert caught.value.reason == Reason.DATA_INVALID
    unseen = optimized(cnn, tmp_path / "unseen", scaled, precision="INT8")
    apart = difference(open_timed(cnn), open_timed(unseen.model), HELD_OUT)
    assert apart["relative"] > 0.5, "answers are far off and no tool has said a word"
    assert any("give spec.gates.dataset" in warning for warning in unseen.warnings)


def test_what_a_model_answers_to_noise_decides_nothing(cnn: Path, tmp_path: Path) -> None:
    done = optimized(cnn, tmp_path / "out", CALIBRATION, precision="INT8", dataset=HELD_OUT)
    noise = np.random.default_rng(1).normal(0, 32, (256, 1, 8, 8)).astype(np.float32)
    assert np.mean(labels(cnn, noise) == labels(done.model, noise)) < 0.9
    assert done.precision == "INT8"
    assert done.report["candidates"][-1]["difference"]["top1"] == 1.0


def test_linear_layers_of_torch_s_exporter_are_quantized(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).eval()
    rows = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
    model = networks.export_onnx(network, rows[:2], tmp_path / "model.onnx", names=("rows", "scores"))
    with pytest.raises(Exception, match="Inferred shape and existing shape differ"):
        quantize_dynamic(model, tmp_path / "raw.onnx")
    data = Dataset({"rows": rows}, None, 40)
    done = optimized(model, tmp_path / "out", precision="INT8", dataset=data)
    operators = [node.op_type for node in onnx.load(done.model).graph.node]
    assert operators.count("MatMulInteger") == 2
    assert done.report["candidates"][0]["difference"]["relative"] < 0.05


def test_a_nearest_neighbour_model_that_gets_slower_is_reported(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(20_000, 3)).astype(np.float32)
    source = KNeighborsClassifier(5, algorithm="kd_tree").fit(rows, (rows[:, 0] > 0).astype(np.int64))
    model = tmp_path / "model.onnx"
    converted = to_onnx(source, rows[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    model.write_bytes(converted.SerializeToString())
    data = Dataset({"X": rows[:8]}, None, 8)
    report, warnings = compare_with_source(model, lambda feed: {"label": source.predict(feed["X"])}, data, 1.0)
    assert report["speedup"] < 0.5
    assert "times slower" in warnings[0]


_DIGESTS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from penstock_runtime.data import Dataset
from penstock_runtime.optimize import OptimizeAsked, optimize
model, out, rows = map(Path, sys.argv[1:])
images = np.load(rows)
for precision in ("INT8", "FP16"):
    place = out / precision
    place.mkdir(parents=True)
    asked = OptimizeAsked(precision, 0.001, seconds=0.05)
    done = optimize(model, place, asked, Dataset({"image": images}, None, len(images)), lambda _: None)
    print(hashlib.sha256(done.model.read_bytes()).hexdigest())
"""


def test_another_process_writes_the_same_bytes(cnn: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, DIGITS.train_images[:32])
    said = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _DIGESTS, str(cnn), str(tmp_path / seed), str(rows)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].split()) == 2
    assert hashlib.sha256(cnn.read_bytes()).hexdigest() not in said[0]
