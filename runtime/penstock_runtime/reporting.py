"""Reporting: the rows of gates as other containers answered them, what the first failed one means, and what fits.

A row that cannot be read is an error and never a gate less: whoever opens a model must not be able to lose one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import GateResult
from penstock.api.preparation import PreparationError, PreparationReport
from penstock.api.proving import GatesSpec
from penstock.api.reasons import Reason
from penstock.api.report import GateRow
from penstock.api.termination import report_bytes

from .failure import Failure, shorten

__all__ = ["check_all_judged", "fit_report", "gate_results", "gate_rows", "refusal"]

_MOST_RESULTS = 16
_LONGEST_ASKED, _LONGEST_MEASURED = 64, 160
_JUDGED = ("parity", "accuracy", "size", "latency", "throughput", "memory")
"""Gates that have a row, or several called `<gate>.<what>`, once they are judged."""


def gate_rows(answer: Mapping[str, Any], who: str) -> tuple[GateRow, ...]:
    """The rows of one container's answer; raises Failure."""
    try:
        return tuple(GateRow.model_validate(row) for row in answer.get("gates") or ())
    except (ValidationError, TypeError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the gates that {who} answered are malformed: {error}") from error


def check_all_judged(gates: GatesSpec | None, rows: Sequence[GateRow]) -> None:
    """Raise Failure for a gate that was asked for and that no row is about: silence is no pass."""
    judged = {row.name.partition(".")[0] for row in rows}
    missing = [name for name in _JUDGED if getattr(gates, name, None) is not None and name not in judged]
    if missing:
        message = f"spec.gates asks for {', '.join(missing)}, and nothing was measured; look at the Job's logs"
        raise Failure(Reason.PREPARATION_FAILED, message)


def refusal(rows: Sequence[GateRow]) -> PreparationError | None:
    """Why the model is refused: the first gate that failed."""
    row = next((row for row in rows if not row.passed), None)
    if row is None:
        return None
    sentence = row.sentence or f"gate {row.name}: {row.measured or 'nothing'} was measured, {row.asked} was asked"
    return PreparationError(reason=Reason.read(row.reason or None), message=shorten(sentence))


def gate_results(rows: Sequence[GateRow]) -> tuple[GateResult, ...]:
    """What status shows; where there are too many, those that failed come before those that passed."""
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise Failure(Reason.PREPARATION_FAILED, f"gate {twice} was answered twice, and one answer is expected")
    kept = sorted(range(len(rows)), key=lambda at: (rows[at].passed, at))[:_MOST_RESULTS]
    return tuple(_result(rows[at]) for at in sorted(kept))


def _result(row: GateRow) -> GateResult:
    asked, measured = shorten(row.asked, _LONGEST_ASKED), shorten(row.measured, _LONGEST_MEASURED)
    try:
        return GateResult(name=row.name, asked=asked, measured=measured, passed=row.passed)
    except ValidationError as error:
        raise Failure(Reason.PREPARATION_FAILED, f"a gate is called {row.name!r}, which is no name") from error


def fit_report(report: PreparationReport, limit: int | None = None) -> PreparationReport:
    """The same report, or as much of it as fits a termination message; the artifact store has the whole.

    `limit` is in bytes, by default this container's share of its pod's. Raises Failure where even the facts alone do
    not fit.
    """
    limit = report_bytes(os.environ) if limit is None else limit
    for candidate in _smaller(report):
        try:
            candidate.encode(limit)
        except ValueError:
            continue
        return candidate
    facts = report.facts
    assert facts is not None, "a short error fits"
    message = (
        f"the model has {len(facts.inputs)} inputs and {len(facts.outputs)} outputs or {len(facts.models)} models; "
        f"their names do not fit the {limit:,} bytes that this preparation can report; shorten the names"
    )
    raise Failure(Reason.UNSUPPORTED_MODEL, message)


def _smaller(report: PreparationReport) -> Iterator[PreparationReport]:
    yield report
    if report.facts is not None:
        report = report.model_copy(update={"facts": report.facts.model_copy(update={"warnings": ()})})
        yield report
    for longest in (60, 24):
        gates = tuple(gate.model_copy(update={"measured": shorten(gate.measured, longest)}) for gate in report.gates)
        yield report.model_copy(update={"gates": gates})
    failed = tuple(gate for gate in report.gates if not gate.passed)
    yield report.model_copy(update={"gates": failed[:4]})
    report = report.model_copy(update={"gates": ()})
    yield report
    if report.error is not None:
        for longest in (600, 200):
            error = report.error.model_copy(update={"message": shorten(report.error.message, longest)})
            yield report.model_copy(update={"error": error})
