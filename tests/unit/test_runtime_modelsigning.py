"""Bundles that the reference signer (model-signing 1.1.1) made, over files that were or were not touched since.

They stand in tests/golden/modelsigning; its private keys are gone. To make them anew: `model_signing sign key` over a
folder of a.onnx ("hello\\n") and sub/b.data ("b\\n"), and over a.onnx alone.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.content import Content, StoredFile, folder_digest
from penstock_runtime.failure import Failure
from penstock_runtime.modelsigning import verify_bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "modelsigning"
FILES = {"a.onnx": b"hello\n", "sub/b.data": b"b\n"}
BUNDLES = ("files-sha256", "files-blake2", "shards-sha256", "shards-blake2")


def content_of(root: Path, files: dict[str, bytes], bundle: str | bytes = "files-sha256", below: str = "") -> Content:
    text = bundle if isinstance(bundle, bytes) else (GOLDEN / f"{bundle}.json").read_bytes()
    stored = []
    for name, data in {**files, "model.sig": text}.items():
        path = root / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        stored.append(StoredFile(f"{below}{name}", len(data), hashlib.sha256(data).hexdigest()))
    return Content(root, tuple(sorted(stored)), folder_digest(stored))


def refusal(content: Content, key: str = "p256") -> Failure | None:
    try:
        verify_bundle(content, (GOLDEN / f"{key}.pem").read_bytes(), "Secret signing, key pub.pem")
    except Failure as failure:
        return failure
    return None


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_was_signed(bundle: str, tmp_path: Path) -> None:
    assert refusal(content_of(tmp_path, FILES, bundle)) is None


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({**FILES, "a.onnx": b"hellp\n"}, "a.onnx"),
        ({**FILES, "a.onnx": b"hello\nx"}, "a.onnx"),
        ({**FILES, "a.onnx": b"hel"}, "a.onnx"),
        ({**FILES, "sub/b.data": b"c\n"}, "sub/b.data"),
        ({"a.onnx": FILES["a.onnx"]}, "sub/b.data"),
        ({**FILES, "sub/new.py": b"import os"}, "sub/new.py"),
        ({**FILES, "sub/.gitignore": b"x"}, "sub/.gitignore"),
    ],
)
def test_tampering_names_the_file(bundle: str, files: dict[str, bytes], named: str, tmp_path: Path) -> None:
    failure = refusal(content_of(tmp_path, files, bundle))
    assert failure is not None
    assert (failure.reason, failure.message.startswith(named)) == (Reason.SIGNATURE_INVALID, True)


def test_a_folder_inside_and_what_signers_leave_out(tmp_path: Path) -> None:
    assert refusal(content_of(tmp_path, {**FILES, ".gitattributes": b"*"}, below="digits/")) is None
    beside = content_of(tmp_path / "x", FILES, below="digits/")
    extra = StoredFile("outside.onnx", 0, hashlib.sha256(b"").hexdigest())
    failure = refusal(Content(beside.root, (*beside.files, extra), beside.digest))
    assert failure is not None
    assert failure.message.startswith("outside.onnx")


def test_other_keys(tmp_path: Path) -> None:
    assert refusal(content_of(tmp_path / "384", FILES, "files-p384"), "p384") is None
    failure = refusal(content_of(tmp_path / "256", FILES), "p384")
    assert failure is not None
    assert (failure.reason, "not signed by the key" in failure.message) == (Reason.SIGNATURE_INVALID, True)
    for pem in (b"no key", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(Failure) as caught:
            verify_bundle(content_of(tmp_path / "256", FILES), pem, "Secret s, key k")
        assert (caught.value.reason, "Secret s" in caught.value.message) == (Reason.SIGNATURE_INVALID, True)


def test_a_single_file(tmp_path: Path) -> None:
    assert refusal(content_of(tmp_path / "good", {"a.onnx": b"hello\n"}, "single")) is None
    assert refusal(content_of(tmp_path / "renamed", {"m.onnx": b"hello\n"}, "single")) is None
    assert refusal(content_of(tmp_path / "bad", {"a.onnx": b"hellp\n"}, "single")) is not None
    assert refusal(content_of(tmp_path / "more", FILES, "single")) is not None


def test_no_bundle_or_two(tmp_path: Path) -> None:
    content = content_of(tmp_path, FILES)
    without = tuple(file for file in content.files if file.path != "model.sig")
    twice = (*content.files, StoredFile("sub/model.sig", 1, "0" * 64))
    for files in (without, twice):
        failure = refusal(Content(tmp_path, files, content.digest))
        assert failure is not None
        assert failure.reason is Reason.SIGNATURE_MISSING


def edited(change: Any) -> bytes:
    bundle = json.loads((GOLDEN / "files-sha256.json").read_bytes())
    change(bundle)
    return json.dumps(bundle).encode()


def edit_payload(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).replace(b'"a.onnx"', b'"z.onnx"')
    envelope["payload"] = base64.b64encode(payload).decode()


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        edited(lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain")),
        edited(lambda bundle: bundle["dsseEnvelope"].update(payload="%%%")),
        edited(lambda bundle: bundle["dsseEnvelope"].update(signatures=[])),
        edited(lambda bundle: bundle["dsseEnvelope"].update(signatures=[{"sig": "AAAA"}])),
        edited(edit_payload),
    ],
)
def test_bundles_that_are_none_or_were_edited(bundle: bytes, tmp_path: Path) -> None:
    failure = refusal(content_of(tmp_path, FILES, bundle))
    assert failure is not None
    assert (failure.reason, "model.sig" in failure.message) == (Reason.SIGNATURE_INVALID, True)
