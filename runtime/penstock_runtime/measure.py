"""`python -m penstock_runtime.measure`: the container of a preparation that asks the real server.

It lays out the repository exactly as serving pods get it, has `penstock-prove` in the container beside it serve that,
and takes the last look: parity and consistency through the protocol, latency, throughput, memory, and where it is asked
for the search for better settings. It knows the loopback interface alone, and no credential.
"""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import ModelFacts, Tuned
from penstock.api.preparation import REQUEST_VARIABLE, PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.spec import ServerSpec
from penstock.api.units import quantity_value
from penstock.core.modelrepo import RepositoryPlan, ServerSettings, build_repository, resolve_settings

from .data import Arrays, Dataset, read_dataset
from .failure import Failure, shorten
from .foreign import ForeignLoad
from .gates.answers import AnswerError, answer_rows, made_dataset
from .gates.asked import GatesAsked, LoadAsked
from .gates.consistency import check_consistency, judge_crowded
from .gates.offline import judge_answers, read_reference, write_predictions
from .gates.parity import ParityError, compare, judge_parity, parity_report
from .gates.row import GateRow
from .gates.served import judge_latency, judge_memory, judge_throughput, latency_report, unservable
from .load import LoadPlan, LoadResult, run_load
from .meeting import (
    ACCEPTED,
    ANSWERS,
    FAILED,
    FETCHED,
    INSPECTED,
    MEASURED,
    METRIC,
    PREPARED,
    Meeting,
    PartnerDiedError,
)
from .mounts import Places
from .serverrun import ServerEnded, ServerRun, running_server
from .session import Session, tensors_of
from .tune import Search, candidates

__all__ = ["Given", "Measurement", "main"]

PROOF = "proof"
_SECONDS = 20.0
_LOAD_SECONDS = 300.0
_DEFAULT_CPU = "1"
_PARITY_ROWS = 512
_JUDGED_ROWS = 20_000
_MESSAGES = 64
_BATCHES = (1, 2, 4, 8, 16, 32)
_NO_DIGEST = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Given:
    """What there is to measure: facts, where each file of the model's version lies, and the folder of the dataset."""

    facts: ModelFacts
    files: Mapping[str, Path]
    dataset: Path | None = None


def main() -> int:
    """Run the container; returns its exit code: 0 when it answered, or there was nothing to measure."""
    places = Places.here()
    request = PreparationRequest.model_validate_json(os.environ[REQUEST_VARIABLE])
    sequential = os.environ.get("PENSTOCK_MODE") == "sequential"
    meeting = Meeting(places.work, "measure", "transfer")
    measurement: Measurement | None = None
    error: Failure | None = None
    try:
        given = _inspected(meeting, places) if sequential else _accepted(meeting)
        if given is None:
            if sequential:
                meeting.write(MEASURED, {"gates": []})
            return 0
        seconds = float(os.environ.get("PENSTOCK_MEASURE_SECONDS", _SECONDS))
        measurement = Measurement(request, given, places.work, seconds)
        measurement.run()
    except PartnerDiedError as ended:
        print(ended, file=sys.stderr)
        return 0
    except Failure as failure:
        error = failure
    except Exception as defect:  # noqa: BLE001 - the other container waits for an answer, whatever it is
        traceback.print_exc()
        message = shorten(f"the measurement failed: {type(defect).__name__}: {defect}")
        error = Failure(Reason.PREPARATION_FAILED, message)
    answer = measurement.answer() if measurement else {"gates": [], "report": {}}
    if error is not None:
        answer["error"] = {"reason": error.reason, "message": error.message}
        print(f"{error.reason}: {error.message}", file=sys.stderr)
    meeting.write(MEASURED, answer)
    return 0


def _accepted(meeting: Meeting) -> Given | None:
    """What transfer has checked; None where it does not come to a measurement."""
    if meeting.wait(ACCEPTED, FAILED) == FAILED:
        return None
    accepted, fetched = meeting.read(ACCEPTED), meeting.read(FETCHED)
    files = {name: Path(path) for name, path in accepted["files"].items()}
    return Given(_facts(accepted["facts"]), files, _dataset_folder(fetched))


def _inspected(meeting: Meeting, places: Places) -> Given | None:
    """The same from what the opener left, where containers run one after the other; None for a refused model."""
    told, fetched = meeting.read(INSPECTED), meeting.read(FETCHED)
    if "facts" not in told or "error" in told or any(not row.get("passed") for row in told.get("gates", ())):
        return None
    made = "prepared" in told
    root = (places.work / PREPARED if made else Path(fetched["root"])).resolve()
    files = {}
    for name, source in told["prepared" if made else "files"].items():
        path = (root / str(source)).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer names {source!r}, which is no such file")
        files[str(name)] = path
    artifact = {"repository": "unpublished", "manifest": _NO_DIGEST, "layer": _NO_DIGEST, "sizeBytes": 0}
    return Given(_facts({**told["facts"], "digest": _NO_DIGEST, "artifact": artifact}), files, _dataset_folder(fetched))


def _facts(data: Mapping[str, Any]) -> ModelFacts:
    try:
        return ModelFacts.model_validate(data)
    except ValidationError as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the facts to measure with are malformed: {error}") from error


def _dataset_folder(fetched: Mapping[str, Any]) -> Path | None:
    return Path(fetched["dataset"]) if fetched.get("dataset") else None


class Measurement:
    """One measurement: rows and report grow while it runs, so that a failure leaves what was known until then."""

    def __init__(self, request: PreparationRequest, given: Given, work: Path, seconds: float = _SECONDS) -> None:
        self.request = request
        gates = request.gates.model_dump(mode="json", by_alias=True, exclude_none=True) if request.gates else {}
        self._asked = GatesAsked.read(gates)
        self._own_metric = "image" in gates.get("accuracy", {})
        self._spec = ServerSpec.model_validate(request.server or {})
        self._name, self._given, self._work, self._seconds = request.served_name, given, work, seconds
        self._tuned: Tuned | None = None
        self._rows: list[GateRow] = []
        self._serving: dict[str, Any] = {}
        self._report: dict[str, Any] = {}

    def answer(self) -> dict[str, Any]:
        """The marker's content: rows, report, and where settings were searched for, those chosen."""
        report = {**self._report, **({"serving": self._serving} if self._serving else {})}
        answer: dict[str, Any] = {"gates": [row.to_answer() for row in self._rows], "report": report}
        if self._tuned is not None and self._tuned != Tuned():
            answer["server"] = self._tuned.model_dump(mode="json", by_alias=True, exclude_none=True)
        return answer

    def run(self) -> None:
        """Measure everything that is asked; raises Failure where the server cannot be measured at all."""
        dataset = self._read_dataset()
        if self._asked.goal is not None:
            self._tuned = self._search(dataset)
        facts = self._given.facts.model_copy(update={"tuned": self._tuned})
        with self._serving_with(facts) as (run, session, settings):
            rows = dataset or made_dataset(session.answerer(), session.inputs)
            if rows is not None:
                self._judge_answers(session, rows, settings, has_data=dataset is not None)
            if rows is not None and not any(not row.passed for row in self._rows):
                self._judge_load(run, session, rows, settings)
            elif rows is None and self._needs_load:
                message = "no request could be made up for this model; write spec.gates.dataset with rows of yours"
                raise Failure(Reason.DATA_INVALID, message)
            self._judge_memory(run)

    @property
    def _needs_load(self) -> bool:
        asked = self._asked
        return asked.latency is not None or asked.throughput is not None or asked.memory is not None

    def _read_dataset(self) -> Dataset | None:
        facts = self._given.facts
        if self._given.dataset is None or not facts.inputs:
            return None
        rows = _PARITY_ROWS if self._is_judged_before else _JUDGED_ROWS
        dataset = read_dataset(self._given.dataset, tensors_of(facts), batching=facts.batching)
        return dataset if dataset.rows <= rows else dataset.take(range(rows))

    @property
    def _is_judged_before(self) -> bool:
        """Whether parity and accuracy were judged where the model was opened."""
        return self._given.facts.format == "ONNX"

    @contextmanager
    def _serving_with(self, facts: ModelFacts) -> Iterator[tuple[ServerRun, Session, ServerSettings]]:
        """The server with settings for these facts, ready."""
        settings, plan = self._plan(facts)
        root = self._work / PROOF
        with running_server(root, plan, self._given.files, facts, settings, _LOAD_SECONDS) as run:
            session = Session.open(run.port, plan.entry_model, facts, batched=settings.max_batch_size > 0)
            try:
                yield run, session, settings
            finally:
                session.close()

    def _plan(self, facts: ModelFacts) -> tuple[ServerSettings, RepositoryPlan]:
        limits = (self._spec.resources.limits if self._spec.resources else None) or {}
        cores: Fraction = quantity_value(limits.get("cpu", _DEFAULT_CPU))
        settings = resolve_settings(self._spec, facts, cores)
        plan = build_repository(facts, self._name, settings)
        if plan.errors:
            message = "; ".join(f"{problem.path}: {problem.message}" for problem in plan.errors)
            raise Failure(Reason.INVALID_CONFIG, message)
        return settings, plan

    def _judge_answers(self, session: Session, dataset: Dataset, settings: ServerSettings, *, has_data: bool) -> None:
        """Parity, accuracy and consistency of what comes out of the server."""
        run = session.answerer()
        precision = self._given.facts.precision
        biggest = settings.max_batch_size
        try:
            if has_data:
                answers = answer_rows(run, dataset, min(max(1, biggest), 32))
                self._rows += self._compared(answers, dataset, precision)
        except AnswerError as error:
            raise ServerEnded(Reason.LOAD_FAILED, f"the server does not answer the dataset's rows: {error}") from error
        row = check_consistency(run, dataset, biggest, precision, "served.consistency")
        if row is not None and row.passed and settings.dynamic and not dataset.whole and dataset.fixed is None:
            row = judge_crowded(row, run, session.answer_crowded, dataset, precision)
        if row is not None:
            self._rows.append(row)

    def _compared(self, answers: Arrays, dataset: Dataset, precision: str | None) -> list[GateRow]:
        source = read_reference(self._work / ANSWERS)
        if source is not None:
            count = min(dataset.rows, *(len(array) for array in source.values()))
            source = {name: array[:count] for name, array in source.items()}
            answers = {name: _shaped(array[:count], source.get(name)) for name, array in answers.items()}
            dataset = dataset.take(range(count))
        if not self._is_judged_before:
            if self._own_metric:
                write_predictions(self._work / METRIC, answers, dataset.label)
            rows, found = judge_answers(self._asked, dataset, answers, source, precision)
            if found is not None:
                self._report["parity"] = parity_report(found)
            return rows
        if source is None:
            return []
        try:
            return judge_parity(self._asked.parity, compare(source, answers), precision, "served.parity")
        except ParityError as error:
            sentence = f"through the server: {error}"
            failed = Reason.PARITY_FAILED
            return [GateRow("served.parity", "", "no comparison", passed=False, reason=failed, sentence=sentence)]

    def _judge_load(self, run: ServerRun, session: Session, dataset: Dataset, settings: ServerSettings) -> None:
        asked = self._asked
        if asked.latency is not None:
            result = self._load(run, session, dataset, asked.latency_load)
            if isinstance(result, str):
                self._rows.append(unservable("latency", Reason.LATENCY_FAILED, asked.latency_load, result))
            else:
                self._rows += judge_latency(asked.latency, asked.latency_load, result)
                self._serving["latency"] = latency_report(asked.latency_load, result)
        if asked.throughput is not None:
            result = self._load(run, session, dataset, asked.throughput_load)
            if isinstance(result, str):
                self._rows.append(unservable("throughput", Reason.THROUGHPUT_FAILED, asked.throughput_load, result))
            else:
                self._rows.append(judge_throughput(asked.throughput, asked.throughput_load, result))
                self._serving["throughput"] = self._curve(run, session, dataset, settings)
        if asked.memory is not None:
            largest = LoadAsked(asked.throughput_load.concurrency, max(1, settings.max_batch_size))
            self._load(run, session, dataset, largest, _brief(self._seconds))

    def _load(
        self,
        run: ServerRun,
        session: Session,
        dataset: Dataset,
        load: LoadAsked,
        plan: LoadPlan | None = None,
    ) -> LoadResult | str:
        """The load's result, or why the server refuses such requests."""
        try:
            messages = session.messages(dataset, load.batch_size, _MESSAGES)
            feed = dataset.take([at % dataset.rows for at in range(load.batch_size)])
            answer_rows(session.answerer(), feed, load.batch_size)
        except AnswerError as error:
            run.check()
            return str(error)
        plan = plan or LoadPlan(load.concurrency, seconds=self._seconds, warm_up=min(1.0, self._seconds / 4))
        try:
            result = run_load(
                run.port, messages, replace(plan, concurrency=load.concurrency), ForeignLoad(run.processor_seconds)
            )
        except OSError as error:
            run.check()
            raise ServerEnded(Reason.LOAD_FAILED, f"the server stopped answering under load: {error}") from error
        run.check()
        return result

    def _curve(
        self, run: ServerRun, session: Session, dataset: Dataset, settings: ServerSettings
    ) -> list[dict[str, Any]]:
        """Rows per second by batch size: short looks, for the report alone."""
        found = []
        for size in _BATCHES:
            if size > max(1, settings.max_batch_size):
                break
            load = LoadAsked(self._asked.throughput_load.concurrency, size)
            result = self._load(run, session, dataset, load, _brief(self._seconds))
            if not isinstance(result, str) and result.requests:
                point = {"batch_size": size, "concurrency": load.concurrency}
                found.append({**point, "rows_per_second": result.per_second * size})
        return found

    def _judge_memory(self, run: ServerRun) -> None:
        run.settle()
        usage = run.usage()
        if usage is None:
            return
        limits = (self._spec.resources.limits if self._spec.resources else None) or {}
        limit = {"limit_bytes": int(quantity_value(limits["memory"]))} if "memory" in limits else {}
        self._serving["memory"] = {"peak_bytes": usage.peak, **limit}
        if self._asked.memory is not None:
            self._rows.append(judge_memory(self._asked.memory, usage.peak, usage.source))

    def _search(self, dataset: Dataset | None) -> Tuned:
        """The settings that `tune` asks for."""
        asked, facts = self._asked, self._given.facts
        limits = (self._spec.resources.limits if self._spec.resources else None) or {}
        cores: Fraction = quantity_value(limits.get("cpu", _DEFAULT_CPU))
        lower = asked.goal == "Latency"
        load = asked.latency_load if lower else asked.throughput_load
        found = candidates(self._spec, facts, cores, asked.trials)
        search = Search(found, lambda tuned: self._visit(tuned, dataset, load, lower=lower), lower=lower)
        chosen = search.run()
        self._serving.update(search.report())
        return chosen

    def _visit(self, tuned: Tuned, dataset: Dataset | None, load: LoadAsked, *, lower: bool) -> float:
        """One candidate in the server for a short while: its p95 in seconds, or rows per second."""
        with self._serving_with(self._given.facts.model_copy(update={"tuned": tuned})) as (run, session, _):
            rows = dataset or made_dataset(session.answerer(), session.inputs)
            if rows is None:
                raise Failure(Reason.DATA_INVALID, "no request could be made up for this model; write a dataset")
            result = self._load(run, session, rows, load, _brief(self._seconds, share=0.15))
        if isinstance(result, str) or not result.requests:
            raise Failure(Reason.LOAD_FAILED, result if isinstance(result, str) else "no request was answered")
        return result.quantile(95) if lower else result.per_second * load.batch_size


def _brief(seconds: float, share: float = 0.1) -> LoadPlan:
    """A short look: a tenth of a measurement's time."""
    length = max(0.2, seconds * share)
    return LoadPlan(1, requests=500, seconds=length, warm_up=length / 5, window=length / 4, least_seconds=length / 2)


def _shaped(array: Any, wanted: Any) -> Any:
    """A single value is served with one dimension more than the source has."""
    if wanted is not None and array.shape != wanted.shape and array.size == wanted.size:
        return array.reshape(wanted.shape)
    return array


if __name__ == "__main__":
    sys.exit(main())
