"""Models of every format that is served as it is, in a real tritonserver with Penstock's own backends."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hack.cluster.settings import CHECKOUT
from tests.integration.tritonserver import (
    Installation,
    TritonServer,
    TritonUnavailable,
    install,
    lend_packages,
)

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import build_repository, resolve_settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:X does not have valid feature names")

torch = pytest.importorskip("torch", reason="make venv-models")
openvino = pytest.importorskip("openvino")
treelite = pytest.importorskip("treelite")
xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
ensemble = pytest.importorskip("sklearn.ensemble")

DIGEST = "sha256:" + "0" * 64
PRODUCTS = ("onnxruntime", "pytorch", "openvino", "fil")
TORCH_PACKAGES = (
    "torch", "torchgen", "functorch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy",
    "typing_extensions", "nvidia",
)  # fmt: skip
OPENVINO_PACKAGES = ("openvino", "openvino_telemetry")
TREELITE_PACKAGES = ("treelite", "packaging")
ROWS = np.random.default_rng(5).normal(size=(64, 6)).astype(np.float32)
CLASSES = ((ROWS[:, 0] + ROWS[:, 1] > 0).astype(int) + (ROWS[:, 2] > 0.7).astype(int)).astype(np.int64)


@dataclass
class Made:
    """A model in its own format, how it is served, and what the framework itself answers to ROWS."""

    format: str
    files: list[str]
    inputs: list[tuple[str, str, list[int]]]
    outputs: list[tuple[str, str, list[int]]]
    answers: list[Any]
    forest: dict[str, Any] | None = None
    server: dict[str, Any] = field(default_factory=dict)

    def facts(self, size: int) -> ModelFacts:
        def tensors(found: list[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
            return [{"name": name, "dataType": kind, "dims": dims} for name, kind, dims in found]

        return ModelFacts.model_validate(
            {
                "format": self.format,
                "digest": DIGEST,
                "artifact": {"repository": "r/n", "manifest": DIGEST, "layer": DIGEST, "sizeBytes": size},
                "inputs": tensors(self.inputs),
                "outputs": tensors(self.outputs),
                "batching": True,
                "forest": self.forest,
            }
        )


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

    def forward(self, rows: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.first(rows)) * scale
        return torch.softmax(self.second(hidden), 1), hidden.sum(1)


def torchscript(folder: Path) -> Made:
    torch.manual_seed(1)
    net = Net().eval()
    torch.jit.script(net).save(str(folder / "model.pt"))
    with torch.inference_mode():
        answers = [value.numpy() for value in net(torch.from_numpy(ROWS), torch.from_numpy(ROWS[:, :1].copy()))]
    return Made(
        "TorchScript",
        ["model.pt"],
        [("INPUT__0", "FP32", [-1, 6]), ("INPUT__1", "FP32", [-1, 1])],
        [("OUTPUT__0", "FP32", [-1, 3]), ("OUTPUT__1", "FP32", [-1])],
        answers,
    )


def intermediate(folder: Path) -> Made:
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).eval()
    converted = openvino.convert_model(net, example_input=torch.zeros(1, 6))
    converted.reshape({0: [-1, 6]})
    converted.inputs[0].set_names({"rows"})
    converted.outputs[0].set_names({"scores"})
    openvino.save_model(converted, str(folder / "model.xml"), compress_to_fp16=False)
    with torch.inference_mode():
        answers = [net(torch.from_numpy(ROWS)).numpy()]
    return Made(
        "OpenVINO",
        ["model.xml", "model.bin"],
        [("rows", "FP32", [-1, 6])],
        [("scores", "FP32", [-1, 2])],
        answers,
    )


def padded(folder: Path) -> Made:
    made = intermediate(folder)
    made.server = {"batching": {"maxBatchSize": 16}}
    return made


def forest(name: str, model_type: str, filename: str, classes: int, answers: Any) -> Made:
    return Made(
        name,
        [filename],
        [("input__0", "FP32", [-1, 6])],
        [("output__0", "FP32", [-1, answers.shape[1]])],
        [answers],
        {"modelType": model_type, "classes": classes},
    )


def xgboost_many(folder: Path) -> Made:
    model = xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(ROWS, CLASSES)
    model.save_model(folder / "xgboost.ubj")
    return forest("XGBoost", "xgboost_ubj", "xgboost.ubj", 3, model.predict_proba(ROWS))


def xgboost_two(folder: Path) -> Made:
    model = xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(ROWS, CLASSES > 0)
    model.save_model(folder / "xgboost.json")
    return forest("XGBoost", "xgboost_json", "xgboost.json", 2, model.predict_proba(ROWS))


def xgboost_label(folder: Path) -> Made:
    model = xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(ROWS, CLASSES)
    model.save_model(folder / "xgboost.json")
    labels = model.predict(ROWS).astype(np.float32).reshape(-1, 1)
    return forest("XGBoost", "xgboost_json", "xgboost.json", 3, labels)


def lightgbm_value(folder: Path) -> Made:
    model = lightgbm.LGBMRegressor(n_estimators=8, min_child_samples=2, verbose=-1).fit(ROWS, ROWS[:, 0] * 2)
    model.booster_.save_model(folder / "model.txt")
    values = model.booster_.predict(ROWS).astype(np.float32).reshape(-1, 1)
    return forest("LightGBM", "lightgbm", "model.txt", 0, values)


def treelite_checkpoint(folder: Path) -> Made:
    model = ensemble.RandomForestClassifier(12, max_depth=4, random_state=0).fit(ROWS, CLASSES)
    treelite.sklearn.import_model(model).serialize(folder / "checkpoint.tl")
    answers = model.predict_proba(ROWS).astype(np.float32)
    return forest("Treelite", "treelite_checkpoint", "checkpoint.tl", 3, answers)


MAKERS = (
    torchscript, intermediate, padded, xgboost_many, xgboost_two, xgboost_label, lightgbm_value, treelite_checkpoint,
)  # fmt: skip


@pytest.fixture(scope="module")
def installation() -> Installation:
    try:
        return install()
    except TritonUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonServer, dict[str, Made]]]:
    work = tmp_path_factory.mktemp("backends")
    models = {maker.__name__: lay_out(work / "models", maker.__name__, maker) for maker in MAKERS}
    packages = (*TORCH_PACKAGES, *OPENVINO_PACKAGES, *TREELITE_PACKAGES)
    environment = lend_packages(installation, work / "packages", *packages)
    server = TritonServer(installation, work / "models", work, CHECKOUT, products=PRODUCTS, environment=environment)
    with server:
        yield server, models


def lay_out(repository: Path, name: str, maker: Any) -> Made:
    """As the fetch container does it: our config.pbtxt beside the version with the files."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    made: Made = maker(version)
    assert sorted(path.name for path in version.iterdir()) == sorted(made.files)
    facts = made.facts(sum(path.stat().st_size for path in version.iterdir()))
    spec = ServerSpec.model_validate(made.server)
    plan = build_repository(facts, name, resolve_settings(spec, facts, 2))
    assert plan.errors == ()
    (repository / name / "config.pbtxt").write_text(plan.config_text or "")
    return made


@pytest.mark.parametrize("name", [maker.__name__ for maker in MAKERS])
def test_predictions_are_the_frameworks_own(served: tuple[TritonServer, dict[str, Made]], name: str) -> None:
    server, models = served
    made = models[name]
    answer = server.load(name)
    assert answer.code == 200, (answer, server.log()[-1500:])
    for rows in (1, 2, 7):
        status, body = server.infer(name, request(made, rows))
        assert status == 200, body
        found = {tensor["name"]: tensor for tensor in body["outputs"]}  # type: ignore[attr-defined]
        for (output, _, _), expected in zip(made.outputs, made.answers, strict=True):
            array = np.array(found[output]["data"]).reshape(found[output]["shape"])
            wanted = expected[:rows].reshape(rows, -1)
            np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)
    server.unload(name)


def request(made: Made, rows: int) -> dict[str, object]:
    inputs = []
    for name, kind, dims in made.inputs:
        data = ROWS[:rows, : dims[1]]
        inputs.append({"name": name, "datatype": kind, "shape": list(data.shape), "data": data.ravel().tolist()})
    return json.loads(json.dumps({"inputs": inputs}))  # type: ignore[no-any-return]
