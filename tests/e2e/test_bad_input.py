"""What a cluster or an artifact can get wrong: a reason and a sentence each, and the serving revision never notices."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.archives import packed

from .chart import FILES, LARGEST_MODEL
from .cluster import apply, find, wait_gone
from .deployments import Deployed, condition, restarts
from .disturb import wait_until
from .fileserver import offer_files
from .models import Model, linear_model, newer_model, one_byte_changed, truncated_model
from .store import SigningKey, Store

GOOD, OTHER = linear_model(1), linear_model(2)
PULLED = "penstock-e2e.invalid/triton:none"


@dataclass(frozen=True)
class World:
    """Names that the table's rows are filled with."""

    store: Store
    host: str
    key: SigningKey
    stranger: SigningKey

    def oci(self, tag: str) -> str:
        return self.store.uri(tag)

    def web(self, path: str) -> str:
        return f"https://{self.host}/{path}"


@dataclass(frozen=True)
class Bad:
    """One row: what is asked for, and what status must say."""

    uri: str
    """A tag of the store, or a path of the web server when it begins with a slash."""
    reason: str
    words: str
    model: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    stalled: bool = True


SIGNED = {"signature": {"keySecretRef": {"name": "signing", "key": "cosign.pub"}}}
MISSING_KEY = {"signature": {"keySecretRef": {"name": "nobody", "key": "cosign.pub"}}}
S3 = {"credentialsSecretRef": {"name": "bucket"}}
STRANGER = {"credentialsSecretRef": {"name": "stranger"}}
REPOSITORY = {"format": "TritonRepository"}
LITTLE = {"prepare": {"resources": {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}}}
MUCH = {"server": {"resources": {"requests": {"cpu": "6"}, "limits": {"cpu": "6"}}}}

BEFORE_SERVING = {
    "wrong digest": Bad("other", "DigestMismatch", "asks for sha256:00", {"digest": f"sha256:{'0' * 64}"}),
    "no signature": Bad("unsigned", "SignatureMissing", "sign the model", SIGNED),
    "signed by a stranger": Bad("stranger", "SignatureInvalid", "another key", SIGNED),
    "signature of other content": Bad("moved", "SignatureInvalid", "it was made for sha256:", SIGNED),
    "one byte changed after signing": Bad("/changed.onnx", "SignatureInvalid", "other bytes", SIGNED),
    "no such signing key": Bad("signed", "SecretMissing", "nobody", MISSING_KEY),
    "no such credentials": Bad("other", "SecretMissing", "Secret absent", {"credentialsSecretRef": {"name": "absent"}}),
    "no such tag": Bad("absent", "SourceNotFound", "models/e2e:absent"),
    "no such file": Bad("/absent.onnx", "SourceNotFound", "status 404"),
    "no such object": Bad("s3://bucket/absent", "SourceNotFound", "s3://bucket/absent", S3),
    "a bucket that is not ours": Bad("s3://bucket/other.onnx", "SourceDenied", "refused", STRANGER),
    "no such host": Bad("https://nowhere.e2e-files.svc/x.onnx", "SourceUnavailable", "nowhere.e2e-files.svc"),
    "a download that breaks off": Bad("/short", "SourceTruncated", "bytes"),
    "half an ONNX file": Bad("truncated", "InvalidModel", "model.onnx"),
    "not a model": Bad("text", "UnknownFormat", "ONNX"),
    "an opset of the future": Bad("newer", "UnsupportedOpset", "999"),
    "Python without trust": Bad("python", "CodeNotTrusted", "trust: Code"),
    "2 GiB where less is allowed": Bad("/huge", "TooLarge", str(LARGEST_MODEL)),
    "2 GiB that nobody announced": Bad("/endless", "TooLarge", str(LARGEST_MODEL)),
    "more memory than there is": Bad("large", "PreparationOutOfMemory", "prepare.resources.limits.memory", {}, LITTLE),
    "a configuration that cannot be": Bad(
        "other", "InvalidConfig", "spec.server.config", {}, {"server": {"config": {"backend": "python"}}}
    ),
}
"""Nothing of these ever reaches a serving pod."""

WHILE_STARTING = {
    "Triton cannot load it": Bad("/unloadable.tar", "LoadFailed", "absent", REPOSITORY),
    "no such image": Bad("other", "ImageUnavailable", PULLED, {}, {"server": {"image": PULLED}}, stalled=False),
    "more than the quota": Bad("other", "QuotaExceeded", "exceeded quota", {}, MUCH, stalled=False),
}
"""These fail as pods, beside those that serve."""


@pytest.fixture(scope="module")
def world(cluster, namespace, store, files) -> World:
    """Every artifact, file and Secret that the rows name."""
    world = World(store, files, SigningKey(), SigningKey())
    for tag, model in {
        "good": GOOD,
        "other": OTHER,
        "unsigned": linear_model(3),
        "truncated": truncated_model(),
        "newer": newer_model(),
        "large": linear_model(8, padding=64 * 2**20),
    }.items():
        store.push(model, tag)
    store.push_files({"notes.txt": b"this is no model"}, "text")
    store.push_files(_python_repository(), "python")
    signed = store.push_files({"model.onnx": linear_model(4).data}, "signed")
    store.sign(signed, world.key)
    store.sign(store.push_files({"model.onnx": linear_model(5).data}, "stranger"), world.stranger)
    store.sign(store.push_files({"model.onnx": linear_model(6).data}, "moved"), world.key, named=signed)
    offer_files(cluster, FILES, _files(world.key))
    bucket = {"AWS_SECRET_ACCESS_KEY": "e2e-secret", "AWS_ENDPOINT_URL_S3": f"http://{files}"}
    secrets = {
        "signing": {"cosign.pub": world.key.public_pem},
        "bucket": {"AWS_ACCESS_KEY_ID": "e2e-key", **bucket},
        "stranger": {"AWS_ACCESS_KEY_ID": "nobody", **bucket},
    }
    for name, data in secrets.items():
        metadata = {"name": name, "namespace": namespace}
        apply(cluster, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
    return world


def _files(key: SigningKey) -> dict[str, bytes]:
    model = linear_model(7)
    return {
        "other.onnx": OTHER.data,
        "signed.onnx": model.data,
        "signed.onnx.sig": key.sign(model.data).encode(),
        "changed.onnx": one_byte_changed(model).data,
        "changed.onnx.sig": key.sign(model.data).encode(),
        "repository.tar": packed({"linear/1/model.onnx": OTHER.data, "linear/config.pbtxt": CONFIG}),
        "unloadable.tar": packed({"steady/1/model.onnx": OTHER.data, "steady/config.pbtxt": UNLOADABLE}),
    }


CONFIG = b"""name: "linear"
backend: "onnxruntime"
max_batch_size: 0
input { name: "features" data_type: TYPE_FP32 dims: -1 dims: 8 }
output { name: "scores" data_type: TYPE_FP32 dims: -1 dims: 3 }
"""


UNLOADABLE = CONFIG.replace(b"linear", b"steady").replace(b"scores", b"absent")


def _python_repository() -> dict[str, bytes]:
    return {
        "echo/config.pbtxt": b'name: "echo"\nbackend: "python"\nmax_batch_size: 0\n'
        b'input { name: "x" data_type: TYPE_FP32 dims: 1 }\noutput { name: "y" data_type: TYPE_FP32 dims: 1 }\n',
        "echo/1/model.py": b"import os\n",
    }


@pytest.fixture(scope="module")
def steady(cluster, namespace, world) -> Deployed:
    """What serves while all of it goes wrong."""
    deployed = Deployed(cluster, namespace, "steady")
    deployed.apply(world.oci("good"))
    deployed.wait_ready()
    deployed.wait_answers_as(GOOD)
    return deployed


def ask_for(deployed: Deployed, world: World, bad: Bad) -> dict[str, Any]:
    """Apply a row; the status that answers it."""
    uri = bad.uri if "://" in bad.uri else world.web(bad.uri[1:]) if bad.uri.startswith("/") else world.oci(bad.uri)
    deployed.apply(uri, bad.model, **bad.spec)
    return deployed.wait_reason(bad.reason, 180)


def check_told(found: dict[str, Any], bad: Bad) -> None:
    told = condition(found, "Stalled" if bad.stalled else "Reconciling")
    assert told["status"] == "True"
    assert told["reason"] == bad.reason
    assert bad.words in told["message"]
    assert len(told["message"]) > 20, "a sentence, not a word"
    assert bool(condition(found, "Stalled")) == bad.stalled
    assert condition(found, "Available")["status"] == "True"


@pytest.mark.parametrize("name", BEFORE_SERVING)
def test_refused_before_anything_starts(name, steady, world):
    bad = BEFORE_SERVING[name]
    pods = steady.serving_pods()

    found = ask_for(steady, world, bad)

    check_told(found, bad)
    assert steady.serving_pods() == pods, "the stable revision's pods are the same, none restarted"
    assert steady.answers_as(GOOD)
    for pod in steady.owned("pods"):
        assert pod["status"].get("reason") != "Evicted"
        assert restarts(pod) == 0


@pytest.mark.parametrize("name", WHILE_STARTING)
def test_refused_while_its_pods_start(name, steady, world):
    bad = WHILE_STARTING[name]
    stable = steady.get()["status"]["stable"]["revision"]
    pods = {pod["metadata"]["uid"] for pod in steady.owned("pods") if is_of(pod, stable)}

    found = ask_for(steady, world, bad)

    check_told(found, bad)
    assert steady.answers_as(GOOD)
    assert found["status"]["stable"]["revision"] == stable
    alive = {pod["metadata"]["uid"]: restarts(pod) for pod in steady.owned("pods") if is_of(pod, stable)}
    assert alive == dict.fromkeys(pods, 0)
    assert max(map(restarts, steady.owned("pods"))) <= 2
    if bad.stalled:
        assert found["status"]["failedRevision"]["reason"] == bad.reason
        wait_until(
            lambda: {item["metadata"]["name"] for item in steady.owned("deployments")} == {stable},
            "the revision that cannot serve takes no room",
        )


def is_of(pod, revision):
    return pod["metadata"]["labels"].get("penstock.dev/revision") == revision


def test_the_good_spec_again_and_all_is_as_it_was(steady, world):
    pods, jobs = steady.serving_pods(), steady.jobs()

    steady.apply(world.oci("good"))
    found = steady.wait_ready()

    assert steady.jobs() == jobs
    assert steady.serving_pods().items() <= pods.items(), "the same pods, none restarted"
    assert found["status"].get("failedRevision") is None
    assert steady.answers_as(GOOD)


def test_a_foreign_object_of_its_name_is_left_alone(cluster, namespace, deploy, world):
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "namespace": namespace},
        "spec": {"ports": [{"port": 80}]},
    }
    apply(cluster, foreign)
    before = find(cluster, "service", "taken", "-n", namespace)
    taken = deploy("taken")
    taken.apply(world.oci("good"))

    found = taken.wait_reason("NameTaken")

    assert "Service" in condition(found, "Stalled")["message"]
    assert "taken" in condition(found, "Stalled")["message"]
    assert find(cluster, "service", "taken", "-n", namespace) == before

    cluster.call(cluster.kubectl, "delete", "service", "taken", "-n", namespace)
    taken.wait(lambda md: condition(md, "Ready").get("status") == "True", 180)


def test_a_secret_that_comes_later_is_found(cluster, namespace, deploy, world, files):
    late = deploy("late")
    late.apply("s3://bucket/other.onnx", {"credentialsSecretRef": {"name": "late"}})
    late.wait_reason("SecretMissing")
    found = find(cluster, "secret", "bucket", "-n", namespace)
    metadata = {"name": "late", "namespace": namespace}

    apply(cluster, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": found["data"]})

    late.wait(lambda md: condition(md, "Ready").get("status") == "True", 180)
    late.wait_answers_as(OTHER)


SOURCES = {
    "https": ("/other.onnx", {}),
    "https, signed": ("/signed.onnx", SIGNED),
    "oci, signed": ("signed", SIGNED),
    "s3": ("s3://bucket/other.onnx", S3),
}
MODELS: dict[str, Model] = {"/signed.onnx": linear_model(7), "signed": linear_model(4)}


@pytest.mark.parametrize("name", SOURCES)
def test_and_what_is_right_is_served_from_every_source(name, deploy, world):
    uri, model = SOURCES[name]
    served = deploy("served")
    served.apply(uri if "://" in uri else world.web(uri[1:]) if uri.startswith("/") else world.oci(uri), model)

    served.wait_ready()

    served.wait_answers_as(MODELS.get(uri, OTHER))


def test_a_ready_repository_is_served_as_it_is(deploy, world):
    linear = deploy("linear")
    linear.apply(world.web("repository.tar"), {"format": "TritonRepository"})

    linear.wait_ready()

    linear.wait_answers_as(OTHER)


def test_a_first_revision_that_cannot_serve_leaves_no_pods_behind(cluster, namespace, deploy, world):
    first = deploy("unloadable")
    first.apply(world.web("unloadable.tar"), {"format": "TritonRepository", "servedName": "steady"})

    found = first.wait_reason("LoadFailed", 180)

    assert condition(found, "Stalled")["status"] == "True"
    assert condition(found, "Available")["status"] == "False"
    assert "stable" not in found["status"]
    labels = "penstock.dev/deployment=unloadable"
    wait_gone(
        cluster, "deployments,poddisruptionbudgets,pods", namespace, f"{labels},app.kubernetes.io/component=server"
    )

    first.apply(world.oci("good"))
    first.wait(lambda md: condition(md, "Ready").get("status") == "True", 180)
    first.wait_answers_as(GOOD)
