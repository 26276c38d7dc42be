"""An OCI registry: manifests, blobs and uploads over HTTP, streamed; one object per host.

Three ways to be known are spoken: a fixed bearer token (Penstock's own store), user name and password (sent as Basic,
or exchanged at the token server the registry names), and nothing (the same exchange without a password).
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from .web import Answer, Body, Unreachable, Web, origin

__all__ = ["Manifest", "Reference", "Refused", "Registry", "RegistryAuth", "parse_reference"]

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?)/(?P<repository>[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LARGEST_MANIFEST = 4 << 20
_UPLOAD_LOST = (404, 416)


class Refused(Exception):
    """The registry answered, but not with what was asked for."""

    def __init__(self, status: int, what: str, detail: str = "") -> None:
        super().__init__(f"{what}: status {status}{f' ({detail})' if detail else ''}")
        self.status = status


@dataclass(frozen=True)
class Reference:
    """host[:port]/repository with a tag, a digest, or both (then the digest counts)."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def version(self) -> str:
        """What the manifest is asked for by."""
        return self.digest or self.tag or "latest"


def parse_reference(text: str) -> Reference:
    """Parse host/repository[:tag][@sha256:…]; raises ValueError."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not host/repository[:tag][@sha256:...]")
    return Reference(match["host"], match["repository"], match["tag"], match["digest"])


@dataclass(frozen=True)
class RegistryAuth:
    """A bearer token, or user name and password, or nothing."""

    token: str = ""
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The Basic header's value, empty without a user name."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry gave it; `digest` is computed from its bytes, not believed."""

    body: bytes
    digest: str

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object; raises ValueError."""
        data = json.loads(self.body)
        if not isinstance(data, dict):
            raise ValueError("the manifest is not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
        return data


class Registry:
    """One host. Every method raises Refused for an unwanted answer and web.Unreachable for none."""

    def __init__(self, host: str, web: Web, auth: RegistryAuth = RegistryAuth()) -> None:
        self._base = web.base(host)
        self._web = web
        self._auth = auth
        self._granted: dict[str, str] = {}

    def manifest(self, repository: str, version: str) -> Manifest:
        """The manifest of a tag or digest; by digest its bytes must have it."""
        path = f"/v2/{repository}/manifests/{version}"
        with self._send("GET", repository, path, {"Accept": ", ".join(MANIFEST_TYPES)}) as answer:
            self._expect(answer, f"manifest {repository}:{version}", 200)
            body = answer.text(_LARGEST_MANIFEST)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if version.startswith("sha256:") and version != digest:
            raise Refused(200, f"manifest {repository}@{version}", f"the bytes sent have {digest}")
        return Manifest(body, digest)

    def blob(self, repository: str, digest: str) -> Answer:
        """A blob to be read; the caller checks its digest."""
        answer = self._send("GET", repository, f"/v2/{repository}/blobs/{digest}")
        self._expect(answer, f"blob {repository}@{digest}", 200)
        return answer

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob is there."""
        with self._send("HEAD", repository, f"/v2/{repository}/blobs/{digest}") as answer:
            if answer.status != 404:
                self._expect(answer, f"blob {repository}@{digest}", 200)
            return answer.status == 200

    def upload(self, repository: str, digest: str, size: int, body: Body) -> None:
        """Upload a blob in one streamed request; the registry itself checks the digest.

        It is begun again, once, where the registry was restarted in the middle and knows nothing or a half of it.
        """
        try:
            self._upload(repository, digest, size, body)
        except Refused as error:
            if error.status not in _UPLOAD_LOST:
                raise
            self._upload(repository, digest, size, body)

    def _upload(self, repository: str, digest: str, size: int, body: Body) -> None:
        with self._send("POST", repository, f"/v2/{repository}/blobs/uploads/", {"Content-Length": "0"}) as answer:
            self._expect(answer, f"upload to {repository}", 202)
            target = urljoin(answer.url, answer.headers.get("Location", ""))
        target += ("&" if urlsplit(target).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._send("PUT", repository, target, headers, body) as answer:
            self._expect(answer, f"upload of {digest} to {repository}", 201)

    def put_manifest(self, repository: str, version: str, body: bytes, media_type: str) -> None:
        """Write a manifest under a tag or digest."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(body))}
        path = f"/v2/{repository}/manifests/{version}"
        with self._send("PUT", repository, path, headers, lambda: [body]) as answer:
            self._expect(answer, f"manifest {repository}:{version}", 201)

    def _send(
        self,
        method: str,
        repository: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        url = urljoin(self._base, path)
        known = self._granted.get(repository) or (f"Bearer {self._auth.token}" if self._auth.token else "")
        if origin(url) != origin(self._base):
            known = ""
        answer = self._web.send(method, url, {**(headers or {}), **({"Authorization": known} if known else {})}, body)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status != 401 or known or not challenge:
            return answer
        with answer:
            granted = self._answer_challenge(challenge, repository, write=method not in ("GET", "HEAD"))
        if not granted:
            raise Refused(401, f"{method} {repository}", "the registry asks for credentials")
        self._granted[repository] = granted
        return self._web.send(method, url, {**(headers or {}), "Authorization": granted}, body)

    def _answer_challenge(self, challenge: str, repository: str, *, write: bool) -> str:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() != "bearer":
            return self._auth.basic
        fields = dict(_CHALLENGE.findall(rest))
        query = {
            "service": fields.get("service", ""),
            "scope": f"repository:{repository}:{'pull,push' if write else 'pull'}",
        }
        realm = urljoin(self._base, fields.get("realm", ""))
        if urlsplit(realm).scheme != "https" and origin(realm) != origin(self._base):
            raise Unreachable(f"the registry sends its users to {realm}, which is not https")
        headers = {"Authorization": self._auth.basic} if self._auth.basic else {}
        with self._web.send("GET", f"{realm}?{urlencode(query)}", headers) as answer:
            self._expect(answer, f"token for {repository}", 200)
            given = json.loads(answer.text(1 << 20))
        return f"Bearer {given.get('token') or given.get('access_token') or ''}"

    @staticmethod
    def _expect(answer: Answer, what: str, wanted: int) -> None:
        if answer.status == wanted:
            return
        with answer:
            detail = _registry_message(answer)
        raise Refused(answer.status, what, detail)


def _registry_message(answer: Answer) -> str:
    try:
        errors = json.loads(answer.text(64 << 10)).get("errors") or [{}]
        return f"{errors[0].get('code', '')} {errors[0].get('message', '')}".strip()
    except Exception:  # noqa: BLE001 - a detail for the sentence; the status alone is said without it
        return ""
