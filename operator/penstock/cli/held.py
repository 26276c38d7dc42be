"""What the CLI's field manager holds of an object; an apply that does not name it again would give it up."""

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.kube.objects import Manifest

__all__ = ["MANAGER", "held_fields", "holders"]

MANAGER = "penstock-cli"


def held_fields(live: Manifest) -> Manifest:
    """The part of spec that the manager has applied, with the values as they are."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry["manager"] == MANAGER and entry["operation"] == "Apply" and not entry.get("subresource"):
            return _picked(live.get("spec", {}), entry["fieldsV1"].get("f:spec", {}))
    return {}


def holders(live: Manifest, part: str, name: str) -> Iterator[tuple[str, str]]:
    """Manager and operation of each entry that holds spec.<part>.<name>."""
    for entry in live["metadata"].get("managedFields") or ():
        if f"f:{name}" in entry.get("fieldsV1", {}).get("f:spec", {}).get(f"f:{part}", {}):
            yield entry["manager"], entry["operation"]


def _picked(value: Manifest, fields: Mapping[str, Any]) -> Manifest:
    return dict(_fields(value, fields))


def _fields(value: Manifest, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`f:name` is a field; below it others, or nothing where all of its value is meant."""
    for key, inner in fields.items():
        name = key.removeprefix("f:")
        if key.startswith("f:") and name in value:
            below = any(part.startswith("f:") for part in inner)
            yield name, _picked(value[name], inner) if below else value[name]
