"""What the API server would say to a manifest, without one: the CRD's schema and rules applied to plain JSON.

It answers with the same paths for the same faults (a test puts one table to both), and says more where the API server
says little: the field that an unknown one was probably meant to be, and the rules even where the schema is broken
elsewhere.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from . import base, modelrules, replacerules, rules, trafficrules
from .base import Rule
from .crd import root_schema
from .kinds import DEFINITIONS
from .resource import API_VERSION

__all__ = ["BY_CEL", "Fault", "validate"]

Schema = Mapping[str, Any]
BY_CEL = {
    item.rule: item
    for module in (base, rules, modelrules, trafficrules, replacerules)
    for item in vars(module).values()
    if isinstance(item, Rule)
}
"""Every rule, found by its CEL."""
_NOUNS = {"array": "a list", "boolean": "true or false", "integer": "an integer", "object": "an object"}
_SUBDOMAIN = rf"{rules.DNS_LABEL}(\.{rules.DNS_LABEL})*"


@dataclass(frozen=True)
class Fault:
    """One reason to refuse a manifest; `path` as the API server writes it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def validate(manifest: Any) -> tuple[Fault, ...]:
    """Everything the API server refuses in a manifest on creation; empty when it would be accepted."""
    if not isinstance(manifest, Mapping):
        return (Fault("", f"{_show(manifest)} is not an object"),)
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") not in DEFINITIONS:
        asked = f"apiVersion: {API_VERSION} and kind: {', '.join(DEFINITIONS)}"
        return (Fault("", f"{manifest.get('apiVersion')}, {manifest.get('kind')} was given, write {asked}"),)
    schema = _schema(manifest["kind"])
    pruned = _without_nulls(manifest, schema)
    fault = _name_fault(pruned)
    if fault or "name" not in pruned["metadata"]:
        pruned = {**pruned, "metadata": {"name": "named"}}
    return (*([fault] if fault else []), *_node(pruned, schema, ""))


@cache
def _schema(kind: str) -> Schema:
    return root_schema(kind)


def _name_fault(manifest: Schema) -> Fault | None:
    """What every object's name must be; the rules of this kind come on top. The API server makes generated names."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping) or not (metadata.get("name") or metadata.get("generateName")):
        return Fault("metadata.name", "a name is needed")
    name = metadata.get("name", "generated")
    if not isinstance(name, str) or len(name) > 253 or not re.fullmatch(_SUBDOMAIN, name):
        return Fault("metadata.name", f"{_show(name)} is no object's name: lower case letters, digits and dashes")
    return None


def _without_nulls(value: Any, schema: Schema) -> Any:
    """As the API server before it validates: a field that is null is a field that is not there."""
    if isinstance(value, Mapping) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        properties = schema.get("properties")
        if properties is None:
            inner = schema.get("additionalProperties", {})
            return {key: _without_nulls(item, inner) for key, item in value.items() if item is not None}
        return {
            key: _without_nulls(item, properties.get(key, {}))
            for key, item in value.items()
            if item is not None or key not in properties
        }
    if isinstance(value, list) and "items" in schema:
        return [_without_nulls(item, schema["items"]) for item in value]
    return value


def _node(value: Any, schema: Schema, path: str) -> Iterator[Fault]:
    fault = _type_fault(value, schema, path)
    if fault:
        yield fault
        return
    found = [*_scalar(value, schema, path)]
    if isinstance(value, Mapping) and path != "metadata":
        found += _object(value, schema, path)
    elif isinstance(value, list):
        found += _array(value, schema, path)
    yield from found
    yield from _rules(value, schema, path, found)


def _type_fault(value: Any, schema: Schema, path: str) -> Fault | None:
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, int | str) and not isinstance(value, bool)
        return None if fits else Fault(path, f"{_show(value)} was given, an integer or a quoted string goes here")
    checks: dict[str, bool] = {
        "array": isinstance(value, list),
        "boolean": isinstance(value, bool),
        "integer": _is_integer(value),
        "object": isinstance(value, Mapping),
        "string": isinstance(value, str),
    }
    if checks[schema["type"]]:
        return None
    noun = _NOUNS.get(schema["type"], "a string")
    quote = "; quote it" if noun == "a string" and not isinstance(value, list | Mapping) else ""
    return Fault(path, f"{_show(value)} was given, {noun} goes here{quote}")


def _is_integer(value: Any) -> bool:
    """JSON has one kind of number: 2.0 is an integer."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _scalar(value: Any, schema: Schema, path: str) -> Iterator[Fault]:
    if "enum" in schema and value not in schema["enum"]:
        known = schema["enum"]
        yield Fault(path, f"{_show(value)} was given, one of {', '.join(known)} goes here{_meant(value, known)}")
    if isinstance(value, str):
        pattern = schema.get("pattern")
        if pattern and not re.search(pattern.replace("$", r"\Z"), value, re.ASCII):
            yield Fault(path, f"{_show(value)} does not match {pattern}")
        yield from _counted(len(value), schema, path, "characters", ("minLength", "maxLength"))
    elif isinstance(value, int | float):
        yield from _counted(value, schema, path, "", ("minimum", "maximum"))
    elif isinstance(value, list):
        yield from _counted(len(value), schema, path, "items", ("minItems", "maxItems"))
    elif isinstance(value, Mapping):
        yield from _counted(len(value), schema, path, "entries", ("minProperties", "maxProperties"))


def _counted(count: float, schema: Schema, path: str, noun: str, bounds: tuple[str, str]) -> Iterator[Fault]:
    low, high = (schema.get(bound) for bound in bounds)
    if low is not None and count < low:
        yield Fault(path, f"{count} {noun}".rstrip() + f" given, at least {low} needed")
    if high is not None and count > high:
        yield Fault(path, f"{count} {noun}".rstrip() + f" given, at most {high} allowed")


def _object(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[Fault]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Fault(_join(path, name), "this is required")
    for name, item in value.items():
        if name in properties:
            yield from _node(item, properties[name], _join(path, name))
        elif "additionalProperties" in schema:
            yield from _node(item, schema["additionalProperties"], _join(path, name))
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield Fault(_join(path, name), f"there is no field of this name{_meant(name, properties)}")


def _array(value: list[Any], schema: Schema, path: str) -> Iterator[Fault]:
    keys = schema.get("x-kubernetes-list-map-keys", ())
    seen: list[Any] = []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        yield from _node(item, schema["items"], here)
        if keys and isinstance(item, Mapping) and all(key in item for key in keys):
            identity = [item[key] for key in keys]
            if identity in seen:
                named = ", ".join(f"{key} {_show(item[key])}" for key in keys)
                yield Fault(here, f"{named} stands in this list already; remove one of them")
            seen.append(identity)


def _rules(value: Any, schema: Schema, path: str, found: Iterable[Fault]) -> Iterator[Fault]:
    """Rules see values that fit the schema only; a broken one is told by its own fault."""
    if any(True for _ in found):
        return
    for entry in schema.get("x-kubernetes-validations", ()):
        if not BY_CEL[entry["rule"]].holds(value):
            yield Fault(f"{path}{entry.get('fieldPath', '')}".removeprefix("."), entry["message"])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _meant(name: Any, known: Iterable[str]) -> str:
    close = get_close_matches(str(name).lower(), {item.lower(): item for item in known}, 1, 0.6)
    meant = next((item for item in known if close and item.lower() == close[0]), None)
    return f"; did you mean {meant}?" if meant else ""


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
