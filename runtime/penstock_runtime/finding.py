"""What inspection works on and ends with: the request, the tree of source files, and the finding that is answered.

Plain dataclasses: the container that opens models is waited for, and pydantic would be a quarter of its start. The
transfer container checks every answer against the words of `penstock.api`.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from penstock.api.backends import FILE_BACKENDS

from .failure import shorten

__all__ = [
    "CONFIG",
    "Asked",
    "Finding",
    "Progress",
    "RepositoryModel",
    "SourceTree",
    "Tensor",
    "is_config",
    "version_of",
]

Progress: TypeAlias = Callable[[str], None]
"""Told what is about to be done, for the sentence in case it never ends."""
CONFIG = "config.pbtxt"
_MOST_WARNINGS = 8
_LONGEST_WARNING = 300


@dataclass(frozen=True)
class Tensor:
    """One input or output: Triton's name of its type, and the whole shape as the model declares it, -1 where free."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class RepositoryModel:
    """One model of a ready Triton repository."""

    name: str
    backend: str = ""
    ensemble: bool = False


@dataclass(frozen=True)
class Asked:
    """What of the PreparationRequest concerns the content."""

    format: str = "Auto"
    trust: str = "Data"
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    entrypoint: str | None = None
    convert: str = "Auto"
    opener: str = "Basic"
    delivery: str = "Copy"
    served_name: str = "model"
    optimize: Mapping[str, Any] = field(default_factory=dict)
    """`spec.optimize` as JSON; empty where nothing is asked."""
    gates: Mapping[str, Any] = field(default_factory=dict)
    """`spec.gates` as JSON; empty where nothing is asked."""
    server: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> "Asked":
        """Read the request's JSON."""
        return cls(
            format=request.get("format", "Auto"),
            trust=request.get("trust", "Data"),
            inputs=_tensors(request.get("inputs", ())),
            outputs=_tensors(request.get("outputs", ())),
            entrypoint=request.get("entrypoint"),
            convert=request.get("convert", "Auto"),
            opener=request.get("opener", "Basic"),
            delivery=request.get("delivery", "Copy"),
            served_name=request.get("servedName", "model"),
            optimize=request.get("optimize") or {},
            gates=request.get("gates") or {},
            server=request.get("server"),
        )

    @property
    def changes_model(self) -> bool:
        """Whether the numerics may be changed, or a hook may return another model."""
        precision = self.optimize.get("precision", "None")
        return precision != "None" or "prune" in self.optimize or "hook" in self.optimize


@dataclass(frozen=True)
class SourceTree:
    """Regular files below `root`: size by relative path with `/`, sorted."""

    root: Path
    sizes: Mapping[str, int]

    @classmethod
    def read(cls, root: Path, only: str | None = None) -> "SourceTree":
        """Walk the folder; with `only` that file alone is seen, whatever lies beside it."""
        if only is not None:
            return cls(root, {only: (root / only).stat().st_size})
        sizes = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink():
                    sizes[path.relative_to(root).as_posix()] = path.stat().st_size
        return cls(root, dict(sorted(sizes.items())))

    def looks_like_repository(self) -> bool:
        """Whether this is a Triton repository, one model's directory of one, or a folder around either."""
        return any(is_config(path) or version_of(path) is not None for path in self.sizes)

    def shown(self) -> str:
        """The first paths, for a sentence."""
        paths = list(self.sizes)
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        return ", ".join(paths[:5]) + more if paths else "no file"


@dataclass(frozen=True)
class Finding:
    """The part of ModelFacts that content tells, and the layer's layout: new path of each source path."""

    format: str
    files: Mapping[str, str]
    folders: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    batching: bool = False
    opset: int | None = None
    ir_version: int | None = None
    models: tuple[RepositoryModel, ...] = ()
    warnings: tuple[str, ...] = ()
    source_format: str | None = None
    precision: str | None = None
    forest: Mapping[str, Any] | None = None
    """Of tree ensembles that are served as they are: `modelType` and `classes`, as ModelFacts has them."""

    def to_answer(self) -> dict[str, Any]:
        """The JSON for the transfer container."""
        facts = {
            "format": self.format,
            "inputs": [_wire(tensor) for tensor in self.inputs],
            "outputs": [_wire(tensor) for tensor in self.outputs],
            "batching": self.batching,
            "opset": self.opset,
            "irVersion": self.ir_version,
            "models": [asdict(model) for model in self.models],
            "warnings": _limit_warnings(self.warnings),
            "sourceFormat": self.source_format,
            "precision": self.precision,
            **({"forest": dict(self.forest)} if self.forest else {}),
        }
        return {"facts": facts, "files": dict(self.files), "folders": list(self.folders)}


def is_config(path: str) -> bool:
    """Whether a path is that of a model's configuration."""
    return path == CONFIG or path.endswith(f"/{CONFIG}")


def version_of(path: str) -> str | None:
    """The version directory of a path `.../<number>/<model file>`; None for other paths."""
    parts = path.split("/")
    if len(parts) >= 2 and parts[-2].isdigit() and parts[-1] in FILE_BACKENDS:
        return parts[-2]
    return None


def _tensors(items: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(item["name"], item["dataType"], tuple(item["dims"])) for item in items)


def _wire(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dataType": tensor.data_type, "dims": list(tensor.dims)}


def _limit_warnings(warnings: tuple[str, ...]) -> list[str]:
    """Short and few: the last says how many there are not."""
    kept = [shorten(warning, _LONGEST_WARNING) for warning in warnings[:_MOST_WARNINGS]]
    if len(warnings) > _MOST_WARNINGS:
        kept[-1] = f"{len(warnings) - _MOST_WARNINGS + 1} more warnings; run `penstock repository check` for all"
    return kept
