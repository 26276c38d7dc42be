"""Sources: one module per scheme, imported when asked for, since each brings its own libraries and start-up time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

from penstock.api.model import ConnectionSpec
from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content
from penstock_runtime.failure import Failure
from penstock_runtime.registry import RegistryAuth
from penstock_runtime.web import Web

__all__ = ["NO_CONNECTION", "Connection", "Context", "Opened", "Signed", "Source", "open_source", "read_connection"]

_MODULES = {
    "oci": "oci", "s3": "s3", "gs": "gs", "az": "az", "https": "https", "hf": "hf", "models": "mlflow", "pvc": "claim",
}  # fmt: skip


@dataclass(frozen=True)
class Connection:
    """How a source is reached where its defaults do not do; `ca` is a PEM file. The Secret's own keys win."""

    endpoint: str = ""
    region: str = ""
    ca: Path | None = None


NO_CONNECTION = Connection()


@dataclass(frozen=True)
class Context:
    """What a source may use: the web, the user's credentials (keys of the Secret), and the store's own token.

    `environment` has what a cloud's webhook injected for the Job's service account; it counts only without a Secret.
    """

    web: Web
    secret: Mapping[str, str] = field(default_factory=dict)
    claim: Path = Path("/source")
    store_host: str = ""
    store_auth: RegistryAuth = field(default_factory=RegistryAuth)
    connection: Connection = NO_CONNECTION
    dvc_remote: str = ""
    trust: str = "Data"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def ambient(self) -> Mapping[str, str]:
        """The environment, where keyless access is the way: never beside a Secret."""
        return {} if self.secret else self.environment


class Source(Protocol):
    """One URI. Every method raises Failure with a reason of the source's."""

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the content below `root`."""

    def signed(self, content: Content) -> "Signed":
        """The signatures that stand beside the content, none where there are none, and what they must cover."""

    def resolve(self) -> str:
        """What the URI means now, in the source's own words, without downloading it; at most 256 characters."""


@dataclass(frozen=True)
class Opened:
    """One file about to be read; `size` is None where the server does not say."""

    chunks: Iterator[bytes]
    size: int | None = None


@dataclass(frozen=True)
class Signed:
    """`signatures` are (raw signature, payload) pairs; the payload is what the signature must be of.

    An empty payload means the content's own bytes: of the single file, or a folder's `sha256sum` text. `place` is where
    signatures were looked for, in words.
    """

    place: str
    signatures: tuple[tuple[bytes, bytes], ...] = ()


def read_connection(spec: ConnectionSpec | None, folder: Path, field: str) -> Connection:
    """The connection of a spec, whose certificates are mounted below `folder`; raises Failure."""
    if spec is None:
        return NO_CONNECTION
    ca = None
    if spec.ca_config_map_ref:
        reference = spec.ca_config_map_ref
        ca = folder / reference.key
        if not ca.is_file():
            message = (
                f"ConfigMap {reference.name} with key {reference.key}, named by {field}.caConfigMapRef, does not exist"
            )
            raise Failure(Reason.SECRET_MISSING, f"{message} in this namespace; create it")
        if b"-----BEGIN CERTIFICATE-----" not in ca.read_bytes():
            message = f"key {reference.key} of ConfigMap {reference.name} holds no PEM certificate"
            raise Failure(Reason.INVALID_SPEC, f"{message}; put the CA's own there, named by {field}.caConfigMapRef")
    return Connection((spec.endpoint or "").rstrip("/"), spec.region or "", ca)


def open_source(uri: str, context: Context) -> Source:
    """The source behind a URI; raises Failure."""
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} names no host that could be asked: {error}") from error
    if scheme not in _MODULES:
        known = ", ".join("models:/" if name == "models" else f"{name}://" for name in sorted(_MODULES))
        raise Failure(Reason.INVALID_SPEC, f"{uri!r} has no known scheme; write one of {known}")
    if context.connection.ca:
        context = replace(context, web=context.web.adapted(certificates=context.connection.ca))
    name = "dvc" if context.dvc_remote else _MODULES[scheme]
    return cast("Source", import_module(f"{__name__}.{name}").open_source(uri, context))
