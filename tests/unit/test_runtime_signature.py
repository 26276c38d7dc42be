"""Signatures of both kinds over both kinds of content; one changed byte is enough."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content, folder_digest, store, sums_text
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature, load_public_key, verify
from penstock_runtime.sources import Signed

PLACE = "Secret model-signing, key pub.pem"


class Signer:
    def __init__(self, kind: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1()) if kind == "P-256" else ed25519.Ed25519PrivateKey.generate()

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        return self.key.sign(data, ec.ECDSA(SHA256()))

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(params=["P-256", "Ed25519"])
def signer(request: pytest.FixtureRequest) -> Signer:
    return Signer(request.param)


def single(folder: Path, data: bytes = b"model") -> Content:
    file = store([data], folder, "model.onnx", Budget(1000))
    return Content(folder, (file,), f"sha256:{file.sha256}")


def folder_of(folder: Path, second: bytes = b"b") -> Content:
    files = tuple(store([data], folder, name, Budget(1000)) for name, data in (("1/a", b"a"), ("1/b", second)))
    return Content(folder, files, folder_digest(files))


def refusal(content: Content, signed: Signed, signer: Signer) -> Reason | None:
    try:
        verify(content, signed, load_public_key(signer.pem, PLACE), PLACE)
    except Failure as failure:
        return failure.reason
    return None


def test_detached_over_a_file(tmp_path: Path, signer: Signer) -> None:
    signed = Signed("x.sig", ((signer.sign(b"model"), b""),))
    assert refusal(single(tmp_path / "good"), signed, signer) is None
    assert refusal(single(tmp_path / "changed", b"modem"), signed, signer) is Reason.SIGNATURE_INVALID


def test_detached_over_an_archive_is_of_the_archive(tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "m.tar").write_bytes(b"packed")
    file = store([b"model"], tmp_path, "model.onnx", Budget(1000))
    content = Content(tmp_path, (file,), f"sha256:{hashlib.sha256(b'packed').hexdigest()}", tmp_path / "m.tar")
    assert refusal(content, Signed("", ((signer.sign(b"packed"), b""),)), signer) is None
    assert refusal(content, Signed("", ((signer.sign(b"model"), b""),)), signer) is Reason.SIGNATURE_INVALID


def test_detached_over_a_folder_is_of_its_sums(tmp_path: Path, signer: Signer) -> None:
    content = folder_of(tmp_path / "good")
    signed = Signed("x.sig", ((signer.sign(sums_text(content.files)), b""),))
    assert refusal(content, signed, signer) is None
    assert refusal(folder_of(tmp_path / "changed", b"c"), signed, signer) is Reason.SIGNATURE_INVALID


def payload_for(digest: str) -> bytes:
    return json.dumps({"critical": {"image": {"docker-manifest-digest": digest}}}).encode()


def test_cosign_payload_must_name_this_manifest(tmp_path: Path, signer: Signer) -> None:
    content = Content(tmp_path, (), "sha256:" + "1" * 64)
    good, other = payload_for(content.digest), payload_for("sha256:" + "2" * 64)
    garbage = b"[]"
    for payload, expected in ((good, None), (other, Reason.SIGNATURE_INVALID), (garbage, Reason.SIGNATURE_INVALID)):
        assert refusal(content, Signed("t", ((signer.sign(payload), payload),)), signer) is expected
    several = Signed("t", ((signer.sign(other), other), (b"nonsense", good), (signer.sign(good), good)))
    assert refusal(content, several, signer) is None


def test_another_key(tmp_path: Path, signer: Signer) -> None:
    other = Signer("P-256")
    for content, payload in ((single(tmp_path), b""), (Content(tmp_path, (), "sha256:1"), payload_for("sha256:1"))):
        signed = Signed("x", ((other.sign(payload or b"model"), payload),))
        assert refusal(content, signed, signer) is Reason.SIGNATURE_INVALID


def test_no_signature_at_all(tmp_path: Path, signer: Signer) -> None:
    assert refusal(single(tmp_path), Signed("https://host/m.onnx.sig"), signer) is Reason.SIGNATURE_MISSING


def test_an_empty_file(tmp_path: Path, signer: Signer) -> None:
    assert refusal(single(tmp_path, b""), Signed("", ((signer.sign(b""), b""),)), signer) is None


def _public(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_keys_that_are_not_taken() -> None:
    for pem in (
        b"no key",
        _public(rsa.generate_private_key(65537, 2048)),
        _public(ec.generate_private_key(ec.SECP384R1())),
    ):
        with pytest.raises(Failure) as caught:
            load_public_key(pem, PLACE)
        assert caught.value.reason is Reason.SIGNATURE_INVALID
        assert "cosign" in caught.value.message


def test_signature_files_are_base64() -> None:
    assert decode_signature(base64.encodebytes(b"raw" * 40)) == b"raw" * 40
    with pytest.raises(ValueError, match="cosign sign-blob"):
        decode_signature(b"\x30\x45\x02")
