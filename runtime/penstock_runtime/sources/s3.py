"""`s3://bucket/key-or-prefix`: Amazon S3 and what speaks its protocol."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError

from penstock.api.reasons import Reason
from penstock_runtime.content import CHUNK
from penstock_runtime.failure import Failure
from penstock_runtime.reach import EVERYWHERE
from penstock_runtime.web import Forbidden

from . import NO_CONNECTION, Connection, Context, Opened
from .aws import AwsIdentity, ambient_identity
from .objects import Listed, ObjectSource

__all__ = ["S3Bucket", "open_source", "s3_client"]

_MISSING = ("NoSuchKey", "NoSuchBucket", "404", "NotFound")
_DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401")
_CERTIFICATES = "penstock-s3-ca.pem"


def open_source(uri: str, context: Context) -> ObjectSource:
    """The objects behind a URI; raises Failure."""
    parts = urlsplit(uri)
    if not parts.netloc:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no bucket; write s3://bucket/key")
    client = s3_client(context.secret, connection=context.connection, identity=ambient_identity(context))
    return ObjectSource(S3Bucket(parts.netloc, client), parts.path.lstrip("/"))


def s3_client(
    secret: Mapping[str, str],
    timeout: float = 30,
    connection: Connection = NO_CONNECTION,
    identity: AwsIdentity | None = None,
) -> Any:
    """A client with the Secret's keys, or else the service account's identity; never the node's own.

    Without either it is anonymous. The Secret's endpoint, region and certificates win over the connection's.
    """
    key, password = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(password):
        message = "the credentials Secret needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise Failure(Reason.SOURCE_DENIED, message)
    endpoint = secret.get("AWS_ENDPOINT_URL_S3") or secret.get("AWS_ENDPOINT_URL") or connection.endpoint or None
    config: dict[str, Any] = {
        "connect_timeout": timeout,
        "read_timeout": timeout,
        "retries": {"total_max_attempts": 4, "mode": "standard"},
    }
    if not key and not identity:
        config["signature_version"] = UNSIGNED
    if endpoint:
        config["s3"] = {"addressing_style": "path"}
    region = secret.get("AWS_REGION") or secret.get("AWS_DEFAULT_REGION") or connection.region
    region = region or (identity.region if identity else "") or "us-east-1"
    verify = _certificates(secret) or (str(connection.ca) if connection.ca else None)
    try:
        session = (
            identity.session() if identity else boto3.session.Session(key, password, secret.get("AWS_SESSION_TOKEN"))
        )
        client = session.client("s3", region_name=region, endpoint_url=endpoint, verify=verify, config=Config(**config))
    except (ValueError, BotoCoreError) as error:
        raise Failure(Reason.SOURCE_DENIED, f"the credentials Secret cannot be used: {error}") from error
    client.meta.events.register("before-send.s3", _check_address)
    return client


def _check_address(request: Any, **_: Any) -> None:
    """Refuse the node's own services; names are left to the network, which gets the request next."""
    host = urlsplit(request.url).hostname or ""
    EVERYWHERE.check_named(host)


def _certificates(secret: Mapping[str, str]) -> str | None:
    """The Secret's AWS_CA_BUNDLE: certificates themselves, written to a file for the client, or a path of the image."""
    bundle = secret.get("AWS_CA_BUNDLE")
    if not bundle or "-----BEGIN" not in bundle:
        return bundle or None
    import tempfile  # noqa: PLC0415 - rarely needed

    path = Path(tempfile.gettempdir()) / _CERTIFICATES
    path.write_text(bundle)
    return str(path)


class S3Bucket:
    """One bucket."""

    def __init__(self, bucket: str, client: Any) -> None:
        self._bucket = bucket
        self._client = client

    def shown(self, key: str) -> str:
        """The key's URI."""
        return f"s3://{self._bucket}/{key}"

    def tag(self, key: str) -> str:
        """The object's version where the bucket keeps versions, or its ETag."""
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError, Forbidden) as error:
            raise self._failure(key, error) from error
        version = answer.get("VersionId")
        return f"version {version}" if version and version != "null" else f"etag {answer['ETag'].strip(chr(34))}"

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins so."""
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield Listed(item["Key"], item["Size"], item["ETag"])
        except (ClientError, BotoCoreError, Forbidden) as error:
            raise self._failure(prefix, error) from error

    def open(self, key: str, tag: str | None = None) -> Opened:
        """Ask for the object now, read it later; with `tag` only as it was listed."""
        condition = {"IfMatch": tag} if tag else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **condition)
        except (ClientError, BotoCoreError, Forbidden) as error:
            raise self._failure(key, error) from error
        return Opened(self._read(key, answer), answer["ContentLength"])

    def _read(self, key: str, answer: Mapping[str, Any]) -> Iterator[bytes]:
        seen = 0
        try:
            for chunk in answer["Body"].iter_chunks(CHUNK):
                seen += len(chunk)
                yield chunk
        except (IncompleteReadError, ResponseStreamingError) as error:
            message = f"{self.shown(key)} has {answer['ContentLength']} bytes, {seen} came; it is tried again"
            raise Failure(Reason.SOURCE_TRUNCATED, message) from error
        except BotoCoreError as error:
            raise self._failure(key, error) from error

    def _failure(self, key: str, error: Exception) -> Failure:
        place = self.shown(key)
        if isinstance(error, Forbidden):
            return Failure(Reason.SOURCE_DENIED, f"{place}: {error}")
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
