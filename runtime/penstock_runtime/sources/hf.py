"""`hf://owner/name@revision/path`: a repository of a model hub, read at one commit and checked file by file.

Large files carry their SHA-256, all others the hash that git knows them by, so nothing rests on the transport.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urljoin

from penstock.api.reasons import Reason
from penstock_runtime.content import MOST_FILES, Budget, Content, store
from penstock_runtime.failure import Failure
from penstock_runtime.signature import decode_signature
from penstock_runtime.web import origin

from . import Context, Opened, Signed
from .files import finish_folder, store_single
from .objects import read_small
from .service import Service, checked, decoded, reaching

__all__ = ["HubFile", "HubSource", "chosen_files", "open_source"]

_ENDPOINT = "https://huggingface.co"
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE_WEIGHTS = (".onnx", ".safetensors")
"""Formats that run no code when they are loaded, the preferred one first."""
_CODE_WEIGHTS = (".bin", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_OTHER_WEIGHTS = (
    ".pt", ".pt2", ".mar", ".h5", ".keras", ".msgpack", ".ot", ".tflite", ".gguf", ".mlmodel", ".mlpackage", ".pb",
)  # fmt: skip
_NEVER = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class HubFile:
    """One file of a commit: its path, its size, and the digest it must have."""

    path: str
    size: int
    git: str
    sha256: str = ""

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return PurePosixPath(self.path).suffix.lower()


def open_source(uri: str, context: Context) -> "HubSource":
    """The repository behind a URI; raises Failure."""
    owner, _, rest = uri.removeprefix("hf://").partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no repository; write hf://owner/name@revision")
    endpoint = (context.secret.get("HF_ENDPOINT") or context.connection.endpoint or _ENDPOINT).rstrip("/")
    keys = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "token")
    token = next((context.secret[key] for key in keys if key in context.secret), "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    service = Service(reaching(context.web, endpoint), lambda *_: headers)
    repository = f"{unquote(owner)}/{unquote(name)}"
    hub = _Hub(endpoint, repository, service)
    return HubSource(hub, unquote(revision) or "main", unquote(path).strip("/"), trusted=context.trust == "Code")


@dataclass(frozen=True)
class _Hub:
    """One repository of one hub."""

    endpoint: str
    repository: str
    service: Service

    def commit(self, revision: str) -> str:
        """The commit that a branch, tag or commit means now."""
        url = f"{self.endpoint}/api/models/{quote(self.repository)}/revision/{quote(revision, safe='')}"
        told = self.service.json(url, f"revision {revision} of hf://{self.repository}")
        commit = told.get("sha") if isinstance(told, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise Failure(Reason.SOURCE_UNAVAILABLE, f"{self.endpoint} names no commit for revision {revision}")
        return commit

    def files(self, commit: str) -> Iterator[HubFile]:
        """Every file of a commit."""
        place = f"hf://{self.repository}@{commit}"
        url: str | None = f"{self.endpoint}/api/models/{quote(self.repository)}/tree/{commit}?recursive=true"
        while url:
            text, answer = self.service.document(url, place)
            page = decoded(text, answer)
            if not isinstance(page, list):
                raise Failure(Reason.SOURCE_UNAVAILABLE, f"the files of {place} are listed in an unknown way")
            yield from filter(None, map(_hub_file, page))
            following = _NEXT.search(answer.headers.get("Link", ""))
            url = urljoin(url, following[1]) if following else None
            if url and origin(url) != origin(self.endpoint):
                raise Failure(Reason.SOURCE_DENIED, f"the listing of {place} goes on at another host, {url}")

    def open(self, commit: str, file: HubFile) -> Opened:
        """A file, checked as it passes."""
        place = f"hf://{self.repository}@{commit}/{file.path}"
        opened = self.service.open(
            f"{self.endpoint}/{quote(self.repository)}/resolve/{commit}/{quote(file.path)}", place
        )
        if file.sha256:
            return Opened(checked(opened.chunks, hashlib.sha256(), file.sha256, place), file.size)
        blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        return Opened(checked(opened.chunks, blob, file.git, place), file.size)


class HubSource:
    """One revision of one repository, or a file or folder of it."""

    def __init__(self, hub: _Hub, revision: str, path: str, *, trusted: bool) -> None:
        self._hub = hub
        self._revision = revision
        self._path = path
        self._trusted = trusted

    def resolve(self) -> str:
        """The commit."""
        return f"commit {self._hub.commit(self._revision)}"

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the named file (with its external data), or what a model needs of the folder."""
        commit = self._hub.commit(self._revision)
        known = self._listed(commit)
        named = known.get(self._path)
        if named:
            beside = [known[name] for name in (f"{self._path}_data", f"{self._path}.data") if name in known]
            if not beside:
                budget.expect(named.size, self._shown)
                return store_single(self._hub.open(commit, named).chunks, root, PurePosixPath(self._path).name, budget)
            return self._store(commit, [named, *beside], f"{PurePosixPath(self._path).parent}/", root, budget)
        prefix = f"{self._path}/" if self._path else ""
        below = [file for path, file in known.items() if path.startswith(prefix)]
        if not below:
            raise Failure(Reason.SOURCE_NOT_FOUND, f"{self._shown} is neither a file nor a folder at commit {commit}")
        return self._store(commit, chosen_files(below, self._shown, trusted=self._trusted), prefix, root, budget)

    def signed(self, content: Content) -> Signed:
        """The detached signature in the repository, `<path>.sig`; a whole repository has a model.sig instead."""
        del content
        name = f"{self._path}.sig"
        place = f"hf://{self._hub.repository}@{self._revision}/{name}"
        if not self._path:
            return Signed(f"{place} (a whole repository is signed with spec.model.signature.type: ModelSigning)")
        commit = self._hub.commit(self._revision)
        file = self._listed(commit).get(name)
        if file is None:
            return Signed(place)
        try:
            return Signed(place, ((decode_signature(read_small(self._hub.open(commit, file).chunks, place)), b""),))
        except ValueError as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{place}: {error}") from error

    @property
    def _shown(self) -> str:
        return f"hf://{self._hub.repository}@{self._revision}{f'/{self._path}' if self._path else ''}"

    def _listed(self, commit: str) -> dict[str, HubFile]:
        known: dict[str, HubFile] = {}
        for file in self._hub.files(commit):
            known[file.path] = file
            if len(known) > MOST_FILES:
                message = f"hf://{self._hub.repository} holds more than {MOST_FILES} files; only smaller ones are read"
                raise Failure(Reason.TOO_LARGE, message)
        return known

    def _store(self, commit: str, files: list[HubFile], prefix: str, root: Path, budget: Budget) -> Content:
        budget.expect(sum(file.size for file in files), self._shown)
        prefix = "" if prefix == "./" else prefix
        return finish_folder(
            root,
            [
                store(self._hub.open(commit, file).chunks, root, file.path.removeprefix(prefix), budget)
                for file in files
            ],
        )


def chosen_files(files: list[HubFile], place: str, *, trusted: bool) -> list[HubFile]:
    """What a model needs of a repository that holds it for many frameworks; raises Failure.

    ONNX is preferred to safetensors; weights that run code when they are loaded count only where neither is there, and
    need `trusted`. Small files (configurations, tokenizers) come along.
    """
    known = {file.path for file in files}
    kept = [file for file in files if PurePosixPath(file.path).name not in _NEVER]
    openvino = {file.path for file in kept if file.suffix == ".bin" and f"{file.path[:-4]}.xml" in known}
    code = [file for file in kept if file.suffix in _CODE_WEIGHTS and file.path not in openvino]
    weights = {*_SAFE_WEIGHTS, *_CODE_WEIGHTS, *_OTHER_WEIGHTS}
    rest = [file for file in kept if file.suffix not in weights]
    for suffix in _SAFE_WEIGHTS:
        models = [file for file in kept if file.suffix == suffix]
        if models:
            return [*models, *(_without_openvino(rest, openvino))]
    others = [file for file in kept if file.suffix in _OTHER_WEIGHTS]
    if openvino or (others and not trusted):
        return [file for file in kept if file not in code]
    if code and not trusted:
        message = f"{place} has its weights only in formats that run code when they are loaded ({code[0].path})"
        raise Failure(
            Reason.CODE_NOT_TRUSTED, f"{message}; set trust: Code if you trust its author, or use safetensors"
        )
    return kept


def _without_openvino(files: list[HubFile], binaries: set[str]) -> list[HubFile]:
    descriptions = {f"{path[:-4]}.xml" for path in binaries}
    return [file for file in files if file.path not in descriptions]


def _hub_file(entry: Mapping[str, Any]) -> HubFile | None:
    if not isinstance(entry, dict) or entry.get("type") != "file":
        return None
    large = entry.get("lfs") or {}
    try:
        return HubFile(str(entry["path"]), int(entry["size"]), str(entry["oid"]), str(large.get("oid", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(Reason.SOURCE_UNAVAILABLE, f"the hub lists a file without {error}") from error
