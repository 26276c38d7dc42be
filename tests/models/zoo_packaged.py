"""Models in packages and formats of other tools: Keras, MLflow, OpenVINO, a plan of TensorRT, a SavedModel."""

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .zoo_specimen import Specimen
from .zoo_tabular import MAKERS as TABULAR
from .zoo_tabular import table
from .zoo_torch import MAKERS as TORCH

__all__ = ["MAKERS", "SAVED_MODEL", "saved_model"]

SAVED_MODEL = """
import base64, io, json, os, pathlib, sys, tarfile
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

given = np.load(io.BytesIO(base64.b64decode(sys.argv[1])))
rows, labels = given["rows"], given["labels"]
tf.random.set_seed(20)
mean, spread = rows.mean(0), rows.std(0)
first, second = tf.Variable(tf.random.normal((13, 16)) * 0.3), tf.Variable(tf.random.normal((16, 3)) * 0.3)


class Classifier(tf.Module):
    def __init__(self):
        self.first, self.second = first, second

    @tf.function(input_signature=[tf.TensorSpec([None, 13], tf.float32, name="wine")])
    def __call__(self, wine):
        return {"probabilities": tf.nn.softmax(tf.nn.tanh((wine - mean) / spread @ self.first) @ self.second)}


model = Classifier()
truth = tf.one_hot(labels, 3)
for _ in range(200):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.reduce_sum(truth * tf.math.log(model(rows)["probabilities"] + 1e-9), 1))
    for variable, slope in zip((first, second), tape.gradient(loss, (first, second))):
        variable.assign_sub(0.5 * slope)
folder = pathlib.Path("/tmp/saved")
tf.saved_model.save(model, str(folder), signatures=model.__call__)
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as archive:
    archive.add(folder, ".")
answers = tf.saved_model.load(str(folder)).signatures["serving_default"](wine=tf.constant(given["asked"]))
told = {"tar": base64.b64encode(packed.getvalue()).decode(), "answers": answers["probabilities"].numpy().tolist()}
print("SAVED " + json.dumps(told))
"""
"""Trains and saves where TensorFlow is, and prints the files and the answers on a line of their own."""


def saved_model(run: Callable[[str, str], str]) -> Specimen:
    """`run(program, argument)` is what the program prints where TensorFlow is installed."""
    given = io.BytesIO()
    np.savez(given, rows=table().rows, labels=table().labels, asked=table().held_out)
    printed = run(SAVED_MODEL, base64.b64encode(given.getvalue()).decode())
    lines = [line for line in printed.splitlines() if line.startswith("SAVED ")]
    assert lines, f"no model was saved: {printed[-500:]}"
    told = json.loads(lines[-1].removeprefix("SAVED "))
    files = {}
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(told["tar"]))) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)):
                files[member.name.removeprefix("./")] = content.read()
    answers = (np.array(told["answers"], np.float32),)
    return Specimen("SavedModel", files, table().held_out, answers, table().held_out_labels, "wine")


def _keras() -> Specimen:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras  # noqa: PLC0415 - reads its backend when it is imported

    keras.utils.set_random_seed(20)
    mean, spread = table().rows.mean(0), table().rows.std(0)
    layers = [
        keras.layers.Input((13,), name="wine"),
        keras.layers.Normalization(mean=mean, variance=spread**2),
        keras.layers.Dense(16, activation="tanh"),
        keras.layers.Dense(3, activation="softmax", name="probabilities"),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
    model.fit(table().rows, table().labels, epochs=20, batch_size=32, verbose=0)
    with TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        files = {"model.keras": (Path(folder) / "model.keras").read_bytes()}
    answers = (np.asarray(model.predict(table().held_out, verbose=0)),)
    return Specimen("Keras", files, table().held_out, answers, table().held_out_labels, "wine")


def _openvino() -> Specimen:
    import openvino  # noqa: PLC0415 - slow to import

    onnx = TORCH["onnx"]()
    with TemporaryDirectory() as folder:
        for name, content in onnx.files.items():
            (Path(folder) / name).write_bytes(content)
        model = openvino.convert_model(Path(folder) / "model.onnx")
        openvino.save_model(model, Path(folder) / "out.xml", compress_to_fp16=False)
        files = {f"model.{end}": (Path(folder) / f"out.{end}").read_bytes() for end in ("xml", "bin")}
    return replace(onnx, format="OpenVINO", files=files, served="OpenVINO")


def _mlflow(made: Specimen, flavor: str, settings: Mapping[str, str]) -> Specimen:
    """In MLflow's folder; the file stays as the framework wrote it."""
    lines = [f"    {name}: {value}" for name, value in settings.items()]
    text = "\n".join(
        (
            "artifact_path: model",
            "flavors:",
            "  python_function:",
            f"    loader_module: mlflow.{flavor}",
            "    python_version: 3.11.7",
            f"  {flavor}:",
            *lines,
            "mlflow_version: 3.17.2",
            "model_size_bytes: 1000",
            "",
        )
    )
    return replace(made, format="MLflow", files={**made.files, "MLmodel": text.encode()})


def _mlflow_sklearn() -> Specimen:
    settings = {"pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": "1.9.1"}
    return _mlflow(TABULAR["sklearn-skops"](), "sklearn", settings)


def _mlflow_xgboost() -> Specimen:
    settings = {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier", "model_format": "ubj"}
    return _mlflow(TABULAR["xgboost"](), "xgboost", {**settings, "xgb_version": "3.2.0"})


def _mlflow_lightgbm() -> Specimen:
    settings = {"data": "model.txt", "model_class": "lightgbm.basic.Booster", "lgb_version": "4.7.0"}
    return _mlflow(TABULAR["lightgbm"](), "lightgbm", settings)


def _mlflow_onnx() -> Specimen:
    return _mlflow(TORCH["onnx"](), "onnx", {"data": "model.onnx", "onnx_version": "1.23.2"})


MAKERS: Mapping[str, Callable[[], Specimen]] = {
    "keras": _keras,
    "mlflow-sklearn": _mlflow_sklearn,
    "mlflow-xgboost": _mlflow_xgboost,
    "mlflow-lightgbm": _mlflow_lightgbm,
    "mlflow-onnx": _mlflow_onnx,
    "openvino": _openvino,
}
