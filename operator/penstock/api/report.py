"""The report of a preparation, `penstock.dev/report/v1`: what was done to a model, and every number that was measured.

It is written by the preparation's containers as plain JSON with these names, published to the artifact store by digest,
and read by `penstock report`. Whatever the model or its tools have said in it is not to be trusted: texts are bounded,
and whoever shows them escapes them. Unknown fields are ignored, missing ones mean that nothing is known.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

__all__ = [
    "REPORT_SCHEMA",
    "REPORT_TYPE",
    "Candidate",
    "Conversion",
    "GateRow",
    "Histogram",
    "Latency",
    "Machine",
    "Memory",
    "Optimization",
    "OptimizationAsked",
    "Parity",
    "Report",
    "Serving",
    "Source",
    "Speed",
    "Throughput",
    "Timing",
    "Trial",
    "read_report",
]

REPORT_SCHEMA = "penstock.dev/report/v1"
REPORT_TYPE = "application/vnd.penstock.report.v1+json"
"""artifactType of the manifest and media type of its one layer, the JSON text."""
LARGEST_REPORT = 4 << 20

Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(max_length=256)]
Versions = Annotated[dict[Name, Name], Field(max_length=64)]
Texts = Annotated[tuple[Text, ...], Field(max_length=64)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]


class Section(BaseModel):
    """Base of all parts: frozen, snake_case in JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Histogram(Section):
    """How often values fell between two edges: one edge more than counts, ascending."""

    edges: Annotated[tuple[FiniteFloat, ...], Field(min_length=2, max_length=513)]
    counts: Annotated[tuple[Count, ...], Field(min_length=1, max_length=512)]

    @model_validator(mode="after")
    def _check_edges(self) -> "Histogram":
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, not {len(self.edges)}")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("the edges of a histogram must ascend")
        return self


class Source(Section):
    """What was prepared."""

    uri: Text = ""
    digest: Name = ""
    format: Name = ""
    size_bytes: Count | None = None
    files: Count | None = None
    resolved: Text = ""
    """What the URI meant, in the source's own words."""
    signature: Name = ""
    """`Cosign` or `ModelSigning` where one was asked for and found valid."""


class Timing(Section):
    """How long one run took on one thread of the opener."""

    milliseconds: Amount | None = None
    runs: Count | None = None
    discarded: Amount | None = None
    """Share of the windows that other work on the node has disturbed."""


class Speed(Section):
    """The converted model beside the source framework, one row at a time."""

    speedup: Amount | None = None
    onnx: Timing = Timing()
    source: Timing = Timing()
    problem: Text = ""
    """Why they could not be compared."""


class Conversion(Section):
    """How the source became what is served."""

    format: Name = ""
    """What came of it, such as ONNX."""
    tools: Versions = {}
    warnings: Texts = ()
    seconds: Amount | None = None
    opset: int | None = None
    ir_version: int | None = None
    speed: Speed | None = None


class Candidate(Timing):
    """One way to serve the model: the baseline, or what an optimization has made of it."""

    name: Name = "baseline"
    precision: Name | None = None
    size_bytes: Count | None = None
    speedup: Amount | None = None
    """The baseline's time divided by this one's."""
    low: Amount | None = None
    high: Amount | None = None
    """The interval of `speedup`."""
    batch8: Amount | None = None
    """The speedup with eight rows, which decides nothing."""
    kept: bool = False
    why: Text = ""
    """Why it was kept, or was not."""


class OptimizationAsked(Section):
    """What was asked of it."""

    precision: Name | None = None
    min_speedup: Amount | None = None


def _as_object(asked: object) -> object:
    return {"precision": asked} if isinstance(asked, str) else asked


class Optimization(Section):
    """What was tried to make the model faster."""

    asked: Annotated[OptimizationAsked, BeforeValidator(_as_object)] = OptimizationAsked()
    """The precision alone, or all that was asked."""
    isa: Name = ""
    """What decides the speed of INT8 on this CPU."""
    baseline: Candidate | None = None
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=64)] = ()
    warnings: Texts = ()


class GateRow(Section):
    """One gate: what was asked and measured as text with units, and where they have any, as numbers of one unit."""

    name: Name
    asked: Text = ""
    measured: Text = ""
    passed: bool
    reason: Name = ""
    sentence: Text = ""
    value: FiniteFloat | None = None
    bound: FiniteFloat | None = None
    """What `value` is held against."""
    better: Literal["Higher", "Lower"] | None = None
    interval: tuple[FiniteFloat, FiniteFloat] | None = None
    """The 95 % confidence interval of `value`."""
    baseline: FiniteFloat | None = None
    """The source framework's own value."""
    rows: Count | None = None
    unit: Name = ""


class Parity(Section):
    """The served model's answers against the source framework's."""

    rows: Count = 0
    top1_agreement: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    max_absolute: Amount | None = None
    max_relative: Amount | None = None
    differences: Histogram | None = None
    """Of each row's largest absolute difference; where the edges span decades they are logarithmic."""


class Latency(Section):
    """Requests answered by the server as it will be configured; milliseconds."""

    concurrency: Count = 1
    batch_size: Count = 1
    requests: Count = 0
    p50_ms: Amount | None = None
    p95_ms: Amount | None = None
    p99_ms: Amount | None = None
    histogram: Histogram | None = None


class Throughput(Section):
    """Rows answered per second at one batch size."""

    batch_size: Count
    concurrency: Count = 1
    rows_per_second: Amount


class Memory(Section):
    """The server's memory."""

    peak_bytes: Count
    limit_bytes: Count | None = None


class Trial(Section):
    """One setting that the search for the best one has tried."""

    settings: Annotated[dict[Name, int | bool | str], Field(max_length=16)]
    value: Amount | None = None
    """p95 in ms or rows per second, as the goal was; None where it could not be measured."""
    chosen: bool = False
    why: Text = ""


class Serving(Section):
    """What was measured in the server."""

    latency: Latency | None = None
    throughput: Annotated[tuple[Throughput, ...], Field(max_length=64)] = ()
    memory: Memory | None = None
    goal: Literal["Latency", "Throughput"] | None = None
    trials: Annotated[tuple[Trial, ...], Field(max_length=32)] = ()


class Machine(Section):
    """Where it was measured; numbers of different machines are not comparable."""

    cpu: Name = ""
    flags: Annotated[tuple[Name, ...], Field(max_length=512)] = ()
    """Of the CPU, those that decide speed."""
    cores: Amount | None = None
    """That the measured container may use."""


class Failed(Section):
    """Why the model was refused."""

    reason: Name
    message: Text = ""


class Report(Section):
    """The whole report."""

    schema_: Annotated[Literal["penstock.dev/report/v1"], Field(alias="schema")]
    error: Failed | None = None
    source: Source = Source()
    conversion: Conversion | None = None
    optimization: Optimization | None = None
    gates: Annotated[tuple[GateRow, ...], Field(max_length=64)] = ()
    parity: Parity | None = None
    serving: Serving | None = None
    machine: Machine = Machine()
    tools: Versions = {}

    @property
    def passed(self) -> bool:
        """Whether the model may be served."""
        return self.error is None and all(gate.passed for gate in self.gates)


def read_report(data: bytes | str) -> Report:
    """The report in a JSON text; raises ValueError for anything that is not one."""
    if len(data) > LARGEST_REPORT:
        raise ValueError(f"the report has {len(data)} bytes, at most {LARGEST_REPORT} are read")
    try:
        return Report.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        raise ValueError(f"not a report of schema {REPORT_SCHEMA}: {place}: {first['msg']}") from error
