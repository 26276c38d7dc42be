"""`models:/name@alias` and `models:/name/version`: MLflow's registry, and the artifacts that a version points to.

Artifacts come through the tracking server's own proxy, or straight from the store (s3, gs, az) with the same Secret.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import MOST_FILES, Budget, Content, store
from penstock_runtime.failure import Failure

from . import Connection, Context, Opened, Signed, Source
from . import open_source as open_any
from .files import finish_folder
from .https import authorization
from .service import Service, reaching

__all__ = ["MlflowSource", "open_source"]

_URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")
_RUN = re.compile(r"runs:/(?P<id>[0-9a-zA-Z_-]+)/(?P<path>.+)")
_LOGGED = re.compile(r"models:/(?P<id>m-[0-9a-zA-Z]+)(/(?P<path>.+))?")
_NO_ALIAS = "INVALID_PARAMETER_VALUE"
_PROXY = "api/2.0/mlflow-artifacts/artifacts"
_DEEPEST = 32
_AZURE = ("wasb", "wasbs", "abfs", "abfss")


def open_source(uri: str, context: Context) -> "MlflowSource":
    """The registered model behind a URI; raises Failure."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} is not models:/name@alias or models:/name/version")
    endpoint = context.secret.get("MLFLOW_TRACKING_URI") or context.connection.endpoint
    if urlsplit(endpoint).scheme not in ("http", "https"):
        message = "no tracking server is named: write its URL into spec.model.connection.endpoint"
        raise Failure(Reason.INVALID_SPEC, f"{message}, or MLFLOW_TRACKING_URI into the credentials Secret")
    headers = authorization(_login(context.secret))
    server = _Server(endpoint.rstrip("/"), Service(reaching(context.web, endpoint), lambda *_: headers))
    words = {name: unquote(text) for name, text in match.groupdict().items() if text}
    return MlflowSource(uri, words, server, context)


def _login(secret: Mapping[str, str]) -> dict[str, str]:
    names = {
        "username": "MLFLOW_TRACKING_USERNAME",
        "password": "MLFLOW_TRACKING_PASSWORD",
        "token": "MLFLOW_TRACKING_TOKEN",
    }
    return {word: secret[name] for word, name in names.items() if name in secret}


@dataclass(frozen=True)
class _Version:
    """One version of a registered model; `created` tells it from one of the same number after a deletion."""

    name: str
    number: str
    created: str


@dataclass(frozen=True)
class _Server:
    """One tracking server."""

    endpoint: str
    service: Service

    def ask(self, path: str, query: Mapping[str, str], place: str) -> Mapping[str, Any]:
        """The JSON object of one call."""
        told = self.service.json(f"{self.endpoint}/{path}?{urlencode(query)}", place)
        if not isinstance(told, dict):
            message = f"{self.endpoint} answers with something else than MLflow; check spec.model.connection.endpoint"
            raise Failure(Reason.SOURCE_UNAVAILABLE, message)
        return told

    def listed(self, path: str, place: str) -> list[Mapping[str, Any]]:
        """The entries of one folder of the proxied artifacts."""
        found = self.ask(_PROXY, {"path": path}, place).get("files") or []
        return [entry for entry in found if isinstance(entry, dict) and entry.get("path")]

    def open(self, path: str, place: str) -> Opened:
        """A proxied artifact."""
        return self.service.open(f"{self.endpoint}/{_PROXY}/{quote(path)}", place)


class MlflowSource:
    """One registered model by alias or version."""

    def __init__(self, uri: str, words: Mapping[str, str], server: _Server, context: Context) -> None:
        self._uri = uri
        self._words = words
        self._server = server
        self._context = context

    def resolve(self) -> str:
        """The version, and when it was made."""
        version = self._version()
        return f"version {version.number}, created {version.created}"[:256]

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write every artifact of the version."""
        place, location = self._location()
        if isinstance(location, str):
            return self._fetch_proxied(location, place, root, budget)
        return location.fetch(root, budget)

    def signed(self, content: Content) -> Signed:
        """MLflow keeps no detached signatures; a store of its own may."""
        place, location = self._location()
        if isinstance(location, str):
            return Signed(f"{place} (sign with spec.model.signature.type: ModelSigning)")
        return location.signed(content)

    def _version(self) -> _Version:
        name = self._words["name"]
        alias = self._words.get("alias")
        if alias:
            path, query = "api/2.0/mlflow/registered-models/alias", {"name": name, "alias": alias}
        else:
            path, query = "api/2.0/mlflow/model-versions/get", {"name": name, "version": self._words["version"]}
        try:
            found = self._server.ask(path, query, self._uri).get("model_version")
        except Failure as failure:
            if alias and _NO_ALIAS in failure.message:
                message = f"{self._uri} does not exist: the model has no alias {alias} ({_NO_ALIAS})"
                raise Failure(Reason.SOURCE_NOT_FOUND, message) from failure
            raise
        if not isinstance(found, dict) or not found.get("version"):
            raise Failure(Reason.SOURCE_UNAVAILABLE, f"{self._uri} is described without a version")
        return _Version(name, str(found["version"]), str(found.get("creation_timestamp", "")))

    def _location(self) -> tuple[str, "str | Source"]:
        """What to call the artifacts, and their path at the proxy or the source that has them."""
        version = self._version()
        place = f"models:/{version.name}/{version.number}"
        query = {"name": version.name, "version": version.number}
        told = self._server.ask("api/2.0/mlflow/model-versions/get-download-uri", query, place)
        uri = self._followed(str(told.get("artifact_uri") or ""), place)
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            self._check_host(parts.netloc, place)
            return place, unquote(parts.path).strip("/")
        if parts.scheme in ("s3", "s3a", "gs", *_AZURE):
            return place, self._elsewhere(uri)
        message = (
            f"the artifacts of {place} are at {uri[:200]!r}, which only the tracking server's own machine can read"
        )
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"{message}; start it with --serve-artifacts, or with an object store")

    def _followed(self, uri: str, place: str) -> str:
        """Where the artifacts of a run or of a logged model are, which is what versions often point to."""
        run = _RUN.fullmatch(uri)
        if run:
            told = self._server.ask("api/2.0/mlflow/runs/get", {"run_id": run["id"]}, f"{uri} of {place}")
            base, path = _field(told, "run", "info", "artifact_uri"), run["path"]
        elif logged := _LOGGED.fullmatch(uri):
            told = self._server.ask(f"api/2.0/mlflow/logged-models/{logged['id']}", {}, f"{uri} of {place}")
            base, path = _field(told, "model", "info", "artifact_uri"), logged["path"] or ""
        else:
            return uri
        parts = urlsplit(base)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{path}".rstrip("/")).geturl()

    def _check_host(self, host: str, place: str) -> None:
        if host and host != urlsplit(self._server.endpoint).netloc:
            message = f"the artifacts of {place} are at the proxy {host}, which is not the tracking server"
            raise Failure(Reason.SOURCE_DENIED, f"{message}; write that one into spec.model.connection.endpoint")

    def _elsewhere(self, uri: str) -> Source:
        """The store that has the artifacts: never through the tracking server's endpoint, with the same Secret."""
        secret = dict(self._context.secret)
        if "MLFLOW_S3_ENDPOINT_URL" in secret:
            secret.setdefault("AWS_ENDPOINT_URL", secret["MLFLOW_S3_ENDPOINT_URL"])
        old = self._context.connection
        context = replace(self._context, secret=secret, connection=Connection("", old.region, old.ca))
        parts = urlsplit(uri)
        if parts.scheme not in _AZURE:
            return open_any(uri.replace("s3a://", "s3://", 1), context)
        from .az import open_source as open_blobs  # noqa: PLC0415 - only for such a store

        account = (parts.hostname or "").partition(".")[0]
        return open_blobs(f"az://{parts.username or ''}{parts.path}", context, account)

    def _fetch_proxied(self, base: str, place: str, root: Path, budget: Budget) -> Content:
        found = sorted(self._walk(base, "", place))
        budget.expect(sum(size for _, size in found), place)
        files = [store(self._sized(f"{base}/{path}", size, place), root, path, budget) for path, size in found]
        if not files:
            raise Failure(Reason.SOURCE_NOT_FOUND, f"{place} has no artifacts at mlflow-artifacts:/{base}")
        return finish_folder(root, files)

    def _sized(self, path: str, size: int, place: str) -> Iterator[bytes]:
        """A file's bytes, as many as the listing says: the proxy announces no length."""
        seen = 0
        for chunk in self._server.open(path, f"{place}/{path}").chunks:
            seen += len(chunk)
            yield chunk
        if seen != size:
            message = f"{path} of {place} is listed with {size} bytes, {seen} came; it is tried again"
            raise Failure(Reason.SOURCE_TRUNCATED, message)

    def _walk(self, base: str, below: str, place: str, seen: list[str] | None = None) -> Iterator[tuple[str, int]]:
        seen = [] if seen is None else seen
        for entry in self._server.listed(f"{base}/{below}".rstrip("/"), place):
            path = f"{below}/{str(entry['path']).rpartition('/')[2]}".lstrip("/")
            seen.append(path)
            if len(seen) > MOST_FILES or path.count("/") > _DEEPEST:
                raise Failure(
                    Reason.TOO_LARGE, f"{place} holds more than {MOST_FILES} artifacts, or folders without end"
                )
            if entry.get("is_dir"):
                yield from self._walk(base, path, place, seen)
            else:
                yield path, _size(entry.get("file_size"), f"{path} of {place}")


def _size(told: Any, what: str) -> int:
    """Bytes as the listing says; int64 stands as text in JSON as often as not."""
    try:
        size = int(told or 0)
    except (TypeError, ValueError, OverflowError):
        size = -1
    if size < 0:
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"{what} is listed with {told!r} bytes, and a number was expected")
    return size


def _field(told: Mapping[str, Any], *names: str) -> str:
    """The text at a path of names, empty where there is none."""
    found: Any = told
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return str(found or "")
