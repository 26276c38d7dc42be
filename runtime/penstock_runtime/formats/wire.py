"""Just enough of protobuf's wire format to tell what a message may be, without its schema or all of its bytes."""

from pathlib import Path
from typing import BinaryIO

__all__ = ["top_fields"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 4096


def top_fields(path: Path) -> dict[int, int] | None:
    """Wire type by number of the outermost message's fields; None where the file is no whole message.

    Bytes of fields are skipped, so that a file of gigabytes is told in a few reads.
    """
    size = path.stat().st_size
    found: dict[int, int] = {}
    with path.open("rb") as file:
        for _ in range(_MOST_FIELDS):
            if file.tell() == size:
                return found
            key = _varint(file)
            if key is None or key >> 3 == 0 or key >> 3 > 1 << 29:
                return None
            found.setdefault(key >> 3, key & 7)
            if not _skip(file, key & 7, size):
                return None
    return found


def _skip(file: BinaryIO, kind: int, size: int) -> bool:
    if kind == _VARINT:
        return _varint(file) is not None
    length = {_FIXED64: 8, _FIXED32: 4}.get(kind) if kind != _BYTES else _varint(file)
    if length is None or file.tell() + length > size:
        return False
    file.seek(length, 1)
    return True


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
