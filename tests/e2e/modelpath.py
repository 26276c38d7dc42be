"""From source to prediction: specimens pushed and asked, and what was found as rows of build/e2e/model-path.json."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from hack.cluster.settings import CHECKOUT
from numpy.typing import NDArray

from .cluster import items
from .deployments import Deployed, restarts

__all__ = ["Answers", "Neighbourhood", "Rows", "predict", "watched"]

FILE = CHECKOUT / "build" / "e2e" / "model-path.json"
_TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}
_MOST_ROWS = 16


class Rows:
    """The file of results: one list for each kind of row, a row replaced when it is measured again."""

    @contextmanager
    def row(self, kind: str, key: str, name: str) -> Iterator[dict[str, Any]]:
        """A row to fill in, with the seconds it took; written whatever happens, `passed` if nothing was raised."""
        row: dict[str, Any] = {key: name, "passed": False}
        began = time.monotonic()
        try:
            yield row
            row["passed"] = True
        except BaseException as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:1000]
            raise
        finally:
            row["seconds"] = round(time.monotonic() - began, 1)
            self._write(kind, key, row)

    def _write(self, kind: str, key: str, row: dict[str, Any]) -> None:
        found: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text()) if FILE.exists() else {}
        found[kind] = [*(other for other in found.get(kind, []) if other[key] != row[key]), row]
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1) + "\n")


@dataclass(frozen=True)
class Answers:
    """What a server said of some rows, by output."""

    outputs: Mapping[str, NDArray[Any]]

    def against(
        self, expected: tuple[NDArray[Any], ...], tolerance: float, least_agreement: float = 1.0
    ) -> dict[str, Any]:
        """The largest difference, and the share of rows with the same class; every answer must be there once."""
        difference, same = 0.0, []
        for answer in expected:
            found = self._matching(answer)
            if answer.dtype.kind == "f":
                difference = max(difference, float(np.abs(found - answer).max()))
                same.append(np.argmax(found, -1) == np.argmax(answer, -1))
            else:
                same.append(found == answer)
        agreement = float(np.mean(np.concatenate([np.ravel(part) for part in same])))
        told = {"max_difference": float(f"{difference:.3g}"), "agreement": round(agreement, 4)}
        assert difference <= tolerance, f"{told}, allowed are {tolerance}"
        assert agreement >= least_agreement, told
        return told

    def _matching(self, answer: NDArray[Any]) -> NDArray[Any]:
        """The output of the same kind and size, in the answer's shape."""
        alike = [
            output
            for output in self.outputs.values()
            if (output.dtype.kind == "f") == (answer.dtype.kind == "f") and output.size == answer.size
        ]
        shapes = {name: (output.shape, str(output.dtype)) for name, output in self.outputs.items()}
        assert len(alike) == 1, f"{answer.shape} {answer.dtype} is expected once among {shapes}"
        return alike[0].reshape(answer.shape)


def predict(deployed: Deployed, rows: NDArray[Any], served_name: str | None = None) -> Answers:
    """The answers over the v2 protocol through the client Service, a few rows at a time."""
    with deployed.cluster.reach(deployed.namespace, f"service/{deployed.name}", 8000) as address:
        place = f"http://{address}/v2/models/{served_name or deployed.name}"
        (wanted,) = _call(place)["inputs"]
        parts = [_infer(place, wanted, rows[start : start + _MOST_ROWS]) for start in range(0, len(rows), _MOST_ROWS)]
    return Answers({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _infer(place: str, wanted: Mapping[str, Any], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    data = rows.astype(_TYPES[wanted["datatype"]])
    tensor = {"name": wanted["name"], "datatype": wanted["datatype"], "shape": list(rows.shape)}
    answer = _call(f"{place}/infer", {"inputs": [{**tensor, "data": data.ravel().tolist()}]})
    return {
        output["name"]: np.array(output["data"], _TYPES[output["datatype"]]).reshape(output["shape"])
        for output in answer["outputs"]
    }


def _call(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = json.dumps(body).encode() if body is not None else None
    try:
        with opener.open(url, data, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        told = f"{url}: {error.code}, {dict(error.headers)}, {error.read(500)!r}"
        raise AssertionError(told) from None
    return found


@dataclass(frozen=True)
class Neighbourhood:
    """Who must not notice: the pods of the operator and of a deployment beside it, the nodes, and what it answers."""

    operators: dict[str, int]
    servers: dict[str, int]
    nodes: frozenset[str]
    answers: bytes


def watched(neighbour: Deployed, system: str) -> Neighbourhood:
    """As it is now."""
    operators = items(neighbour.cluster, "pods", system, "app.kubernetes.io/component=operator")
    nodes = items(neighbour.cluster, "nodes", system)
    sound = {
        f"{node['metadata']['name']} {condition['type']}={condition['status']}"
        for node in nodes
        for condition in node["status"]["conditions"]
    }
    return Neighbourhood(
        {pod["metadata"]["uid"]: restarts(pod) for pod in operators},
        neighbour.serving_pods(),
        frozenset(sound),
        neighbour.ask().tobytes(),
    )
