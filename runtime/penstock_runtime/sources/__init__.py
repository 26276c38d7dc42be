"""Sources: one module per scheme, imported when asked for, since each brings its own libraries and start-up time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content
from penstock_runtime.failure import Failure
from penstock_runtime.registry import RegistryAuth
from penstock_runtime.web import Web

__all__ = ["Context", "Source", "open_source"]

_MODULES = {"oci": "oci", "s3": "s3", "https": "https", "pvc": "claim"}


@dataclass(frozen=True)
class Context:
    """What a source may use: the web, the user's credentials (keys of the Secret), and the store's own token."""

    web: Web
    secret: Mapping[str, str] = field(default_factory=dict)
    claim: Path = Path("/source")
    store_host: str = ""
    store_auth: RegistryAuth = field(default_factory=RegistryAuth)


class Source(Protocol):
    """One URI. Every method raises Failure with a reason of the source's."""

    def fetch(self, root: Path, budget: Budget) -> Content:
        """Write the content below `root`."""

    def signed(self, content: Content) -> "Signed":
        """The signatures that stand beside the content, none where there are none, and what they must cover."""


@dataclass(frozen=True)
class Signed:
    """`signatures` are (raw signature, payload) pairs; the payload is what the signature must be of.

    An empty payload means the content's own bytes: of the single file, or a folder's `sha256sum` text. `place` is where
    signatures were looked for, in words.
    """

    place: str
    signatures: tuple[tuple[bytes, bytes], ...] = ()


def open_source(uri: str, context: Context) -> Source:
    """The source behind a URI; raises Failure."""
    scheme = urlsplit(uri).scheme
    if scheme not in _MODULES:
        message = f"{uri!r} has no known scheme; write one of {', '.join(f'{name}://' for name in sorted(_MODULES))}"
        raise Failure(Reason.INVALID_SPEC, message)
    module = import_module(f"{__name__}.{_MODULES[scheme]}")
    return cast("Source", module.open_source(uri, context))
