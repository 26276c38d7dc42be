"""`s3://bucket/key-or-prefix`: one object, an archive that is unpacked, or everything below a prefix."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError

from penstock.api.reasons import Reason
from penstock_runtime.content import CHUNK, Budget, Content, store
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature

from . import Context, Signed
from .files import SIGNATURE_LIMIT, finish_folder, store_single

__all__ = ["S3Source", "open_source"]

_MISSING = ("NoSuchKey", "NoSuchBucket", "404", "NotFound")
_DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401")
_CERTIFICATES = "penstock-s3-ca.pem"


def open_source(uri: str, context: Context) -> "S3Source":
    """The objects behind a URI; raises Failure."""
    parts = urlsplit(uri)
    if not parts.netloc:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no bucket; write s3://bucket/key")
    return S3Source(parts.netloc, parts.path.lstrip("/"), s3_client(context.secret))


def s3_client(secret: Mapping[str, str], timeout: float = 30) -> Any:
    """A client with the Secret's keys alone: without any it is anonymous, and never the node's own identity."""
    key, password = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(password):
        message = "the credentials Secret needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise Failure(Reason.SOURCE_DENIED, message)
    endpoint = secret.get("AWS_ENDPOINT_URL_S3") or secret.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {
        "connect_timeout": timeout,
        "read_timeout": timeout,
        "retries": {"total_max_attempts": 4, "mode": "standard"},
    }
    if not key:
        config["signature_version"] = UNSIGNED
    if endpoint:
        config["s3"] = {"addressing_style": "path"}
    session = boto3.session.Session(
        aws_access_key_id=key, aws_secret_access_key=password, aws_session_token=secret.get("AWS_SESSION_TOKEN")
    )
    region = secret.get("AWS_REGION") or secret.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return session.client(
            "s3", region_name=region, endpoint_url=endpoint, verify=_certificates(secret), config=Config(**config)
        )
    except (ValueError, BotoCoreError) as error:
        raise Failure(Reason.SOURCE_DENIED, f"the credentials Secret cannot be used: {error}") from error


def _certificates(secret: Mapping[str, str]) -> str | None:
    """The Secret's AWS_CA_BUNDLE: certificates themselves, written to a file for the client, or a path of the image."""
    bundle = secret.get("AWS_CA_BUNDLE")
    if not bundle or "-----BEGIN" not in bundle:
        return bundle or None
    import tempfile  # noqa: PLC0415 - rarely needed

    path = Path(tempfile.gettempdir()) / _CERTIFICATES
    path.write_text(bundle)
    return str(path)


class S3Source:
    """One key or prefix of one bucket."""

    def __init__(self, bucket: str, key: str, client: Any) -> None:
        self._bucket = bucket
        self._key = key
        self._client = client

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the object of that key, or else all below that prefix."""
        if self._key and not self._key.endswith("/"):
            try:
                chunks = self._open(self._key, budget)
            except Failure as failure:
                if failure.reason is not Reason.SOURCE_NOT_FOUND:
                    raise
            else:
                return store_single(chunks, root, self._key.rpartition("/")[2], budget)
        return self._fetch_prefix(root, budget)

    def signed(self, content: Content) -> Signed:
        """The detached signature at `<key>.sig`."""
        del content
        key = self._key.rstrip("/") + ".sig"
        place = self._shown(key)
        try:
            text = b"".join(self._open(key, Budget(SIGNATURE_LIMIT)))
            return Signed(place, ((decode_signature(text), b""),))
        except Failure as failure:
            if failure.reason is Reason.SOURCE_NOT_FOUND:
                return Signed(place)
            raise
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{place}: {error}") from error

    def _fetch_prefix(self, root: Path, budget: Budget) -> Content:
        prefix = f"{self._key.rstrip('/')}/" if self._key.rstrip("/") else ""
        files = []
        for key, tag in self._list(prefix):
            files.append(store(self._open(key, budget, tag), root, key.removeprefix(prefix), budget))
        if not files:
            message = f"{self._shown(self._key)} is neither an object nor a prefix of any"
            raise Failure(Reason.SOURCE_NOT_FOUND, message)
        return finish_folder(root, files)

    def _list(self, prefix: str) -> Iterator[tuple[str, str]]:
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        yield item["Key"], item["ETag"]
        except (ClientError, BotoCoreError) as error:
            raise self._failure(self._key, error) from error

    def _open(self, key: str, budget: Budget, tag: str | None = None) -> Iterator[bytes]:
        """Ask for the object now, read it later; with `tag` only as it was listed."""
        condition = {"IfMatch": tag} if tag else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **condition)
        except (ClientError, BotoCoreError) as error:
            raise self._failure(key, error) from error
        budget.expect(answer["ContentLength"], self._shown(key))
        return self._read(key, answer)

    def _read(self, key: str, answer: Mapping[str, Any]) -> Iterator[bytes]:
        seen = 0
        try:
            for chunk in answer["Body"].iter_chunks(CHUNK):
                seen += len(chunk)
                yield chunk
        except (IncompleteReadError, ResponseStreamingError) as error:
            message = f"{self._shown(key)} has {answer['ContentLength']} bytes, {seen} came; it is tried again"
            raise Failure(Reason.SOURCE_TRUNCATED, message) from error
        except BotoCoreError as error:
            raise self._failure(key, error) from error

    def _failure(self, key: str, error: Exception) -> Failure:
        place = self._shown(key)
        if not isinstance(error, ClientError):
            return Failure(Reason.SOURCE_UNAVAILABLE, f"{place}: {error}")
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            return Failure(Reason.SOURCE_NOT_FOUND, f"{place} does not exist ({code})")
        if code in _DENIED:
            return Failure(Reason.SOURCE_DENIED, f"{place} is refused ({code}); check spec.model.credentialsSecretRef")
        if code in ("PreconditionFailed", "412"):
            return Failure(Reason.SOURCE_UNAVAILABLE, f"{place} changed while the prefix was read; it is tried again")
        return Failure(Reason.SOURCE_UNAVAILABLE, f"{place}: {error}")

    def _shown(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"
