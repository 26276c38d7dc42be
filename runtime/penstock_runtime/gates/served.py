"""The gates that are measured in the server as it will be configured: latency, throughput and memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.api.reasons import Reason
from penstock_runtime.load import LoadResult

from .asked import LoadAsked
from .row import GateRow, number, size_text

__all__ = ["judge_latency", "judge_memory", "judge_throughput", "latency_report", "unservable"]

_FAILURES_ALLOWED = 1e-3
_CLIENT_BUSY = 0.85
_BINS = 40
_FASTER = (
    "raise spec.server.resources.limits.cpu, let spec.gates.tune look for better settings, or make the model faster "
    "with spec.optimize.precision: Auto"
)


def judge_latency(asked: Mapping[int, float], load: LoadAsked, result: LoadResult) -> list[GateRow]:
    """A row per quantile that is asked for; seconds by quantile."""
    return [_judge_quantile(percent, bound, load, result) for percent, bound in asked.items()]


def _judge_quantile(percent: int, bound: float, load: LoadAsked, result: LoadResult) -> GateRow:
    name, asked = f"latency.p{percent}", f"at most {_milliseconds(bound)}"
    failed = _failures(result)
    if failed:
        return _refused(name, asked, Reason.LATENCY_FAILED, failed)
    value, (low, high) = result.quantile(percent), result.quantile_interval(percent)
    passed = value <= bound
    how = f"{result.requests:,} requests, {_shape(load)}"
    measured = f"{_milliseconds(value)} ({how}{_remarks(result)})"
    sentence = "" if passed else f"p{percent} is {measured}, asked: {asked}; {_FASTER}"
    return GateRow(
        name, asked, measured, passed, None if passed else Reason.LATENCY_FAILED, sentence, value=1000 * value,
        bound=1000 * bound, better="Lower", interval=(1000 * low, 1000 * high), rows=result.requests, unit="ms",
    )  # fmt: skip


def judge_throughput(asked: float, load: LoadAsked, result: LoadResult) -> GateRow:
    """Rows per second."""
    text = f"at least {number(asked)} rows/s"
    failed = _failures(result)
    if failed:
        return _refused("throughput", text, Reason.THROUGHPUT_FAILED, failed)
    value = result.per_second * load.batch_size
    passed = value >= asked
    measured = f"{number(value)} rows/s ({result.requests:,} requests, {_shape(load)}{_remarks(result)})"
    sentence = "" if passed else f"the server answered {measured}, asked: {text}; {_FASTER}"
    return GateRow(
        "throughput", text, measured, passed, None if passed else Reason.THROUGHPUT_FAILED, sentence, value=value,
        bound=asked, better="Higher", rows=result.requests, unit="rows/s",
    )  # fmt: skip


def judge_memory(asked: int, peak: int, source: str) -> GateRow:
    """The most that the server's container used, bytes."""
    text, measured, passed = f"at most {size_text(asked)}", size_text(peak), peak <= asked
    how = "" if source == "cgroup" else ", counted by its processes"
    sentence = (
        ""
        if passed
        else f"the server's working set was {measured} at most{how}, asked: {text}; lower spec.server.instances.count "
        "or batching.maxBatchSize, set optimize.precision: INT8, or raise spec.gates.memory.max"
    )
    return GateRow(
        "memory", text, f"{measured} working set{how}", passed, None if passed else Reason.MEMORY_FAILED, sentence,
        value=float(peak), bound=float(asked), better="Lower", unit="bytes",
    )  # fmt: skip


def unservable(name: str, reason: Reason, load: LoadAsked, why: str) -> GateRow:
    """The row of a gate whose requests this server would refuse."""
    sentence = f"requests of {load.batch_size} rows are not answered: {why}; change the gate's batchSize"
    return _refused(name, f"{load.batch_size} rows a request", reason, sentence)


def latency_report(load: LoadAsked, result: LoadResult) -> dict[str, Any]:
    """The section `serving.latency` of the report, milliseconds."""
    report: dict[str, Any] = {
        "concurrency": load.concurrency,
        "batch_size": load.batch_size,
        "requests": result.requests,
    }
    if not result.requests:
        return report
    report.update({f"p{q}_ms": 1000 * result.quantile(q) for q in (50, 95, 99)})
    values = 1000 * result.latencies
    low, high = max(1e-3, float(values[0])), float(values[-1])
    edges = np.geomspace(low * 0.999, max(high, low * 1.01) * 1.001, _BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    report["histogram"] = {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}
    return report


def _failures(result: LoadResult) -> str | None:
    total = result.requests + result.failed
    if total and result.failed <= _FAILURES_ALLOWED * total:
        return None
    shown = "; ".join(f"{count:,} x {text}" for text, count in result.failures.most_common(2))
    return f"{result.failed:,} of {total:,} requests were not answered: {shown or 'the server stood still'}"


def _remarks(result: LoadResult) -> str:
    """What a reader must know of the measurement."""
    parts = []
    if result.disturbed:
        parts.append(f"disturbed: {result.disturbed}")
    elif result.discarded:
        parts.append(f"{result.discarded:.0%} of the time left out for other work on the node")
    if result.client_share > _CLIENT_BUSY:
        parts.append(f"the load generator itself took {result.client_share:.0%} of a core")
    return "".join(f"; {part}" for part in parts)


def _refused(name: str, asked: str, reason: Reason, sentence: str) -> GateRow:
    return GateRow(name, asked, "not answered", passed=False, reason=reason, sentence=sentence)


def _shape(load: LoadAsked) -> str:
    rows = "1 row" if load.batch_size == 1 else f"{load.batch_size} rows"
    return f"{load.concurrency} at once, {rows} each"


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms"
