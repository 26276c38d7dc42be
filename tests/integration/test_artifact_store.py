"""The chart's registry with Penstock's tokens: what each opens, and what the collector takes away."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.api.facts import ArtifactRef
from penstock.api.preparation import PreparationReport
from penstock.controller import garbage
from penstock.controller.credentials import Access, SigningKey
from penstock.controller.garbage import ArtifactCollector
from penstock.core.names import COMPONENT_LABEL
from penstock.kube.cache import Cache
from penstock_runtime.registry import Refused, Registry, RegistryAuth
from penstock_runtime.web import Web
from tests.integration.servers import running_registry
from tests.unit.world import facts

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
HOUR = 3600.0


@dataclass
class Store:
    """A registry, the key it trusts, and a clock."""

    host: str
    key: SigningKey
    folder: Path = Path()
    now: float = 1_800_000_000.0
    cache: Cache = field(default_factory=Cache)

    def registry(self, repository: str, *actions: str) -> Registry:
        token = self.key.token("test", [Access(repository, actions)], _now())
        return Registry(self.host, Web((self.host,)), RegistryAuth(token=token))

    def push(self, repository: str, content: bytes) -> str:
        """Publish as a preparation does; the manifest's digest."""
        registry = self.registry(repository, "pull", "push")
        blobs = []
        for blob in (content, b"{}"):
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            registry.upload(repository, digest, len(blob), lambda blob=blob: [blob])
            blobs.append({"mediaType": "application/octet-stream", "digest": digest, "size": len(blob)})
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": blobs[:1], "config": blobs[1]}
        manifest = json.dumps(document).encode()
        registry.put_manifest(repository, "sha256-" + hashlib.sha256(content).hexdigest()[:32], manifest, MANIFEST_TYPE)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def holds(self, repository: str, digest: str) -> bool:
        try:
            self.registry(repository, "pull").manifest(repository, digest)
        except Refused as error:
            if error.status != 404:
                raise
            return False
        return True

    def lose(self, digest: str) -> None:
        """The disk loses what a tag leads to."""
        (path,) = self.folder.rglob(f"blobs/sha256/*/{digest.removeprefix('sha256:')}/data")
        path.unlink()

    def record(self, namespace: str, digest: str) -> None:
        """A revision record that names the artifact."""
        self.cache.put(
            {
                "kind": "ControllerRevision",
                "metadata": {"namespace": namespace, "name": f"r-{digest[-6:]}", "uid": digest, "resourceVersion": "5"},
                "data": {"facts": {"artifact": {"manifest": digest}}},
            }
        )

    def put(self, kind: str, namespace: str, version: int, **content: Any) -> None:
        """An object of a preparation."""
        metadata = {
            "namespace": namespace,
            "name": "digits-prepare",
            "uid": f"{namespace}-{kind}",
            "resourceVersion": str(version),
            "labels": {COMPONENT_LABEL: "prepare"},
            "ownerReferences": [{"kind": "Job", "uid": f"{namespace}-Job"}],
        }
        self.cache.put({"kind": kind, "metadata": metadata, **content})

    def collector(self, *watched: str) -> ArtifactCollector:
        return ArtifactCollector(self.cache, _Key(self.key), f"http://{self.host}", lambda: self.now, watched)


def _now() -> int:
    return int(time.time())


class _Key:
    """The part of RegistryCredentials that the collector needs, with tokens of the real present."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    async def load_key(self) -> "_Key":
        return self

    def token(self, subject: str, access: list[Access], _moment: int, lifetime: int) -> str:
        return self._key.token(subject, access, _now(), lifetime)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    key = SigningKey.generate()
    folder: Path = tmp_path_factory.mktemp("store")
    with running_registry(folder, key.jwks()) as host:
        yield Store(host, key, folder)


@pytest.mark.parametrize(
    ("opened", "actions", "asked"),
    [("vision", ("pull",), "audio"), ("models/digits", ("pull",), "models/other"), ("vision", (), "vision")],
)
def test_a_token_opens_no_other_repository(store, opened, actions, asked):
    digest = store.push(asked, b"private")
    with pytest.raises(Refused) as refused:
        store.registry(opened, *actions).manifest(asked, digest)
    assert refused.value.status in (401, 403)


def test_a_token_to_pull_cannot_push(store):
    with pytest.raises(Refused):
        store.registry("vision", "pull").upload("vision", f"sha256:{'0' * 64}", 1, lambda: [b"x"])


def test_a_key_that_the_registry_does_not_know_opens_nothing(store):
    digest = store.push("vision", b"mine")
    with pytest.raises(Refused):
        Store(store.host, SigningKey.generate()).registry("vision", "pull").manifest("vision", digest)


async def test_the_collector_takes_what_no_record_names_for_an_hour_and_nothing_else(store):
    kept, dropped = store.push("gc", b"kept"), store.push("gc", b"dropped")
    shared = store.push("models/digits", b"a person's")
    store.record("gc", kept)
    store.record("other-namespace", dropped)
    collector = store.collector()
    await collector.collect()
    store.now += HOUR / 2
    assert await collector.collect() == 0
    assert store.holds("gc", dropped)
    store.now += HOUR
    assert await collector.collect() >= 1
    assert (store.holds("gc", kept), store.holds("gc", dropped)) == (True, False)
    assert store.holds("models/digits", shared)


async def test_of_more_repositories_than_a_page_of_the_catalogue_has_the_last_is_looked_over_too(store, monkeypatch):
    monkeypatch.setattr(garbage, "_PAGE", 1)
    dropped = [store.push(namespace, b"on a page of its own") for namespace in ("page-a", "page-b", "page-c")]
    collector = store.collector("page-a", "page-b", "page-c")
    await collector.collect()
    store.now += HOUR
    assert await collector.collect() == len(dropped)


async def test_a_tag_whose_manifest_is_lost_keeps_nothing_else_from_being_collected(store):
    lost, dropped = store.push("damaged", b"lost"), store.push("damaged", b"dropped")
    after = store.push("damaged-too", b"dropped")
    store.lose(lost)
    collector = store.collector("damaged", "damaged-too")
    await collector.collect()
    store.now += HOUR
    assert await collector.collect() >= 2
    assert not store.holds("damaged", dropped)
    assert not store.holds("damaged-too", after)


async def test_an_artifact_that_is_named_again_in_time_stays(store):
    digest = store.push("gc2", b"restored")
    collector = store.collector()
    await collector.collect()
    store.record("gc2", digest)
    store.now += 2 * HOUR
    await collector.collect()
    assert store.holds("gc2", digest)


async def test_a_restarted_operator_begins_the_hour_anew(store):
    digest = store.push("gc3", b"young")
    await store.collector().collect()
    store.now += 2 * HOUR
    await store.collector().collect()
    assert store.holds("gc3", digest)


async def test_of_a_namespace_that_is_not_watched_nothing_is_taken(store):
    digest = store.push("gc4", b"unseen")
    collector = store.collector("gc5")
    await collector.collect()
    store.now += 2 * HOUR
    await collector.collect()
    assert store.holds("gc4", digest)


async def test_what_was_removed_and_comes_back_has_its_hour_again(store):
    """A report stands under several tags."""
    digest = store.push("gc6", b"twice")
    manifest = store.registry("gc6", "pull").manifest("gc6", digest).body
    store.registry("gc6", "pull", "push").put_manifest("gc6", "result-1", manifest, MANIFEST_TYPE)
    collector = store.collector("gc6")
    await collector.collect()
    store.now += HOUR
    assert await collector.collect() == 1
    store.now += 2 * HOUR
    await collector.collect()
    assert store.push("gc6", b"twice") == digest
    assert await collector.collect() == 0
    assert store.holds("gc6", digest)


async def test_what_a_preparation_has_found_again_stays(store):
    """Content that nobody names any more is not sent again: it is about to be named."""
    found, other = store.push("gc7", b"known"), store.push("gc7", b"unknown")
    collector = store.collector("gc7")
    await collector.collect()
    store.now += HOUR
    store.put("Job", "gc7", version=5)
    assert await collector.collect() == 0, "nobody can say yet what it will name"
    ended = {"conditions": [{"type": "Complete", "status": "True"}]}
    store.put("Job", "gc7", version=6, status=ended)
    artifact = ArtifactRef(repository="store/gc7", manifest=found, layer=found, size_bytes=5)
    report = PreparationReport(facts=facts(artifact=artifact)).encode()
    terminated = {"name": "transfer", "state": {"terminated": {"exitCode": 0, "message": report}}}
    store.put("Pod", "gc7", version=7, status={"containerStatuses": [terminated]})
    assert await collector.collect() == 1
    assert (store.holds("gc7", found), store.holds("gc7", other)) == (True, False)
