"""Publishing: the same content gives the same digests, and only verified bytes become a blob."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from email.message import Message
from io import BytesIO
from pathlib import Path

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content, folder_digest, store
from penstock_runtime.failure import Failure
from penstock_runtime.meeting import Meeting
from penstock_runtime.mounts import Places
from penstock_runtime.publish import Layout, publish
from penstock_runtime.reach import Reach
from penstock_runtime.registry import Manifest, Refused, Registry, parse_reference
from penstock_runtime.transfer import Transfer
from penstock_runtime.web import Answer, Body, Unreachable, Web

REPOSITORY = "registry.penstock-system:5000/vision"


class FakeRegistry:
    """What publish() uses of a registry, in memory; digests are checked as a real one does."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}
        self.uploads = 0

    def has_blob(self, repository: str, digest: str) -> bool:
        assert repository == "vision"
        return digest in self.blobs

    def upload(self, repository: str, digest: str, size: int, body) -> None:
        data = b"".join(body())
        assert len(data) == size
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        self.blobs[digest] = data
        self.uploads += 1

    def put_manifest(self, repository: str, version: str, body: bytes, media_type: str) -> None:
        self.tags[version] = self.tags[f"sha256:{hashlib.sha256(body).hexdigest()}"] = body

    def manifest(self, repository: str, version: str) -> Manifest:
        return Manifest(self.tags[version], f"sha256:{hashlib.sha256(self.tags[version]).hexdigest()}")


def content_of(folder: Path, files: Iterable[tuple[str, bytes]]) -> Content:
    stored = tuple(store([data], folder, path, Budget(1 << 20)) for path, data in files)
    return Content(folder, stored, folder_digest(stored))


FILES = (("net.onnx", b"graph"), ("w.bin", b"\0" * 1000), ("notes.txt", b"not served"))
LAYOUT = Layout({"model.onnx": "net.onnx", "w.bin": "w.bin"})


def test_the_same_content_gives_the_same_manifest_and_is_sent_once(tmp_path: Path) -> None:
    registry = FakeRegistry()
    first = publish(content_of(tmp_path / "a", FILES), LAYOUT, REPOSITORY, registry)
    uploads = registry.uploads
    backwards = Layout(dict(reversed(LAYOUT.files.items())))
    second = publish(content_of(tmp_path / "b", reversed(FILES)), backwards, REPOSITORY, registry)
    assert first == second
    assert registry.uploads == uploads == 2
    lost = FakeRegistry()
    assert publish(content_of(tmp_path / "c", FILES), LAYOUT, REPOSITORY, lost) == first


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    registry = FakeRegistry()
    artifact = publish(content_of(tmp_path, FILES), LAYOUT, REPOSITORY, registry)
    manifest = json.loads(registry.tags[artifact.manifest])
    assert manifest["artifactType"] == "application/vnd.penstock.model.v1"
    assert [(layer["digest"], layer["size"]) for layer in manifest["layers"]] == [(artifact.layer, artifact.size_bytes)]
    assert registry.blobs[manifest["config"]["digest"]] == b"{}"
    assert registry.tags[f"sha256-{artifact.layer[7:39]}"] == registry.tags[artifact.manifest]
    assert parse_reference(artifact.repository).repository == "vision"


def _truncate(path: Path) -> None:
    path.write_bytes(b"gra")


def _change(path: Path) -> None:
    path.write_bytes(b"grapH")


def _grow(path: Path) -> None:
    path.write_bytes(b"graph and more")


def _link(path: Path) -> None:
    (path.parent / "token").write_bytes(b"graph")
    path.unlink()
    path.symlink_to(path.parent / "token")


@pytest.mark.parametrize("tamper", [_truncate, _change, _grow, _link, Path.unlink])
def test_bytes_that_changed_after_verification_are_never_published(tmp_path: Path, tamper) -> None:
    registry = FakeRegistry()
    content = content_of(tmp_path, FILES)
    tamper(tmp_path / "net.onnx")
    with pytest.raises(Failure) as caught:
        publish(content, LAYOUT, REPOSITORY, registry)
    assert caught.value.reason is Reason.PREPARATION_FAILED
    assert not registry.blobs


@pytest.mark.parametrize(
    "layout",
    [
        Layout({"model.onnx": "/etc/penstock/registry/token"}),
        Layout({"model.onnx": "../token"}),
        Layout({"../model.onnx": "net.onnx"}),
        Layout({"model.onnx": "net.onnx"}, ("../x",)),
        Layout({}),
    ],
)
def test_a_layout_is_only_data(tmp_path: Path, layout: Layout) -> None:
    registry = FakeRegistry()
    with pytest.raises(Failure):
        publish(content_of(tmp_path, FILES), layout, REPOSITORY, registry)
    assert not registry.blobs


@pytest.mark.parametrize("error", [Refused(507, "upload"), Unreachable("refused")])
def test_a_store_that_fails(tmp_path: Path, error: Exception) -> None:
    class Broken(FakeRegistry):
        def has_blob(self, repository: str, digest: str) -> bool:
            raise error

    with pytest.raises(Failure) as caught:
        publish(content_of(tmp_path, FILES), LAYOUT, REPOSITORY, Broken())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


class ReplacedStore(Web):
    """A registry that an upgrade replaces: away for so many seconds, and what it had half of is forgotten then."""

    def __init__(self, away: float, lost: int = 404) -> None:
        super().__init__((), pauses=(), sleep=self.pause)
        self.away, self.lost, self.waits, self.sent = away, lost, list[float](), list[str]()

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, furthest: Reach) -> Answer:
        self.sent.append(f"{method} {url.partition('/v2')[2]}")
        first_put = method == "PUT" and len([line for line in self.sent if line.startswith("PUT")]) == 1
        if first_put or (sum(self.waits) < self.away and method != "POST"):
            raise Unreachable("connection refused")
        status = {"POST": 202, "PUT": self.lost if self.sent.count(self.sent[-1]) > 1 else 201}.get(method, 200)
        where = Message()
        where["Location"] = f"/v2/vision/blobs/uploads/{len(self.sent)}"
        return Answer(status, where, url, BytesIO(b"{}"), Reach.LOOPBACK)  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", [404, 416])
def test_a_store_that_is_replaced_while_an_upload_runs_gets_it_again(tmp_path: Path, lost: int) -> None:
    """What took an hour to make is not thrown away for a minute without a store."""
    web = ReplacedStore(60, lost)
    registry = store_registry(tmp_path, web)
    registry.upload("vision", "sha256:1", 5, lambda: [b"bytes"])
    kinds = [line.partition(" ")[0] for line in web.sent]
    assert (kinds[:2], kinds[-2:], kinds.count("POST")) == (["POST", "PUT"], ["POST", "PUT"], 2)


def test_a_store_that_stays_away_is_named(tmp_path: Path) -> None:
    web = ReplacedStore(10_000)
    with pytest.raises(Unreachable, match="connection refused"):
        store_registry(tmp_path, web).has_blob("vision", "sha256:1")
    assert 120 <= sum(web.waits) <= 150


def test_an_upload_that_is_refused_is_not_begun_again(tmp_path: Path) -> None:
    web = ReplacedStore(0, lost=403)
    with pytest.raises(Refused, match="403"):
        store_registry(tmp_path, web).upload("vision", "sha256:1", 5, lambda: [b"bytes"])
    assert [line.partition(" ")[0] for line in web.sent].count("POST") == 1


def store_registry(tmp_path: Path, web: Web) -> Registry:
    """As a preparation has it."""
    request = {"uri": "https://example.org/m", "repository": REPOSITORY, "maxBytes": 1}
    places = Places.below(tmp_path)
    places.work.mkdir(parents=True)
    meeting = Meeting(places.work, "transfer", "inspect")
    return Transfer.read({"PENSTOCK_REQUEST": json.dumps(request)}, places, meeting, web)._registry
