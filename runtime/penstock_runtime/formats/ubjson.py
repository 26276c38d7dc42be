"""UBJSON, as XGBoost writes it: the same tree of values as its JSON, with types and lengths in front."""

import struct
from typing import Any

__all__ = ["read_ubjson"]

_NUMBERS = {b"i": "b", b"U": "B", b"I": ">h", b"u": ">H", b"l": ">i", b"m": ">I", b"L": ">q", b"d": ">f", b"D": ">d"}
_LITERALS = {b"Z": None, b"T": True, b"F": False}
_DEEPEST = 64


def read_ubjson(content: bytes) -> Any:
    """The value; long arrays of numbers, which are the trees, become their length. Raises ValueError."""
    try:
        return _Reader(content).value()
    except (IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"not UBJSON: {error}") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._content):
            raise ValueError(f"{count} bytes are announced at {self._at} of {len(self._content)}")
        self._at += count
        return self._content[self._at - count : self._at]

    def _number(self, marker: bytes) -> Any:
        return struct.unpack(_NUMBERS[marker], self._take(struct.calcsize(_NUMBERS[marker])))[0]

    def _length(self) -> int:
        return int(self._number(self._take(1)))

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def value(self, marker: bytes = b"", depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"values are nested deeper than {_DEEPEST}")
        marker = marker or self._take(1)
        if marker in _LITERALS:
            return _LITERALS[marker]
        if marker in _NUMBERS:
            return self._number(marker)
        if marker == b"S":
            return self._text()
        if marker == b"{":
            return self._object(depth)
        if marker == b"[":
            return self._array(depth)
        raise ValueError(f"unknown type {marker!r} at {self._at}")

    def _peek(self) -> bytes:
        return self._content[self._at : self._at + 1]

    def _header(self) -> tuple[bytes, int | None]:
        """The common type of all values and their number, where they are announced."""
        kind, count = b"", None
        if self._peek() == b"$":
            self._take(1)
            kind = self._take(1)
        if self._peek() == b"#":
            self._take(1)
            count = self._length()
        return kind, count

    def _object(self, depth: int) -> dict[str, Any]:
        kind, count = self._header()
        found: dict[str, Any] = {}
        while len(found) < count if count is not None else self._peek() != b"}":
            name = self._text()
            found[name] = self.value(kind, depth + 1)
        if count is None:
            self._take(1)
        return found

    def _array(self, depth: int) -> Any:
        kind, count = self._header()
        if kind in _NUMBERS and count is not None:
            self._take(struct.calcsize(_NUMBERS[kind]) * count)
            return count
        found: list[Any] = []
        while len(found) < count if count is not None else self._peek() != b"]":
            found.append(self.value(kind, depth + 1))
        if count is None:
            self._take(1)
        return found
