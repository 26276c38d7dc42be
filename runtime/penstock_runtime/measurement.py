"""Measurement: everything that is asked of the real server, in order, with rows and a report that grow meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from penstock.api.facts import ModelFacts, Tuned
from penstock.api.preparation import PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.spec import ServerSpec
from penstock.api.units import quantity_value
from penstock.core.modelrepo import RepositoryPlan, ServerSettings, build_repository, resolve_settings

from .data import Array, Arrays, Dataset, read_dataset
from .failure import Failure
from .foreign import ForeignLoad
from .gates.answers import AnswerError, answer_rows, made_dataset
from .gates.asked import GatesAsked, LoadAsked
from .gates.consistency import check_consistency, judge_crowded
from .gates.offline import judge_answers, read_reference, write_predictions
from .gates.parity import ParityError, compare, judge_parity, parity_report
from .gates.row import GateRow
from .gates.served import judge_latency, judge_memory, judge_throughput, latency_report, unservable
from .load import LoadPlan, LoadResult, run_load
from .meeting import ANSWERS, METRIC
from .serverrun import Files, ServerEnded, ServerRun, running_server
from .session import Session
from .tune import Search, candidates

__all__ = ["Given", "Measurement"]

PROOF = "proof"
_LOAD_SECONDS = 300.0
_DEFAULT_CPU = "1"
_PARITY_ROWS = 512
_JUDGED_ROWS = 20_000
_MOST_BYTES = 256 << 20
"""Of the dataset, in this container's 1 GiB."""
_MESSAGES = 64
_BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Given:
    """What there is to measure: facts, where each file of the model's version lies, and the folder of the dataset.

    `folders` have no file and must be there all the same, as an ensemble's versions must.
    """

    facts: ModelFacts
    files: Mapping[str, Path]
    dataset: Path | None = None
    folders: tuple[str, ...] = ()


class Measurement:
    """One measurement: rows and report grow while it runs, so that a failure leaves what was known until then."""

    def __init__(self, request: PreparationRequest, given: Given, work: Path, seconds: float) -> None:
        self.request = request
        gates = request.gates.model_dump(mode="json", by_alias=True, exclude_none=True) if request.gates else {}
        self._asked = GatesAsked.read(gates)
        self._own_metric = "image" in gates.get("accuracy", {})
        self._spec = ServerSpec.model_validate(request.server or {})
        self._name, self._given, self._work, self._seconds = request.served_name, given, work, seconds
        self._data: Dataset | None = None
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
        if self._asked.goal is not None:
            self._tuned = self._search()
        facts = self._given.facts.model_copy(update={"tuned": self._tuned})
        with self._serving_with(facts) as (run, session, settings):
            rows = self._rows_for(session)
            self._judge_answers(session, rows, settings)
            if all(row.passed for row in self._rows):
                self._judge_load(run, session, rows)
            self._judge_memory(run)

    def _rows_for(self, session: Session) -> Dataset:
        """The first rows of the dataset, or made-up ones; raises Failure where nothing can be made up."""
        if self._given.dataset is None:
            made = made_dataset(session.answerer(), session.inputs)
            if made is None:
                message = "no request could be made up for this model; write spec.gates.dataset with rows of yours"
                raise Failure(Reason.DATA_INVALID, message)
            return made
        if self._data is None:
            head = _PARITY_ROWS if self._is_judged_before else _JUDGED_ROWS
            batching = self._given.facts.batching or session.batch > 0
            self._data = read_dataset(
                self._given.dataset, session.inputs, batching=batching, most_bytes=_MOST_BYTES, head=head
            )
        return self._data

    @property
    def _is_judged_before(self) -> bool:
        """Whether parity and accuracy were judged where the model was opened."""
        return self._given.facts.format == "ONNX"

    @contextmanager
    def _serving_with(self, facts: ModelFacts) -> Iterator[tuple[ServerRun, Session, ServerSettings]]:
        """The server with settings for these facts, ready."""
        settings, plan = self._plan(facts)
        root, files = self._work / PROOF, Files(self._given.files, self._given.folders)
        with running_server(root, plan, files, facts, settings, _LOAD_SECONDS) as run:
            session = Session.open(run.port, plan.entry_model, facts, settings.max_batch_size)
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

    def _judge_answers(self, session: Session, dataset: Dataset, settings: ServerSettings) -> None:
        """Parity, accuracy and consistency of what comes out of the server."""
        run = session.answerer()
        precision = self._given.facts.precision
        biggest = session.batch
        try:
            if self._data is not None:
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

    def _judge_load(self, run: ServerRun, session: Session, dataset: Dataset) -> None:
        asked = self._asked
        if asked.latency is not None:
            load = _possible(asked.latency_load, dataset)
            result = self._load(run, session, dataset, load)
            if isinstance(result, str):
                self._rows.append(unservable("latency", Reason.LATENCY_FAILED, load, result))
            else:
                self._rows += judge_latency(asked.latency, load, result)
                self._serving["latency"] = latency_report(load, result)
        if asked.throughput is not None:
            load = _possible(asked.throughput_load, dataset)
            result = self._load(run, session, dataset, load)
            if isinstance(result, str):
                self._rows.append(unservable("throughput", Reason.THROUGHPUT_FAILED, load, result))
            else:
                self._rows.append(judge_throughput(asked.throughput, load, result))
                self._serving["throughput"] = self._curve(run, session, dataset)
        if asked.memory is not None:
            most = LoadAsked(asked.throughput_load.concurrency, max(1, session.batch))
            self._load(run, session, dataset, _possible(most, dataset), _brief(self._seconds))

    def _load(
        self,
        run: ServerRun,
        session: Session,
        dataset: Dataset,
        load: LoadAsked,
        plan: LoadPlan | None = None,
    ) -> LoadResult | str:
        """The load's result, or why the server refuses such requests."""
        only = 1 if dataset.whole else dataset.fixed
        if only and load.batch_size != only:
            return f"the model takes {only} rows at a time" if only > 1 else "the model takes single rows"
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

    def _curve(self, run: ServerRun, session: Session, dataset: Dataset) -> list[dict[str, Any]]:
        """Rows per second by batch size: short looks, for the report alone."""
        found = []
        for size in _BATCHES:
            if size > max(1, session.batch):
                break
            load = _possible(LoadAsked(self._asked.throughput_load.concurrency, size), dataset)
            if load.batch_size != size:
                break
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

    def _search(self) -> Tuned:
        """The settings that `tune` asks for."""
        asked, facts = self._asked, self._given.facts
        limits = (self._spec.resources.limits if self._spec.resources else None) or {}
        cores: Fraction = quantity_value(limits.get("cpu", _DEFAULT_CPU))
        lower = asked.goal == "Latency"
        load = asked.latency_load if lower else asked.throughput_load
        found = candidates(self._spec, facts, cores, asked.trials)
        search = Search(found, lambda tuned: self._visit(tuned, load, lower=lower), lower=lower)
        chosen = search.run()
        self._serving.update(search.report())
        return chosen

    def _visit(self, tuned: Tuned, load: LoadAsked, *, lower: bool) -> float:
        """One candidate in the server for a short while: its p95 in seconds, or rows per second."""
        with self._serving_with(self._given.facts.model_copy(update={"tuned": tuned})) as (run, session, _):
            rows = self._rows_for(session)
            load = _possible(load, rows)
            result = self._load(run, session, rows, load, _brief(self._seconds, share=0.15))
        if isinstance(result, str) or not result.requests:
            raise Failure(Reason.LOAD_FAILED, result if isinstance(result, str) else "no request was answered")
        return result.quantile(95) if lower else result.per_second * load.batch_size


def _possible(load: LoadAsked, dataset: Dataset) -> LoadAsked:
    """Where nothing else is asked, as many rows a request as the model takes."""
    only = 1 if dataset.whole else dataset.fixed
    return replace(load, batch_size=only) if only and load.batch_size == 1 else load


def _brief(seconds: float, share: float = 0.1) -> LoadPlan:
    """A short look: a tenth of a measurement's time."""
    length = max(0.2, seconds * share)
    return LoadPlan(1, requests=500, seconds=length, warm_up=length / 5, window=length / 4, least_seconds=length / 2)


def _shaped(array: Array, wanted: Array | None) -> Array:
    """A single value is served with one dimension more than the source has."""
    if wanted is not None and array.shape != wanted.shape and array.size == wanted.size:
        return array.reshape(wanted.shape)
    return array
