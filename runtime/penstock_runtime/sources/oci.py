"""`oci://host/repository:tag`: an artifact, pushed by oras, by Penstock or by any tool that titles its layers."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.archive import is_archive_name, unpack
from penstock_runtime.content import Budget, Content, StoredFile, store
from penstock_runtime.failure import Failure
from penstock_runtime.registry import Manifest, Reference, Refused, Registry, RegistryAuth, parse_reference
from penstock_runtime.web import Answer, Forbidden, Truncated, Unreachable

from . import Context, Signed
from .files import SIGNATURE_LIMIT

__all__ = ["OciSource", "open_source"]

_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_GZIPPED_TYPES = ("tar+gzip", "tar.gzip")
_MOST_LAYERS = 1000
_HUB_ALIASES = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


def open_source(uri: str, context: Context) -> "OciSource":
    """The artifact behind a URI; raises Failure."""
    try:
        reference = parse_reference(uri.removeprefix("oci://"))
    except ValueError as error:
        message = f"{error}; write oci://host/repository:tag or oci://host/repository@sha256:..."
        raise Failure(Reason.INVALID_SPEC, message) from error
    auth = registry_auth(context.secret, reference.host)
    if auth == RegistryAuth() and reference.host == context.store_host:
        auth = context.store_auth
    return OciSource(reference, Registry(reference.host, context.web, auth))


def registry_auth(secret: Mapping[str, str], host: str) -> RegistryAuth:
    """Credentials of a Secret: `.dockerconfigjson`, or `token`, or `username` and `password`; raises Failure."""
    config = secret.get(".dockerconfigjson") or secret.get("config.json")
    if config:
        return _from_docker_config(config, host)
    if "token" in secret:
        return RegistryAuth(token=secret["token"])
    return RegistryAuth(username=secret.get("username", ""), password=secret.get("password", ""))


def _from_docker_config(text: str, host: str) -> RegistryAuth:
    try:
        auths = json.loads(text)["auths"]
        names: tuple[str, ...] = (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
        names += _HUB_ALIASES if host in ("docker.io", "index.docker.io", "registry-1.docker.io") else ()
        entry = next((auths[name] for name in names if name in auths), None)
        if entry is None:
            message = f"the credentials Secret has logins for {sorted(auths)}, and none for {host}; add one"
            raise Failure(Reason.SOURCE_DENIED, message)
        if entry.get("registrytoken"):
            return RegistryAuth(token=entry["registrytoken"])
        username, password = entry.get("username", ""), entry.get("password", "")
        if entry.get("auth"):
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return RegistryAuth(username=username, password=password)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = (
            "key .dockerconfigjson of the credentials Secret holds no logins; use kubectl create secret docker-registry"
        )
        raise Failure(Reason.SOURCE_DENIED, message) from error


class OciSource:
    """One artifact of one registry."""

    def __init__(self, reference: Reference, registry: Registry) -> None:
        self._reference = reference
        self._registry = registry

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write every titled layer below `root`; unpack folders."""
        manifest = self._manifest(self._reference.version)
        layers = self._layers(manifest)
        budget.expect(sum(int(layer.get("size", 0)) for layer in layers), self._name)
        root.mkdir(parents=True, exist_ok=True)
        files: list[StoredFile] = []
        for index, layer in enumerate(layers):
            files += self._store_layer(layer, index, root, budget)
        return Content(root, tuple(sorted(files)), manifest.digest)

    def resolve(self) -> str:
        """The digest of the manifest that the tag names now."""
        return self._manifest(self._reference.version).digest

    def signed(self, content: Content) -> Signed:
        """cosign's signatures: layers of the manifest tagged `sha256-<hex>.sig`, each over its own payload."""
        tag = content.digest.replace(":", "-") + ".sig"
        place = f"{self._reference.host}/{self._reference.repository}:{tag}"
        try:
            layers = self._registry.manifest(self._reference.repository, tag).data["layers"]
            found = tuple(filter(None, map(self._signature, layers[:_MOST_LAYERS])))
        except Refused as error:
            if error.status in (404, 403):
                return Signed(place)
            raise self._failure(error) from error
        except (Unreachable, Truncated) as error:
            raise self._failure(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(Reason.SIGNATURE_INVALID, f"{place} is not what cosign writes: {error}") from error
        return Signed(place, found)

    def _signature(self, layer: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
        text = (layer.get("annotations") or {}).get(_SIGNATURE)
        if not text:
            return None
        with self._registry.blob(self._reference.repository, layer["digest"]) as answer:
            payload = answer.text(SIGNATURE_LIMIT)
        try:
            return base64.b64decode(text, validate=True), payload
        except binascii.Error:
            return None

    @property
    def _name(self) -> str:
        at = f"@{self._reference.digest}" if self._reference.digest else f":{self._reference.version}"
        return f"{self._reference.host}/{self._reference.repository}{at}"

    def _manifest(self, version: str) -> Manifest:
        try:
            manifest = self._registry.manifest(self._reference.repository, version)
            children = manifest.data.get("manifests")
            if isinstance(children, list):
                if len(children) != 1:
                    message = f"{self._name} is an index of {len(children)} manifests; name one by @sha256:..."
                    raise Failure(Reason.UNKNOWN_FORMAT, message)
                manifest = self._registry.manifest(self._reference.repository, children[0]["digest"])
        except (Refused, Unreachable, Truncated) as error:
            raise self._failure(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(Reason.UNKNOWN_FORMAT, f"the manifest of {self._name} cannot be read: {error}") from error
        return manifest

    def _layers(self, manifest: Manifest) -> list[dict[str, Any]]:
        layers = manifest.data.get("layers")
        if not isinstance(layers, list) or not layers or len(layers) > _MOST_LAYERS:
            message = f"{self._name} is no artifact with files; push one with: oras push {self._name} model.onnx"
            raise Failure(Reason.UNKNOWN_FORMAT, message)
        return layers

    def _store_layer(self, layer: Mapping[str, Any], index: int, root: Path, budget: Budget) -> list[StoredFile]:
        annotations = layer.get("annotations") or {}
        title = annotations.get(_TITLE, "")
        if annotations.get(_UNPACK) == "true" or _is_archive(str(layer.get("mediaType", "")), title):
            return self._unpack_layer(layer, title, root, budget)
        if not title:
            message = (
                f"layer {index} of {self._name} has no {_TITLE} annotation, so it has no file name; push with oras"
            )
            raise Failure(Reason.UNKNOWN_FORMAT, message)
        file = store(self._chunks(layer), root, str(title).removeprefix("./"), budget)
        return [file]

    def _unpack_layer(self, layer: Mapping[str, Any], title: str, root: Path, budget: Budget) -> list[StoredFile]:
        """A folder's archive names the folder itself in every entry, so it unpacks beside the title."""
        folder = root.with_name(root.name + ".layer")
        archive = store(self._chunks(layer), folder, "layer", budget)
        parent = title.removeprefix("./").rstrip("/").rpartition("/")[0]
        budget.forget(archive.size)
        files = unpack(folder / archive.path, root, budget, parent)
        (folder / archive.path).unlink()
        return files

    def _chunks(self, layer: Mapping[str, Any]) -> Iterator[bytes]:
        digest, hashed = str(layer.get("digest", "")), hashlib.sha256()
        try:
            with self._registry.blob(self._reference.repository, digest) as answer:
                yield from _hashed(answer, hashed)
        except (Refused, Unreachable, Truncated) as error:
            raise self._failure(error) from error
        if f"sha256:{hashed.hexdigest()}" != digest:
            message = (
                f"a layer of {self._name} is {digest} in its manifest, the bytes sent have sha256:{hashed.hexdigest()}"
            )
            raise Failure(Reason.DIGEST_MISMATCH, message)

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, Truncated):
            return Failure(Reason.SOURCE_TRUNCATED, f"{error}; it is tried again")
        if isinstance(error, Forbidden):
            return Failure(Reason.SOURCE_DENIED, str(error))
        if not isinstance(error, Refused):
            return Failure(Reason.SOURCE_UNAVAILABLE, str(error))
        if error.status == 404:
            return Failure(Reason.SOURCE_NOT_FOUND, f"{self._name} does not exist in the registry ({error})")
        if error.status in (401, 403):
            message = f"the registry refuses {self._name} ({error}); check spec.model.credentialsSecretRef"
            return Failure(Reason.SOURCE_DENIED, message)
        if error.status == 200:
            return Failure(Reason.DIGEST_MISMATCH, str(error))
        return Failure(Reason.SOURCE_UNAVAILABLE, f"{self._name}: {error}")


def _is_archive(media_type: str, title: str) -> bool:
    """Whether a layer is a folder or an archive; oras calls plain files `...tar` too, and its folders gzipped."""
    return media_type.endswith(_GZIPPED_TYPES) or is_archive_name(title) or (not title and media_type.endswith("tar"))


def _hashed(answer: Answer, digest: "hashlib._Hash") -> Iterator[bytes]:
    for chunk in answer.chunks():
        digest.update(chunk)
        yield chunk
