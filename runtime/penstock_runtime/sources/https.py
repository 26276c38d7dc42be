"""`https://host/path`: one file, or an archive that is unpacked."""

import base64
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature

from . import Context, Opened, Signed
from .files import store_single
from .objects import read_small
from .service import Service

__all__ = ["HttpsSource", "authorization", "open_source"]


def open_source(uri: str, context: Context) -> "HttpsSource":
    """The file behind a URL; raises Failure."""
    parts = urlsplit(uri)
    if parts.username or parts.password:
        message = "the URL holds a password; put it into a Secret and name that in spec.model.credentialsSecretRef"
        raise Failure(Reason.INVALID_SPEC, message)
    url = uri if context.web.base(parts.netloc).startswith("https") else "http" + uri.removeprefix("https")
    headers = authorization(context.secret)
    return HttpsSource(url, Service(context.web, lambda *_: headers))


def authorization(secret: Mapping[str, str]) -> dict[str, str]:
    """The header of a Secret with `Authorization`, `token`, or `username` and `password`."""
    if "Authorization" in secret:
        return {"Authorization": secret["Authorization"]}
    if "token" in secret:
        return {"Authorization": f"Bearer {secret['token']}"}
    if "username" in secret:
        pair = f"{secret['username']}:{secret.get('password', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


class HttpsSource:
    """One URL."""

    def __init__(self, url: str, service: Service) -> None:
        self._url = url
        self._service = service

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the file below `root` under the last part of the URL's path."""
        name = unquote(urlsplit(self._url).path).rstrip("/").rpartition("/")[2] or "model"
        opened = self.read()
        budget.expect(opened.size or 0, self._url)
        return store_single(opened.chunks, root, name, budget)

    def signed(self, content: Content) -> Signed:
        """The detached signature at `<url>.sig`."""
        del content
        parts = urlsplit(self._url)
        url = parts._replace(path=f"{parts.path}.sig").geturl()
        try:
            text = read_small(self._service.open(url, url).chunks, url)
            return Signed(url, ((decode_signature(text), b""),))
        except Failure as failure:
            if failure.reason is Reason.SOURCE_NOT_FOUND:
                return Signed(url)
            raise
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{url}: {error}") from error

    def resolve(self) -> str:
        """The ETag, or else the time of the last change and the length; raises Failure where the server says none."""
        with self._service.send(self._url, self._url) as answer:
            tag, changed = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        if tag:
            return f"etag {tag.strip()}"[:256]
        if changed:
            return f"changed {changed}, {answer.length} bytes"[:256]
        message = (
            f"{self._url} has neither ETag nor Last-Modified, so a change cannot be seen; remove spec.model.refresh"
        )
        raise Failure(Reason.SOURCE_UNAVAILABLE, message)

    def child(self, path: str) -> "HttpsSource":
        """What lies below this URL under a relative path."""
        parts = urlsplit(self._url)
        return HttpsSource(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}").geturl(), self._service)

    def read(self) -> Opened:
        """The file."""
        return self._service.open(self._url, self._url)
