"""Signatures by a key pair, as cosign makes them: ECDSA P-256 over SHA-256, or Ed25519.

Keyless signatures need a transparency log and are not verified here.
"""

import base64
import binascii
import hashlib
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.api.reasons import Reason

from .content import Content, sums_text
from .failure import Failure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from .sources import Signed

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey

__all__ = ["decode_signature", "load_public_key", "verify"]


def decode_signature(text: bytes) -> bytes:
    """The raw signature of a `.sig` file, which is base64; raises ValueError."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64 as `cosign sign-blob` writes it: {error}") from error


def load_public_key(pem: bytes, place: str) -> "PublicKey":
    """The key of a PEM file; raises Failure."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only where a signature is asked for
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{place} holds no PEM public key; put the cosign.pub of `cosign generate-key-pair` there"
        raise Failure(Reason.SIGNATURE_INVALID, message) from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    message = f"{place} holds a key that is neither ECDSA P-256 nor Ed25519; make one by `cosign generate-key-pair`"
    raise Failure(Reason.SIGNATURE_INVALID, message)


def verify(content: Content, signed: "Signed", key: "PublicKey", place: str) -> None:
    """Check that one signature is by the key and covers exactly this content; raises Failure."""
    if not signed.signatures:
        message = f"there is no signature at {signed.place}; sign the model, or drop spec.model.signature"
        raise Failure(Reason.SIGNATURE_MISSING, message)
    refusals = [_check(content, signature, payload, key) for signature, payload in signed.signatures]
    if None not in refusals:
        message = f"no signature at {signed.place} holds for {content.digest} under the key of {place}: {refusals[0]}"
        raise Failure(Reason.SIGNATURE_INVALID, message)


def _check(content: Content, signature: bytes, payload: bytes, key: "PublicKey") -> str | None:
    if not payload:
        return None if _covers_content(content, signature, key) else "it is of other bytes, or by another key"
    if not _is_by(key, signature, payload):
        return "it is by another key"
    named = _named_digest(payload)
    return None if named == content.digest else f"it was made for {named}"


def _named_digest(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["critical"]["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError):
        return "something that is not cosign's payload"


def _covers_content(content: Content, signature: bytes, key: "PublicKey") -> bool:
    single = content.archive
    if single is None and len(content.files) == 1 and content.digest == f"sha256:{content.files[0].sha256}":
        single = content.root / content.files[0].path
    if single is None:
        return _is_by(key, signature, sums_text(content.files))
    return _is_by_file(key, signature, single, content.digest)


def _is_by_file(key: "PublicKey", signature: bytes, path: Path, digest: str) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if isinstance(key, ec.EllipticCurvePublicKey):
        prehashed = ec.ECDSA(utils.Prehashed(SHA256()))
        return _verified(lambda: key.verify(signature, bytes.fromhex(digest.removeprefix("sha256:")), prehashed))
    with path.open("rb") as file:
        if not path.stat().st_size:
            return _is_by(key, signature, b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            return _is_by(key, signature, view)


def _is_by(key: "PublicKey", signature: bytes, data: bytes | memoryview) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if isinstance(key, ec.EllipticCurvePublicKey):
        hashed = hashlib.sha256(data).digest()
        return _verified(lambda: key.verify(signature, hashed, ec.ECDSA(utils.Prehashed(SHA256()))))
    return _verified(lambda: key.verify(signature, data))


def _verified(check: Callable[[], None]) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        check()
    except InvalidSignature:
        return False
    return True
