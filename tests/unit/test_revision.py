"""What names a preparation and a revision, and that names cannot collide or move."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.facts import ModelFacts
from penstock.api.resource import ModelDeployment
from penstock.api.model import ModelSpec
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


def test_the_preparation_is_keyed_by_source_and_namespace_and_not_by_the_served_name():
    model = ModelSpec(uri="oci://a/b:1")
    assert preparation_key(model, "x") != preparation_key(model, "y")
    assert preparation_key(model, "x") != preparation_key(ModelSpec(uri="oci://a/b:2"), "x")
    assert preparation_key(ModelSpec(uri="oci://a/b:1", served_name="z"), "x") == preparation_key(model, "x")


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


def test_a_record_of_a_newer_release_is_refused_by_its_version():
    with pytest.raises(KeyError, match="newer than this operator knows"):
        RevisionRecord.from_manifest({"metadata": {"name": "x"}, "data": {"version": 99}})
