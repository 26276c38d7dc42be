"""What the operator asks of a preparation Job, and what the Job answers.

The request travels as JSON in one environment variable, the report as the container's termination message: 4,096 bytes
at most, compressed when it has to be, and validated by this same code on both sides.
"""

import base64
import zlib
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from .base import ApiModel
from .facts import Digest, ModelFacts, ModelFormat, Tensor
from .reasons import Reason

__all__ = ["REPORT_LIMIT", "REQUEST_VARIABLE", "PreparationError", "PreparationReport", "PreparationRequest"]

REQUEST_VARIABLE = "PENSTOCK_REQUEST"
REPORT_LIMIT = 4096
_COMPRESSED = "z:"


class PreparationRequest(ApiModel):
    """Everything a preparation depends on except credentials, which the kubelet mounts."""

    uri: str
    format: Literal["Auto"] | ModelFormat = "Auto"
    digest: Digest | None = None
    verify_signature: bool = False
    trust: Literal["Data", "Code"] = "Data"
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    repository: str
    """Where to publish: host[:port]/name in the artifact store, for example `registry.penstock-system:5000/vision`."""
    plain_http: tuple[str, ...] = ()
    """Registry hosts spoken to without TLS; every other host is HTTPS."""
    max_bytes: int
    """Largest content accepted, and what the work volume has room for; streams stop there."""


class PreparationError(ApiModel):
    """Why a preparation failed: a reason of the closed set, and a sentence for the user."""

    reason: Reason
    message: Annotated[str, Field(max_length=1500)]


class PreparationReport(ApiModel):
    """Exactly one of facts and error."""

    facts: ModelFacts | None = None
    error: PreparationError | None = None

    def encode(self) -> str:
        """The termination message; raises ValueError when even compressed it is over 4,096 bytes."""
        text = self.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)
        if len(text.encode()) > REPORT_LIMIT:
            text = _COMPRESSED + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
        if len(text) > REPORT_LIMIT:
            raise ValueError(f"the report takes {len(text)} bytes compressed, {REPORT_LIMIT} fit")
        return text

    @classmethod
    def decode(cls, text: str) -> "PreparationReport":
        """The report in a termination message; raises ValueError for anything that is not one."""
        try:
            if text.startswith(_COMPRESSED):
                packed = base64.b64decode(text.removeprefix(_COMPRESSED), validate=True)
                unpacker = zlib.decompressobj()
                text = unpacker.decompress(packed, 1 << 20).decode()
            report = cls.model_validate_json(text)
        except (ValidationError, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"not a preparation report: {error}") from error
        if (report.facts is None) == (report.error is None):
            raise ValueError("a preparation report holds either facts or an error")
        return report
