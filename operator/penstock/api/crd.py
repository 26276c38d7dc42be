"""From the models to the CustomResourceDefinition: one structural schema, built from the annotations themselves.

pydantic's own JSON Schema is not structural (`$ref`, `anyOf` with null, `const`), and mending it afterwards takes
longer than reading the types: a `ModelDeploymentSpec` uses few of them. A type that this module does not know is an
error, not a guess. `lint.py` checks the result, the API server has the last word (tests/integration).
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .base import K8s, Rule
from .resource import GROUP, KIND, PLURAL, SCHEMA_ANNOTATION, SCHEMA_VERSION, VERSION
from .rules import DEPLOYMENT_NAME
from .spec import ModelDeploymentSpec
from .status import ModelDeploymentStatus

__all__ = ["custom_resource_definition", "root_schema", "schema_of"]

Schema = dict[str, Any]

_SCALARS: Mapping[Any, str] = {str: "string", int: "integer", bool: "boolean"}
_KEYWORDS = {"ge": "minimum", "le": "maximum", "pattern": "pattern"}
_LENGTHS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the deployment stands.", 0),
    ("Stable", "string", ".status.stable.revision", "The revision that serves.", 0),
    ("Candidate", "string", ".status.candidate.revision", "The revision on its way.", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether the spec is what serves.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
    ("URL", "string", ".status.url", "Where requests go.", 1),
    ("Message", "string", ".status.message", "What is going on.", 1),
)
_ORDER = (
    "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "maxProperties", "items", "additionalProperties", "properties", "required",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
)  # fmt: skip


def custom_resource_definition() -> Schema:
    """The whole CRD as plain JSON; the same models always give the same bytes."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "annotations": {SCHEMA_ANNOTATION: str(SCHEMA_VERSION)},
            "labels": {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/part-of": "penstock"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["md", "mdep"],
                "categories": ["ai"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, "scale": scale},
        "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
        "schema": {"openAPIV3Schema": root_schema()},
    }


def _column(name: str, type_: str, path: str, description: str, priority: int) -> Schema:
    column = {"name": name, "type": type_, "jsonPath": path, "description": description, "priority": priority}
    return {key: value for key, value in column.items() if value not in ("", 0)}


def root_schema() -> Schema:
    """The object itself.

    `status` starts with an observedGeneration of -1: a resource that nobody has looked at yet counts as in progress,
    not as ready, for Flux, Helm and kubectl wait.
    """
    status = schema_of(ModelDeploymentStatus)
    status["default"] = {"observedGeneration": -1}
    return _ordered(
        {
            "description": "A trained model, served on Triton Inference Server.",
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
                "spec": schema_of(ModelDeploymentSpec),
                "status": _ordered(status),
            },
            "required": ["spec"],
            **_validations([DEPLOYMENT_NAME]),
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
