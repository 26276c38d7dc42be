"""Two real models of handwritten digits as ONNX: `python examples/digits/train.py OUT`.

`linear.onnx` is a logistic regression, `mlp.onnx` a small neural network that beats it. Both take `image`, 64 pixels
from 0 to 16 as FP32, any batch, and answer `label` and ten `probabilities`. `held_out.npz` has the 540 images neither
has seen, `metrics.json` how well each does. They are trained on one thread, since sums depend on the order of threads:
the same machine writes the same bytes each time, and a digest names a model.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits

_SEED = 20
_HELD_OUT = 0.3
_OPSET = 20
"""What the runtimes of the last years all know; skl2onnx would take its newest."""


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 FP32 pixels, labels 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray


def split_digits() -> Digits:
    """The 1,797 digits of scikit-learn: 1,257 to learn from, 540 held out, each digit in both as often as in all."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        images.astype(np.float32), labels.astype(np.int64), test_size=_HELD_OUT, random_state=_SEED, stratify=labels
    )
    return Digits(train_images=parts[0], held_out_images=parts[1], train_labels=parts[2], held_out_labels=parts[3])


def make_models() -> Mapping[str, Pipeline]:
    """The two classifiers, untrained."""
    linear = LogisticRegression(max_iter=1000)
    mlp = MLPClassifier(hidden_layer_sizes=(128,), learning_rate_init=3e-3, alpha=1e-3, max_iter=40, random_state=_SEED)
    return {"linear": make_pipeline(MinMaxScaler(), linear), "mlp": make_pipeline(MinMaxScaler(), mlp)}


def export(name: str, model: Pipeline) -> bytes:
    """ONNX without zipmap: probabilities as one tensor, not a list of dictionaries that no server can send.

    The converter writes the operator sets in the order of a set, which is another one now and then: they are sorted.
    """
    exported = to_onnx(
        model,
        initial_types=[("image", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=_OPSET,
        name=f"digits-{name}",
    )
    opsets = sorted(exported.opset_import, key=lambda opset: opset.domain)
    del exported.opset_import[:]
    exported.opset_import.extend(opsets)
    onnx.checker.check_model(exported)
    content: bytes = exported.SerializeToString(deterministic=True)
    return content


def train(out: Path) -> Mapping[str, float]:
    """Write both models and what is needed to judge them to `out`; return the accuracy of each on the held out."""
    digits = split_digits()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "held_out.npz", image=digits.held_out_images, label=digits.held_out_labels)
    accuracy = {}
    for name, model in make_models().items():
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.filterwarnings("ignore", message="Stochastic Optimizer")
            model.fit(digits.train_images, digits.train_labels)
        accuracy[name] = float(model.score(digits.held_out_images, digits.held_out_labels))
        (out / f"{name}.onnx").write_bytes(export(name, model))
    metrics = {"held_out": len(digits.held_out_labels), "accuracy": accuracy}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return accuracy


def main() -> int:
    """Train into the folder named on the command line."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} OUT", file=sys.stderr)
        return 2
    for name, accuracy in train(Path(sys.argv[1])).items():
        print(f"{name}: {accuracy:.1%} of the held-out images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
