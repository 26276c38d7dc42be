"""A report on a terminal."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.api.report import Optimization, Report, Serving

from .report_words import (
    bytes_text,
    candidates_of,
    conversion_speed,
    headline,
    milliseconds,
    number,
    plain,
    precision_name,
    settings_of,
    times,
)

__all__ = ["picture"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


def picture(report: Report, name: str, about: str) -> RenderableType:
    """All of it, for a rich console."""
    parts: list[RenderableType] = [
        Text(plain(name, 128), style="bold"),
        Text(plain(about), style="dim"),
        Text(headline(report), style="bold green" if report.passed else "bold red"),
    ]
    for section in _sections(report):
        parts += [Text(""), section]
    return Group(*parts)


def _sections(report: Report) -> Iterator[RenderableType]:
    if report.gates:
        rows = [
            (gate.name, gate.asked, gate.measured, "passed" if gate.passed else "FAILED", gate.sentence)
            for gate in report.gates
        ]
        yield _table(("gate", "asked", "measured", "result", "remark"), rows)
    if report.parity:
        parity = report.parity
        facts = [f"{parity.rows:,} rows compared with the source"]
        if parity.top1_agreement is not None:
            facts.append(f"{100 * parity.top1_agreement:.2f} % agree")
        if parity.max_absolute is not None:
            facts.append(f"differences up to {number(parity.max_absolute)}")
        yield Text(", ".join(facts))
    if report.optimization:
        yield _optimization(report.optimization)
    if report.serving:
        yield from _serving(report.serving)
    yield _origin(report)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(plain(value)) for value in row))
    return table


def _cell(value: str) -> Text:
    return Text(
        value, style={"passed": "green", "FAILED": "bold red", "kept": "green", "chosen": "green"}.get(value, "")
    )


def _optimization(found: Optimization) -> Table:
    candidates = candidates_of(found)
    rows = [
        (
            item.name,
            precision_name(item),
            bytes_text(item.size_bytes) if item.size_bytes is not None else "-",
            milliseconds(item.milliseconds) if item.milliseconds is not None else "-",
            times(item.speedup) if item.speedup is not None else "-",
            "kept" if item.kept else "",
            item.why,
        )
        for item in candidates
    ]
    return _table(("candidate", "numerics", "size", "time", "speed", "", "why"), rows)


def _serving(serving: Serving) -> Iterator[RenderableType]:
    latency = serving.latency
    lines = []
    if latency:
        values = (("p50", latency.p50_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms))
        shown = "  ".join(f"{name} {milliseconds(value)}" for name, value in values if value is not None)
        bars = _bars(latency.histogram.counts) if latency.histogram else ""
        lines.append(f"latency   {shown}  ({latency.requests:,} requests, {latency.concurrency} at once)  {bars}")
    for item in serving.throughput:
        size = "1 row" if item.batch_size == 1 else f"{item.batch_size:,} rows"
        lines.append(
            f"rate      {number(item.rows_per_second)} rows/s in requests of {size}, {item.concurrency} at once"
        )
    if serving.memory:
        limit = f" of {bytes_text(serving.memory.limit_bytes)}" if serving.memory.limit_bytes else ""
        lines.append(f"memory    {bytes_text(serving.memory.peak_bytes)}{limit}")
    if lines:
        yield Text("\n".join(lines))
    if serving.trials:
        unit = "rows/s" if serving.goal == "Throughput" else "p95 in ms"
        rows = [
            (
                settings_of(trial),
                number(trial.value) if trial.value is not None else "-",
                "chosen" if trial.chosen else "",
                trial.why,
            )
            for trial in serving.trials
        ]
        yield _table(("settings tried", unit, "", "remark"), rows)


def _bars(counts: Sequence[int]) -> str:
    """A line of bars, at most 40 wide."""
    width = -(-len(counts) // 40)
    sums = [sum(counts[start : start + width]) for start in range(0, len(counts), width)]
    most = max(sums) or 1
    return "".join(_BLOCKS[-(-8 * count // most)] for count in sums)


def _origin(report: Report) -> Table:
    source, conversion, machine = report.source, report.conversion, report.machine
    tools = {**(conversion.tools if conversion else {}), **report.tools}
    cores = f"{number(machine.cores)} cores" if machine.cores else ""
    facts = (
        ("source", source.uri),
        ("resolved", source.resolved),
        ("digest", source.digest),
        ("signature", source.signature),
        ("format", " → ".join(dict.fromkeys(filter(None, (source.format, conversion.format if conversion else ""))))),
        ("speed", conversion_speed(report)),
        ("machine", ", ".join(part for part in (machine.cpu, cores) if part)),
        ("tools", ", ".join(f"{tool} {version}" for tool, version in sorted(tools.items()))),
        *(("warning", text) for text in (conversion.warnings if conversion else ())),
    )
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(plain(value)))
    return table
