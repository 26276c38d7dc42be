"""Session: a model behind Triton, asked with arrays as a runtime in this process would be."""

import json
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from penstock.api.facts import ModelFacts
from penstock.api.reasons import Reason

from .data import Array, Arrays, Dataset
from .failure import Failure
from .finding import Tensor
from .gates.answers import Answerer, answer_rows
from .v2 import InferenceError, ask, encode_get, encode_request, read_answer

__all__ = ["Session"]

_TIMEOUT = 120.0
_AT_ONCE = 8
_MESSAGE_BYTES = 64 << 20


def _tensors_of(facts: ModelFacts) -> tuple[Tensor, ...]:
    """The inputs as inspection found them."""
    return tuple(Tensor(item.name, item.data_type, item.dims) for item in facts.inputs)


@dataclass(frozen=True)
class Session:
    """Where the model answers, and its inputs; `batch` is config.pbtxt's max_batch_size."""

    port: int
    model: str
    inputs: tuple[Tensor, ...]
    batch: int
    opened: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close every connection: Triton waits for open ones when it is told to end."""
        while self.opened:
            self.opened.pop().close()

    @classmethod
    def open(cls, port: int, model: str, facts: ModelFacts, batch: int) -> "Session":
        """With the facts' inputs, or where there are none (a repository served as it is) what the server tells."""
        inputs = _tensors_of(facts)
        return cls(port, model, inputs, batch) if inputs else _told(port, model)

    def answerer(self) -> Answerer:
        """A way to ask over one connection; it raises InferenceError."""
        mine: list[socket.socket] = []

        def run(arrays: Arrays) -> Mapping[str, Array]:
            if not mine:
                mine.append(_connect(self.port))
                self.opened.append(mine[0])
            try:
                return read_answer(ask(mine[0], self.encode(arrays)))
            except InferenceError:
                mine.pop().close()
                raise

        return run

    def encode(self, arrays: Arrays) -> bytes:
        """One request as bytes; a row that is a single value is served with one dimension."""
        inputs = {tensor.name: tensor for tensor in self.inputs}
        single = {name for name, tensor in inputs.items() if self.batch and len(tensor.dims) == 1}
        shaped = {name: array.reshape(-1, 1) if name in single else array for name, array in arrays.items()}
        return encode_request(self.model, shaped, inputs)

    def messages(self, dataset: Dataset, batch: int, most: int) -> list[bytes]:
        """Requests of so many rows each for a load, different ones as far as there are rows."""
        size = 1 if dataset.whole else dataset.fixed or batch
        row = sum(array[:1].nbytes for array in dataset.arrays.values())
        count = min(most, dataset.rows, max(1, _MESSAGE_BYTES // max(1, size * row)))
        rows = dataset.take([at % dataset.rows for at in range(size * count)])
        found: list[bytes] = []

        def keep(arrays: Arrays) -> Mapping[str, Array]:
            found.append(self.encode(arrays))
            return {next(iter(arrays)): next(iter(arrays.values()))}

        answer_rows(keep, rows, size)
        return found

    def answer_crowded(self, dataset: Dataset) -> dict[str, Array]:
        """Each row alone, but several at once, so that the server puts rows of different callers into one batch."""
        parts = [dataset.take([at]) for at in range(dataset.rows)]
        chunks = [parts[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(parts)))]

        def work(mine: Sequence[Dataset]) -> list[dict[str, Array]]:
            run = self.answerer()
            return [answer_rows(run, part, 1) for part in mine]

        with ThreadPoolExecutor(len(chunks)) as pool:
            answers = list(pool.map(work, chunks))
        ordered = [answers[at % len(chunks)][at // len(chunks)] for at in range(dataset.rows)]
        return {name: np.concatenate([answer[name] for answer in ordered]) for name in ordered[0]}


def _connect(port: int) -> socket.socket:
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
    except OSError as error:
        raise InferenceError(f"the server does not answer: {error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _told(port: int, model: str) -> Session:
    try:
        with _connect(port) as connection:
            told = json.loads(ask(connection, encode_get(f"/v2/models/{model}")).body)["inputs"]
            config = json.loads(ask(connection, encode_get(f"/v2/models/{model}/config")).body)
        kinds = {"BYTES": "STRING"}
        inputs = tuple(
            Tensor(item["name"], kinds.get(item["datatype"], item["datatype"]), tuple(map(int, item["shape"])))
            for item in told
        )
        return Session(port, model, inputs, int(config.get("max_batch_size", 0)))
    except (InferenceError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the server does not tell the inputs of {model}: {error}; list them in spec.model.inputs"
        raise Failure(Reason.LOAD_FAILED, message) from error
