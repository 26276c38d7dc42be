"""The tables of docs/verdicts.md, from the report of `make bench-verdicts`."""

from collections.abc import Iterable
from typing import Any

__all__ = ["table"]

_RATES = (200, 20, 2)


def table(report: dict[str, Any]) -> str:
    """Markdown; every share with its 95 % Clopper-Pearson interval."""
    cells = report["cells"]
    parts = [
        f"Measured {report['generated'][:10]}, seeds from the cells' names; {report['machine']}.\n",
        "### No difference: how often a good revision is taken back\n",
        _shares([cell for cell in cells if cell["kind"] in ("null", "latency-null")]),
        "### A fault: seconds until it is taken back, median / 95th percentile\n",
        _times([cell for cell in cells if cell["kind"] in ("detection", "latency")]),
        "### Without history: 5 s instead of 15 minutes\n",
        _shares([cell for cell in cells if cell["kind"] == "cold-null"]),
        _times([cell for cell in cells if cell["kind"] == "cold"]),
        "### Fixed thresholds on such traffic, half an hour at 10 %\n",
        _fixed(report["fixed"]),
    ]
    return "\n" + "\n".join(parts) + "\n"


def _shares(cells: list[dict[str, Any]]) -> str:
    rows = [["case", "allowed", *_heads(cells)]]
    for case in dict.fromkeys(cell["case"] for cell in cells):
        row = {cell["rps"]: cell for cell in cells if cell["case"] == case}
        allowed = next(iter(row.values()))["limit"]
        rows.append([case, f"{100 * allowed:g} %", *(_share(row.get(rps)) for rps in _present(cells))])
    return _markdown(rows)


def _times(cells: list[dict[str, Any]]) -> str:
    rows = [["case", *_heads(cells)]]
    for case in dict.fromkeys(cell["case"] for cell in cells):
        row = {cell["rps"]: cell for cell in cells if cell["case"] == case}
        rows.append([case, *(_time(row.get(rps)) for rps in _present(cells))])
    return _markdown(rows)


def _fixed(cells: list[dict[str, Any]]) -> str:
    rules = list(dict.fromkeys(cell["rule"] for cell in cells))
    rows = [["requests/s", "case", *rules]]
    for rps in _RATES:
        for case in dict.fromkeys(cell["case"] for cell in cells):
            found = {cell["rule"]: cell for cell in cells if (cell["rps"], cell["case"]) == (rps, case)}
            if found:
                kind = next(iter(found.values()))["kind"]
                name = f"no difference: {case}" if kind == "null" else f"fails {case}"
                show = _share if kind == "null" else _time
                rows.append([str(rps), name, *(show(found.get(rule)) for rule in rules)])
    return _markdown(rows)


def _present(cells: Iterable[dict[str, Any]]) -> list[float]:
    return sorted({cell["rps"] for cell in cells}, reverse=True)


def _heads(cells: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{rps:g} requests/s" for rps in _present(cells)]


def _share(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return f"{100 * cell['detected_share']:.1f} % ({100 * cell['low']:.1f}-{100 * cell['high']:.1f})"


def _time(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    found = f"{100 * cell['detected_share']:.0f} % found"
    if cell["median_s"] is None:
        return found
    text = f"{cell['median_s']:g} / {cell['p95_s']:g}"
    return text if cell["detected_share"] == 1 else f"{text}, {found}"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
