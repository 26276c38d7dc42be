"""`optimize`: make the candidates that suit a network, measure them beside the model itself, keep one or none.

What is kept was measured faster by `minSpeedup` at batch 1, on one thread, in onnxruntime itself; for every other
candidate the report says why not. A precision asked for by name insists on the numerics and not on a loss: where it is
not faster the baseline is served with a warning, where it fails the gates they say so, and where it cannot be made the
preparation fails. Only pruning is kept without being faster: it promises nothing else than zeros.
"""

from collections.abc import Sequence
from pathlib import Path

from penstock.api.reasons import Reason
from penstock_runtime.data import Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Progress

from .asked import Accept, OptimizeAsked, Optimized
from .calibration import check_calibration
from .candidates import Candidate, Workshop
from .files import LARGEST, scratch, size_of
from .prune import prune
from .rating import Ratings, rate
from .report import make_report, make_warnings
from .verdict import HOOK, INSISTING, PRUNED, choose

__all__ = ["optimize"]


def optimize(
    model: Path,
    out: Path,
    asked: OptimizeAsked,
    calibration: Dataset | None,
    progress: Progress,
    *,
    accept: Accept | None = None,
    hook: Path | None = None,
    dataset: Dataset | None = None,
) -> Optimized:
    """The model to serve, and the report of all that was tried; raises Failure.

    `out` is an empty folder for candidates, of which the kept one stays, and for temporary files. `calibration` are
    rows for INT8's ranges, `dataset` the gates' rows: they tell whether calibration has the right scale, and models are
    timed on them. `accept` asks the gates about candidates that nobody asked for by name. `hook` is a candidate that
    the user made.
    """
    warnings = list(check_calibration(calibration, dataset)) if calibration is not None else []
    _check_size(model)
    with scratch(out) as folder:
        workshop = Workshop(out, folder, asked, calibration, progress)
        candidates = _candidates(workshop, model, hook, asked, progress)
        _check_insistence(candidates, asked)
        ratings = Ratings(None, {})
        if asked.target == "CPU":
            progress("measuring the candidates beside the model")
            ratings = rate(model, candidates, dataset or calibration, asked.seconds)
        choice = choose(candidates, ratings, asked, accept)
        report = make_report(model, candidates, ratings, choice, asked, workshop.isa)
        kept, precision = model, None
        if choice.kept is not None and choice.kept.path is not None:
            kept, precision = choice.kept.path, choice.kept.precision
        workshop.keep_only(kept)
    warnings += make_warnings(candidates, choice, asked, compared=dataset is not None)
    return Optimized(kept, precision, report, tuple(warnings))


def _candidates(
    workshop: Workshop, model: Path, hook: Path | None, asked: OptimizeAsked, progress: Progress
) -> list[Candidate]:
    found, source = [], model
    if asked.prune is not None:
        progress("pruning the smallest weights")
        source = workshop.place(PRUNED)
        share = prune(model, source, asked.prune)
        said = (f"pruned: {share:.0%} of the weights are zero; files compress better, nothing runs faster",)
        found.append(Candidate(PRUNED, None, source, warnings=said))
    found += workshop.make(source, "pruned-" if asked.prune is not None else "")
    if hook is not None:
        found.append(Candidate(HOOK, None, hook))
        found += workshop.make(hook, "hook-")
    return found


def _check_size(model: Path) -> None:
    size = size_of(model)
    if size > LARGEST:
        message = (
            f"the model has {size >> 20} MiB; spec.optimize changes models up to {LARGEST >> 20} MiB, which fit into "
            "one ONNX file: optimize it before it is uploaded, and remove spec.optimize"
        )
        raise Failure(Reason.TOO_LARGE, message)


def _check_insistence(candidates: Sequence[Candidate], asked: OptimizeAsked) -> None:
    """A precision asked for by name that could not be made at all is an error of its own kind."""
    if asked.precision not in INSISTING or any(c.path and c.precision == asked.precision for c in candidates):
        return
    failed = [candidate for candidate in candidates if candidate.path is None and not candidate.needless]
    if not failed:
        return
    wants = any(candidate.wants_calibration for candidate in failed)
    reason = Reason.DATA_INVALID if wants else Reason.UNSUPPORTED_MODEL
    said = "; ".join(f"{candidate.name}: {candidate.why}" for candidate in failed)
    raise Failure(reason, f"spec.optimize.precision is {asked.precision}, and there is no such candidate: {said}")
