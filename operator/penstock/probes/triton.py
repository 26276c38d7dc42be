"""Asks a serving pod what its tritonserver has counted: `GET /metrics`, once, and whatever is wrong is no answer.

The text comes from a process that runs the users' models, so it is read as strictly as it is bounded: one line that is
not what it should be refuses all of it.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import aiohttp
from yarl import URL

from penstock.core.server import METRICS_PORT
from penstock.core.servercounts import ModelCounts, ServerCounts

from .answers import LARGEST
from .bounded import BoundedClient

__all__ = ["TritonReader", "parse_metrics"]

log = logging.getLogger(__name__)
_SECONDS = 1.0
_MOST_BYTES = 256 << 10
_FAMILY = "nv_inference_"
_COMPUTE = ("compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us")
_READ = frozenset({"request_success", "request_failure", "queue_duration_us", *_COMPUTE, "pending_request_count"})
_LABEL = re.compile(r'(?P<name>[A-Za-z_][A-Za-z0-9_]*)="(?P<value>(?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_REASONS = frozenset({"BACKEND", "REJECTED", "CANCELED"})


def parse_metrics(body: bytes) -> ServerCounts:
    """By model, the versions added up; families that are not read may hold anything. Raises ValueError."""
    numbers = defaultdict[str, Counter[str]](Counter)
    failures = defaultdict[str, Counter[str]](Counter)
    for line in body.decode().split("\n"):
        name, _, rest = line.partition("{")
        family = name.removeprefix(_FAMILY)
        if family == name or family not in _READ:
            continue
        labels, value = _sample(rest)
        model = labels["model"]
        numbers[model][family] += value
        if family == "request_failure" and value:
            reason = labels.get("reason", "")
            failures[model][reason if reason in _REASONS else "OTHER"] += value
    return {model: _counts(found, failures[model]) for model, found in numbers.items()}


def _counts(numbers: Mapping[str, int], failures: Mapping[str, int]) -> ModelCounts:
    return ModelCounts(
        served=numbers.get("request_success", 0),
        failures=dict(failures),
        queued_microseconds=numbers.get("queue_duration_us", 0),
        computed_microseconds=sum(numbers.get(name, 0) for name in _COMPUTE),
        waiting=numbers.get("pending_request_count", 0),
    )


def _sample(text: str) -> tuple[dict[str, str], int]:
    """Labels and value of what follows a name and its brace."""
    inside, closed, number = text.rpartition("} ")
    labels, value = dict(_labels(inside)), float(number)
    if not closed or "model" not in labels:
        raise ValueError(f"expected labels that name a model, saw {text[:80]!r}")
    if not 0 <= value <= LARGEST:
        raise ValueError(f"expected a number from 0, saw {number[:40]!r}")
    return labels, round(value)


def _labels(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _LABEL.match(text, place)
        if found is None:
            raise ValueError(f"not labels of Prometheus text: {text[:80]!r}")
        yield found["name"], re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), found["value"])
        place = found.end()


class TritonReader:
    """Keeps its connections for some seconds; `close` it."""

    def __init__(self, port: int = METRICS_PORT, *, seconds: float = _SECONDS, most_bytes: int = _MOST_BYTES) -> None:
        self._port, self._client = port, BoundedClient(seconds, most_bytes)

    async def count(self, address: str) -> ServerCounts | None:
        """What the server in the pod at this address has counted; None when it did not answer."""
        url = URL.build(scheme="http", host=address, port=self._port, path="/metrics")
        try:
            return parse_metrics(await self._client.get(url))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            log.debug("serving pod %s: %s", address, error)
        except ValueError as error:
            log.warning("serving pod %s: %s", address, error)
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
