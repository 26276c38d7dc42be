"""`https://host/path`: one file, or an archive that is unpacked."""

import base64
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature
from penstock_runtime.web import Answer, Truncated, Unreachable, Web

from . import Context, Signed
from .files import SIGNATURE_LIMIT, store_single

__all__ = ["HttpsSource", "open_source"]


def open_source(uri: str, context: Context) -> "HttpsSource":
    """The file behind a URL; raises Failure."""
    parts = urlsplit(uri)
    if parts.username or parts.password:
        message = "the URL holds a password; put it into a Secret and name that in spec.model.credentialsSecretRef"
        raise Failure(Reason.INVALID_SPEC, message)
    url = uri if context.web.base(parts.netloc).startswith("https") else "http" + uri.removeprefix("https")
    return HttpsSource(url, context.web, authorization(context.secret))


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

    def __init__(self, url: str, web: Web, headers: Mapping[str, str]) -> None:
        self._url = url
        self._web = web
        self._headers = {"Accept-Encoding": "identity", **headers}

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the file below `root` under the last part of the URL's path."""
        name = unquote(urlsplit(self._url).path).rstrip("/").rpartition("/")[2] or "model"
        try:
            with self._get(self._url) as answer:
                budget.expect(answer.length or 0, self._url)
                return store_single(answer.chunks(), root, name, budget)
        except Truncated as error:
            raise Failure(Reason.SOURCE_TRUNCATED, f"{error}; it is tried again") from error
        except Unreachable as error:
            raise Failure(Reason.SOURCE_UNAVAILABLE, str(error)) from error

    def signed(self, content: Content) -> Signed:
        """The detached signature at `<url>.sig`."""
        del content
        parts = urlsplit(self._url)
        url = parts._replace(path=f"{parts.path}.sig").geturl()
        try:
            with self._get(url) as answer:
                return Signed(url, ((decode_signature(answer.text(SIGNATURE_LIMIT)), b""),))
        except Failure as failure:
            if failure.reason is Reason.SOURCE_NOT_FOUND:
                return Signed(url)
            raise
        except (Truncated, Unreachable) as error:
            raise Failure(Reason.SOURCE_UNAVAILABLE, str(error)) from error
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{url}: {error}") from error

    def _get(self, url: str) -> Answer:
        answer = self._web.send("GET", url, self._headers)
        if answer.status == 200:
            return answer
        with answer:
            status = answer.status
        if status in (404, 410):
            raise Failure(Reason.SOURCE_NOT_FOUND, f"{url} does not exist (status {status})")
        if status in (401, 403):
            message = f"{url} is refused (status {status}); check spec.model.credentialsSecretRef"
            raise Failure(Reason.SOURCE_DENIED, message)
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"{url} answers with status {status}")
