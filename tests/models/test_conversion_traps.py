"""Models that mislead: trained too long, fixed too narrow, split over files, or made to run a command."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hack.cluster.settings import CHECKOUT

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Finding, SourceTree, Tensor
from penstock_runtime.onnxmodel import inspect_onnx, open_session

torch = pytest.importorskip("torch", reason="make venv-models")
pytestmark = pytest.mark.filterwarnings("ignore")

from penstock_runtime.convert import Converted, convert  # noqa: E402 - torch may be missing
from penstock_runtime.formats.detect import detect  # noqa: E402

X = (Tensor("x", "FP32", (-1, 4)),)
NET = b"""import torch


def make():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
"""


def net() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))


def program(module: Any, rows: int = 2, shapes: Any = None) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.ones(rows, 4),), dynamic_shapes=shapes), file)
    return file.getvalue()


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def run(tmp_path: Path, files: Mapping[str, bytes], **asked: Any) -> tuple[Converted, Finding]:
    for name, content in files.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    (tmp_path / "out").mkdir()
    tree, want = SourceTree.read(tmp_path / "source"), Asked(**asked)
    done = convert(tree, want, detect(tree, want), tmp_path / "out", lambda _: None)
    return done, inspect_onnx(SourceTree.read(tmp_path / "out"), Asked(), lambda _: None)


def refused(tmp_path: Path, files: Mapping[str, bytes], **asked: Any) -> Failure:
    with pytest.raises(Failure) as raised:
        run(tmp_path, files, **asked)
    return raised.value


def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    failure = refused(tmp_path, {"m.pt2": program(net().train())})
    assert failure.reason is Reason.UNSUPPORTED_MODEL
    assert "model.eval() before torch.export.export" in failure.message


def test_batch_statistics_that_learn_from_requests_are_refused(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).train()
    assert refused(tmp_path, {"m.pt2": program(module)}).reason is Reason.UNSUPPORTED_MODEL


def test_a_module_traced_in_training_mode_is_refused(tmp_path: Path) -> None:
    traced = torch.jit.trace(net().train(), torch.ones(2, 4), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    assert "traced in training mode" in refused(tmp_path, {"m.pt": buffer.getvalue()}).message


def test_modules_of_an_entrypoint_are_put_into_evaluation_mode(tmp_path: Path) -> None:
    files = {"w.pt": saved(net().state_dict()), "net.py": NET}
    done, found = run(tmp_path, files, trust="Code", entrypoint="net:make", inputs=X)
    rows = np.ones((3, 4), np.float32)
    expected = net().eval()(torch.ones(3, 4)).detach().numpy()
    assert found.batching
    assert np.allclose(open_session(done.model).run(None, {"x": rows})[0], expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_fixed_batch_is_freed_where_the_program_allows_it(tmp_path: Path, rows: int) -> None:
    done, found = run(tmp_path, {"m.pt2": program(net().eval(), rows)})
    assert found.inputs[0].dims == (-1, 4)
    assert found.batching
    assert f"was exported for batches of {rows}" in done.warnings[0]


class Narrow(torch.nn.Module):
    """Counts its rows, so that another number of them is an error."""

    def forward(self, x: Any) -> Any:
        return x.reshape(2, 2, 2).sum(2)


def test_a_batch_that_cannot_be_freed_is_a_warning(tmp_path: Path) -> None:
    done, found = run(tmp_path, {"m.pt2": program(Narrow())})
    assert found.inputs[0].dims == (2, 4)
    assert not found.batching
    assert "the batch is fixed to 2" in done.warnings[0]


def test_large_weights_go_beside_the_model_and_answer_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_runtime.convert.torchonnx.EXTERNAL_ABOVE", 100)
    module = torch.nn.Linear(4, 4096).eval()
    done, found = run(tmp_path, {"m.pt2": program(module, shapes=({0: torch.export.Dim("batch")},))})
    assert set(found.files) == {"model.onnx", "model.onnx.data"}
    answers = open_session(done.model).run(None, {"input": np.ones((3, 4), np.float32)})[0]
    assert np.allclose(answers, module(torch.ones(3, 4)).detach().numpy(), atol=1e-6)


def test_opsets_are_read_back_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_runtime.convert.torchonnx.OPSET", 27)
    failure = refused(tmp_path, {"m.pt2": program(net().eval())})
    assert failure.reason in (Reason.UNSUPPORTED_OPSET, Reason.CONVERSION_FAILED)


def test_shapes_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    files = {"w.pt": saved(net().state_dict()), "net.py": NET}
    failure = refused(tmp_path, files, trust="Code", entrypoint="net:make")
    assert failure.reason is Reason.INVALID_SPEC
    assert "spec.model.inputs" in failure.message


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"0.weight": 1}, "no weights by name"),
        ({"0.weight": torch.ones(8, 4)}, "lacks 0.bias"),
        ({**net().state_dict(), "extra": torch.ones(1)}, "no place for extra"),
        ({**net().state_dict(), "0.bias": torch.ones(9)}, "do not fit the module"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, weights: dict[str, Any], words: str) -> None:
    files = {"w.pt": saved(weights), "net.py": NET}
    assert words in refused(tmp_path, files, trust="Code", entrypoint="net:make", inputs=X).message


@pytest.mark.parametrize(
    "wrap", [lambda w: {"state_dict": w, "epoch": 3}, lambda w: {f"module.{k}": v for k, v in w.items()}]
)
def test_checkpoints_of_training_are_unwrapped(tmp_path: Path, wrap: Any) -> None:
    files = {"w.pt": saved(wrap(net().state_dict())), "net.py": NET}
    _, found = run(tmp_path, files, trust="Code", entrypoint="net:make", inputs=X)
    assert found.batching


@pytest.mark.parametrize("entrypoint", ["net:nothing", "nowhere:make", "net:NUMBER", "net:broken"])
def test_entrypoints_that_make_no_module_have_a_sentence(tmp_path: Path, entrypoint: str) -> None:
    code = NET + b"\nNUMBER = lambda: 3\n\n\ndef broken():\n    raise RuntimeError('no weights')\n"
    files = {"w.pt": saved(net().state_dict()), "net.py": code}
    sys.modules.pop("net", None)
    failure = refused(tmp_path, files, trust="Code", entrypoint=entrypoint, inputs=X)
    assert failure.reason is Reason.CONVERSION_FAILED
    assert entrypoint in failure.message


@pytest.mark.parametrize("handler", ["my_handler.py", "handler.py:serve", ""])
def test_handlers_of_torchserve_are_refused_by_name(tmp_path: Path, handler: str) -> None:
    manifest = {"model": {"serializedFile": "m.pt", "handler": handler}}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("m.pt", b"")
    failure = refused(tmp_path, {"m.mar": file.getvalue()})
    assert failure.reason is Reason.UNSUPPORTED_MODEL
    assert repr(handler or "none") in failure.message


def test_a_slow_neighbour_is_converted_and_left_to_the_timing(tmp_path: Path) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rows = np.random.default_rng(0).random((60, 4)).astype(np.float32)
    model = neighbors.KNeighborsClassifier(3).fit(rows, (rows[:, 0] > 0.5).astype(int))
    done, found = run(tmp_path, {"m.pkl": pickle.dumps(model)}, trust="Code")
    assert found.batching
    assert done.reference is not None
    labels = open_session(done.model).run(["label"], {"X": rows})[0]
    assert np.mean(labels == done.reference({"X": rows})["label"]) == 1


COLUMNS = '[{"type": "double", "name": "age"}, {"type": "string", "name": "city"}]'
MATRIX = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}, "name": "rows"}]'


def mlmodel(flavor: str, settings: str, signature: str) -> bytes:
    return f"flavors:\n  {flavor}:\n    {settings}\nsignature:\n  inputs: '{signature}'\n".encode()


def test_mlflow_gives_torch_modules_their_inputs(tmp_path: Path) -> None:
    files = {"m/MLmodel": mlmodel("pytorch", "model_data: data", MATRIX), "m/data/model.pth": saved(net())}
    assert refused(tmp_path, files).reason is Reason.CODE_NOT_TRUSTED
    (tmp_path / "out").rmdir()
    _, found = run(tmp_path, files, trust="Code")
    assert found.inputs == (Tensor("rows", "FP32", (-1, 4)),)


@pytest.mark.parametrize("by_name", [True, False])
def test_columns_of_a_signature_are_inputs_where_the_pipeline_picks_by_name(tmp_path: Path, *, by_name: bool) -> None:
    pandas, skops = pytest.importorskip("pandas"), pytest.importorskip("skops.io")
    compose, linear = pytest.importorskip("sklearn.compose"), pytest.importorskip("sklearn.linear_model")
    encoders = pytest.importorskip("sklearn.preprocessing")
    generator = np.random.default_rng(0)
    table = pandas.DataFrame({"age": generator.random(40), "city": generator.choice(["a", "b"], 40)})
    labels = (table["age"] > 0.5).astype(int)
    columns = [("n", encoders.StandardScaler(), ["age"]), ("c", encoders.OneHotEncoder(), ["city"])]
    pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline(
        compose.ColumnTransformer(columns), linear.LogisticRegression()
    )
    model = pipeline.fit(table, labels) if by_name else linear.LogisticRegression().fit(table[["age"]], labels)
    settings = "pickled_model: model.skops"
    files = {"MLmodel": mlmodel("sklearn", settings, COLUMNS), "model.skops": skops.dumps(model)}
    done, found = run(tmp_path, files)
    expected = ["age", "city"] if by_name else ["X"]
    assert [item.name for item in found.inputs] == expected
    assert done.reference is not None
    if by_name:
        rows = {"age": table[["age"]].to_numpy(), "city": table[["city"]].to_numpy().astype(object)}
        assert np.array_equal(open_session(done.model).run(["label"], rows)[0], done.reference(rows)["label"])


class Command:
    """Unpickled, it would run a command and write a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


CONFINED = """
import json, sys
from pathlib import Path
from penstock_runtime.seccomp import deny_processes, deny_sockets
deny_sockets()
deny_processes()
from penstock_runtime.convert import convert
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, SourceTree
from penstock_runtime.formats.detect import detect
folder, asked = Path(sys.argv[1]), Asked.read(json.loads(sys.argv[2]))
tree = SourceTree.read(folder / "source")
try:
    convert(tree, asked, detect(tree, asked), folder / "out", lambda _: None)
    print("CONVERTED")
except Failure as failure:
    print(failure.reason, failure.message)
"""


def confined(tmp_path: Path, files: Mapping[str, bytes], **asked: Any) -> str:
    """What the opener's child would say, under its two filters."""
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    for name, content in files.items():
        (tmp_path / "source" / name).write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/operator:{CHECKOUT}/runtime", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CONFINED, str(tmp_path), json.dumps(asked)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def with_member(archive: bytes, ending: str, content: bytes) -> bytes:
    """The archive with one member exchanged."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(file, "w") as target:
        names = source.namelist()
        assert any(name.endswith(ending) for name in names)
        for name in names:
            target.writestr(name, content if name.endswith(ending) else source.read(name))
    return file.getvalue()


@pytest.mark.parametrize("trust", ["Data", "Code"])
def test_a_program_that_would_run_a_command_does_not(tmp_path: Path, trust: str) -> None:
    honest, mark = program(net().eval()), tmp_path / "mark"
    evil = with_member(honest, "sample_inputs/model.pt", saved((Command(mark),)))
    told = confined(tmp_path, {"m.pt2": evil}, trust=trust)
    assert told.startswith("CodeNotTrusted")
    assert not mark.exists()


@pytest.mark.parametrize("trust", ["Data", "Code"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_that_would_run_a_command_does_not(tmp_path: Path, kind: str, trust: str) -> None:
    mark = tmp_path / "mark"
    evil = pickle.dumps(Command(mark)) if kind == "pickle" else saved(Command(mark))
    asked = {"format": "SKLearn"} if kind == "pickle" else {}
    told = confined(tmp_path, {"model.bin": evil}, trust=trust, **asked)
    assert not mark.exists()
    assert told.startswith("CodeNotTrusted" if trust == "Data" else "InvalidModel")


def test_honest_files_convert_under_the_same_filters(tmp_path: Path) -> None:
    assert confined(tmp_path, {"m.pt2": program(net().eval())}) == "CONVERTED"
    assert max(item.version for item in onnx.load(tmp_path / "out/model.onnx").opset_import) == 20


def test_a_lambda_of_keras_is_not_run(tmp_path: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    failure = refused(tmp_path, {"m.keras": (tmp_path / "m.keras").read_bytes()})
    assert failure.reason is Reason.CODE_NOT_TRUSTED
