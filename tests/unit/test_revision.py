"""What names a preparation and a revision, and that names cannot collide or move."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.facts import ModelFacts
from penstock.api.proving import OptimizeSpec
from penstock.api.resource import ModelDeployment
from penstock.core.names import job_name, revision_name
from penstock.core.plan import Write, plan
from penstock.core.revision import RevisionRecord, preparation_key, revision_hash

from .world import World, facts, manifest


def hash_of(found: ModelFacts | None = None, **spec) -> str:
    return revision_hash(ModelDeployment.parse(manifest(**spec)), found or facts())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"server": {"batching": {"queueTimeout": "60s"}}}, {"server": {"batching": {"queueTimeout": "1m"}}}),
        ({"server": {"resources": {"limits": {"cpu": "1000m"}}}}, {"server": {"resources": {"limits": {"cpu": 1}}}}),
        ({"server": {}}, {}),
        ({"replicas": 1}, {"replicas": 5}),
        ({"pod": {"labels": {"team": "a"}}}, {}),
    ],
)
def test_two_spellings_are_one_revision(one, other):
    assert hash_of(**one) == hash_of(**other)


def test_a_field_of_facts_that_a_later_release_adds_changes_no_hash():
    class Later(ModelFacts):
        quantization: str | None = None
        notes: tuple[str, ...] = ()

    known = facts()
    assert hash_of(Later.model_validate(known.model_dump())) == hash_of(known)


def test_where_the_artifact_stands_is_no_part_of_the_revision():
    known = facts()
    elsewhere = known.model_copy(update={"artifact": known.artifact.model_copy(update={"repository": "other:5000/x"})})
    assert hash_of(elsewhere) == hash_of(known)


def key_of(namespace: str = "vision", resolved: str | None = None, **spec) -> str:
    return preparation_key(ModelDeployment.parse(manifest(**spec)).spec, namespace, resolved)


GATES = {"latency": {"p95": "20ms"}}
SERVER = {"instances": {"count": 2}}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"model": {"uri": "oci://models.example/digits:v1", "servedName": "z"}}, True),
        ({"model": {"uri": "oci://models.example/digits:v1", "refresh": "5m"}}, True),
        ({"model": {"uri": "oci://models.example/digits:v1", "trust": "Code"}}, False),
        ({"server": SERVER}, True),
        ({"prepare": {"timeout": "5m"}}, True),
        ({"optimize": {}}, True),
        ({"optimize": {"precision": "INT8"}}, False),
        ({"gates": {"size": {"max": "1Mi"}}}, False),
        ({"gates": GATES}, False),
        ({"namespace": "other"}, False),
        ({"resolved": "7"}, False),
    ],
)
def test_what_names_a_preparation(change, same):
    assert (key_of(**change) == key_of()) is same


def test_the_server_names_a_preparation_only_where_gates_measure_it():
    assert key_of(gates=GATES, server=SERVER) != key_of(gates=GATES)
    env = {"env": [{"name": "A", "value": "b"}]}
    assert key_of(gates=GATES, pod=env) != key_of(gates=GATES)
    size = {"size": {"max": "1Mi"}}
    assert key_of(gates=size, server=SERVER) == key_of(gates=size)


def test_the_key_of_a_release_before_gates_is_still_the_same():
    assert key_of() == "6ffa4ab54f54923f"


def test_what_was_made_from_the_source_is_named_by_its_own_digest():
    made = facts(derived=True, source_format="SKLearn")
    other = made.artifact.model_copy(update={"layer": "sha256:" + "e" * 64})
    assert hash_of(made.model_copy(update={"artifact": other})) != hash_of(made)
    plain = facts()
    assert hash_of(plain.model_copy(update={"artifact": other})) == hash_of(plain)


def test_the_report_is_no_part_of_a_revision():
    assert hash_of(facts(report="sha256:" + "a" * 64)) == hash_of(facts())


@given(st.from_regex(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", fullmatch=True), st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
def test_every_name_is_a_dns_label(deployment, digest):
    for name in (revision_name(deployment, digest), job_name(deployment, digest)):
        assert len(name) <= 63
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_a_record_gives_back_what_it_was_made_of():
    world = World(manifest(pod={"env": [{"name": "A", "value": "b"}]}, server={"responseCache": {"size": "64Mi"}}))
    world.reconcile()
    world.step()
    record = next(
        w.manifest
        for w in plan(world.observe(), world.now).writes
        if isinstance(w, Write) and w.manifest["kind"] == "ControllerRevision"
    )
    found = RevisionRecord.from_manifest(record)
    assert found.to_json() == record["data"]
    later = replace(
        found, optimize=OptimizeSpec(precision="INT8"), format="SKLearn", opener="Convert", resolved="version 7"
    )
    assert RevisionRecord.from_manifest({**record, "data": later.to_json()}) == later


def test_a_record_of_a_newer_release_is_refused_by_its_version():
    with pytest.raises(KeyError, match="newer than this operator knows"):
        RevisionRecord.from_manifest({"metadata": {"name": "x"}, "data": {"version": 99}})
