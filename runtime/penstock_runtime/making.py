"""What the stages of the opener are given, and what each hands on to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import onnxmodel
from .finding import Finding

if TYPE_CHECKING:
    from .convert import Reference
    from .data import Dataset
    from .gates.offline import OfflineGates

__all__ = ["Made", "Order"]


@dataclass(frozen=True)
class Order:
    """Where everything lies; None where it was not asked for."""

    root: Path
    only: str | None
    prepared: Path
    answers: Path
    hook: Path
    metric: Path
    metric_source: Path
    dataset: Path | None = None
    calibration: Path | None = None
    reused: Mapping[str, Any] | None = None
    """The result of the same conversion: its facts, its part of the report, and whether it changed the files."""

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> "Order":
        """From the request that `inspect` sends."""
        return cls(
            root=Path(asked["root"]),
            only=asked["only"],
            prepared=Path(asked["prepared"]),
            answers=Path(asked["answers"]),
            hook=Path(asked["hook"]),
            metric=Path(asked["metric"]),
            metric_source=Path(asked["metric-source"]),
            dataset=Path(asked["dataset"]) if asked["dataset"] else None,
            calibration=Path(asked["calibration"]) if asked["calibration"] else None,
            reused=asked["reused"],
        )


@dataclass(frozen=True)
class Made:
    """A model on its way: what is known of it, where its files lie, and what is reported of its making."""

    finding: Finding
    folder: Path
    derived: bool = False
    baseline: Path | None = None
    reference: "Reference | None" = None
    report: Mapping[str, Any] = field(default_factory=dict)
    dataset: "Dataset | None" = None
    gates: "OfflineGates | None" = None
    """Made once, since the source answers the dataset once for all candidates."""

    @property
    def main(self) -> Path:
        """The file that a runtime opens."""
        name = onnxmodel.PUBLISHED if onnxmodel.PUBLISHED in self.finding.files else next(iter(self.finding.files))
        return self.folder / self.finding.files[name]

    @property
    def size_bytes(self) -> int:
        """Of all files that are served."""
        return sum((self.folder / source).stat().st_size for source in self.finding.files.values())
