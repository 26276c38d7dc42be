"""Who asks Google's storage: a service account's key, a ready token, or the Job's own service account."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.web import Truncated, Unreachable, Web

from . import Context
from .service import give_up, no_headers
from .tokens import Bearer, Token, post_form, read_token

__all__ = ["google_identity"]

_KEYS = ("GOOGLE_APPLICATION_CREDENTIALS", "credentials.json", "key.json", "gcloud-application-credentials.json")
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_METADATA_ADDRESS = "169.254.169.254"
_NODES_ACCOUNT = "-compute@developer.gserviceaccount.com"

Authorize = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]


def google_identity(context: Context) -> Authorize:
    """The headers that say who asks; nobody in particular without credentials. Raises Failure."""
    name = next((name for name in _KEYS if name in context.secret), None)
    if name:
        key = _service_account(context.secret[name], name)
        return Bearer(lambda: _exchange(key, name, context.web))
    if "token" in context.secret:
        token = context.secret["token"]
        return lambda *_: {"Authorization": f"Bearer {token}"}
    if context.ambient.get("PENSTOCK_KEYLESS") == "1":
        return Bearer(lambda: _from_metadata(context.web, context.ambient))
    return no_headers


def _service_account(text: str, name: str) -> dict[str, str]:
    try:
        key: Any = json.loads(text)
        if key["type"] == "service_account":
            return {field: str(key[field]) for field in ("client_email", "private_key", "token_uri")} | {
                "private_key_id": str(key.get("private_key_id", ""))
            }
        found = f"it is of type {key['type']!r}"
    except (ValueError, KeyError, TypeError):
        found = "it is not that JSON"
    message = f"key {name} of the credentials Secret must hold a service account's JSON key; {found}"
    raise Failure(Reason.SOURCE_DENIED, message)


def _exchange(key: Mapping[str, str], name: str, web: Web) -> Token:
    """RFC 7523: an assertion signed by the key, for a token."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415 - only for such a key
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    now = int(time.time())
    header = {"alg": "RS256", "typ": "JWT", "kid": key["private_key_id"]}
    claims = {
        "iss": key["client_email"], "scope": _SCOPE, "aud": key["token_uri"], "iat": now, "exp": now + 3600,
    }  # fmt: skip
    unsigned = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    try:
        private = load_pem_private_key(key["private_key"].encode(), None)
        assert isinstance(private, rsa.RSAPrivateKey)
        signature = private.sign(unsigned, padding.PKCS1v15(), SHA256())
    except (ValueError, TypeError, AssertionError) as error:
        message = f"private_key in key {name} of the credentials Secret is no RSA key in PEM"
        raise Failure(Reason.SOURCE_DENIED, message) from error
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": (unsigned + b"." + _base64url(signature)).decode(),
    }
    return post_form(web, key["token_uri"], form, key["client_email"])


def _from_metadata(web: Web, environment: Mapping[str, str]) -> Token:
    """The token of the Job's service account from GKE's metadata server; a node's own account is refused."""
    host = environment.get("GCE_METADATA_HOST") or _METADATA_ADDRESS
    base = f"http://{host}/computeMetadata/v1/instance/service-accounts/default"
    web, headers = web.adapted(admitted=[_METADATA_ADDRESS]), {"Metadata-Flavor": "Google"}
    try:
        with web.send("GET", f"{base}/email", headers) as answer:
            email = answer.text(1 << 10).decode(errors="replace").strip() if answer.status == 200 else ""
        if not email or email.endswith(_NODES_ACCOUNT):
            found = f"the node's own account {email}" if email else "no account"
            message = (
                f"the metadata server has {found} for this pod; bind prepare.pod.serviceAccountName to one of its own"
            )
            raise Failure(Reason.SOURCE_DENIED, f"{message} (Workload Identity), or name a credentialsSecretRef")
        return read_token(web.send("GET", f"{base}/token", headers), email)
    except (Unreachable, Truncated) as error:
        give_up(error)
    except ValueError as error:
        raise Failure(Reason.SOURCE_DENIED, f"the metadata server's answer cannot be read: {error}") from error


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
