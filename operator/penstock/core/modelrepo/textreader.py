"""A fast reader of protobuf text format, for the shapes that config.pbtxt files really have.

It takes a subset and never guesses: anything unusual (escapes, joined strings, octal numbers, a field given twice, any
error at all) raises NotRead, and the caller asks protobuf's own reader. What it does read equals what that one reads.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["NotRead", "read"]

_TOKEN = re.compile(
    r"""[A-Za-z_][A-Za-z0-9_]*|[0-9.+-][0-9A-Za-z_.+-]*|"[^"\\\n]*"|'[^'\\\n]*'|[{}\[\]:,;<>]|\#[^\n]*|[^\s]"""
)
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


class NotRead(Exception):  # noqa: N818 - a signal, not an error: the other reader decides
    """This reader does not take the text."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: int
    repeated: bool
    oneof: str | None
    is_map: bool
    message: Descriptor | None
    numbers: dict[str, int]


@cache
def _fields(message: Descriptor) -> dict[str, _Field]:
    return {field.name: _describe(field) for field in message.fields}


def _describe(field: FieldDescriptor) -> _Field:
    inner = field.message_type
    return _Field(
        name=field.name,
        kind=field.cpp_type,
        repeated=field.is_repeated,
        oneof=field.containing_oneof.name if field.containing_oneof else None,
        is_map=inner is not None and inner.GetOptions().map_entry,
        message=inner,
        numbers={value.name: value.number for value in field.enum_type.values} if field.enum_type else {},
    )


def read(text: str, message: Any) -> None:
    """Fill an empty message from a text; raises NotRead, and then the message is undefined."""
    tokens = _TOKEN.findall(text)
    if "#" in text:
        tokens = [token for token in tokens if token[0] != "#"]
    tokens.append("")
    try:
        end = _read_fields(tokens, 0, message, "")
    except (ValueError, TypeError, LookupError) as error:
        raise NotRead from error
    if end != len(tokens):
        raise NotRead


def _read_fields(tokens: list[str], at: int, message: Any, closing: str) -> int:
    fields = _fields(message.DESCRIPTOR)
    seen: set[str] = set()
    while (token := tokens[at]) != closing:
        field = fields.get(token)
        if field is None or (not field.repeated and (field.name in seen or field.oneof in seen)):
            raise NotRead
        seen.add(field.oneof or token)
        at = _read_field(tokens, at + 1, message, field)
        if tokens[at] in (",", ";"):
            at += 1
    return at + 1


def _read_field(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    colon = tokens[at] == ":"
    at += colon
    if field.message is not None:
        return _read_messages(tokens, at, message, field)
    if not colon:
        raise NotRead
    if not field.repeated:
        setattr(message, field.name, _value(tokens[at], field))
        return at + 1
    if tokens[at] != "[":
        getattr(message, field.name).append(_value(tokens[at], field))
        return at + 1
    end = tokens.index("]", at)
    items = tokens[at + 1 : end]
    if items[1::2] != [","] * (len(items) // 2) or (items and len(items) % 2 == 0):
        raise NotRead
    getattr(message, field.name).extend([_value(item, field) for item in items[::2]])
    return end + 1


def _read_messages(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    if tokens[at] != "[":
        return _read_message(tokens, at, message, field)
    if not field.repeated:
        raise NotRead
    at += 1
    if tokens[at] == "]":
        return at + 1
    while True:
        at = _read_message(tokens, at, message, field)
        if tokens[at] == "]":
            return at + 1
        if tokens[at] != ",":
            raise NotRead
        at += 1


def _read_message(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    if tokens[at] != "{":
        raise NotRead
    if field.is_map:
        return _read_entry(tokens, at + 1, message, field)
    if field.repeated:
        return _read_fields(tokens, at + 1, getattr(message, field.name).add(), "}")
    inner = getattr(message, field.name)
    inner.SetInParent()
    return _read_fields(tokens, at + 1, inner, "}")


def _read_entry(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    if field.message is None or tokens[at : at + 2] != ["key", ":"]:
        raise NotRead
    parts = _fields(field.message)
    key = _value(tokens[at + 2], parts["key"])
    at += 3 + (tokens[at + 3] in (",", ";"))
    if tokens[at] != "value":
        raise NotRead
    entries = getattr(message, field.name)
    if key in entries:
        raise NotRead
    at += 1 + (tokens[at + 1] == ":")
    if parts["value"].message is None:
        entries[key] = _value(tokens[at], parts["value"])
        at += 1
    elif tokens[at] == "{":
        entries[key].SetInParent()
        at = _read_fields(tokens, at + 1, entries[key], "}")
    else:
        raise NotRead
    at += tokens[at] in (",", ";")
    if tokens[at] != "}":
        raise NotRead
    return at + 1


def _value(token: str, field: _Field) -> Any:
    kind = field.kind
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if token[:1] not in ('"', "'") or len(token) < 2:
            raise NotRead
        return token[1:-1]
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return field.numbers[token]
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _BOOLEANS[token]
    if kind in _FLOATS:
        if not _FLOAT.fullmatch(token):
            raise NotRead
        return float(token)
    digits = token[1:] if token[:1] == "-" else token
    if not (digits.isascii() and digits.isdigit()) or (digits[0] == "0" and len(digits) > 1):
        raise NotRead
    return int(token)


_BOOLEANS = {"true": True, "false": False}
