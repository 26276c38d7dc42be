"""Zip archives, which half of all model formats are: told apart by their members."""

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from .pickles import imports_of, only_tensors
from .sighting import Sighting

__all__ = ["read_member", "sight_zip"]

_MOST_MEMBERS = 100_000
_ROOM = 1 << 30
_MOST_GROWTH = 100
_LARGEST_PICKLE = 16 << 20
_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    struct.error,
)


def sight_zip(source: Path | BinaryIO, size: int) -> Sighting:
    """What a zip archive of so many bytes is; a damaged one, or one that would fill a disk, has a sentence."""
    try:
        with zipfile.ZipFile(source) as archive:
            problem = _bomb(archive, size)
            return Sighting(None, problem, damaged=True) if problem else _sight(archive)
    except _ERRORS as error:
        return Sighting(None, f"a damaged zip archive ({error}); upload it again", damaged=True)


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member's bytes, never more than `most` of them whatever it announces; raises what zipfile raises."""
    with archive.open(name) as file:
        return file.read(most)


def _bomb(archive: zipfile.ZipFile, size: int) -> str:
    members = archive.infolist()
    whole = sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS:
        return f"a zip archive of {len(members)} members, more than {_MOST_MEMBERS}: no model has that many"
    if whole > max(_ROOM, _MOST_GROWTH * size):
        return f"a zip archive of {size} bytes that unpacks to {whole}: no model is packed that tightly"
    return ""


def _sight(archive: zipfile.ZipFile) -> Sighting:  # noqa: PLR0911 - one return for each kind of archive
    names = archive.namelist()
    plain = set(names)
    inner = {name.partition("/")[2] for name in names}
    if "MAR-INF/MANIFEST.json" in plain:
        return Sighting("TorchServe", "a TorchServe archive")
    if "config.json" in plain and any(name.endswith(".weights.h5") for name in plain):
        return Sighting("Keras", "a Keras model")
    if "schema.json" in plain and _is_skops(archive):
        return Sighting("SKLearn", "a skops file")
    if names and all(name.endswith(".npy") for name in names):
        return Sighting(None, "NumPy arrays", advice="upload the model, not its data")
    if any(name.startswith("data/aotinductor/") for name in inner | plain):
        advice = "upload what torch.export.save wrote before it was compiled"
        return Sighting(None, "a torch module compiled to machine code by AOTInductor", advice=advice)
    if "archive_format" in inner or "serialized_exported_program.json" in plain | inner:
        return Sighting("TorchExport", "an exported torch program")
    if "constants.pkl" in inner:
        return Sighting("TorchScript", "a TorchScript module")
    if "data.pkl" in inner:
        return _sight_torch(archive, next(name for name in names if name.partition("/")[2] == "data.pkl"))
    return Sighting(None, f"a zip archive of {', '.join(sorted(names)[:4]) or 'nothing'}", advice="unpack it")


def _is_skops(archive: zipfile.ZipFile) -> bool:
    schema: Any = json.loads(read_member(archive, "schema.json", 64 << 20))
    return isinstance(schema, dict) and "__loader__" in schema


def _sight_torch(archive: zipfile.ZipFile, member: str) -> Sighting:
    names = imports_of(read_member(archive, member, _LARGEST_PICKLE)) or []
    if only_tensors(names):
        return Sighting("StateDict", "a file of torch tensors")
    first = next(name for name in names if not only_tensors([name]))
    return Sighting("StateDict", f"a torch pickle of {first}", runs_code=True)
