"""Every format of the zoo: found by content, converted, valid, quiet about its author, and as its framework answers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hack.cluster.settings import CHECKOUT

from penstock_runtime.finding import Asked, SourceTree
from penstock_runtime.formats.detect import detect
from penstock_runtime.onnxmodel import inspect_onnx, open_session

from .zoo import NAMES, Specimen, specimen

pytest.importorskip("torch", reason="make venv-models")
pytestmark = pytest.mark.filterwarnings("ignore")

from penstock_runtime.convert import Converted, convert, load_reference  # noqa: E402 - torch may be missing
from penstock_runtime.formats.served import inspect_served  # noqa: E402

CONVERTED = [
    name
    for name in NAMES
    if name not in ("onnx", "openvino", "treelite") and not name.endswith(("-libtorch", "-forest"))
]
NEVER = [name for name in NAMES if name.endswith(("-libtorch", "-forest"))]


def lay(folder: Path, files: Mapping[str, bytes]) -> SourceTree:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return SourceTree.read(folder)


def converted(tmp_path: Path, made: Specimen) -> tuple[Converted, Asked]:
    tree, asked = lay(tmp_path / "source", made.files), Asked.read(made.model)
    (tmp_path / "out").mkdir()
    format_ = detect(tree, asked)
    assert format_ == made.format
    return convert(tree, asked, format_, tmp_path / "out", lambda _: None), asked


@pytest.mark.parametrize("name", CONVERTED)
def test_formats_become_onnx_that_answers_as_their_framework(tmp_path: Path, name: str) -> None:
    made = specimen(name)
    done, asked = converted(tmp_path, made)
    found = inspect_onnx(SourceTree.read(tmp_path / "out"), Asked(inputs=asked.inputs), lambda _: None)
    assert found.batching
    assert (found.ir_version, found.inputs[0].name) == (10, made.input)
    assert found.opset is not None
    assert found.opset <= 20
    rows = {made.input: made.rows[:64]}
    answers = dict(zip([item.name for item in found.outputs], open_session(done.model).run(None, rows), strict=True))
    assert done.reference is not None
    source = done.reference(rows)
    assert list(source) == list(answers)
    for output, expected in source.items():
        assert answers[output].shape == expected.shape
        assert np.allclose(answers[output], expected, rtol=made.tolerance, atol=made.tolerance), output
    known = [answer[:64] for answer in made.answers]
    for answer in known:
        close = [
            np.allclose(answer, mine, atol=made.tolerance) for mine in answers.values() if mine.shape == answer.shape
        ]
        assert any(close)


@pytest.mark.parametrize("name", ["torch-export", "torchscript", "keras", "sklearn-skops", "xgboost", "lightgbm"])
def test_models_say_nothing_of_where_they_were_made(tmp_path: Path, name: str) -> None:
    done, _ = converted(tmp_path, specimen(name))
    content = done.model.read_bytes()
    for word in (b"site-packages", b".py", b"Traceback", str(tmp_path).encode(), b'File "', b"stack_trace"):
        assert word not in content
    model = onnx.load(done.model)
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)]
    assert set(dims) == {"batch"}


ONCE = """
import sys
from pathlib import Path
from penstock_runtime.convert import convert
from penstock_runtime.finding import Asked, SourceTree
source, out, format_ = sys.argv[1:]
Path(out).mkdir()
convert(SourceTree.read(Path(source)), Asked(trust="Code"), format_, Path(out), lambda _: None)
"""


@pytest.mark.parametrize("name", ["torch-export", "sklearn-pickle", "xgboost", "lightgbm"])
def test_the_same_source_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    made = specimen(name)
    source = lay(tmp_path / "source", made.files)
    for out, seed in (("one", "1"), ("two", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{CHECKOUT}/operator:{CHECKOUT}/runtime"}
        command = [sys.executable, "-c", ONCE, str(source.root), str(tmp_path / out), made.format]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    assert (tmp_path / "one/model.onnx").read_bytes() == (tmp_path / "two/model.onnx").read_bytes()


@pytest.mark.parametrize("name", NEVER)
def test_what_is_served_as_it_is_still_answers_for_comparison(tmp_path: Path, name: str) -> None:
    made = specimen(name)
    tree, asked = lay(tmp_path, made.files), Asked.read({**made.model, "convert": "Never"})
    found = inspect_served(tree, asked, made.format, lambda _: None)
    assert found.batching
    main = tree.root / next(iter(found.files.values()))
    reference = load_reference(tree, asked, made.format, main, lambda _: None)
    assert reference is not None
    answers = reference({found.inputs[0].name: made.rows[:20]})
    assert list(answers) == [item.name for item in found.outputs]
    assert np.allclose(answers[found.outputs[0].name], made.answers[-1][:20], atol=made.tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_is_told_apart_under_lying_suffixes(tmp_path: Path, name: str) -> None:
    made = specimen(name)
    folders = ("MLflow", "OpenVINO")
    if made.format in folders or len(made.files) > 1:
        pytest.skip("more than one file: their names belong to the format")
    (content,) = made.files.values()
    assert detect(lay(tmp_path, {"weights.bin": content}), Asked.read(made.model)) == made.format
