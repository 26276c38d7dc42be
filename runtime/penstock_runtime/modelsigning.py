"""The OpenSSF's model signature: `model.sig` in the model's folder, one signed statement over every file.

A sigstore bundle around a DSSE envelope around an in-toto statement; read here because the reference library takes 1.5
seconds and 30 packages to import. By a key pair alone: certificates and keyless signatures need a root of trust.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from penstock.api.reasons import Reason

from .content import Content, StoredFile, read_regular
from .failure import Failure

__all__ = ["verify_bundle"]

_BUNDLE = "model.sig"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_LARGEST_BUNDLE = 16 << 20
_UNSIGNED = (".git", ".gitattributes", ".github", ".gitignore")
"""What signers leave out by default; no model reads them."""
_HASHES = ("sha256", "blake2b")


@dataclass(frozen=True)
class _Piece:
    """A file, or the part of one from `start` to `end`, that a statement has a digest of."""

    path: str
    digest: str
    algorithm: str
    start: int = 0
    end: int | None = None


def verify_bundle(content: Content, pem: bytes, place: str) -> None:
    """Check that the content carries a bundle by this key over exactly its files; raises Failure that names the file.

    `place` is where the key is, in words.
    """
    bundle = _find_bundle(content)
    folder = str(PurePosixPath(bundle.path).parent)
    prefix = "" if folder == "." else f"{folder}/"
    try:
        text = b"".join(read_regular(content.root / bundle.path))
        pieces = _pieces(_signed_statement(json.loads(text), pem, bundle.path, place), prefix, content, bundle)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        message = f"{bundle.path} is no bundle of `model_signing sign key`: {error}"
        raise Failure(Reason.SIGNATURE_INVALID, message) from error
    _check_pieces(content, pieces, prefix, bundle.path)


def _find_bundle(content: Content) -> StoredFile:
    found = [file for file in content.files if PurePosixPath(file.path).name == _BUNDLE]
    if len(found) == 1 and found[0].size <= _LARGEST_BUNDLE:
        return found[0]
    seen = f"{len(found)} of them" if len(found) > 1 else "none, or one too large"
    message = f"spec.model.signature asks for one {_BUNDLE} in the model's folder, there is {seen}"
    raise Failure(
        Reason.SIGNATURE_MISSING, f"{message}; sign with: model_signing sign key --signature DIR/{_BUNDLE} DIR"
    )


def _signed_statement(bundle: Mapping[str, Any], pem: bytes, path: str, place: str) -> Mapping[str, Any]:
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind = str(envelope["payloadType"])
    if kind != _PAYLOAD_TYPE:
        raise ValueError(f"its payload is {kind!r}")
    signed = b" ".join((b"DSSEv1", *_counted(kind.encode()), *_counted(payload)))
    key = _load_key(pem, place)
    signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
    if not any(_is_by(key, signature, signed) for signature in signatures):
        message = f"{path} is not signed by the key of {place}, or was changed after it was signed"
        raise Failure(Reason.SIGNATURE_INVALID, message)
    statement = json.loads(payload)
    if statement["_type"] != _STATEMENT_TYPE or statement["predicateType"] != _PREDICATE_TYPE:
        raise ValueError(f"it states {statement['predicateType']!r}, not {_PREDICATE_TYPE!r}")
    _check_root(statement)
    checked: Mapping[str, Any] = statement["predicate"]
    return checked


def _counted(data: bytes) -> tuple[bytes, bytes]:
    return str(len(data)).encode(), data


def _check_root(statement: Mapping[str, Any]) -> None:
    (subject,) = statement["subject"]
    root = hashlib.sha256()
    for resource in statement["predicate"]["resources"]:
        root.update(bytes.fromhex(resource["digest"]))
    if root.hexdigest() != subject["digest"]["sha256"]:
        raise ValueError("its digests do not add up to its subject's")


def _pieces(predicate: Mapping[str, Any], prefix: str, content: Content, bundle: StoredFile) -> list[_Piece]:
    method = predicate["serialization"]["method"]
    if method not in ("files", "shards"):
        raise ValueError(f"it serializes by {method!r}; files and shards are known")
    found = [_piece(resource, prefix, sharded=method == "shards") for resource in predicate["resources"]]
    if [piece.path for piece in found] == [f"{prefix}."]:
        others = [file.path for file in content.files if file is not bundle]
        found = [_Piece(others[0], found[0].digest, found[0].algorithm)] if len(others) == 1 else found
    return found


def _piece(resource: Mapping[str, Any], prefix: str, *, sharded: bool) -> _Piece:
    name, algorithm, digest = str(resource["name"]), str(resource["algorithm"]), str(resource["digest"])
    algorithm = algorithm.partition("-sharded-")[0]
    if algorithm not in _HASHES:
        raise ValueError(f"it hashes by {algorithm!r}; {' and '.join(_HASHES)} are known")
    if not sharded:
        return _Piece(f"{prefix}{name}", digest, algorithm)
    path, start, end = name.rsplit(":", 2)
    return _Piece(f"{prefix}{path}", digest, algorithm, int(start), int(end))


def _check_pieces(content: Content, pieces: list[_Piece], prefix: str, bundle: str) -> None:
    known = {file.path: file for file in content.files}
    parts: dict[str, list[_Piece]] = {}
    for piece in pieces:
        parts.setdefault(piece.path, []).append(piece)
    for path in sorted(parts.keys() - known.keys()):
        raise _tampered(path, "is signed, but is not there")
    sharded = any(piece.end is not None for piece in pieces)
    for path, file in sorted(known.items()):
        if sharded and not file.size:
            continue  # an empty file has no shards to be signed
        if path in parts:
            if not _holds(content, file, parts[path]):
                raise _tampered(path, f"has other bytes than the ones that {bundle} is of")
        elif path != bundle and not _is_left_out(path, prefix):
            raise _tampered(path, f"is not covered by {bundle}; sign the folder as it is, without --ignore-paths")


def _tampered(path: str, what: str) -> Failure:
    return Failure(Reason.SIGNATURE_INVALID, f"{path} {what}")


def _is_left_out(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path.removeprefix(prefix).partition("/")[0] in _UNSIGNED


def _holds(content: Content, file: StoredFile, pieces: list[_Piece]) -> bool:
    """Whether the pieces are all of the file, and its bytes have their digests."""
    if len(pieces) == 1 and pieces[0].end is None and pieces[0].algorithm == "sha256":
        return pieces[0].digest == file.sha256
    at = 0
    for piece in sorted(pieces, key=lambda piece: piece.start):
        end = file.size if piece.end is None else piece.end
        if piece.start != at or end > file.size:
            return False
        digest = hashlib.new(piece.algorithm)
        for chunk in _range(content, file, piece.start, end):
            digest.update(chunk)
        if digest.hexdigest() != piece.digest:
            return False
        at = end
    return at == file.size


def _range(content: Content, file: StoredFile, start: int, end: int) -> Iterator[bytes]:
    at = 0
    for chunk in read_regular(content.root / file.path):
        low, high = max(start - at, 0), min(end - at, len(chunk))
        if low < high:
            yield chunk[low:high]
        at += len(chunk)
        if at >= end:
            return


def _load_key(pem: bytes, place: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only where a signature is asked for
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{place} holds no PEM public key; put the one there that belongs to the signing key"
        raise Failure(Reason.SIGNATURE_INVALID, message) from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size in (256, 384, 521):
        return key
    message = f"{place} holds a key that is no ECDSA key over P-256, P-384 or P-521, which model signing is made with"
    raise Failure(Reason.SIGNATURE_INVALID, message)


def _is_by(key: Any, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    kind: Any = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[key.curve.key_size]
    try:
        key.verify(signature, data, ec.ECDSA(kind()))
    except InvalidSignature:
        return False
    return True
