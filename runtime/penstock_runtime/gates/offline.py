"""The gates that need no server: size, parity, accuracy and consistency, in the container that opens the model."""

import zipfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.data import LABEL, Array, Arrays, Dataset
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Asked, Tensor

from .accuracy import judge_accuracy, no_label
from .answers import Answerer, AnswerError, answer_rows, in_process, made_dataset, not_finite
from .asked import GatesAsked
from .consistency import check_consistency
from .parity import Differences, ParityError, compare, judge_parity, parity_report
from .row import GateRow, first_failed, size_text

__all__ = ["PREDICTIONS", "OfflineGates", "judge_answers", "judge_size", "read_reference", "write_predictions"]

PREDICTIONS = "predictions.npz"
_REFERENCE = "reference.npz"
_KEPT_BYTES = 64 << 20
_BATCH = 32
_UNCOMPARED = "parity"
"""The row of answers that could not even be compared."""


class OfflineGates:
    """The offline gates of one preparation; the source's answers are taken once for all candidates.

    `reference` is the source framework's own model; without one the baseline is, the ONNX file before any change.
    `inputs` are for the consistency of a model that no data came with.
    """

    def __init__(
        self,
        asked: Asked,
        dataset: Dataset | None,
        reference: Answerer | None,
        baseline: Path,
        *,
        batching: bool = True,
        inputs: Sequence[Tensor] = (),
    ) -> None:
        self._asked = GatesAsked.read(asked.gates)
        self._dataset, self._inputs = dataset, inputs
        self._reference, self._baseline = reference, baseline
        self._batch = _BATCH if batching else 1
        self._source: dict[str, Array] | None = None
        self._differences: Differences | None = None

    def judge(self, model: Path, precision: str | None = None, size_bytes: int | None = None) -> list[GateRow]:
        """All rows for one model, best first refused; raises Failure where the data does not fit the source itself.

        Of a model that is no ONNX file only the size is judged here: nothing in this container runs it.
        """
        rows = []
        if self._asked.size is not None:
            rows.append(judge_size(self._asked.size, _size(model) if size_bytes is None else size_bytes))
        if not _is_onnx(model):
            return rows
        run = in_process(model)
        if self._dataset is None:
            made = made_dataset(run, self._inputs) if self._inputs else None
            row = check_consistency(run, made, self._batch, precision) if made else None
            return [*rows, row] if row else rows
        rows += self._judge_answers(run, precision)
        if any(row.name == _UNCOMPARED and not row.passed for row in rows):
            return rows
        row = check_consistency(run, self._dataset, self._batch, precision)
        return [*rows, row] if row else rows

    def accept(self, model: Path, precision: str | None = None) -> str | None:
        """Why a candidate fails its gates; None when it passes them all."""
        failed = first_failed(self.judge(model, precision))
        return failed.sentence if failed else None

    def keep(self, folder: Path) -> None:
        """Write the source's answers for the comparison through the server: the first rows, at most 64 MiB of them."""
        if self._dataset is None or (self._reference is None and not _is_onnx(self._baseline)):
            return
        folder.mkdir(parents=True, exist_ok=True)
        answers = self._source_answers()
        row = sum(prod(array.shape[1:]) * max(array.dtype.itemsize, 16) for array in answers.values())
        rows = max(1, min(self._dataset.rows, _KEPT_BYTES // max(1, row)))
        kept = {f"{at:04d}": _storable(array[:rows]) for at, array in enumerate(answers.values())}
        names = np.array(list(answers), dtype=str)
        with (folder / _REFERENCE).open("wb") as file:
            np.savez(file, allow_pickle=False, names=names, **kept)

    def write_predictions(self, model: Path, folder: Path, source: Path) -> None:
        """Write `predictions.npz` for the user's own metric: the outputs and `label`; the source's into its folder."""
        if self._dataset is None or not _is_onnx(model):
            return
        try:
            answers = answer_rows(in_process(model), self._dataset, self._batch)
        except AnswerError as error:
            raise Failure(Reason.PARITY_FAILED, f"the model that would be served: {error}") from error
        write_predictions(folder, answers, self._dataset.label)
        write_predictions(source, self._source_answers(), self._dataset.label)

    def parity_report(self) -> Mapping[str, Any] | None:
        """The report's section `parity`, of the model judged last."""
        return parity_report(self._differences) if self._differences else None

    def _judge_answers(self, run: Answerer, precision: str | None) -> list[GateRow]:
        assert self._dataset is not None
        source = self._source_answers()
        try:
            answers = answer_rows(run, self._dataset, self._batch)
        except AnswerError as error:
            return [_refused(f"the model that would be served: {error}")]
        rows, self._differences = judge_answers(self._asked, self._dataset, answers, source, precision)
        return rows

    def _source_answers(self) -> dict[str, Array]:
        assert self._dataset is not None
        if self._source is None:
            run = self._reference or in_process(self._baseline)
            try:
                self._source = answer_rows(run, self._dataset, self._batch)
            except AnswerError as error:
                message = f"the source model cannot be asked with the dataset of spec.gates: {error}"
                raise Failure(Reason.DATA_INVALID, message) from error
        return self._source


def judge_size(most: int, size: int) -> GateRow:
    """The row of the size gate."""
    asked, measured, passed = f"at most {size_text(most)}", size_text(size), size <= most
    sentence = (
        ""
        if passed
        else f"the files to serve have {size:,} bytes ({measured}), asked: {asked} ({most:,} bytes); set "
        "optimize.precision: INT8 or FP16, or raise spec.gates.size.max"
    )
    return GateRow(
        "size", asked, measured, passed, None if passed else Reason.SIZE_FAILED, sentence, value=float(size),
        bound=float(most), better="Lower", unit="bytes",
    )  # fmt: skip


def judge_answers(
    asked: GatesAsked, dataset: Dataset, answers: Arrays, source: Arrays | None, precision: str | None
) -> tuple[list[GateRow], Differences | None]:
    """Parity and accuracy of answers, wherever they were given; `source` None where nothing could run the source."""
    wrong = not_finite(answers) or (not_finite(source) if source else None)
    if wrong:
        who = "the model that would be served answers" if not_finite(answers) else "the source model itself answers"
        return [_refused(f"{who} with no number: {wrong}; no such model is served")], None
    rows, found = [], None
    if source is not None:
        try:
            found = compare(source, answers)
        except ParityError as error:
            return [_refused(f"the answers cannot be compared with the source's: {error}")], None
        rows += judge_parity(asked.parity, found, precision)
    elif asked.parity is not None:
        sentence = "nothing here can run this source beside the server, so its answers cannot be compared"
        rows.append(_refused(f"{sentence}; give the source to convert, or remove spec.gates.parity"))
    if asked.accuracy is not None and asked.accuracy.metric is not None:
        if dataset.label is None:
            rows.append(no_label(asked.accuracy))
        else:
            rows += judge_accuracy(asked.accuracy, dataset.label, answers, source)
    return rows, found


def read_reference(folder: Path) -> dict[str, Array] | None:
    """What `keep` wrote; None where it had nothing to write. Raises Failure for a file that it has not written."""
    path = folder / _REFERENCE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False, max_header_size=10_000) as archive:
            names = [str(name) for name in archive["names"]]
            return {name: archive[f"{at:04d}"] for at, name in enumerate(names)}
    except (OSError, ValueError, KeyError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the source's answers cannot be read: {error}") from error


def write_predictions(folder: Path, answers: Arrays, label: Array | None) -> None:
    """Answers under the names of their outputs, and `label` where there is one."""
    arrays = {name: _storable(array) for name, array in answers.items()}
    if label is not None:
        arrays[LABEL] = label
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / PREDICTIONS, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def _storable(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array


def _refused(sentence: str) -> GateRow:
    return GateRow(_UNCOMPARED, measured="no comparison", passed=False, reason=Reason.PARITY_FAILED, sentence=sentence)


def _is_onnx(model: Path) -> bool:
    return model.suffix.lower() == ".onnx"


def _size(model: Path) -> int:
    """Of the file and what is called after it, such as its external data."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*") if path.is_file())
