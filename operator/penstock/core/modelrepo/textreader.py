"""A fast reader of protobuf text format, for the shapes that config.pbtxt files really have.

It takes a subset and never guesses: anything unusual (escapes, joined strings, octal numbers, a field given twice, any
error at all) raises NotRead, and the caller asks protobuf's own reader. What it does read equals what that one reads.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["NotRead", "read"]

_TOKEN = re.compile(
    r"""[A-Za-z_][A-Za-z0-9_]*|[0-9.+-][0-9A-Za-z_.+-]*|"[^"\\\n]*"|'[^'\\\n]*'|[{}\[\]:,;<>]|\#[^\n]*|[^\s]"""
)
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_SEPARATORS = (",", ";")
_BOOLEANS = {"true": True, "false": False}


class NotRead(Exception):
    """This reader does not take the text."""


class _Field(NamedTuple):
    """A field as reading needs it: `decode` turns a token into a value, None for messages and maps.

    `once` is what may be given only once: the field itself, or the oneof it belongs to; empty for repeated fields.
    """

    name: str
    repeated: bool
    once: str
    decode: Callable[[str], Any] | None
    entry: Descriptor | None


@cache
def _fields(message: Descriptor) -> dict[str, _Field]:
    return {field.name: _describe(field) for field in message.fields}


def _describe(field: FieldDescriptor) -> _Field:
    inner, oneof = field.message_type, field.containing_oneof
    once = "" if field.is_repeated else f"oneof {oneof.name}" if oneof else field.name
    entry = inner if inner is not None and inner.GetOptions().map_entry else None
    return _Field(field.name, field.is_repeated, once, None if inner is not None else _decoder(field), entry)


def _decoder(field: FieldDescriptor) -> Callable[[str], Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _decode_string
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return {value.name: value.number for value in field.enum_type.values}.__getitem__
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _BOOLEANS.__getitem__
    return _decode_float if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE) else _decode_integer


def _decode_string(token: str) -> str:
    if token[0] not in "\"'" or len(token) == 1:
        raise NotRead
    return token[1:-1]


def _decode_integer(token: str) -> int:
    if not (token.isdigit() and token.isascii() and token[0] != "0") and not _INTEGER.fullmatch(token):
        raise NotRead
    return int(token)


def _decode_float(token: str) -> float:
    if not _FLOAT.fullmatch(token):
        raise NotRead
    return float(token)


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
    separable = False
    while (token := tokens[at]) != closing:
        at += 1
        if separable and token in _SEPARATORS:
            separable = False
            continue
        name, repeated, once, decode, _ = field = fields[token]
        separable = True
        if once:
            if once in seen:
                raise NotRead
            seen.add(once)
        colon = tokens[at] == ":"
        if decode is None:
            at = _read_messages(tokens, at + colon, message, field)
        elif not colon:
            raise NotRead
        elif repeated:
            at = _read_repeated(tokens, at + 1, getattr(message, name), decode)
        else:
            setattr(message, name, decode(tokens[at + 1]))
            at += 2
    return at + 1


def _read_repeated(tokens: list[str], at: int, values: Any, decode: Callable[[str], Any]) -> int:
    if tokens[at] != "[":
        values.append(decode(tokens[at]))
        return at + 1
    end = tokens.index("]", at)
    items = tokens[at + 1 : end]
    if len(items) > 1 and (len(items) % 2 == 0 or set(items[1::2]) != {","}):
        raise NotRead
    values.extend([decode(item) for item in items[::2]])
    return end + 1


def _read_messages(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    if tokens[at] != "[":
        return _read_message(tokens, at, message, field)
    if not field.repeated or field.entry is not None:
        raise NotRead
    at += 1
    while tokens[at] == "{":
        at = _read_message(tokens, at, message, field)
        if tokens[at] == "]":
            return at + 1
        if tokens[at] != ",":
            raise NotRead
        at += 1
    raise NotRead


def _read_message(tokens: list[str], at: int, message: Any, field: _Field) -> int:
    if tokens[at] != "{":
        raise NotRead
    if field.entry is not None:
        return _read_entry(tokens, at + 1, getattr(message, field.name), _fields(field.entry))
    if field.repeated:
        return _read_fields(tokens, at + 1, getattr(message, field.name).add(), "}")
    inner = getattr(message, field.name)
    inner.SetInParent()
    return _read_fields(tokens, at + 1, inner, "}")


def _read_entry(tokens: list[str], at: int, entries: Any, parts: dict[str, _Field]) -> int:
    """A map entry: key first, then value, as every writer puts them; each key once."""
    decode_key, decode = parts["key"].decode, parts["value"].decode
    if tokens[at] != "key" or tokens[at + 1] != ":" or decode_key is None:
        raise NotRead
    key = decode_key(tokens[at + 2])
    at += 3 + (tokens[at + 3] in _SEPARATORS)
    if tokens[at] != "value" or key in entries:
        raise NotRead
    at += 1
    colon = tokens[at] == ":"
    at += colon
    if decode is not None and colon:
        entries[key] = decode(tokens[at])
        at += 1
    elif decode is None and tokens[at] == "{":
        entries[key].SetInParent()
        at = _read_fields(tokens, at + 1, entries[key], "}")
    else:
        raise NotRead
    at += tokens[at] in _SEPARATORS
    if tokens[at] != "}":
        raise NotRead
    return at + 1
