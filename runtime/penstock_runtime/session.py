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

__all__ = ["Session", "tensors_of"]

_TIMEOUT = 120.0
_AT_ONCE = 8


def tensors_of(facts: ModelFacts) -> tuple[Tensor, ...]:
    """The inputs as inspection found them."""
    return tuple(Tensor(item.name, item.data_type, item.dims) for item in facts.inputs)


@dataclass(frozen=True)
class Session:
    """Where the model answers, and its inputs; `batched` where config.pbtxt has a max_batch_size."""

    port: int
    model: str
    inputs: tuple[Tensor, ...]
    batched: bool
    opened: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close every connection: Triton waits for open ones when it is told to end."""
        while self.opened:
            self.opened.pop().close()

    @classmethod
    def open(cls, port: int, model: str, facts: ModelFacts, *, batched: bool) -> "Session":
        """With the facts' inputs, or where there are none (a repository served as it is) those the server tells."""
        return cls(port, model, tensors_of(facts) or _told_inputs(port, model), batched)

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
        single = {name for name, tensor in inputs.items() if self.batched and len(tensor.dims) == 1}
        shaped = {name: array.reshape(-1, 1) if name in single else array for name, array in arrays.items()}
        return encode_request(self.model, shaped, inputs)

    def messages(self, dataset: Dataset, batch: int, most: int) -> list[bytes]:
        """Requests of so many rows each for a load, different ones as far as there are rows."""
        size = 1 if dataset.whole else dataset.fixed or batch
        rows = dataset.take([at % dataset.rows for at in range(size * min(most, max(1, dataset.rows)))])
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


def _told_inputs(port: int, model: str) -> tuple[Tensor, ...]:
    try:
        with _connect(port) as connection:
            answer = ask(connection, encode_get(f"/v2/models/{model}"))
        told = json.loads(answer.body)["inputs"]
        kinds = {"BYTES": "STRING"}
        return tuple(
            Tensor(item["name"], kinds.get(item["datatype"], item["datatype"]), tuple(map(int, item["shape"])))
            for item in told
        )
    except (InferenceError, ValueError, KeyError, TypeError) as error:
        message = f"the server does not tell the inputs of {model}: {error}; list them in spec.model.inputs"
        raise Failure(Reason.LOAD_FAILED, message) from error
