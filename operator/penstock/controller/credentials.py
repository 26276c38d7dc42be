"""Credentials of the artifact store: one signing key, and per namespace a token to push and one to pull.

The registry checks tokens by the public key alone, so there is no token server to be down. A token names exactly the
repositories it opens: the namespace's own, and, to push with, those under `models/` of the same registry that a
ModelDeployment of the namespace reads from. `models/` is the common area; one namespace can never read another's.
"""

import asyncio
import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from penstock.api.resource import API_VERSION, KIND
from penstock.core.names import MANAGED_BY, PULL_SECRET, PUSH_SECRET
from penstock.kube.client import KubeClient
from penstock.kube.errors import AlreadyTaken

__all__ = ["Access", "RegistryCredentials", "SigningKey", "shared_repository"]

KEYS_SECRET = "penstock-registry-keys"  # noqa: S105 - the name of a Secret
ISSUER, AUDIENCE = "penstock", "penstock-registry"
LIFETIME_SECONDS = 90 * 86400
RENEW_SECONDS = 30 * 86400
_CHECK_SECONDS = 3600
_SHARED = "models/"


@dataclass(frozen=True, order=True)
class Access:
    """What a token may do in one repository."""

    repository: str
    actions: tuple[str, ...]
    type: str = "repository"


class SigningKey:
    """An Ed25519 key; its id is a hash of the public half, so that the registry can hold several during a change."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self._public = _encode(raw)
        self.id = hashlib.sha256(raw).hexdigest()[:16]

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey":
        """From `private.pem`; raises ValueError for anything but an Ed25519 key."""
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"private.pem of Secret {KEYS_SECRET} is not an Ed25519 key")  # noqa: TRY004
        return cls(key)

    def pem(self) -> bytes:
        """PKCS#8."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def jwks(self) -> str:
        """The public half as the registry reads it."""
        key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": self._public}
        return json.dumps({"keys": [key]})

    def token(self, subject: str, access: Iterable[Access], now: int, lifetime: int = LIFETIME_SECONDS) -> str:
        """A JWT for exactly these repositories; `now` and `lifetime` in seconds."""
        header = {"alg": "EdDSA", "typ": "JWT", "kid": self.id}
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "access": [
                {"type": item.type, "name": item.repository, "actions": list(item.actions)} for item in sorted(access)
            ],
        }
        body = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        return f"{body}.{_encode(self._private.sign(body.encode()))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a token of our own, unverified: only what it says, to see whether it still fits."""
    return _part(token, 1)


def _part(token: str, index: int) -> dict[str, Any]:
    try:
        text = token.split(".")[index]
        found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (IndexError, ValueError):
        return {}
    return found


def shared_repository(uri: str, registry: str) -> str | None:
    """The repository under `models/` of the artifact store that a URI names, if it names one."""
    prefix = f"oci://{registry}/"
    if not uri.startswith(prefix):
        return None
    path = uri.removeprefix(prefix).split("@")[0]
    name = path.rsplit(":", 1)[0]
    return name if name.startswith(_SHARED) else None


@dataclass(frozen=True)
class _Need:
    shared: frozenset[str]
    owners: frozenset[tuple[str, str]]
    """(name, uid) of the namespace's ModelDeployments; the Secrets go with the last of them."""


class RegistryCredentials:
    """Keeps both Secrets of every namespace fit; asks the API server only when the need changes, or once an hour."""

    def __init__(self, client: KubeClient, namespace: str, clock: Callable[[], float]) -> None:
        self._client, self._namespace, self._clock = client, namespace, clock
        self._key: SigningKey | None = None
        self._met: dict[str, tuple[_Need, float]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load_key(self) -> SigningKey:
        """The signing key, made on the very first start; the registry waits for its public half."""
        if self._key is None:
            secret = await self._client.find("Secret", self._namespace, KEYS_SECRET)
            if secret is None:
                secret = await self._client.create(self._key_secret(SigningKey.generate()))
            self._key = SigningKey.from_pem(base64.b64decode(secret["data"]["private.pem"]))
        return self._key

    def _key_secret(self, key: SigningKey) -> dict[str, Any]:
        data = {"private.pem": key.pem(), "jwks.json": key.jwks().encode()}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": KEYS_SECRET, "namespace": self._namespace, "labels": MANAGED_BY},
            "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
        }

    async def ensure(
        self, namespace: str, shared: frozenset[str], owners: frozenset[tuple[str, str]], *, verify: bool = False
    ) -> None:
        """Both Secrets stand in the namespace, open what is needed, and will for a month to come.

        `verify` looks at them though the need is known to be met: pods that mount them are about to be made. Raises
        AlreadyTaken when a Secret of that name exists that Penstock did not make.
        """
        async with self._locks[namespace]:
            need, now = _Need(shared, owners), self._clock()
            met = self._met.get(namespace)
            if met and met[0] == need and now < met[1] and not verify:
                return
            push = [Access(namespace, ("pull", "push")), *(Access(name, ("pull",)) for name in shared)]
            await self._ensure_secret(PUSH_SECRET, namespace, push, owners)
            await self._ensure_secret(PULL_SECRET, namespace, [Access(namespace, ("pull",))], owners)
            self._met[namespace] = (need, now + _CHECK_SECONDS)

    async def _ensure_secret(
        self, name: str, namespace: str, access: list[Access], owners: frozenset[tuple[str, str]]
    ) -> None:
        live = await self._client.find("Secret", namespace, name)
        if live and not MANAGED_BY.items() <= live["metadata"].get("labels", {}).items():
            message = "a Secret of this name exists that Penstock did not make; rename or remove it"
            raise AlreadyTaken(message, verb="create", kind="Secret", namespace=namespace, name=name, code=409)
        key = await self.load_key()
        if live and _fits(live, key, access, owners, self._clock()):
            return
        token = key.token(f"{namespace}/{name}", access, int(self._clock()))
        manifest = _token_secret(name, namespace, token, owners)
        if live is None:
            await self._client.create(manifest)
        else:
            await self._client.apply(manifest, uid=live["metadata"]["uid"])


def _fits(
    secret: Mapping[str, Any], key: SigningKey, access: list[Access], owners: frozenset[tuple[str, str]], now: float
) -> bool:
    token = base64.b64decode(secret.get("data", {}).get("token", "")).decode(errors="replace")
    claims = read_claims(token)
    granted = {(item["name"], tuple(item["actions"])) for item in claims.get("access", ())}
    named = {(item["name"], item["uid"]) for item in secret["metadata"].get("ownerReferences", ())}
    return (
        _part(token, 0).get("kid") == key.id
        and granted == {(item.repository, item.actions) for item in access}
        and claims.get("exp", 0) - now > RENEW_SECONDS
        and named >= owners
    )


def _token_secret(name: str, namespace: str, token: str, owners: frozenset[tuple[str, str]]) -> dict[str, Any]:
    references = [{"apiVersion": API_VERSION, "kind": KIND, "name": owner, "uid": uid} for owner, uid in sorted(owners)]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": MANAGED_BY, "ownerReferences": references},
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }
