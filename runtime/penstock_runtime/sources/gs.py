"""`gs://bucket/key-or-prefix`: Google Cloud Storage by its JSON API; every object is read at one generation."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure

from . import Context, Opened
from .google import google_identity
from .objects import Listed, ObjectSource
from .service import Service, reaching, with_md5

__all__ = ["GcsBucket", "open_source"]

_ENDPOINT = "https://storage.googleapis.com"
_FIELDS = "name,size,generation,md5Hash,contentEncoding"


def open_source(uri: str, context: Context) -> ObjectSource:
    """The objects behind a URI; raises Failure."""
    parts = urlsplit(uri)
    if not parts.netloc:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no bucket; write gs://bucket/key")
    endpoint = context.secret.get("STORAGE_EMULATOR_HOST") or context.connection.endpoint or _ENDPOINT
    service = Service(reaching(context.web, endpoint), google_identity(context))
    return ObjectSource(GcsBucket(parts.netloc, endpoint.rstrip("/"), service), parts.path.lstrip("/"))


class GcsBucket:
    """One bucket."""

    def __init__(self, bucket: str, endpoint: str, service: Service) -> None:
        self._bucket = bucket
        self._base = f"{endpoint}/storage/v1/b/{quote(bucket, safe='')}/o"
        self._service = service

    def shown(self, key: str) -> str:
        """The key's URI."""
        return f"gs://{self._bucket}/{key}"

    def tag(self, key: str) -> str:
        """The object's generation."""
        return f"generation {self._metadata(key, None)['generation']}"

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose name begins so."""
        page = ""
        while True:
            query = {"prefix": prefix, "fields": f"items({_FIELDS}),nextPageToken", "pageToken": page}
            url = f"{self._base}?{urlencode({name: value for name, value in query.items() if value})}"
            answer = self._told(self._service.json(url, self.shown(prefix)), prefix)
            for item in answer.get("items", ()):
                yield Listed(str(item["name"]), int(item.get("size", 0)), str(item["generation"]))
            page = str(answer.get("nextPageToken") or "")
            if not page:
                return

    def open(self, key: str, tag: str | None = None) -> Opened:
        """The object at the generation of `tag`, or at the present one; checked by its MD5 where it has one."""
        known = self._metadata(key, tag)
        url = f"{self._url(key)}?{urlencode({'alt': 'media', 'generation': known['generation']})}"
        opened = self._service.open(url, self.shown(key))
        if known.get("contentEncoding"):
            return opened
        size = int(known["size"]) if str(known.get("size", "")).isdecimal() else opened.size
        return with_md5(Opened(opened.chunks, size), known.get("md5Hash"), self.shown(key))

    def _metadata(self, key: str, tag: str | None) -> Mapping[str, Any]:
        query = {"fields": _FIELDS, **({"generation": tag} if tag else {})}
        found = self._told(self._service.json(f"{self._url(key)}?{urlencode(query)}", self.shown(key)), key)
        if not found.get("generation"):
            raise Failure(Reason.SOURCE_UNAVAILABLE, f"{self.shown(key)} is described without a generation")
        return found

    def _url(self, key: str) -> str:
        return f"{self._base}/{quote(key, safe='')}"

    def _told(self, answer: Any, key: str) -> Mapping[str, Any]:
        if isinstance(answer, dict):
            return answer
        message = f"{self.shown(key)} is answered with something else than a JSON object; is the endpoint right?"
        raise Failure(Reason.SOURCE_UNAVAILABLE, message)
