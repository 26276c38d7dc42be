"""`az://container/key-or-prefix`: Azure Blob Storage by its REST API."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree as ET

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure

from . import Context, Opened
from .azure import AzureAccount, azure_account
from .objects import Listed, ObjectSource
from .service import Service, reaching, with_md5

__all__ = ["BlobContainer", "open_source"]


def open_source(uri: str, context: Context, account: str = "") -> ObjectSource:
    """The blobs behind a URI; raises Failure."""
    parts = urlsplit(uri)
    if not parts.netloc:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no container; write az://container/path")
    found = azure_account(context, account)
    service = Service(reaching(context.web, found.endpoint), found.authorize)
    return ObjectSource(BlobContainer(parts.netloc, found, service), parts.path.lstrip("/"))


class BlobContainer:
    """One container of one account."""

    def __init__(self, container: str, account: AzureAccount, service: Service) -> None:
        self._container = container
        self._account = account
        self._service = service

    def shown(self, key: str) -> str:
        """The key's URI."""
        return f"az://{self._container}/{key}"

    def tag(self, key: str) -> str:
        """The blob's ETag."""
        with self._service.send(self._url(key), self.shown(key), method="HEAD") as answer:
            return f"etag {_bare(answer.headers.get('ETag', ''))}"

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every blob whose name begins so."""
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            url = self._url("", {name: value for name, value in query.items() if value})
            page = self._parsed(self._service.document(url, self.shown(prefix))[0], prefix)
            yield from filter(None, map(_listed, page.iter("Blob")))
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def open(self, key: str, tag: str | None = None) -> Opened:
        """The blob, only as it was listed where `tag` is given; checked by its MD5 where the service has one."""
        headers = {"If-Match": f'"{tag}"'} if tag else {}
        answer = self._service.send(self._url(key), self.shown(key), headers)
        opened = self._service.stream(answer)
        return with_md5(opened, answer.headers.get("Content-MD5"), self.shown(key))

    def _url(self, key: str, query: dict[str, str] | None = None) -> str:
        path = f"{quote(self._container)}/{quote(key)}" if key else quote(self._container)
        words = "&".join(filter(None, (urlencode(query or {}), self._account.signature)))
        return f"{self._account.endpoint}/{path}{f'?{words}' if words else ''}"

    def _parsed(self, text: bytes, prefix: str) -> Any:
        try:
            return ET.fromstring(text)  # noqa: S314 - bounded, and expat bounds entities
        except ET.ParseError as error:
            message = f"the listing of {self.shown(prefix)} is not the Blob service's XML; is the endpoint right?"
            raise Failure(Reason.SOURCE_UNAVAILABLE, message) from error


def _listed(blob: Any) -> Listed | None:
    """One entry of a listing; None for a folder of a hierarchical namespace."""
    name = blob.find("Name")
    if name is None or not name.text or blob.findtext("Properties/ResourceType") == "directory":
        return None
    key = unquote(name.text) if name.get("Encoded") == "true" else name.text
    size = blob.findtext("Properties/Content-Length") or "0"
    return Listed(key, int(size) if size.isdecimal() else 0, _bare(blob.findtext("Properties/Etag") or ""))


def _bare(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')
