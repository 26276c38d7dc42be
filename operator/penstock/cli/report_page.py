"""A report as one HTML page: no scripts, nothing loaded from anywhere, light and dark."""

from collections.abc import Iterable, Sequence

from penstock.api.report import Candidate, GateRow, Optimization, Report, Serving, Source

from .report_markup import Child, Markup, tag
from .report_plots import Mark, accuracy_plot, candidate_plot, histogram_plot, throughput_plot
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

__all__ = ["page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--text:#1b2330;--soft:#5b6675;--line:#dde2e9;--bar:#4777c2;
--other:#b3bfce;--good:#1c7f4b;--bad:#c0362c;--asked:#b45309;--goodback:#e5f4ec;--badback:#fbe9e7}
@media (prefers-color-scheme:dark){:root{--back:#12161c;--card:#1a2029;--text:#e4e9f0;--soft:#98a4b4;--line:#2c3541;
--bar:#6c9be0;--other:#465364;--good:#5cc48e;--bad:#f08177;--asked:#e5a04d;--goodback:#173326;--badback:#3a1f1d}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.6rem;margin:0 0 .2rem;
overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0 0 .6rem}.lead{color:var(--soft);margin:0 0 1.2rem;
overflow-wrap:anywhere}code{font:.9em ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}section,.verdict{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1.1rem 1.25rem;margin:0 0 1rem}.verdict{font-weight:600;overflow-wrap:anywhere}
.verdict.good{background:var(--goodback);border-color:var(--good)}
.verdict.bad{background:var(--badback);border-color:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4rem .8rem .4rem 0;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;font-size:.85rem}td.number,th.number{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}.good{color:var(--good)}.bad{color:var(--bad)}td code{white-space:nowrap}
td.good,td.bad{font-weight:600;
white-space:nowrap}.note{color:var(--soft);margin:.3rem 0 .8rem}.remark{display:block;color:var(--soft);
font-size:.88rem}figure{margin:1.2rem 0 .4rem}figcaption{color:var(--soft);font-size:.88rem}
.plot{width:100%;height:auto;display:block;font-size:12px}
.plot text{fill:var(--text);stroke:var(--card);stroke-width:4px;paint-order:stroke;stroke-linejoin:round}
.plot .tick{fill:var(--soft);
font-size:11px}.bar{fill:var(--bar)}.bar.kept{fill:var(--good)}.bar.other{fill:var(--other)}.axis{stroke:var(--soft)}
.mark{stroke-width:1.6}.mark.measured{stroke:var(--text)}.mark.asked{stroke:var(--asked);stroke-dasharray:5 3}
.mark.other{stroke:var(--soft);stroke-dasharray:2 3}.plot .label.asked{fill:var(--asked)}
.plot .label.other{fill:var(--soft)}.interval{stroke:var(--bar);stroke-width:3}.dot{fill:var(--bar)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;margin:0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}details summary{cursor:pointer;color:var(--soft)}
ul{margin:.3rem 0;padding-left:1.2rem}
@media (max-width:34rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
@media print{body{background:#fff}section,.verdict{break-inside:avoid}}
"""


def page(report: Report, name: str, about: str) -> str:
    """The whole document; `about` says which revision or preparation of the deployment `name` it is of."""
    title = f"{plain(name, 128)}: how it was prepared"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    verdict = tag("p", headline(report), class_=f"verdict {'good' if report.passed else 'bad'}")
    body = tag(
        "main",
        tag("h1", plain(name, 128)),
        tag("p", about, class_="lead"),
        verdict,
        *_sections(report),
    )
    return f'<!doctype html>\n<html lang="en">{head}{tag("body", body)}</html>\n'


def _sections(report: Report) -> Iterable[Child]:
    if report.gates:
        yield tag("section", tag("h2", "Gates"), _gates(report.gates), *_accuracy(report.gates))
    yield _parity(report)
    if report.serving:
        yield from _serving(report.serving, report.gates)
    if report.optimization:
        yield _optimization(report.optimization)
    yield _origin(report)


def _gates(gates: Sequence[GateRow]) -> Markup:
    rows = [
        (
            tag("td", tag("code", plain(gate.name, 64))),
            tag("td", gate.asked),
            tag("td", gate.measured, tag("span", gate.sentence, class_="remark") if gate.sentence else None),
            tag("td", "passed" if gate.passed else "failed", class_="good" if gate.passed else "bad"),
        )
        for gate in gates
    ]
    return _table(("gate", "asked", "measured", "result"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Markup]], numbers: Sequence[str] = ()) -> Markup:
    heads = [tag("th", column, class_="number" if column in numbers else None) for column in columns]
    lines = [tag("tr", *row) for row in rows]
    return tag("div", tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines)), class_="scroll")


def _figure(plot: Markup, caption: str) -> Markup:
    return tag("figure", plot, tag("figcaption", caption))


def _accuracy(gates: Sequence[GateRow]) -> Iterable[Child]:
    for gate in gates:
        if gate.value is not None and gate.interval is not None and not gate.name.startswith("latency."):
            rows = f" of {gate.rows:,} rows" if gate.rows else ""
            yield _figure(accuracy_plot(gate), f"{gate.name}: measured value{rows} with its 95 % confidence interval")


def _parity(report: Report) -> Child:
    parity = report.parity
    if parity is None:
        return None
    facts = [("rows compared", f"{parity.rows:,}")]
    if parity.top1_agreement is not None:
        facts.append(("rows with the same largest output", f"{100 * parity.top1_agreement:.2f} %"))
    if parity.max_absolute is not None:
        facts.append(("largest absolute difference", number(parity.max_absolute)))
    if parity.max_relative is not None:
        facts.append(("largest relative difference", number(parity.max_relative)))
    parts: list[Child] = [tag("h2", "Answers against the source framework's"), _facts(facts)]
    if parity.differences and sum(parity.differences.counts):
        gate = next((gate for gate in report.gates if gate.name == "parity.absolute"), None)
        marks = [Mark(gate.bound, f"asked: at most {number(gate.bound)}", "asked")] if gate and gate.bound else []
        plot = histogram_plot(parity.differences, "", marks, "Differences of the answers")
        parts.append(_figure(plot, "largest absolute difference of each row"))
    return tag("section", *parts)


def _facts(facts: Iterable[tuple[str, Child]]) -> Markup:
    return tag("dl", *(part for name, value in facts for part in (tag("dt", name), tag("dd", value))))


def _serving(serving: Serving, gates: Sequence[GateRow]) -> Iterable[Child]:
    latency = serving.latency
    if latency and latency.histogram and sum(latency.histogram.counts):
        values = (("p50", latency.p50_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms))
        marks = [Mark(value, f"{name} {milliseconds(value)}") for name, value in values if value is not None]
        marks += [
            Mark(gate.bound, f"asked: {gate.name.partition('.')[2]} {milliseconds(gate.bound)}", "asked")
            for gate in gates
            if gate.name.startswith("latency.") and gate.bound and gate.unit == "ms"
        ]
        rows = "1 row" if latency.batch_size == 1 else f"{latency.batch_size} rows"
        caption = f"{latency.requests:,} requests of {rows}, {latency.concurrency} at once, in the server as configured"
        plot = histogram_plot(latency.histogram, "ms", marks, "Latency")
        yield tag("section", tag("h2", "Latency in the server"), _figure(plot, caption))
    if serving.throughput:
        asked = [
            Mark(gate.bound, f"asked: {number(gate.bound)}/s", "asked")
            for gate in gates
            if gate.name == "throughput" and gate.bound
        ]
        plot = throughput_plot(serving.throughput, asked)
        yield tag("section", tag("h2", "Rows answered per second"), tag("figure", plot))
    if serving.memory:
        limit = serving.memory.limit_bytes
        share = f" of {bytes_text(limit)} ({100 * serving.memory.peak_bytes / limit:.0f} %)" if limit else ""
        text = f"{bytes_text(serving.memory.peak_bytes)}{share}"
        yield tag("section", tag("h2", "Memory"), _facts([("peak of the server's container", text)]))
    if serving.trials:
        yield _trials(serving)


def _trials(serving: Serving) -> Markup:
    unit = "rows/s" if serving.goal == "Throughput" else "p95 in ms"
    rows = [
        (
            tag("td", settings_of(trial)),
            tag("td", number(trial.value) if trial.value is not None else "-", class_="number"),
            tag("td", "chosen" if trial.chosen else "", class_="good"),
            tag("td", trial.why),
        )
        for trial in serving.trials
    ]
    note = (
        "Settings that were tried in turn, and back again; what is served is the best, if clearly so, or the defaults."
    )
    table = _table(("settings", unit, "", "remark"), rows, (unit,))
    return tag("section", tag("h2", "Search for settings"), tag("p", note, class_="note"), table)


def _optimization(found: Optimization) -> Markup:
    candidates = candidates_of(found)
    kept = next((item for item in candidates if item.kept), found.baseline)
    asked, served = plain(found.asked.precision or "None", 32), plain(kept.name, 64) if kept else "-"
    sentence = f"precision asked for: {asked}; served: {served}"
    rows = [
        (
            tag("td", plain(item.name, 64)),
            tag("td", precision_name(item)),
            tag("td", bytes_text(item.size_bytes) if item.size_bytes is not None else "-", class_="number"),
            tag("td", milliseconds(item.milliseconds) if item.milliseconds is not None else "-", class_="number"),
            tag("td", _speedup(item), class_="number"),
            tag("td", "kept" if item.kept else "", class_="good"),
            tag("td", item.why),
        )
        for item in candidates
    ]
    columns = ("candidate", "numerics", "size", "time", "speed", "", "why")
    parts: list[Child] = [tag("h2", "Optimization"), tag("p", sentence, class_="note")]
    if len(candidates) > 1:
        caption = "in-process time of the baseline divided by the candidate's"
        parts.append(_figure(candidate_plot(candidates, found.asked.min_speedup), caption))
    parts += [_table(columns, rows, ("size", "time", "speed")), _warnings(found.warnings)]
    return tag("section", *parts)


def _speedup(item: Candidate) -> Markup | str:
    if item.speedup is None:
        return "-"
    if item.low is None or item.high is None:
        return times(item.speedup)
    interval = tag("span", f"{item.low:.2f} to {item.high:.2f}", class_="remark")
    return tag("span", times(item.speedup), interval)


def _warnings(warnings: Sequence[str]) -> Child:
    return tag("ul", *(tag("li", warning) for warning in warnings)) if warnings else None


def _origin(report: Report) -> Markup:
    source, conversion, machine = report.source, report.conversion, report.machine
    facts: list[tuple[str, Child]] = [
        *((name, tag("code", text)) for name, text in _whence(source) if text),
        ("signature", source.signature),
        ("size", bytes_text(source.size_bytes) if source.size_bytes is not None else ""),
        ("format", source.format),
        ("served as", conversion.format if conversion else source.format),
        ("measured on", _machine(machine.cpu, machine.cores)),
    ]
    if conversion and conversion.seconds is not None:
        facts.append(("conversion took", f"{conversion.seconds:.1f} s"))
    facts.append(("as converted", conversion_speed(report)))
    tools = {**(conversion.tools if conversion else {}), **report.tools}
    parts: list[Child] = [tag("h2", "Where it comes from"), _facts((key, value) for key, value in facts if value)]
    if conversion:
        parts.append(_warnings(conversion.warnings))
    if tools:
        items = [(tool, tag("code", version)) for tool, version in sorted(tools.items())]
        parts.append(tag("details", tag("summary", "tools"), _facts(items)))
    if machine.flags:
        parts.append(tag("details", tag("summary", "CPU features"), tag("p", ", ".join(machine.flags))))
    return tag("section", *parts)


def _whence(source: Source) -> Iterable[tuple[str, str]]:
    yield "source", source.uri
    yield "resolved to", source.resolved
    yield "digest", source.digest


def _machine(cpu: str, cores: float | None) -> str:
    limited = f"{number(cores)} core{'' if cores == 1 else 's'}" if cores else ""
    return ", ".join(part for part in (cpu, limited) if part)
