"""A fast writer of protobuf text format: byte for byte what `google.protobuf.text_format` prints.

That one resolves every field's options anew at each value and takes half of the time of rendering a repository. This
one describes each field once. What needs care (strings to be escaped, floating-point numbers) it leaves to protobuf's
own functions, and a property test keeps the two equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import FieldDescriptor

__all__ = ["NotWritten", "write"]

_ESCAPED = frozenset('"\\').union(map(chr, range(32)), map(chr, range(127, 160)), "'")


class NotWritten(Exception):
    """This writer does not take the message: it holds floating-point numbers, or a map entry with an empty text."""


def write(message: Any) -> str:
    """The text of a message, repeated scalars in brackets; raises NotWritten for the few it leaves to protobuf."""
    lines: list[str] = []
    _write_fields(message, "", lines)
    lines.append("")
    return "\n".join(lines)


def _write_fields(message: Any, indent: str, lines: list[str]) -> None:
    for descriptor, value in message.ListFields():
        field = _describe(descriptor)
        if field.entry is not None:
            _write_map(field.name, field.entry, value, indent, lines)
        elif field.form is None:
            for item in value if field.repeated else (value,):
                lines.append(f"{indent}{field.name} {{")
                _write_fields(item, indent + "  ", lines)
                lines.append(f"{indent}}}")
        elif not field.repeated:
            lines.append(f"{indent}{field.name}: {field.form(value)}")
        elif field.form is _form_string:
            lines.extend([f"{indent}{field.name}: {_form_string(item)}" for item in value])
        else:
            lines.append(f"{indent}{field.name}: [{', '.join(map(field.form, value))}]")


def _write_map(name: str, parts: tuple["_Field", "_Field"], entries: Any, indent: str, lines: list[str]) -> None:
    form_key, form = parts[0].form or str, parts[1].form
    for key in sorted(entries):
        value = entries[key]
        if key == "" or value == "":
            raise NotWritten
        lines.append(f"{indent}{name} {{")
        lines.append(f"{indent}  key: {form_key(key)}")
        if form is not None:
            lines.append(f"{indent}  value: {form(value)}")
        else:
            lines.append(f"{indent}  value {{")
            _write_fields(value, indent + "    ", lines)
            lines.append(f"{indent}  }}")
        lines.append(f"{indent}}}")


@dataclass(frozen=True, slots=True)
class _Field:
    """A field as writing needs it: `form` gives a value's text, None for messages; `entry` key and value of a map."""

    name: str
    repeated: bool
    form: Callable[[Any], str] | None
    entry: tuple["_Field", "_Field"] | None


@cache
def _describe(field: FieldDescriptor) -> _Field:
    inner = field.message_type
    if inner is None:
        return _Field(field.name, field.is_repeated, _formatter(field), None)
    if not inner.GetOptions().map_entry:
        return _Field(field.name, field.is_repeated, None, None)
    entry = _describe(inner.fields_by_name["key"]), _describe(inner.fields_by_name["value"])
    return _Field(field.name, field.is_repeated, None, entry)


def _formatter(field: FieldDescriptor) -> Callable[[Any], str]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _form_string
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda number: names.get(number) or str(number)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return lambda value: "true" if value else "false"
    return _refuse if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE) else str


def _form_string(value: str) -> str:
    text: str = value if _ESCAPED.isdisjoint(value) else text_encoding.CEscape(value, as_utf8=True)
    return f'"{text}"'


def _refuse(_value: float) -> str:
    raise NotWritten
