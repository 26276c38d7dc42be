"""The cells of `make bench-verdicts`: what traffic, what is asked of the verdict there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from imagined import Case

__all__ = ["Cell", "cells", "fixed_cells"]

RATES = (2, 20, 200)
_MEASURED = {
    (200, "always"): (3, 3), (200, "20 %"): (3, 4), (200, "5 %"): (7, 15), (200, "2 %"): (29, 70),
    (200, "5 % after 5 min"): (12, 21),
    (20, "always"): (4, 7), (20, "20 %"): (13, 29), (20, "5 %"): (72, 164), (20, "2 %"): (258, 533),
    (20, "5 % after 5 min"): (91, 199),
    (2, "always"): (34, 68), (2, "20 %"): (128, 277), (2, "5 %"): (392, None),
}  # fmt: skip
"""Median and p95 of the study that came before (all of falseRollback spent on errors)."""


@dataclass(frozen=True)
class Cell:
    """`limit` is the share of false rollbacks that is allowed; `study` the median and p95 to be compared with."""

    kind: Literal["null", "detection", "latency-null", "latency", "cold-null", "cold"]
    name: str
    case: Case
    limit: float | None = None

    @property
    def key(self) -> str:
        return f"{self.kind} | {self.name} | {self.case.rps:g}"

    @property
    def study(self) -> tuple[int, int | None] | None:
        return _MEASURED.get((int(self.case.rps), self.name)) if self.kind == "detection" else None


def cells() -> tuple[Cell, ...]:
    """Every cell, in the order of the table."""
    return (*_no_difference(), *_faults(), *_latency(), *_cold())


def fixed_cells() -> tuple[Cell, ...]:
    """The cells that fixed thresholds are put to: half an hour at 10 %."""
    half_hour = ((100, 1800),)
    found = []
    for rps in RATES:
        found += [
            Cell("null", "independent errors", Case(rps, half_hour), 0.01),
            Cell("null", "bursts over 5 s", Case(rps, half_hour, burst=8, spread=5), 0.02),
            Cell("null", "shared dependency at 5 %", Case(rps, half_hour, outage=0.05, outage_seconds=1800), 0.01),
        ]
        found += [Cell("detection", name, Case(rps, half_hour, fault=rate)) for name, rate in _RATES_OF_FAULT]
    return tuple(found)


_RATES_OF_FAULT = (("always", 1.0), ("20 %", 0.2), ("5 %", 0.05), ("2 %", 0.02))


def _no_difference() -> Iterator[Cell]:
    growing = ((10, 120), (100, 120), (500, 360))
    for rps in RATES:
        yield Cell("null", "independent errors", Case(rps), 0.01)
        yield Cell("null", "both at 1 %", Case(rps, base=0.01), 0.01)
        yield Cell("null", "both at 5 %", Case(rps, base=0.05), 0.01)
        yield Cell("null", "default steps", Case(rps, ((100, 60), (500, 540))), 0.01)
        for base in (0.002, 0.01, 0.05):
            yield Cell("null", f"1 to 10 to 50 %, both at {100 * base:g} %", Case(rps, growing, base=base), 0.01)
        for spread in (1, 5, 15, 60):
            yield Cell("null", f"bursts over {spread} s", Case(rps, burst=8, spread=spread), 0.02)
        yield Cell("null", "shared dependency at 5 %", Case(rps, outage=0.05), 0.01)
        outage = Case(rps, outage=0.5, onset=300, outage_seconds=60)
        yield Cell("null", "shared dependency down for 1 min", outage, 0.01)
        yield Cell("null", "sticky, one client always fails", Case(rps, clients=50, bad_clients=1), 0.01)
        yield Cell("null", "sticky, ten clients always fail", Case(rps, clients=50, bad_clients=10), 0.01)
        yield Cell("null", "pod drain", Case(rps, drain=0.2), 0.01)
        yield Cell("null", "diurnal ramp", Case(rps, diurnal=True), 0.01)
        yield Cell("null", "blue/green switch", Case(rps, ((950, 600),)), 0.01)
        yield Cell("null", "shadow", Case(rps, shadow=True), 0.01)


def _faults() -> Iterator[Cell]:
    long = ((100, 1200),)
    for rps in RATES:
        for name, rate in _RATES_OF_FAULT:
            yield Cell("detection", name, Case(rps, fault=rate))
        yield Cell("detection", "5 % after 5 min", Case(rps, ((100, 900),), fault=0.05, onset=300))
        for name, rate in _RATES_OF_FAULT[:3]:
            yield Cell("detection", f"{name} after 10 min", Case(rps, long, fault=rate, onset=600))
        yield Cell("detection", "4xx always (renamed input)", Case(rps, client_fault=1.0))
        yield Cell("detection", "4xx 20 %", Case(rps, client_fault=0.2))
        yield Cell("detection", "gRPC only (half of the traffic)", Case(rps, fault=0.5))
        yield Cell("detection", "20 % at blue/green switch", Case(rps, ((950, 600),), fault=0.2))
        yield Cell("detection", "20 % of shadow copies", Case(rps, shadow=True, fault=0.2))
        for name, rate in _RATES_OF_FAULT[:3]:
            yield Cell("detection", f"{name}, errors in bursts over 5 s", Case(rps, fault=rate, burst=8, spread=5))


def _latency() -> Iterator[Cell]:
    for rps, pods, limit in ((200, (9, 1), 0.02), (20, (9, 1), 0.02), (40, (1, 1), 0.04)):
        plan = ((100, 600),) if pods == (9, 1) else ((500, 600),)
        fleet = "one pod against one" if pods == (1, 1) else "one pod against nine"
        for seconds in (5, 20):
            case = Case(rps, plan, episodes=seconds, pods=pods)
            yield Cell("latency-null", f"{fleet}, slow episodes of {seconds} s", case, limit)
        shared = Case(rps, plan, episodes=20, pods=pods, together=True)
        yield Cell("latency-null", f"{fleet}, shared slow episodes", shared, 0.01)
        for share in (1.0, 0.5, 0.2):
            case = Case(rps, plan, slow_fault=share, episodes=5, pods=pods)
            yield Cell("latency", f"{100 * share:g} % slow, {fleet}", case)
    for rps in RATES:
        yield Cell("latency", "50 % slow, no episodes", Case(rps, slow_fault=0.5))


def _cold() -> Iterator[Cell]:
    for rps in RATES:
        yield Cell("cold-null", "independent errors", Case(rps, history=5), 0.01)
        for spread in (1, 5, 15, 60):
            yield Cell("cold-null", f"bursts over {spread} s", Case(rps, history=5, burst=8, spread=spread), 0.02)
        yield Cell("cold-null", "shared dependency at 5 %", Case(rps, history=5, outage=0.05), 0.01)
        for name, rate in _RATES_OF_FAULT[:3]:
            yield Cell("cold", name, Case(rps, history=5, fault=rate))
