"""Gathering: the model, the dataset and the calibration data, each from its own source, each pinned and verified.

All that needs the user's credentials and the network happens here. What goes wrong is said with the field that it
belongs to.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from penstock.api.facts import MountRef
from penstock.api.model import ConnectionSpec
from penstock.api.preparation import PreparationRequest
from penstock.api.proving import DataSpec
from penstock.api.reasons import Reason

from .content import Budget, Content
from .failure import Failure
from .meeting import CALIBRATION, DATASET, SOURCE
from .modelsigning import verify_bundle
from .mounts import Places, read_secret
from .registry import RegistryAuth
from .signature import load_public_key, verify
from .sources import Context, Source, open_source, read_connection
from .sources.claim import ClaimSource
from .web import Web

__all__ = ["Gathered", "Gatherer"]

_MODEL, _DATASET, _CALIBRATION = "spec.model", "spec.gates.dataset", "spec.optimize.calibration"


@dataclass(frozen=True)
class Gathered:
    """What was fetched, by digest; `mount` where the model stays in its claim, and `content` was only read there."""

    content: Content
    mount: MountRef | None = None
    dataset: str | None = None
    calibration: str | None = None
    resolved: str | None = None

    @property
    def only(self) -> str | None:
        """The one file of a claim's folder that is the model, whatever else lies there."""
        return (
            self.content.files[0].path if self.mount and self.mount.path.endswith(self.content.files[0].path) else None
        )


@dataclass(frozen=True)
class Gatherer:
    """The pod's mounts and variables, and the store, whose token also reads models that are kept there."""

    environment: Mapping[str, str]
    places: Places
    request: PreparationRequest
    web: Web
    store_host: str
    store_auth: RegistryAuth

    def resolve(self) -> str:
        """What the model's URI means now, in its source's own words; raises Failure."""
        return self._model().resolve()

    def gather(self) -> Gathered:
        """Fetch everything; raises Failure."""
        request = self.request
        source = self._model()
        key = self._public_key() if request.verify_signature else None
        if key is not None and request.verify_signature == "Cosign":
            load_public_key(*key)
        resolved = source.resolve() if request.resolve else None
        mount = None
        if request.delivery == "Mount":
            content, mount = self._read_in_place(source)
        else:
            content = _fetch(source, self.places.work / SOURCE, request.max_bytes)
        _check_pin(request.uri, content, request.digest, _MODEL)
        if key is not None and request.verify_signature == "ModelSigning":
            verify_bundle(content, *key)
        elif key is not None:
            verify(content, source.signed(content), load_public_key(*key), key[1])
        if content.archive:
            content.archive.unlink()
        dataset = request.gates.dataset if request.gates else None
        calibration = request.optimize.calibration if request.optimize else None
        return Gathered(content, mount, self._data(dataset, DATASET), self._data(calibration, CALIBRATION), resolved)

    def _model(self) -> Source:
        request = self.request
        return self._open(request.uri, SOURCE, _MODEL, request.connection)

    def _read_in_place(self, source: Source) -> tuple[Content, MountRef]:
        if not isinstance(source, ClaimSource):
            raise Failure(Reason.INVALID_SPEC, "spec.model.delivery: Mount needs a pvc:// URI; write delivery: Copy")
        content = source.read_in_place()
        parts = urlsplit(self.request.uri)
        return content, MountRef(claim=parts.netloc, path=source.path, size_bytes=content.size)

    def _data(self, spec: DataSpec | None, name: str) -> str | None:
        """The digest of a dataset or calibration, fetched to the folder of its name."""
        if spec is None:
            return None
        field = {DATASET: _DATASET, CALIBRATION: _CALIBRATION}[name]
        try:
            source = self._open(spec.uri, name, field, spec.connection)
            content = _fetch(source, self.places.work / name, self.request.max_bytes)
            _check_pin(spec.uri, content, spec.digest, field)
        except Failure as failure:
            message = failure.message.replace(f"{_MODEL}.", f"{field}.")
            message = message if field in message else f"{field}: {message}"
            raise Failure(failure.reason, message) from failure
        if content.archive:
            content.archive.unlink()
        return content.digest

    def _open(self, uri: str, name: str, field: str, connection: ConnectionSpec | None) -> Source:
        places, variable = (
            self.places,
            "PENSTOCK_CREDENTIALS" if name == SOURCE else f"PENSTOCK_{name.upper()}_CREDENTIALS",
        )
        folder, claim = {
            SOURCE: (places.credentials, places.claim),
            DATASET: (places.dataset_credentials, places.dataset_claim),
            CALIBRATION: (places.calibration_credentials, places.calibration_claim),
        }[name]
        secret = self.environment.get(variable)
        keys = read_secret(folder, secret, f"{field}.credentialsSecretRef") if secret else {}
        return open_source(uri, self._context(keys, claim, name, field, connection))

    def _context(
        self, keys: dict[str, str], claim: Path, name: str, field: str, connection: ConnectionSpec | None
    ) -> Context:
        folder = self.places.ca / ("model" if name == SOURCE else name)
        return Context(
            self.web,
            keys,
            claim,
            self.store_host,
            self.store_auth,
            connection=read_connection(connection, folder, f"{field}.connection"),
            dvc_remote=(self.request.dvc_remote or "") if name == SOURCE else "",
            trust=self.request.trust if name == SOURCE else "Data",
            environment=self.environment,
        )

    def _public_key(self) -> tuple[bytes, str]:
        """The PEM file of the Secret, and where it is in words."""
        secret, _, key = self.environment.get("PENSTOCK_SIGNATURE_KEY", "").partition("/")
        path = self.places.signature / key
        if not key or not path.is_file():
            message = f"Secret {secret} with key {key}, named by spec.model.signature, does not exist in this namespace"
            raise Failure(Reason.SECRET_MISSING, message)
        place = f"Secret {secret}, key {key}"
        return path.read_bytes(), place


def _fetch(source: Source, root: Path, most_bytes: int) -> Content:
    shutil.rmtree(root, ignore_errors=True)
    return source.fetch(root, Budget(most_bytes))


def _check_pin(uri: str, content: Content, pin: str | None, field: str) -> None:
    if pin and content.digest != pin:
        message = (
            f"{uri} has the digest {content.digest}, {field}.digest asks for {pin}; "
            "the content changed, or the pin is of another version"
        )
        raise Failure(Reason.DIGEST_MISMATCH, message)
