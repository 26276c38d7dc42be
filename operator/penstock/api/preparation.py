"""What the operator asks of a preparation Job, and what the Job answers.

The request travels as JSON in one environment variable, the report as the container's termination message: 4,096 bytes
at most, less in a pod of many containers, compressed when it has to be, and validated by this same code on both sides.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import ApiModel
from .facts import Count, Digest, GateResult, ModelFacts, Tensor
from .model import ConnectionSpec, SourceFormat
from .openers import Opener
from .proving import GatesSpec, OptimizeSpec
from .reasons import Reason
from .termination import REPORT_LIMIT, pack, unpack

__all__ = [
    "REQUEST_VARIABLE",
    "Needs",
    "PreparationError",
    "PreparationReport",
    "PreparationRequest",
    "needs_server",
]

REQUEST_VARIABLE = "PENSTOCK_REQUEST"


class PreparationRequest(ApiModel):
    """Everything a preparation depends on except credentials, which the kubelet mounts."""

    uri: str
    format: SourceFormat = "Auto"
    digest: Digest | None = None
    verify_signature: Literal["", "Cosign", "ModelSigning"] = ""
    trust: Literal["Data", "Code"] = "Data"
    entrypoint: str | None = None
    convert: Literal["Auto", "Never"] = "Auto"
    delivery: Literal["Copy", "Mount"] = "Copy"
    dvc_remote: str | None = None
    connection: ConnectionSpec | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    optimize: OptimizeSpec | None = None
    gates: GatesSpec | None = None
    served_name: str = "model"
    """Only what gates measure in a server depends on it, and on `server`."""
    server: dict[str, Any] | None = None
    """`spec.server` as written and the limits of its container; None where no gate needs a server."""
    opener: Opener = "Basic"
    """What the container that opens the model can open; content that needs another is answered with `needs`."""
    resolve: bool = False
    """Say also what the URI means now, asked before the fetch: what later refreshes are compared with."""
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


class Needs(ApiModel):
    """Content whose format another opener has to open; the source was looked at, nothing was loaded."""

    format: SourceFormat
    opener: Opener
    size_bytes: Count = 0
    """Of the source: what the next pod must have room for."""


class PreparationReport(ApiModel):
    """Exactly one of facts, error and needs, or `resolved` alone, which may also stand beside each of them.

    Beside facts and errors stands what the gates measured.
    """

    facts: ModelFacts | None = None
    error: PreparationError | None = None
    needs: Needs | None = None
    resolved: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """What the URI means now, in the source's own words: an ETag, a digest, a version. The answer of a refresh."""
    gates: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    report: Digest | None = None
    """Manifest of the whole report in the artifact store."""

    def encode(self, limit: int = REPORT_LIMIT) -> str:
        """The termination message; raises ValueError when even compressed it is over so many bytes."""
        return pack(self.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True), limit)

    @classmethod
    def decode(cls, text: str) -> "PreparationReport":
        """The report in a termination message; raises ValueError for anything that is not one."""
        try:
            report = cls.model_validate_json(unpack(text))
        except ValueError as error:
            raise ValueError(f"not a preparation report: {error}") from error
        said = sum(part is not None for part in (report.facts, report.error, report.needs))
        if said > 1 or (said == 0 and report.resolved is None):
            raise ValueError("a preparation report holds one of facts, error and needs, or resolved alone")
        if len({gate.name for gate in report.gates}) < len(report.gates):
            raise ValueError("a preparation report holds two results of one gate")
        return report


def needs_server(gates: GatesSpec | None) -> bool:
    """Whether something is measured in the real server: all but the size, which the files alone tell."""
    return gates is not None and any((gates.dataset, gates.latency, gates.throughput, gates.memory, gates.tune))
