"""From the models to the CustomResourceDefinitions: structural schemas, built from the annotations themselves.

pydantic's own JSON Schema is not structural (`$ref`, `anyOf` with null, `const`), and mending it afterwards takes
longer than reading the types: the models use few of them. A type that this module does not know is an error, not a
guess. `lint.py` checks the result, the API server has the last word (tests/integration). Which kinds there are, and
what beside their fields, stands in `kinds.py`.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .base import K8s, Rule
from .kinds import DEFINITIONS, Column, Definition
from .resource import GROUP, KIND, SCHEMA_ANNOTATION, SCHEMA_VERSION, VERSION

__all__ = ["custom_resource_definition", "custom_resource_definitions", "root_schema", "schema_of"]

Schema = dict[str, Any]

_SCALARS: Mapping[Any, str] = {str: "string", int: "integer", bool: "boolean"}
_KEYWORDS = {"ge": "minimum", "le": "maximum", "pattern": "pattern"}
_LENGTHS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_ORDER = (
    "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "maxProperties", "items", "additionalProperties", "properties", "required",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
)  # fmt: skip


def custom_resource_definitions() -> dict[str, Schema]:
    """Every CRD by kind, ModelDeployment first."""
    return {kind: custom_resource_definition(kind) for kind in DEFINITIONS}


def custom_resource_definition(kind: str = KIND) -> Schema:
    """The whole CRD of a kind as plain JSON; the same models always give the same bytes."""
    found = DEFINITIONS[kind]
    names: Schema = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": found.plural,
        "singular": kind.lower(),
        "shortNames": list(found.short_names),
        "categories": ["ai"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": found.name,
            "annotations": {SCHEMA_ANNOTATION: str(SCHEMA_VERSION)},
            "labels": {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/part-of": "penstock"},
        },
        "spec": {
            "group": GROUP,
            "names": {key: value for key, value in names.items() if value},
            "scope": "Namespaced",
            "versions": [_version(found)],
        },
    }


def _version(found: Definition) -> Schema:
    subresources: Schema = {}
    if found.status:
        subresources["status"] = {}
    if found.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [_column(column) for column in found.columns],
        "schema": {"openAPIV3Schema": root_schema(found.kind)},
    }
    return {key: value for key, value in version.items() if value != {}}


def _column(column: Column) -> Schema:
    said = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
        "priority": int(column.wide),
    }
    return {key: value for key, value in said.items() if value not in ("", 0)}


def root_schema(kind: str = KIND) -> Schema:
    """The object itself.

    `status` starts with an observedGeneration of -1: a resource that nobody has looked at yet counts as in progress,
    not as ready, for Flux, Helm and kubectl wait.
    """
    found = DEFINITIONS[kind]
    properties: Schema = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
        "spec": schema_of(found.spec),
    }
    if found.status:
        properties["status"] = _ordered(schema_of(found.status) | {"default": {"observedGeneration": -1}})
    return _ordered(
        {
            "description": found.description,
            "type": "object",
            "properties": properties,
            "required": ["spec"],
            **_validations(found.rules),
        }
    )


def schema_of(annotation: Any, metadata: Iterable[Any] = ()) -> Schema:
    """The structural schema of one annotation and the marks around it; raises TypeError for a type it cannot say."""
    annotation, marks = _unwrapped(annotation, [*metadata])
    mark = _merged([item for item in marks if isinstance(item, K8s)])
    schema = _typed(annotation, mark)
    _bound(schema, marks)
    schema.update(_said(mark))
    rules = (*mark.rules, *(annotation.cel_rules if _is_model(annotation) else ()))
    return _ordered(schema | _validations(rules))


def _unwrapped(annotation: Any, marks: list[Any]) -> tuple[Any, list[Any]]:
    """The bare type, and its marks from the innermost to the outermost; an optional type is its one real arm."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *inner = get_args(annotation)
            marks = [*_flat(inner), *marks]
        elif origin in (Union, types.UnionType):
            arms = [arm for arm in get_args(annotation) if arm is not types.NoneType]
            if len(arms) != 1:
                raise TypeError(f"{annotation} has {len(arms)} arms; a structural schema has no unions")
            annotation = arms[0]
        else:
            return annotation, _flat(marks)


def _flat(marks: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for mark in marks:
        found += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    return found


def _merged(marks: list[K8s]) -> K8s:
    values: dict[str, Any] = {"rules": ()}
    for mark in marks:
        for field in fields(K8s):
            value = getattr(mark, field.name)
            if field.name == "rules":
                values["rules"] += value
            elif value != field.default:
                values[field.name] = value
    return K8s(**values)


def _typed(annotation: Any, mark: K8s) -> Schema:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if mark.int_or_string:
        return {"x-kubernetes-int-or-string": True}
    if _is_model(annotation):
        return _object(annotation)
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation]}
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return {"type": "string", "enum": list(arguments)}
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object"} if mark.preserve else _map(arguments[1])
    raise TypeError(f"no structural schema is known for {annotation}; mark it, or use another type")


def _map(value: Any) -> Schema:
    return {"type": "object", "additionalProperties": schema_of(value)}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _object(model: type[BaseModel]) -> Schema:
    properties, required = {}, []
    for field in model.model_fields.values():
        schema = schema_of(field.annotation, field.metadata)
        if field.description:
            schema["description"] = " ".join(field.description.split())
        name = str(field.alias)
        properties[name] = _ordered(schema)
        if field.is_required():
            required.append(name)
    found: Schema = {"type": "object", "properties": properties}
    if model.__doc__:
        found["description"] = " ".join(model.__doc__.split())
    if required:
        found["required"] = required
    return found


def _bound(schema: Schema, marks: Iterable[Any]) -> None:
    shortest, longest = _LENGTHS.get(schema.get("type", ""), ("", ""))
    for mark in marks:
        if isinstance(mark, annotated_types.MinLen) and shortest:
            schema[shortest] = mark.min_length
        elif isinstance(mark, annotated_types.MaxLen) and longest:
            schema[longest] = mark.max_length
        for attribute, keyword in _KEYWORDS.items():
            value = None if isinstance(mark, K8s) else getattr(mark, attribute, None)
            if value is not None:
                schema[keyword] = value


def _said(mark: K8s) -> Schema:
    said = {
        "pattern": mark.pattern,
        "format": mark.format,
        "minimum": mark.minimum,
        "maxLength": mark.max_length,
        "maxProperties": mark.max_properties,
        "default": mark.default,
        "x-kubernetes-list-type": mark.list_type,
        "x-kubernetes-list-map-keys": list(mark.keys) or None,
        "x-kubernetes-preserve-unknown-fields": mark.preserve or None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _validations(rules: Iterable[Rule]) -> Schema:
    found = []
    for rule in rules:
        entry = {
            "rule": rule.rule,
            "message": rule.message,
            "fieldPath": rule.field_path,
            "reason": "FieldValueInvalid",
        }
        found.append({key: value for key, value in entry.items() if value is not None})
    return {"x-kubernetes-validations": found} if found else {}


def _ordered(schema: Schema) -> Schema:
    return {key: schema[key] for key in _ORDER if key in schema} | {
        key: value for key, value in schema.items() if key not in _ORDER
    }
