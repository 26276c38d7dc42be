"""What one file is, by its first bytes and by what they promise; a suffix is never asked."""

import json
import re
import struct
from pathlib import Path
from typing import Any

from .pickles import imports_of, only_tensors, unpacked_head
from .sighting import Sighting
from .wire import top_fields
from .zipped import sight_zip

__all__ = ["sniff"]

_HEAD = 1 << 16
_LARGEST_HEADER = 100 << 20
_LARGEST_PICKLE = 16 << 20
_MAGICS = {
    b"\x89HDF\r\n\x1a\n": Sighting(
        None, "HDF5, Keras's old format", advice='open it in the Keras that wrote it and call model.save("model.keras")'
    ),
    b"GGUF": Sighting(None, "GGUF weights of llama.cpp", advice="export the model to ONNX"),
    b"CBM1": Sighting(
        None, "a CatBoost model", advice='save it as ONNX: model.save_model("model.onnx", format="onnx")'
    ),
    b"binf": Sighting(
        None, "XGBoost's old binary format", advice='load it with XGBoost and call save_model("model.json")'
    ),
    b"ptrt": Sighting("TensorRT", "a TensorRT plan"),
    b"ftrt": Sighting("TensorRT", "a TensorRT plan"),
}
_XGBOOST_JSON = re.compile(rb'^\s*\{\s*"(learner"\s*:|version"\s*:\s*\[[\d,\s]*\]\s*,\s*"learner"\s*:)')
_XGBOOST_UBJ = re.compile(rb"^\{[iUIlL][\x00-\x10]{1,8}(learner\{|version\[)", re.DOTALL)
_OPENVINO = re.compile(rb"^\s*(\xef\xbb\xbf)?(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)*<net\s", re.DOTALL)
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that torch.save wrote first before it wrote zip archives."""
_TABULAR = ("sklearn.", "xgboost.", "lightgbm.", "imblearn.", "skops.")


def sniff(path: Path) -> Sighting | None:
    """What the file is; None where it is nothing known."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
        return sight_zip(path, path.stat().st_size)
    for magic, sighting in _MAGICS.items():
        if head.startswith(magic):
            return sighting
    return _by_structure(path, head) or _sight_pickle(path, head) or _sight_onnx(path)


def _by_structure(path: Path, head: bytes) -> Sighting | None:
    if head[4:8] == b"TFL3":
        return Sighting(None, "a TensorFlow Lite model", advice="upload the SavedModel or the Keras model it came from")
    if _XGBOOST_JSON.match(head) or _XGBOOST_UBJ.match(head):
        return Sighting("XGBoost", "an XGBoost model")
    if re.match(rb"^tree\r?\nversion=v", head):
        return Sighting("LightGBM", "a LightGBM model")
    if _OPENVINO.match(head):
        return Sighting("OpenVINO", "an OpenVINO network")
    return _sight_safetensors(path, head) or _sight_treelite(head)


def _sight_safetensors(path: Path, head: bytes) -> Sighting | None:
    """Eight bytes of length, a JSON object of tensors, then their bytes without a gap."""
    size = path.stat().st_size
    if len(head) < 10 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
        return _cut_safetensors(head, length, size)
    with path.open("rb") as file:
        file.seek(8)
        try:
            header: Any = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return None
    if max(ends, default=0) + 8 + length != size:
        what = f"a safetensors file of {size} bytes whose header promises {max(ends, default=0) + 8 + length}"
        return Sighting(None, f"{what}; upload it again", damaged=True)
    return Sighting("SafeTensors", "weights in safetensors")


def _cut_safetensors(head: bytes, length: int, size: int) -> Sighting | None:
    if length <= _LARGEST_HEADER and b'"data_offsets"' in head:
        what = f"a safetensors file of {size} bytes whose header alone has {length}; upload it again"
        return Sighting(None, what, damaged=True)
    return None


def _sight_treelite(head: bytes) -> Sighting | None:
    """Version as three int32, the types of thresholds and leaves, the number of trees and of features."""
    if len(head) < 26:
        return None
    major, minor, patch, threshold, leaf, trees, features = struct.unpack("<iiiBBQi", head[:26])
    plausible = 3 <= major <= 9 and 0 <= minor < 100 and 0 <= patch < 100 and 0 < trees < 1 << 32 and features > 0
    if not plausible or threshold not in (2, 3) or leaf not in (1, 2, 3):
        return None
    if major < 4:
        advice = "serialize it with Treelite 4 or newer"
        return Sighting(None, f"a checkpoint of Treelite {major}.{minor}", advice=advice)
    return Sighting("Treelite", "a Treelite checkpoint")


def _sight_pickle(path: Path, head: bytes) -> Sighting | None:
    plain = unpacked_head(head)
    if plain[2:].startswith(_LEGACY_TORCH):
        return _sight_legacy_torch(path)
    names = imports_of(plain)
    if names is None:
        return None
    how = "a compressed pickle" if plain is not head else "a pickle"
    if not names:
        return Sighting(None, f"{how} of plain values", advice="upload the model itself")
    whose = "SKLearn" if any(name.startswith(_TABULAR) for name in names) else None
    advice = "save the model in a format of its library, or name the format in spec.model.format"
    return Sighting(whose, f"{how} of {names[0]}", runs_code=True, advice=advice)


def _sight_legacy_torch(path: Path) -> Sighting:
    """A magic number, a version and a dictionary of sizes are pickles of their own before the one of the tensors."""
    with path.open("rb") as file:
        names = imports_of(file.read(_LARGEST_PICKLE), after=3) or []
    if names and only_tensors(names):
        return Sighting("StateDict", "a file of torch tensors")
    first = next((name for name in names if not only_tensors([name])), "something unknown")
    return Sighting("StateDict", f"a torch pickle of {first}", runs_code=True)


def _sight_onnx(path: Path) -> Sighting | None:
    """A ModelProto: field 7 is its graph, 8 the operator sets, 1 the version of the format."""
    fields = top_fields(path)
    if not fields:
        return None
    known = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
    if fields.get(7) == 2 and 1 in fields and all(known.get(number) == kind for number, kind in fields.items()):
        return Sighting("ONNX", "an ONNX model")
    if fields.get(1) == 0 and fields.get(2) == 2 and path.name == "saved_model.pb":
        return Sighting("SavedModel", "a TensorFlow SavedModel")
    return None
