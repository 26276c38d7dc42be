"""Formats are told by content: real structures under true, lying and missing suffixes, and files that are damaged."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.model import SourceFormat
from penstock.api.openers import OPENERS
from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, SourceTree
from penstock_runtime.formats.detect import detect, look, opener_of
from penstock_runtime.formats.pickles import imports_of, only_tensors
from penstock_runtime.formats.sniff import sniff


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def onnx_model() -> bytes:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["n", 2])], [value("y", 1, ["n", 2])])
    opsets = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def safetensors(data: bytes = bytes(16), claimed: int = 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, claimed]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def global_pickle(name: str, protocol: int = 2) -> bytes:
    """A pickle that would call a function without arguments."""
    module, _, function = name.rpartition(".")
    return b"\x80" + bytes([protocol]) + f"c{module}\n{function}\n".encode() + b")R."


def treelite(major: int = 4) -> bytes:
    return struct.pack("<iiiBBQiBBi", major, 8, 1, 3, 3, 5, 4, 2, 1, 1) + struct.pack("<Qi", 1, 3) + bytes(64)


TENSORS = pickle.dumps(OrderedDict(a=1), protocol=2)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."
NETWORK = b'<?xml version="1.0"?>\n<net name="n" version="11"><layers/></net>'
XGBOOST = b'{"learner":{"attributes":{},"feature_names":[]},"version":[3,2,0]}'
UBJ = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{L\x00\x00\x00\x00\x00\x00\x00\nattributes{}}}"
FOREST = global_pickle("sklearn.ensemble._forest.RandomForestClassifier")
SEEN: dict[str, tuple[bytes, str]] = {
    "onnx": (onnx_model(), "ONNX"),
    "torch program": (zipped({"m/models/model.json": b"{}", "m/archive_format": b"pt2"}), "TorchExport"),
    "torch script": (zipped({"m/data.pkl": TENSORS, "m/constants.pkl": b"", "m/code/a.py": b""}), "TorchScript"),
    "torch weights": (zipped({"m/data.pkl": TENSORS, "m/data/0": b""}), "StateDict"),
    "old torch weights": (LEGACY + TENSORS, "StateDict"),
    "safetensors": (safetensors(), "SafeTensors"),
    "keras": (zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b""}), "Keras"),
    "skops": (zipped({"schema.json": b'{"__loader__": "ObjectNode"}'}), "SKLearn"),
    "torchserve": (zipped({"MAR-INF/MANIFEST.json": b"{}", "model.pt": b""}), "TorchServe"),
    "xgboost json": (XGBOOST, "XGBoost"),
    "xgboost json, spaced": (b' {\n "version": [3, 2, 0],\n "learner": {}}', "XGBoost"),
    "xgboost ubj": (UBJ, "XGBoost"),
    "lightgbm": (b"tree\nversion=v4\nnum_class=1\n", "LightGBM"),
    "treelite": (treelite(), "Treelite"),
    "tensorrt": (b"ftrt" + bytes(2048), "TensorRT"),
}
PICKLES: dict[str, bytes] = {
    "pickle": FOREST,
    "zlib": zlib.compress(FOREST),
    "gzip": gzip.compress(FOREST),
    "bz2": bz2.compress(FOREST),
    "xz": lzma.compress(FOREST),
    "text": b"ccopy_reg\n_reconstructor\np0\n(c"
    b"sklearn.ensemble._forest\nRandomForestClassifier\np1\nc__builtin__\nobject\n",
}


def tree(tmp_path: Path, files: Mapping[str, bytes]) -> SourceTree:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return SourceTree.read(tmp_path)


def trusted(**asked: str) -> Asked:
    return Asked(trust="Code", entrypoint="net:make", **asked)


def refusal(tmp_path: Path, files: Mapping[str, bytes], asked: Asked | None = None) -> Failure:
    with pytest.raises(Failure) as raised:
        look(tree(tmp_path, files), asked or Asked())
    return raised.value


@pytest.mark.parametrize("name", ["model.bin", "model", "weights.onnx", "model.pkl", "model.pt2", "a/b/c.json"])
@pytest.mark.parametrize("kind", SEEN)
def test_a_file_is_told_by_its_content_under_every_name(tmp_path: Path, kind: str, name: str) -> None:
    content, expected = SEEN[kind]
    assert detect(tree(tmp_path, {name: content}), trusted()) == expected


def test_every_format_has_an_opener() -> None:
    assert set(OPENERS) == set(get_args(SourceFormat))


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_are_named_by_what_they_import_and_need_trust(tmp_path: Path, kind: str) -> None:
    failure = refusal(tmp_path, {"model.txt": PICKLES[kind]})
    assert failure.reason is Reason.CODE_NOT_TRUSTED
    assert "pickle" in failure.message
    assert "trust: Code" in failure.message
    assert detect(SourceTree.read(tmp_path), Asked(trust="Code")) == "SKLearn"


def test_a_module_among_torch_pickles_needs_trust_and_is_named(tmp_path: Path) -> None:
    whole = zipped({"m/data.pkl": global_pickle("torch.nn.modules.container.Sequential"), "m/data/0": b""})
    failure = refusal(tmp_path, {"model.pt": whole})
    assert failure.reason is Reason.CODE_NOT_TRUSTED
    assert "torch.nn.modules.container.Sequential" in failure.message


@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.eval", "subprocess.Popen", "torch._utils.x.y"])
def test_commands_are_no_tensors(name: str) -> None:
    assert not only_tensors([name])
    assert imports_of(global_pickle(name)) == [name]


def test_weights_ask_for_an_entrypoint(tmp_path: Path) -> None:
    content = {"model.safetensors": safetensors(), "net.py": b"def make(): ..."}
    assert refusal(tmp_path, content).reason is Reason.CODE_NOT_TRUSTED
    failure = refusal(tmp_path, content, Asked(trust="Code"))
    assert (failure.reason, "entrypoint" in failure.message) == (Reason.INVALID_SPEC, True)


FOLDERS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "savedmodel": (
        {"m/saved_model.pb": b"\x08\x01\x12\x02\x0a\x00", "m/variables/v.index": b"x"},
        "SavedModel",
        "m/saved_model.pb",
    ),
    "mlflow": (
        {"MLmodel": b"flavors:\n  sklearn:\n    pickled_model: model.pkl\n", "model.pkl": FOREST},
        "MLflow",
        "MLmodel",
    ),
    "openvino": ({"net.xml": NETWORK, "net.bin": b"\x00" * 64}, "OpenVINO", "net.xml"),
    "weights twice": (
        {"model.safetensors": safetensors(), "pytorch_model.bin": SEEN["torch weights"][0]},
        "SafeTensors",
        "model.safetensors",
    ),
    "shards": ({"a-1.safetensors": safetensors(), "a-2.safetensors": safetensors()}, "SafeTensors", "a-1.safetensors"),
    "onnx beside its source": (
        {"model.onnx": onnx_model(), "model.pt2": SEEN["torch program"][0]},
        "ONNX",
        "model.onnx",
    ),
    "one called model": ({"model.txt": SEEN["lightgbm"][0], "other.txt": SEEN["lightgbm"][0]}, "LightGBM", "model.txt"),
    "words beside": ({"README.md": b"hello", "m.json": XGBOOST, "config.json": b"{}"}, "XGBoost", "m.json"),
    "damaged onnx": ({"model.onnx": onnx_model()[:40]}, "ONNX", "model.onnx"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(tmp_path: Path, kind: str) -> None:
    files, format_, path = FOLDERS[kind]
    found = look(tree(tmp_path, files), trusted())
    assert (found.format, found.path) == (format_, path)


def test_a_triton_repository_comes_before_every_file_in_it(tmp_path: Path) -> None:
    assert detect(tree(tmp_path, {"m/1/model.onnx": onnx_model()}), Asked()) == "TritonRepository"


REFUSED: dict[str, tuple[bytes, Reason, str]] = {
    "nothing": (b"", Reason.UNKNOWN_FORMAT, "no format that Penstock knows"),
    "noise": (b"\xde\xad\xbe\xef" * 9, Reason.UNKNOWN_FORMAT, "de ad be ef"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), Reason.UNKNOWN_FORMAT, "model.save"),
    "arrays": (zipped({"a.npy": b""}), Reason.UNKNOWN_FORMAT, "not its data"),
    "any zip": (zipped({"a.txt": b"", "b.txt": b""}), Reason.UNKNOWN_FORMAT, "a.txt, b.txt"),
    "aotinductor": (
        zipped({"m/data/aotinductor/m/a.so": b"", "m/archive_format": b"pt2"}),
        Reason.UNKNOWN_FORMAT,
        "machine code",
    ),
    "old treelite": (treelite(3), Reason.UNKNOWN_FORMAT, "Treelite 4"),
    "old xgboost": (b"binf" + bytes(64), Reason.UNKNOWN_FORMAT, "save_model"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(64), Reason.UNKNOWN_FORMAT, "Lite"),
    "cut safetensors": (safetensors(bytes(3)), Reason.INVALID_MODEL, "upload it again"),
    "cut header": (safetensors()[:60], Reason.INVALID_MODEL, "upload it again"),
    "cut zip": (SEEN["keras"][0][:-30], Reason.INVALID_MODEL, "damaged zip"),
    "bomb": (zipped({"data.pkl": bytes(2 << 20)}, zipfile.ZIP_DEFLATED), Reason.INVALID_MODEL, "unpacks to"),
    "values": (pickle.dumps({"a": 1}), Reason.UNKNOWN_FORMAT, "plain values"),
    "foreign pickle": (global_pickle("somewhere.Thing"), Reason.UNKNOWN_FORMAT, "somewhere.Thing"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_has_a_sentence(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, reason, words = REFUSED[kind]
    monkeypatch.setattr("penstock_runtime.formats.zipped._ROOM", 1 << 20)
    failure = refusal(tmp_path, {"model.bin": content})
    assert failure.reason is reason
    assert words in failure.message


def test_two_models_are_not_guessed_between(tmp_path: Path) -> None:
    files = {"a.json": XGBOOST, "b.txt": SEEN["lightgbm"][0]}
    failure = refusal(tmp_path, files)
    assert failure.reason is Reason.UNKNOWN_FORMAT
    assert "a.json is an XGBoost model" in failure.message
    assert detect(SourceTree.read(tmp_path), Asked(format="LightGBM")) == "LightGBM"


def test_the_format_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    failure = refusal(tmp_path, {"model.json": XGBOOST}, Asked(format="LightGBM"))
    assert failure.reason is Reason.INVALID_MODEL
    assert "an XGBoost model" in failure.message


def test_any_pickle_may_be_an_estimator_where_the_user_says_so(tmp_path: Path) -> None:
    files = tree(tmp_path, {"model.pkl": global_pickle("my.own.Estimator")})
    assert detect(files, Asked(format="SKLearn", trust="Code")) == "SKLearn"
    with pytest.raises(Failure, match="trust: Code"):
        detect(files, Asked(format="SKLearn"))


@pytest.mark.parametrize(("flavor", "opener"), [("xgboost", "Convert"), ("tensorflow", "TensorFlow")])
def test_mlflow_is_opened_by_its_flavour(tmp_path: Path, flavor: str, opener: str) -> None:
    files = tree(tmp_path, {"MLmodel": f"flavors:\n  {flavor}:\n    data: model\n".encode()})
    assert opener_of(files, look(files, Asked())) == opener


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(SEEN)), data=st.data())
def test_damaged_files_give_a_format_or_a_sentence(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(SEEN[kind][0])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    sighting = sniff(path)
    assert sighting is None or sighting.format or sighting.what
