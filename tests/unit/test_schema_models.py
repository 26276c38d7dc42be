"""What the API server stores the operator can read: no value passes schema and rules that the models refuse."""

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from penstock.api.base import wire
from penstock.api.crd import root_schema
from penstock.api.resource import ModelDeployment
from penstock.api.validation import validate
from tests.manifests import ACCEPTED, manifest

Schema = dict[str, Any]
SPEC: Schema = root_schema()["properties"]["spec"]
EXAMPLES = int(os.environ.get("PENSTOCK_EXAMPLES", "60"))
INTEGERS = (-1, 0, 1, 2, 50, 95, 10**6, 10**7, 2**31, 2**53, 2**63 - 1)
TEXTS = (
    "", "0", "0s", "1h", "24h", "86400.001s", "0.5ms", "1.0005s", "999999h", "0.001", "0.0001", "1e-3", "1E-99", "9e99",
    "000001", "0.0", "100.0", "99.9", "1Ki", "1.1n", "0.0000000001", "13.317220490234759Ki", "999999999999Pi", "1\n",
)  # fmt: skip


def leaves(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every field that holds a value, `[]` for an item of a list and `{}` for a value of a map."""
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, (*path, name))
    elif schema.get("type") == "array":
        yield from leaves(schema["items"], (*path, "[]"))
    elif "additionalProperties" in schema:
        yield from leaves(schema["additionalProperties"], (*path, "{}"))
    elif not schema.get("x-kubernetes-preserve-unknown-fields"):
        yield path, schema


def with_value(spec: Any, path: tuple[str, ...], value: Any, schema: Schema) -> Any:
    """The spec with this value in its place, and what has to stand beside it."""
    if not path:
        return value
    first, *rest = path
    if first == "[]":
        return [with_value(None, tuple(rest), value, schema["items"])]
    if first == "{}":
        return {"cpu": with_value(None, tuple(rest), value, schema["additionalProperties"])}
    found = dict(spec or {})
    found[first] = with_value(found.get(first), tuple(rest), value, schema["properties"][first])
    for name in schema.get("required", ()):
        found.setdefault(name, smallest(schema["properties"][name], name))
    return found


def smallest(schema: Schema, name: str) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("x-kubernetes-int-or-string") or schema["type"] == "integer":
        return max(1, schema.get("minimum", 1))
    if schema["type"] == "object":
        return {item: smallest(schema["properties"][item], item) for item in schema.get("required", ())}
    return {"array": [], "boolean": False}.get(schema["type"], "oci://host/name:tag" if name == "uri" else "some")


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Some that fit, and some at the edge."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "boolean":
        return st.booleans()
    integers = st.sampled_from(INTEGERS) | st.integers(schema.get("minimum", 0), schema.get("maximum", 10**9))
    texts: st.SearchStrategy[Any] = st.sampled_from(TEXTS) | st.text(max_size=8)
    if "pattern" in schema:
        texts |= st.from_regex(schema["pattern"].replace("$", r"\Z"))
    if schema.get("x-kubernetes-int-or-string"):
        return integers | texts
    return integers.map(float) | integers if schema["type"] == "integer" else texts


LEAVES = sorted(leaves(SPEC), key=lambda item: item[0])


def without_nulls(value: Any) -> Any:
    """As the API server stores it."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return value


BASES = [
    without_nulls(found["spec"]) for found in (manifest(), *ACCEPTED.values()) if found["kind"] == "ModelDeployment"
]


@st.composite
def specs(draw: st.DrawFn) -> Schema:
    """A spec that is accepted, with one to three fields written anew."""
    spec = draw(st.sampled_from(BASES))
    for path, schema in draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3)):
        spec = with_value(spec, path, draw(values(schema)), SPEC)
    return spec


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 300)
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(specs())
def test_what_schema_and_rules_accept_the_models_can_read(spec):
    found = {**manifest(), "spec": spec}
    assume(not validate(found))
    read = ModelDeployment.parse(copy.deepcopy(found)).spec
    again = ModelDeployment.parse({**found, "spec": wire(read)}).spec
    assert again == read, "the form that hashes are made of is its own"


def test_every_field_is_reached_by_some_value():
    assert len(LEAVES) > 120
    assert {path[0] for path, _ in LEAVES} >= {"model", "optimize", "gates", "server", "pod", "rollout", "traffic"}
