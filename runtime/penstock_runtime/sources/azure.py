"""Who asks Azure's Blob service: an account key, a shared access signature, an application, or the Job itself."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure

from . import Context
from .tokens import Bearer, Token, post_form

__all__ = ["API_VERSION", "AzureAccount", "azure_account"]

API_VERSION = "2021-12-02"
_AUTHORITY = "https://login.microsoftonline.com/"
_SCOPE = "https://storage.azure.com/.default"
_SIGNED_HEADERS = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip

Authorize = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]


@dataclass(frozen=True)
class AzureAccount:
    """The Blob endpoint of an account, who asks, and a shared access signature to put behind every URL."""

    endpoint: str
    authorize: Authorize = field(repr=False)
    signature: str = field(default="", repr=False)


def azure_account(context: Context, name: str = "") -> AzureAccount:
    """The account that the Secret or the connection names, or else `name`; raises Failure."""
    secret = _with_connection_string(context.secret)
    name = secret.get("AZURE_STORAGE_ACCOUNT_NAME") or secret.get("AZURE_STORAGE_ACCOUNT") or name
    endpoint = secret.get("AZURE_STORAGE_ENDPOINT") or context.connection.endpoint
    endpoint = endpoint or (f"https://{name}.blob.core.windows.net" if name else "")
    if not endpoint:
        message = "no storage account is named: write spec.model.connection.endpoint (https://<account>.blob.core.windows.net)"
        raise Failure(Reason.INVALID_SPEC, f"{message}, or AZURE_STORAGE_ACCOUNT_NAME in the credentials Secret")
    endpoint = endpoint.rstrip("/")
    signature = secret.get("AZURE_STORAGE_SAS_TOKEN", "").lstrip("?")
    return AzureAccount(endpoint, _identity(context, secret, name or _account_of(endpoint)), signature)


def _identity(context: Context, secret: Mapping[str, str], account: str) -> Authorize:
    key = (
        secret.get("AZURE_STORAGE_KEY")
        or secret.get("AZURE_STORAGE_ACCESS_KEY")
        or secret.get("AZURE_STORAGE_ACCOUNT_KEY")
    )
    if key:
        return _shared_key(account, key)
    if secret.get("AZURE_STORAGE_SAS_TOKEN"):
        return _versioned
    if secret.get("AZURE_CLIENT_SECRET"):
        return _application(context, secret, {"client_secret": secret["AZURE_CLIENT_SECRET"]})
    if context.ambient.get("AZURE_FEDERATED_TOKEN_FILE"):
        return _application(context, context.ambient, {})
    return _versioned


def _versioned(method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    del method, url, headers
    return {"x-ms-version": API_VERSION}


def _application(context: Context, words: Mapping[str, str], proof: Mapping[str, str]) -> Authorize:
    """An application of Entra ID, proven by its secret or by the token of the Job's service account."""
    tenant, client = words.get("AZURE_TENANT_ID"), words.get("AZURE_CLIENT_ID")
    if not tenant or not client:
        where = "the credentials Secret" if proof else "the Job's service account"
        raise Failure(Reason.SOURCE_DENIED, f"{where} needs both AZURE_TENANT_ID and AZURE_CLIENT_ID")
    authority = words.get("AZURE_AUTHORITY_HOST") or _AUTHORITY
    url = f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token"
    form = {"grant_type": "client_credentials", "client_id": client, "scope": _SCOPE}

    def ask() -> Token:
        shown = proof or _federated(words["AZURE_FEDERATED_TOKEN_FILE"])
        return post_form(context.web, url, {**form, **shown}, f"application {client}")

    bearer = Bearer(ask)
    return lambda method, url, headers: {**_versioned(method, url, headers), **bearer(method, url, headers)}


def _federated(path: str) -> dict[str, str]:
    """Read anew for every token: the kubelet renews the file."""
    try:
        token = Path(path).read_text().strip()
    except OSError as error:
        message = f"the token of the Job's service account cannot be read at {path}: {error.strerror}"
        raise Failure(Reason.SOURCE_DENIED, message) from error
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    return {"client_assertion_type": kind, "client_assertion": token}


def _shared_key(account: str, key: str) -> Authorize:
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error as error:
        raise Failure(
            Reason.SOURCE_DENIED, "the storage account's key in the credentials Secret is not base64"
        ) from error

    def authorize(method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        own = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
        text = _to_sign(account, method, url, {**headers, **own})
        signature = base64.b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode()
        return {**own, "Authorization": f"SharedKey {account}:{signature}"}

    return authorize


def _to_sign(account: str, method: str, url: str, headers: Mapping[str, str]) -> str:
    """What a Shared Key signature is of, from version 2015-02-21 on."""
    parts = urlsplit(url)
    own = sorted((name, value) for name, value in headers.items() if name.startswith("x-ms-"))
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query.setdefault(name.lower(), []).append(value)
    lines = [
        method,
        *(headers.get(name, "") for name in _SIGNED_HEADERS),
        *(f"{name}:{value}" for name, value in own),
        f"/{account}{parts.path}",
        *(f"{name}:{','.join(sorted(values))}" for name, values in sorted(query.items())),
    ]
    return "\n".join(lines)


def _with_connection_string(secret: Mapping[str, str]) -> Mapping[str, str]:
    text = secret.get("AZURE_STORAGE_CONNECTION_STRING")
    if not text:
        return secret
    parts = dict(part.partition("=")[::2] for part in text.split(";") if "=" in part)
    name, suffix = parts.get("AccountName", ""), parts.get("EndpointSuffix", "core.windows.net")
    found = {
        "AZURE_STORAGE_ACCOUNT_NAME": name,
        "AZURE_STORAGE_KEY": parts.get("AccountKey", ""),
        "AZURE_STORAGE_SAS_TOKEN": parts.get("SharedAccessSignature", ""),
        "AZURE_STORAGE_ENDPOINT": parts.get("BlobEndpoint") or (f"https://{name}.blob.{suffix}" if name else ""),
    }
    return {**{key: value for key, value in found.items() if value}, **secret}


def _account_of(endpoint: str) -> str:
    """The account of an endpoint: its first label, or the first part of an emulator's path."""
    parts = urlsplit(endpoint)
    return unquote(parts.path.strip("/")) or (parts.hostname or "").partition(".")[0]
