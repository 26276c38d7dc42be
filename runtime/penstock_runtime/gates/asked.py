"""What `spec.gates` asks, read from the request's JSON into plain numbers.

Plain dataclasses: the container that opens models does without pydantic. The API server and `penstock.api` have checked
the values already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from penstock.api.units import duration_seconds, quantity_value

__all__ = ["AccuracyAsked", "GatesAsked", "LoadAsked", "ParityAsked"]

Json = Mapping[str, Any]


@dataclass(frozen=True)
class ParityAsked:
    """Bounds of parity; shares from 0 to 1."""

    top1: float | None = None
    absolute: float | None = None
    relative: float | None = None
    row_share: float = 1.0

    @property
    def bounds_nothing(self) -> bool:
        """`parity: {}`: the defaults of the precision apply."""
        return self.top1 is None and self.absolute is None and self.relative is None


@dataclass(frozen=True)
class AccuracyAsked:
    """A metric and its bounds; `metric` None where the user's own image measures."""

    metric: str | None = None
    minimum: float | None = None
    max_drop: float | None = None
    """Percent points, or for MSE percent of the source's."""


@dataclass(frozen=True)
class LoadAsked:
    """How many requests are under way at once, and how many rows each has."""

    concurrency: int
    batch_size: int = 1


@dataclass(frozen=True)
class GatesAsked:
    """All of `spec.gates`; seconds, bytes and rows per second."""

    parity: ParityAsked | None = None
    accuracy: AccuracyAsked | None = None
    latency: Mapping[int, float] | None = None
    """Seconds by quantile: 50, 95, 99."""
    latency_load: LoadAsked = LoadAsked(1)
    throughput: float | None = None
    throughput_load: LoadAsked = LoadAsked(8)
    size: int | None = None
    memory: int | None = None
    goal: str | None = None
    """Of `tune`: `Latency` or `Throughput`."""
    trials: int = 8

    @classmethod
    def read(cls, gates: Json) -> "GatesAsked":
        """Read the JSON of `spec.gates`; an empty one asks nothing."""
        latency, throughput = gates.get("latency"), gates.get("throughput")
        tune = gates.get("tune") or {}
        return cls(
            parity=_parity(gates["parity"]) if gates.get("parity") is not None else None,
            accuracy=_accuracy(gates["accuracy"]) if gates.get("accuracy") is not None else None,
            latency=None if latency is None else _quantiles(latency),
            latency_load=_load(latency, 1),
            throughput=None if throughput is None else float(throughput["minPerSecond"]),
            throughput_load=_load(throughput, 8),
            size=_bytes(gates.get("size")),
            memory=_bytes(gates.get("memory")),
            goal=tune.get("goal"),
            trials=int(tune.get("trials") or 8),
        )


def _parity(asked: Json) -> ParityAsked:
    share = _number(asked, "minRowShare")
    return ParityAsked(
        _number(asked, "minTop1Agreement"),
        _number(asked, "maxAbsoluteDifference"),
        _number(asked, "maxRelativeDifference"),
        1.0 if share is None else share,
    )


def _accuracy(asked: Json) -> AccuracyAsked:
    return AccuracyAsked(asked.get("metric"), _number(asked, "minimum"), _number(asked, "maxDropPercent"))


def _quantiles(asked: Json) -> dict[int, float]:
    return {q: duration_seconds(asked[f"p{q}"]) for q in (50, 95, 99) if asked.get(f"p{q}")}


def _load(asked: Json | None, concurrency: int) -> LoadAsked:
    asked = asked or {}
    return LoadAsked(int(asked.get("concurrency") or concurrency), int(asked.get("batchSize") or 1))


def _bytes(asked: Json | None) -> int | None:
    return None if asked is None else ceil(quantity_value(asked["max"]))


def _number(asked: Json, name: str) -> float | None:
    value = asked.get(name)
    return None if value is None else float(value)
