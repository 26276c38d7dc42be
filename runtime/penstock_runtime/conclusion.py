"""The conclusion of a preparation: from the answers of the other containers to what is published and reported.

Evidence is published of failures too: a model that was refused is the one whose numbers people want to see.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import ModelFacts
from penstock.api.preparation import PreparationError, PreparationReport, PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.report import GateRow

from .acceptance import Accepted, accept
from .content import open_regular
from .evidence import Evidence, build_report, provenance_of, publish_evidence
from .failure import Failure, shorten
from .gathering import Gathered
from .meeting import METRIC, METRIC_SOURCE
from .mounts import Places
from .publish import publish
from .registry import Registry
from .reporting import check_all_judged, fit_report, gate_results, gate_rows, refusal
from .reuse import Reused, conversion_key, result_tag

__all__ = ["Conclusion", "Measure", "read_metric"]

Measure = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Told what is accepted, answers what the server did with it; raises Failure."""
_LARGEST_VALUE = 4096
_METRIC = "the container of spec.gates.accuracy.image"
_WANTED = 'it must write one JSON object there, as {"value": 0.97}'


@dataclass(frozen=True)
class _Told:
    """What the other containers have said so far."""

    reports: tuple[Mapping[str, Any], ...] = ()
    rows: tuple[GateRow, ...] = ()
    source_format: str = ""

    def add(self, answer: Mapping[str, Any], who: str) -> "_Told":
        report = answer.get("report")
        reports = (*self.reports, report) if isinstance(report, dict) else self.reports
        found = self.source_format or str(answer.get("format", ""))[:64]
        return _Told(reports, (*self.rows, *gate_rows(answer, who)), found)


@dataclass(frozen=True)
class Conclusion:
    """Everything that is known when the opener has answered."""

    request: PreparationRequest
    places: Places
    registry: Registry
    gathered: Gathered
    opened: Mapping[str, Any]
    reused: Reused | None = None
    _told: list[_Told] = field(default_factory=lambda: [_Told()])

    def draw(self, answer: Mapping[str, Any], measure: Measure) -> PreparationReport:
        """The report for the operator; raises Failure for what is nobody's model's fault."""
        try:
            accepted = self._judge(answer, measure)
            artifact = publish(*accepted.to_publish(self.places.work), self.request.repository, self.registry)
        except Failure as failure:
            return self._refuse(PreparationError(reason=failure.reason, message=failure.message))
        facts = accepted.facts.model_copy(update={"artifact": artifact})
        return self._report(facts)

    def _judge(self, answer: Mapping[str, Any], measure: Measure) -> Accepted:
        """What may be published: all gates passed; raises Failure with the first that did not."""
        self._hear(answer, "inspect")
        accepted = accept(answer, self.request, self.gathered, self.reused, self.places.work)
        if self.request.server is not None:
            measured = measure(accepted.to_marker())
            self._hear(measured, "measure")
            accepted = _tuned(accepted, measured)
        if self._has_metric:
            self._hear({"gates": self._judge_metric()}, "metric")
        check_all_judged(self.request.gates, self._told[0].rows)
        return accepted

    def _hear(self, answer: Mapping[str, Any], who: str) -> None:
        self._told[0] = told = self._told[0].add(_with_reused(answer, self.reused), who)
        if "error" in answer:
            raise _failure_of(answer["error"], who)
        refused = refusal(told.rows)
        if refused is not None:
            raise Failure(refused.reason, refused.message)

    @property
    def _has_metric(self) -> bool:
        gates = self.request.gates
        return gates is not None and gates.accuracy is not None and gates.accuracy.image is not None

    def _judge_metric(self) -> list[dict[str, Any]]:
        from .gates import judge_metric  # noqa: PLC0415 - only where a metric is of the user's own

        assert self.request.gates is not None
        assert self.request.gates.accuracy is not None
        asked = self.request.gates.accuracy
        wants_source = asked.max_drop_percent is not None
        value = read_metric(self.places.work / METRIC)
        source = read_metric(self.places.work / METRIC_SOURCE) if wants_source else None
        rows = judge_metric(asked.model_dump(mode="json", by_alias=True, exclude_none=True), value, source)
        return [row.to_answer() for row in rows]

    def _report(self, facts: ModelFacts) -> PreparationReport:
        key = conversion_key(self.request, self.gathered, self.opened)
        made = facts.derived or any("optimization" in report for report in self._told[0].reports)
        provenance = provenance_of(self.request, self.gathered, self.opened, facts) | ({"key": key} if made else {})
        evidence = Evidence(self._build(None), provenance, facts.artifact, (result_tag(key),) if made else ())
        digest = publish_evidence(evidence, self.request.repository, self.registry)
        facts = facts.model_copy(update={"report": digest})
        return fit_report(
            PreparationReport(
                facts=facts, gates=gate_results(self._told[0].rows), report=digest, resolved=self.gathered.resolved
            )
        )

    def _refuse(self, error: PreparationError) -> PreparationReport:
        told, digest = self._told[0], None
        evidence = Evidence(self._build(error), provenance_of(self.request, self.gathered, self.opened, None))
        if error.reason is not Reason.STORE_UNAVAILABLE:
            with contextlib.suppress(Failure):
                digest = publish_evidence(evidence, self.request.repository, self.registry)
        return fit_report(
            PreparationReport(
                error=error, gates=gate_results(told.rows), report=digest, resolved=self.gathered.resolved
            )
        )

    def _build(self, error: PreparationError | None) -> dict[str, Any]:
        told = self._told[0]
        found = told.source_format or self.request.format
        return build_report(self.request, self.gathered, self.opened, told.reports, told.rows, found, error)


def _with_reused(answer: Mapping[str, Any], reused: Reused | None) -> Mapping[str, Any]:
    """The report of an earlier conversion was handed to the opener, which is not trusted to hand it back."""
    if reused is None or not {"files", "prepared"} & answer.keys():
        return answer
    return {**answer, "report": {**(answer.get("report") or {}), **reused.report}}


def _failure_of(told: Any, who: str) -> Failure:
    try:
        error = PreparationError.model_validate(told)
    except ValidationError as wrong:
        return Failure(Reason.PREPARATION_FAILED, f"the answer of {who} is malformed: {wrong}")
    return Failure(error.reason, error.message)


def _tuned(accepted: Accepted, measured: Mapping[str, Any]) -> Accepted:
    """With the settings that the search in the server has found."""
    if not measured.get("server"):
        return accepted
    try:
        known = accepted.facts.model_dump(mode="json", by_alias=True)
        facts = ModelFacts.model_validate({**known, "tuned": measured["server"]})
    except ValidationError as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the answer of measure is malformed: {error}") from error
    return replace(accepted, facts=facts)


def read_metric(folder: Path) -> float:
    """What the user's own metric has written; raises Failure."""
    path = folder / "value.json"
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            text = file.read(_LARGEST_VALUE)
    except FileNotFoundError as error:
        raise Failure(Reason.ACCURACY_FAILED, f"{_METRIC} left no {path.name} in /work/metric; {_WANTED}") from error
    except OSError as error:
        what = error.strerror or str(error)
        raise Failure(Reason.ACCURACY_FAILED, f"{_METRIC} left a {path.name} that cannot be read: {what}") from error
    number = _number_in(text)
    if number is None:
        seen = shorten(text.decode(errors="replace"), 200)
        raise Failure(Reason.ACCURACY_FAILED, f"{_METRIC} wrote {seen!r} into {path.name}; {_WANTED}")
    return number


def _number_in(text: bytes) -> float | None:
    """The finite number under `value`; None for anything else."""
    try:
        value = json.loads(text)["value"]
        number = None if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return number if number is not None and math.isfinite(number) else None
