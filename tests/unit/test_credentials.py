"""Tokens of the artifact store: what they open, and when they are made anew."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from penstock.controller.credentials import (
    LIFETIME_SECONDS,
    Access,
    RegistryCredentials,
    SigningKey,
    read_claims,
    shared_repository,
)
from penstock.controller.garbage import named_artifacts, reported_artifacts
from penstock.controller.reconcile import _sources
from penstock.core.names import COMPONENT_LABEL
from penstock.kube.errors import AlreadyTaken

REGISTRY = "registry.penstock-system:5000"
OWNERS = frozenset({("digits", "uid-1")})


class Store:
    """The part of the API client that credentials use, over a dictionary."""

    def __init__(self):
        self.secrets, self.calls = {}, []

    async def find(self, kind, namespace, name):
        self.calls.append("get")
        return self.secrets.get((namespace, name))

    async def create(self, manifest):
        return self._put("create", {**manifest, "metadata": {**manifest["metadata"], "uid": "s"}})

    async def apply(self, manifest, *, uid):
        assert uid == "s"
        return self._put("apply", {**manifest, "metadata": {**manifest["metadata"], "uid": uid}})

    def _put(self, verb, manifest):
        metadata = manifest["metadata"]
        self.calls.append(f"{verb} {metadata['name']}")
        self.secrets[metadata["namespace"], metadata["name"]] = manifest
        return manifest

    def access(self, name):
        token = base64.b64decode(self.secrets["vision", name]["data"]["token"]).decode()
        return [(item["name"], item["actions"]) for item in read_claims(token)["access"]]


@pytest.fixture
def clock():
    return {"time": 1_000_000.0}


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def credentials(store, clock):
    return RegistryCredentials(store, "penstock-system", lambda: clock["time"])


async def test_a_namespace_gets_one_token_to_push_and_one_to_pull(credentials, store):
    await credentials.ensure("vision", frozenset({"models/digits"}), OWNERS)
    assert store.access("penstock-registry-push") == [("models/digits", ["pull"]), ("vision", ["pull", "push"])]
    assert store.access("penstock-registry-pull") == [("vision", ["pull"])]
    references = store.secrets["vision", "penstock-registry-pull"]["metadata"]["ownerReferences"]
    assert [reference["uid"] for reference in references] == ["uid-1"]


async def test_nothing_is_asked_again_while_the_need_is_the_same(credentials, store):
    await credentials.ensure("vision", frozenset(), OWNERS)
    store.calls.clear()
    await credentials.ensure("vision", frozenset(), OWNERS)
    assert store.calls == []
    await credentials.ensure("vision", frozenset(), OWNERS, verify=True)
    assert store.calls == ["get", "get"]


@pytest.mark.parametrize(
    ("shared", "owners", "later"),
    [
        (frozenset({"models/new"}), OWNERS, 0),
        (frozenset(), OWNERS | {("other", "uid-2")}, 0),
        (frozenset(), OWNERS, LIFETIME_SECONDS - 20 * 86400),
    ],
)
async def test_a_token_is_made_anew_when_the_need_grows_or_its_end_is_near(
    credentials, store, clock, shared, owners, later
):
    await credentials.ensure("vision", frozenset(), OWNERS)
    clock["time"] += later
    store.calls.clear()
    await credentials.ensure("vision", shared, owners)
    assert "apply penstock-registry-push" in store.calls


async def test_another_operator_process_keeps_the_tokens_it_finds(credentials, store, clock):
    await credentials.ensure("vision", frozenset(), OWNERS)
    another = RegistryCredentials(store, "penstock-system", lambda: clock["time"])
    await another.load_key()
    store.calls.clear()
    await another.ensure("vision", frozenset(), OWNERS)
    assert store.calls == ["get", "get"]


async def test_a_foreign_secret_of_the_name_is_left_alone(credentials, store):
    store.secrets["vision", "penstock-registry-push"] = {"metadata": {"name": "penstock-registry-push", "uid": "s"}}
    with pytest.raises(AlreadyTaken, match="did not make"):
        await credentials.ensure("vision", frozenset(), OWNERS)


def test_a_token_is_signed_by_the_key_that_the_registry_is_told():
    key = SigningKey.from_pem(SigningKey.generate().pem())
    header, body, signature = key.token("x", [Access("vision", ("pull",))], 5).split(".")

    def decode(text):
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    (told,) = json.loads(key.jwks())["keys"]
    assert json.loads(decode(header))["kid"] == told["kid"]
    Ed25519PublicKey.from_public_bytes(decode(told["x"])).verify(decode(signature), f"{header}.{body}".encode())


@pytest.mark.parametrize(
    ("uri", "repository"),
    [
        (f"oci://{REGISTRY}/models/digits:v1", "models/digits"),
        (f"oci://{REGISTRY}/models/a/b@sha256:00", "models/a/b"),
        (f"oci://{REGISTRY}/models/a/b:v1@sha256:00", "models/a/b"),
        (f"oci://{REGISTRY}/other-namespace:v1", None),
        (f"oci://{REGISTRY}/modelsx/a:v1", None),
        ("oci://elsewhere:5000/models/digits:v1", None),
        ("s3://models/digits", None),
    ],
)
def test_only_the_common_area_is_opened_to_a_namespace(uri, repository):
    assert shared_repository(uri, REGISTRY) == repository


def test_the_collector_keeps_what_records_name():
    record = {"data": {"facts": {"artifact": {"manifest": "sha256:1"}}}}
    assert named_artifacts([record, {"data": {}}, {}]) == {"sha256:1"}
    reported = {"data": {"facts": {"artifact": {"manifest": "sha256:2"}, "report": "sha256:3"}}}
    failed = {"status": {"preparation": {"key": "k", "report": "sha256:4"}}}
    kept = named_artifacts([record, reported], [failed, {"status": {"preparation": {"key": "k"}}}, {}])
    assert kept == {"sha256:1", "sha256:2", "sha256:3", "sha256:4"}


@pytest.mark.parametrize(
    ("spec", "status", "pods", "waits"),
    [
        ({"suspend": True}, {}, [], False),
        ({"suspend": True}, {"active": 0, "conditions": [{"type": "Suspended", "status": "True"}]}, [], False),
        ({"suspend": True}, {"active": 1}, [], True),
        ({"suspend": True}, {}, ["job"], True),
        ({"suspend": True}, {}, ["another"], False),
        ({"suspend": False}, {}, [], True),
        ({}, {}, [], True),
    ],
)
def test_a_preparation_that_waits_in_a_queue_has_found_nothing_that_must_be_kept(spec, status, pods, waits):
    """Kueue keeps a Job suspended for days; once it has pods, those may have found what nobody names."""
    job = {
        "metadata": {"name": "j", "uid": "job", "labels": {COMPONENT_LABEL: "prepare"}},
        "spec": spec,
        "status": status,
    }
    found = [{"metadata": {"ownerReferences": [{"uid": uid}]}, "status": {}} for uid in pods]
    assert (reported_artifacts([job], found) is None) == waits


def test_all_places_that_a_preparation_reads_from_are_opened_to_it():
    asked = {
        "model": {"uri": "s3://m/d.dvc", "dvcRemote": "oci://a/models/remote"},
        "rollout": {"initial": {"uri": "oci://a/models/initial"}},
        "gates": {"dataset": {"uri": "oci://a/models/rows"}, "size": {"max": "1Mi"}},
        "optimize": {"calibration": {"uri": "oci://a/models/calibration"}},
    }
    places = set(_sources({"spec": asked}))
    assert places == {"s3://m/d.dvc", *(f"oci://a/models/{n}" for n in ("remote", "initial", "rows", "calibration"))}
    assert list(_sources({"spec": {"model": {"uri": "s3://m/d"}}})) == ["s3://m/d"]
