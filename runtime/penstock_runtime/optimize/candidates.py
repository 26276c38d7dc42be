"""Candidates: files made from a model by the recipes that suit it, or the reason why one could not be made."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from penstock_runtime.data import Dataset
from penstock_runtime.failure import is_out_of_memory, shorten
from penstock_runtime.finding import Progress

from . import half, quantize
from .asked import OptimizeAsked
from .files import read_whole, write_tidy
from .isa import GPU, Isa, read_isa
from .network import read_network
from .policy import Recipe, Refusal, plan_candidates

__all__ = ["Candidate", "Workshop"]

_FILE = "model.onnx"
_MACHINE_BOUND = ("com.microsoft.nchwc",)
"""Operators whose layout of numbers is that of the CPU they were made on."""


@dataclass(frozen=True)
class Candidate:
    """A model that could be served instead; without a `path` it could not be made, and `why` says so."""

    name: str
    precision: str | None
    path: Path | None = None
    why: str = ""
    wants_calibration: bool = False
    needless: bool = False
    warnings: tuple[str, ...] = ()


class Workshop:
    """Makes candidates: each in a folder of its own below `out`, temporary files in `scratch`."""

    def __init__(
        self, out: Path, scratch: Path, asked: OptimizeAsked, calibration: Dataset | None, progress: Progress
    ) -> None:
        self._out, self._scratch = out, scratch
        self._asked, self._calibration, self._progress = asked, calibration, progress
        self.isa: Isa = GPU if asked.target == "GPU" else read_isa()

    def place(self, name: str) -> Path:
        """The file of a candidate of that name."""
        folder = self._out / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / _FILE

    def keep_only(self, kept: Path) -> None:
        """Remove the files of all candidates but one."""
        for folder in self._out.iterdir():
            if folder not in (kept.parent, self._scratch) and folder.is_dir():
                shutil.rmtree(folder)

    def make(self, source: Path, prefix: str = "") -> Iterator[Candidate]:
        """Every candidate that suits the network in `source`; what cannot be made comes with its reason."""
        if self._asked.precision == "None":
            return
        self._progress("preparing the network for optimization")
        prepared = self._scratch / f"{prefix}prepared.onnx"
        try:
            network = read_network(quantize.prepare_network(source, prepared))
        except Exception as error:  # noqa: BLE001 - the tools raise whatever they stumble over
            yield self._failed(Recipe("preparation", None), prefix, error)
            return
        recipes, refusals = plan_candidates(
            network, self._asked.precision, self.isa, calibrated=self._calibration is not None
        )
        for recipe in recipes:
            yield self._make(recipe, source, prepared, prefix)
        for refusal in refusals:
            yield _refused(refusal, prefix)

    def _make(self, recipe: Recipe, source: Path, prepared: Path, prefix: str) -> Candidate:
        name = f"{prefix}{recipe.name}"
        self._progress(f"making the candidate {name}")
        out = self.place(name)
        warnings: tuple[str, ...] = ()
        try:
            if recipe.name == "fp16":
                warnings = half.convert_half(source, out)
            elif recipe.name == "dynamic-int8":
                quantize.quantize_dynamic(prepared, out, recipe)
            elif recipe.name == "static-int8":
                assert self._calibration is not None
                quantize.quantize_static(prepared, out, recipe, self._calibration)
            else:
                optimize_graph(source, out)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(recipe, prefix, error)
        return Candidate(name, recipe.precision, out, warnings=warnings)

    def _failed(self, recipe: Recipe, prefix: str, error: Exception) -> Candidate:
        if is_out_of_memory(error):
            raise MemoryError from error
        why = shorten(f"it cannot be made: {type(error).__name__}: {error}", 300)
        return Candidate(f"{prefix}{recipe.name}", recipe.precision, why=why)


def optimize_graph(source: Path, out: Path) -> None:
    """What onnxruntime makes of a graph when it loads it, as far as that does not depend on the machine."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(read_whole(source).SerializeToString(), options, providers=["CPUExecutionProvider"])
    model = onnx.load(out)
    bound = sorted({node.op_type for node in model.graph.node if node.domain in _MACHINE_BOUND})
    if bound:
        raise ValueError(f"it would only run on CPUs like this one: {', '.join(bound)}")
    write_tidy(model, out)


def _refused(refusal: Refusal, prefix: str) -> Candidate:
    return Candidate(
        f"{prefix}{refusal.name}", refusal.precision, why=refusal.why,
        wants_calibration=refusal.wants_calibration, needless=refusal.needless,
    )  # fmt: skip
