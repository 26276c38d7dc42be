"""Is a schema structural, bounded and kind to its readers? The API server says it too, but later and one at a time.

Bounds matter beyond tidiness: the cost of a CEL rule is estimated from them, and a CRD whose rules look too costly is
refused whole. `status` is exempt from bounds on strings: a message too long must not make a status unwritable.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_BYTES", "Finding", "lint_crd", "lint_schema"]

MAX_BYTES = 150_000
"""Well below the 262,144 bytes of annotations that `kubectl apply` without --server-side writes the object into."""

Schema = Mapping[str, Any]
_KNOWN = frozenset(
    {
        "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "minProperties",
        "maxProperties", "items", "additionalProperties", "properties", "required", "nullable",
        "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
    }
)  # fmt: skip
_TYPES = frozenset({"array", "boolean", "integer", "object", "string"})
_FIELD = re.compile(r"[a-z][A-Za-z0-9]*")
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'")
_READS = re.compile(r"\b(self(?:\.[A-Za-z]\w*)+)")


@dataclass(frozen=True)
class Finding:
    """One thing wrong, at a path such as `spec.model.uri`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def lint_crd(crd: Schema) -> tuple[Finding, ...]:
    """Everything wrong with a CustomResourceDefinition; empty when there is nothing."""
    found: list[Finding] = []
    size = len(json.dumps(crd, separators=(",", ":")))
    if size > MAX_BYTES:
        found.append(Finding("", f"{size} bytes, at most {MAX_BYTES} fit; shorten descriptions or preserve a part"))
    for version in crd["spec"]["versions"]:
        found += lint_schema(version["schema"]["openAPIV3Schema"])
    return tuple(found)


def lint_schema(schema: Schema, path: str = "") -> tuple[Finding, ...]:
    """Everything wrong with one schema and what is below it."""
    return tuple(_node(schema, path))


def _node(schema: Schema, path: str) -> Iterator[Finding]:
    for key in schema.keys() - _KNOWN:
        yield Finding(path, f"`{key}` has no place in a structural schema")
    if schema.get("additionalProperties") in (True, False) or "$ref" in schema:
        yield Finding(path, "write a schema here, not true, false or a reference")
    if "default" in schema and schema["default"] is None:
        yield Finding(path, "a default of null is refused by the API server; leave it out")
    for bound in ("exclusiveMinimum", "exclusiveMaximum"):
        if not isinstance(schema.get(bound, False), bool):
            yield Finding(path, f"`{bound}` is a boolean beside `{bound.removeprefix('exclusive').lower()}`")
    yield from _type(schema, path)
    yield from _rules(schema, path)


def _type(schema: Schema, path: str) -> Iterator[Finding]:
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        if kind:
            yield Finding(path, "an int-or-string has no type of its own")
        yield from _bounded(schema, path, "maxLength")
    elif kind not in _TYPES:
        hint = "; a number is written as an integer or a string" if kind == "number" else ""
        yield Finding(path, f"type {kind!r}, one of {', '.join(sorted(_TYPES))} goes here{hint}")
    elif kind == "string" and not {"enum", "format"} & schema.keys():
        yield from _bounded(schema, path, "maxLength")
    elif kind == "array":
        yield from _array(schema, path)
    elif kind == "object":
        yield from _object(schema, path)


def _bounded(schema: Schema, path: str, bound: str) -> Iterator[Finding]:
    if bound not in schema and not path.startswith("status") and path not in ("apiVersion", "kind"):
        yield Finding(path, f"no {bound}; CEL costs are estimated from it")


def _array(schema: Schema, path: str) -> Iterator[Finding]:
    yield from _bounded(schema, path, "maxItems")
    list_type, items = schema.get("x-kubernetes-list-type"), schema.get("items")
    if not isinstance(items, Mapping):
        yield Finding(path, "a list needs one schema for its items")
        return
    if list_type not in ("atomic", "set", "map"):
        yield Finding(path, "say x-kubernetes-list-type: atomic, set or map; server-side apply merges by it")
    if list_type == "set" and items.get("type") in ("object", "array"):
        yield Finding(path, "a set has scalar items; use a map with keys")
    if list_type == "map":
        yield from _map_keys(schema, items, path)
    yield from _node(items, f"{path}[]")


def _map_keys(schema: Schema, items: Schema, path: str) -> Iterator[Finding]:
    keys = schema.get("x-kubernetes-list-map-keys", ())
    if not keys:
        yield Finding(path, "a list of type map names its keys in x-kubernetes-list-map-keys")
    for key in keys:
        field = items.get("properties", {}).get(key)
        if field is None or field.get("type") in ("object", "array"):
            yield Finding(path, f"list map key {key!r} is no scalar field of the items")
        elif key not in items.get("required", ()) and "default" not in field:
            yield Finding(path, f"list map key {key!r} must be required or have a default")


def _object(schema: Schema, path: str) -> Iterator[Finding]:
    properties, values = schema.get("properties"), schema.get("additionalProperties")
    if properties is not None and values is not None:
        yield Finding(path, "properties and additionalProperties exclude each other")
    if properties is None and values is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
        yield Finding(path, "an object without fields is pruned to nothing; list its properties or preserve them")
    for name in schema.get("required", ()):
        if name not in (properties or {}):
            yield Finding(path, f"{name!r} is required and not a property")
    if isinstance(values, Mapping):
        yield from _bounded(schema, path, "maxProperties")
        yield from _node(values, f"{path}{{}}")
    for name, field in (properties or {}).items():
        here = f"{path}.{name}" if path else name
        if not _FIELD.fullmatch(name):
            yield Finding(here, "field names are camelCase")
        yield from _node(field, here)


def _rules(schema: Schema, path: str) -> Iterator[Finding]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not rule.get("message"):
            yield Finding(path, f"rule {rule['rule']!r} has no message that names the way out")
        for name in _unguarded(rule["rule"], schema):
            yield Finding(path, f"rule {rule['rule']!r} reads {name}, which may be absent, without has({name})")


def _unguarded(rule: str, schema: Schema) -> Iterator[str]:
    """Optional fields that a rule reads and never asks for with has(); metadata and its name are always there."""
    rule = _LITERAL.sub("''", rule)
    for path in sorted(set(_READS.findall(rule))):
        node, name = schema, "self"
        for part in path.split(".")[1:]:
            properties = node.get("properties", {})
            if part not in properties or part == "metadata":
                break
            name = f"{name}.{part}"
            if part not in node.get("required", ()) and f"has({name})" not in rule:
                yield name
            node = properties[part]
