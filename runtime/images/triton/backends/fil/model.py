"""Stand-in for Triton's C++ fil backend on CPUs: trees by treelite, as there, with the same config.pbtxt.

It answers as that backend's CPU path does: the probability of each class with `predict_proba`, else the class of a
classifier, else the value. A binary classifier's single probability is spread over two outputs where the configuration
has two. Everything is FP32.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


def _spare_scipy() -> None:
    """Let treelite import: it asks for scipy (83 MB) only to recognize sparse input, which no request has."""
    sparse = types.ModuleType("scipy.sparse")
    sparse.csr_matrix = type("csr_matrix", (), {})  # type: ignore[attr-defined]
    package = types.ModuleType("scipy")
    package.sparse = sparse  # type: ignore[attr-defined]
    sys.modules.setdefault("scipy", package)
    sys.modules.setdefault("scipy.sparse", sparse)


_spare_scipy()
sys.path.append(str(Path(__file__).parents[1]))
import treelite  # noqa: E402 - finds a stand-in for scipy
from penstock_backend import Backend, Config  # noqa: E402 - the server knows no path to it

FILES = {
    "xgboost_json": "xgboost.json",
    "xgboost_ubj": "xgboost.ubj",
    "lightgbm": "model.txt",
    "treelite_checkpoint": "checkpoint.tl",
}
INPUT, OUTPUT = "input__0", "output__0"


class TritonPythonModel(Backend):
    """One instance: one forest."""

    runtime = "fil"

    def default_file(self) -> str:
        """Named by the type of the model."""
        kind = self.parameters.get("model_type", "xgboost")
        if kind not in FILES:
            raise pb_utils.TritonModelException(f"model_type {kind!r} is not one of {', '.join(FILES)}")
        return FILES[kind]

    def load(self, path: str, config: Config) -> None:
        """Load the forest."""
        del config
        self.forest = read_forest(path, self.parameters)
        header = self.forest.get_header_accessor()
        targets, classes = (int(np.asarray(header.get_field(name))[0]) for name in ("num_target", "num_class"))
        if targets != 1:
            raise pb_utils.TritonModelException("Multi-target model not supported")
        self.threads = int(self.parameters.get("cpu_nthread", "1"))
        self.classifies = self.says_yes("output_class", default=self.says_yes("is_classifier"))
        self.probabilities = self.says_yes("predict_proba")
        self.threshold = float(self.parameters.get("threshold", "0.5"))
        if self.probabilities and self.forest_task(header) == "kMultiClf":
            leaf = np.asarray(header.get_field("leaf_vector_shape"))
            header.set_field("postprocessor", "softmax" if leaf[1] == 1 else "identity_multiclass")
        self.width = 1 if self.classifies and not self.probabilities else classes
        self.check_all(classes)

    @staticmethod
    def forest_task(header: Any) -> str:
        """The kind of forest as treelite names it."""
        task = np.asarray(header.get_field("task_type")).reshape(-1)[0]
        return ("kBinaryClf", "kRegressor", "kMultiClf", "kLearningToRank", "kIsolationForest")[int(task)]

    def check_all(self, classes: int) -> None:
        """One input with the model's features, one output as wide as the answer."""
        self.check_names("input", self.inputs, [INPUT], complete=True)
        self.check_names("output", self.outputs, [OUTPUT], complete=True)
        self.check_tensor("input", self.inputs[0], "TYPE_FP32", [-1, self.forest.num_feature])
        spread = self.classifies and self.probabilities and classes == 1 and self.outputs[0].model_dims == [2]
        self.check_tensor("output", self.outputs[0], "TYPE_FP32", [-1, 2 if spread else self.width])

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """Walk the trees."""
        rows = feed[self.inputs[0].name]
        found = treelite.gtil.predict(self.forest, rows, nthread=self.threads).reshape(len(rows), -1)
        if self.classifies and not self.probabilities:
            found = found.argmax(1) if found.shape[1] > 1 else found[:, 0] > self.threshold
            found = found.reshape(-1, 1)
        elif found.shape[1] == 1 and self.outputs[0].model_dims == [2]:
            found = np.concatenate([1 - found, found], axis=1)
        return [found.astype(np.float32)]


def read_forest(path: str, parameters: dict[str, str]) -> Any:
    """The forest in a file; raises what treelite raises."""
    kind = parameters.get("model_type")
    tolerant = parameters.get("xgboost_allow_unknown_field", "false").lower() == "true"
    if kind in ("xgboost_json", "xgboost_ubj"):
        choice = "json" if kind == "xgboost_json" else "ubjson"
        return treelite.frontend.load_xgboost_model(path, format_choice=choice, allow_unknown_field=tolerant)
    if kind == "lightgbm":
        return treelite.frontend.load_lightgbm_model(path)
    return treelite.Model.deserialize(path)
