"""What a converter is given, and what it hands back."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from penstock_runtime.finding import Asked, Progress, SourceTree, Tensor
from penstock_runtime.formats.detect import Detected

__all__ = ["Array", "Arrays", "Case", "Converted", "Opened", "Reference"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = Mapping[str, Array]
Reference: TypeAlias = Callable[[Arrays], dict[str, Array]]
"""The source framework's own answers: arrays by input name to arrays by output name, as the ONNX model names both."""


@dataclass(frozen=True)
class Case:
    """One source and what its user asked for; `found` is the file to open."""

    tree: SourceTree
    asked: Asked
    found: Detected
    progress: Progress
    content: bytes | None = None
    """Of a file inside of `path`, which is an archive then."""
    code: tuple[Path, ...] = ()
    """Folders and archives with Python code of the content's own; the root of the tree and the file's folder always."""
    signature: tuple[Tensor, ...] = ()
    """Inputs as the package around the model describes them: columns of a table may be taken as one matrix."""

    @property
    def path(self) -> Path:
        """The file to open, or the archive that holds it."""
        return self.tree.root / self.found.path

    def source(self) -> "str | io.BytesIO":
        """What to load: a path, or the content of a file that has none of its own."""
        return str(self.path) if self.content is None else io.BytesIO(self.content)


@dataclass(frozen=True)
class Opened:
    """A model in its own framework: it can be written as ONNX, and asked for its answers."""

    export: Callable[[Path], None]
    """Writes an ONNX file, with its external weights beside it where there are any; raises what its tool raises."""
    answer: Reference
    tools: tuple[str, ...]
    """Distributions that had a part in it."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """An ONNX model made of a source."""

    model: Path
    source_format: str
    reference: Reference | None
    warnings: tuple[str, ...]
    tools: Mapping[str, str]
