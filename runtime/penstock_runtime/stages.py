"""What the opener does with a model, in order: detect, convert, optimize, prove offline, answer.

Everything here runs in the child that has no network, no secret and limits of its own. The heavy parts are imported by
the stage that needs them, and only in images that have them.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.api.reasons import Reason

from . import onnxmodel
from .failure import Failure
from .finding import Asked, Finding, Progress, SourceTree
from .formats.detect import detect
from .making import Made, Order
from .routes import find_route, is_compared, is_served_as_it_is

if TYPE_CHECKING:
    from .convert import Converted, Reference
    from .data import Dataset

__all__ = ["inspect_source", "prepare_model"]

_DEFAULT_SAMPLES = 256


def prepare_model(
    order: Order, asked: Asked, progress: Progress, ready: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The answer for the transfer container; raises Failure. `ready` returns when heavy libraries may be imported."""
    progress("looking at the files")
    tree = SourceTree.read(order.root, order.only)
    source_format, needs = find_route(tree, asked)
    if needs is not None:
        return {"needs": needs}
    made = _reused(order, tree, asked, source_format, progress, ready)
    if made is None:
        ready()
        made = _made(order, tree, asked, source_format, progress)
    elif made.finding.format == "ONNX":
        made = _with_gates(order, made, asked)
    return {"format": source_format, **_answer(order, made, *_proven(order, made, asked, progress))}


def inspect_source(root: Path, asked: Asked, progress: Progress) -> Finding:
    """Find out what files that are served as they are hold; raises Failure."""
    tree = SourceTree.read(root)
    return _inspected(tree, asked, detect(tree, asked), progress)


def _inspected(tree: SourceTree, asked: Asked, source_format: str, progress: Progress) -> Finding:
    if source_format == "ONNX":
        return onnxmodel.inspect_onnx(tree, asked, progress)
    if source_format == "TritonRepository":
        from . import tritonrepository  # noqa: PLC0415 - the linter it brings is not waited for by everybody

        return tritonrepository.inspect_repository(tree, asked)
    from .formats.served import inspect_served  # noqa: PLC0415 - few models are of these formats

    return inspect_served(tree, asked, source_format, progress)


def _reused(
    order: Order,
    tree: SourceTree,
    asked: Asked,
    source_format: str,
    progress: Progress,
    ready: Callable[[], None],
) -> Made | None:
    """The result of an earlier preparation with the same inputs: nothing is converted or tried again."""
    if order.reused is None:
        return None
    report = order.reused["report"]
    if not order.reused["derived"]:
        made = Made(_inspected(tree, asked, source_format, progress), order.root, report=report)
        return replace(made, baseline=made.main)
    folder = order.prepared / "reused"
    progress("looking at what was prepared before")
    finding = onnxmodel.inspect_onnx(SourceTree.read(folder), asked, progress)
    facts = order.reused["facts"]
    finding = replace(
        finding,
        batching=bool(facts.get("batching")),
        warnings=tuple(facts.get("warnings", ())),
        source_format=facts.get("sourceFormat"),
        precision=facts.get("precision"),
    )
    made = Made(finding, folder, derived=True, report=report)
    if source_format == "ONNX":
        return replace(made, baseline=order.root / onnxmodel.choose_file(tree, asked.format))
    reference = None
    if is_compared(asked):
        ready()
        from .convert import load_reference  # noqa: PLC0415 - the image of opener Basic has none of it

        progress("loading the source for comparison")
        reference = load_reference(tree, asked, source_format, made.main, progress)
    return replace(made, baseline=made.main, reference=reference)


def _made(order: Order, tree: SourceTree, asked: Asked, source_format: str, progress: Progress) -> Made:
    if is_served_as_it_is(source_format, asked):
        made = Made(_inspected(tree, asked, source_format, progress), order.root)
        made = replace(
            made, baseline=made.main, reference=_served_reference(made, tree, asked, source_format, progress)
        )
    else:
        made = _converted(order, tree, asked, source_format, progress)
    made = _with_gates(order, made, asked)
    if made.reference is not None and made.finding.format == "ONNX":
        made = _timed(made, progress)
    if not asked.changes_model:
        return made
    if made.finding.format != "ONNX":
        message = (
            f"spec.optimize changes ONNX models, and this {made.finding.format} model is served as it is; "
            "remove spec.optimize, or let it be converted"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    return _optimized(order, made, asked, progress)


def _served_reference(
    made: Made, tree: SourceTree, asked: Asked, source_format: str, progress: Progress
) -> "Reference | None":
    """The framework's own answers, under the names that are served, where this image has the framework."""
    if not is_compared(asked) or source_format in ("ONNX", "TritonRepository"):
        return None
    from .convert import load_reference  # noqa: PLC0415 - one image has the frameworks

    return load_reference(tree, asked, source_format, made.main, progress)


def _converted(order: Order, tree: SourceTree, asked: Asked, source_format: str, progress: Progress) -> Made:
    from .convert import convert  # noqa: PLC0415 - the image of opener Basic has none of it

    if asked.delivery == "Mount":
        message = (
            f"the content is {source_format}, which is converted, and spec.model.delivery: Mount serves the claim's "
            "own files; convert it yourself, or write delivery: Copy"
        )
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    out = _fresh(order.prepared / "converted")
    progress(f"converting from {source_format}")
    began = time.perf_counter()
    done: Converted = convert(tree, asked, source_format, out, progress)
    seconds = time.perf_counter() - began
    finding = onnxmodel.inspect_onnx(SourceTree.read(done.model.parent), asked, progress, done.model.name)
    finding = replace(finding, source_format=done.source_format, warnings=(*done.warnings, *finding.warnings))
    report = {
        "format": "ONNX",
        "tools": dict(done.tools),
        "warnings": list(done.warnings),
        "seconds": round(seconds, 3),
        "opset": finding.opset,
        "ir_version": finding.ir_version,
    }
    made = Made(finding, done.model.parent, derived=True, reference=done.reference, report={"conversion": report})
    return replace(made, baseline=done.model)


def _timed(made: Made, progress: Progress) -> Made:
    """What conversion has done to the time of one row: in the report, and a warning where ONNX is slower."""
    from .optimize import compare_with_source  # noqa: PLC0415 - as above

    assert made.reference is not None
    progress("timing the converted model beside its source")
    speed, warnings = compare_with_source(made.main, made.reference, made.dataset)
    conversion = {**made.report.get("conversion", {}), "speed": speed}
    finding = replace(made.finding, warnings=(*made.finding.warnings, *warnings))
    return replace(made, finding=finding, report={**made.report, "conversion": conversion})


def _optimized(order: Order, made: Made, asked: Asked, progress: Progress) -> Made:
    from .optimize import OptimizeAsked, copy_whole, optimize  # noqa: PLC0415 - only where it is asked for

    out = _fresh(order.prepared / "optimized")
    done = optimize(
        made.main,
        out,
        OptimizeAsked.read(asked.optimize, _target(asked)),
        _calibration(order, made, asked),
        progress,
        accept=made.gates.accept if made.gates else None,
        hook=_hook(order, made, asked, progress),
        dataset=made.dataset,
    )
    report = {**made.report, "optimization": done.report}
    if done.model == made.main:
        finding = replace(made.finding, warnings=(*made.finding.warnings, *done.warnings))
        return replace(made, finding=finding, report=report)
    model = done.model
    if not model.is_relative_to(order.prepared):
        model = copy_whole(model, _fresh(order.prepared / "candidate") / onnxmodel.PUBLISHED)
    finding = onnxmodel.inspect_onnx(SourceTree.read(model.parent), asked, progress, model.name)
    _check_interface(made.finding, finding, "the optimized model")
    finding = replace(
        finding,
        batching=made.finding.batching and (finding.batching or done.precision == "INT8"),
        source_format=made.finding.source_format,
        precision=done.precision,
        warnings=(*made.finding.warnings, *done.warnings),
    )
    return replace(made, finding=finding, folder=model.parent, derived=True, report=report)


def _target(asked: Asked) -> str:
    """CPU or GPU, as far as the request says: it has the server only where a gate needs one."""
    instances = (asked.server or {}).get("instances") or {}
    return str(instances.get("kind") or "CPU")


def _hook(order: Order, made: Made, asked: Asked, progress: Progress) -> Path | None:
    """The candidate that the user's own container has left; raises Failure where it left none that could be served."""
    if "hook" not in asked.optimize:
        return None
    found = sorted(path for path in order.hook.glob("*.onnx") if path.is_file() and not path.is_symlink())
    if len(found) != 1:
        message = f"the container of spec.optimize.hook has left {len(found)} .onnx files in /work/hook; expected one"
        raise Failure(Reason.INVALID_MODEL, message)
    progress("reading the hook's model")
    what = "the model that spec.optimize.hook returned"
    try:
        finding = onnxmodel.inspect_onnx(SourceTree.read(order.hook), asked, progress, found[0].name)
    except Failure as failure:
        raise Failure(failure.reason, f"{what}: {failure.message}") from failure
    _check_interface(made.finding, finding, what)
    return found[0]


def _check_interface(expected: Finding, found: Finding, what: str) -> None:
    for kind, wanted, seen in (("inputs", expected.inputs, found.inputs), ("outputs", expected.outputs, found.outputs)):
        if [(t.name, t.data_type) for t in wanted] != [(t.name, t.data_type) for t in seen]:
            shown = [", ".join(f"{t.name} {t.data_type}" for t in tensors) for tensors in (seen, wanted)]
            raise Failure(Reason.INVALID_MODEL, f"{what} has the {kind} {shown[0]}; the source has {shown[1]}")


def _calibration(order: Order, made: Made, asked: Asked) -> "Dataset | None":
    if order.calibration is None:
        return None
    most = asked.optimize.get("calibration", {}).get("maxSamples", _DEFAULT_SAMPLES)
    return _read_data(order.calibration, "spec.optimize.calibration", made.finding, int(most))


def _read_data(folder: Path, name: str, finding: Finding, most_rows: int | None) -> "Dataset":
    from .data import read_dataset  # noqa: PLC0415 - only where there is any

    try:
        return read_dataset(folder, finding.inputs, most_rows, batching=finding.batching)
    except Failure as failure:
        raise Failure(failure.reason, f"{name}: {failure.message}") from failure


def _with_gates(order: Order, made: Made, asked: Asked) -> Made:
    """The same model with its gates: those asked for, and for one that was changed, that batches still answer alike."""
    if not asked.gates and not asked.changes_model:
        return made
    from .gates.offline import OfflineGates  # noqa: PLC0415 - only where there is something to prove

    finding = made.finding
    dataset = _read_data(order.dataset, "spec.gates.dataset", finding, None) if order.dataset else None
    gates = OfflineGates(
        asked, dataset, made.reference, made.baseline or made.main, batching=finding.batching, inputs=finding.inputs
    )
    return replace(made, dataset=dataset, gates=gates)


def _proven(
    order: Order, made: Made, asked: Asked, progress: Progress
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    gates = made.gates
    if gates is None:
        return [], {}
    progress("comparing with the source on the dataset" if order.dataset else "checking the files against the gates")
    rows = gates.judge(made.main, made.finding.precision, made.size_bytes)
    gates.keep(order.answers)
    if "image" in asked.gates.get("accuracy", {}):
        gates.write_predictions(made.main, order.metric, order.metric_source)
    parity = gates.parity_report()
    return [row.to_answer() for row in rows], {"parity": dict(parity)} if parity else {}


def _answer(order: Order, made: Made, rows: list[dict[str, Any]], proof: Mapping[str, Any]) -> dict[str, Any]:
    answer = made.finding.to_answer()
    answer["facts"]["derived"] = made.derived
    if made.derived:
        place = made.folder.relative_to(order.prepared).as_posix()
        answer["prepared"] = {name: f"{place}/{source}" for name, source in made.finding.files.items()}
        del answer["files"]
    return {**answer, "gates": rows, "report": {**made.report, **proof}}


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
