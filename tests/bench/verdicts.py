"""How often a good revision is taken back, and how soon a bad one is: the shipped verdicts on imagined traffic.

Every run is a rollout with the default spec: 15 minutes of stable's history (cold cells: 5 s), then the candidate's
seconds one by one through `advance` and `is_failing`, until it is taken back or the time is over. Seeds come from the
names of the cells, so a run can be repeated alone. A cell's result is kept in build/bench/verdicts.d until the code it
depends on changes; an interrupted run goes on where it stopped. `--check` asks whether docs/verdicts.md is current.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from fixed_rules import FIXED_RULES, decide
from imagined import Case, Drawn, draw
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from verdict_cells import Cell, cells, fixed_cells
from verdict_table import table

from penstock.core.analysis import Counts, Rules, Second, advance, begin, is_failing, judge

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_BATCH = 50
_BEGIN, _END = "<!-- bench-verdicts: generated, do not edit -->\n", "<!-- end of bench-verdicts -->\n"


def main() -> None:
    """Run what is missing, write the report and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="per cell without a difference; with a fault 3 in 10")
    parser.add_argument("--only", default="", help="cells whose name contains this; nothing is written to docs then")
    parser.add_argument("--processes", type=int, default=max(1, min(2, os.cpu_count() or 1)))
    parser.add_argument("--output", type=Path, default=_ROOT / "build/bench/verdicts.json")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs/verdicts.md")
    parser.add_argument("--check", action="store_true", help="only say whether the table in the docs is current")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(_check(arguments.output, arguments.docs))
    chosen = [cell for cell in cells() if arguments.only in cell.key]
    started = time.time()
    results = run(chosen, arguments.runs, arguments.processes, arguments.output.with_suffix(".d"))
    report = {
        "generated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seconds": round(time.time() - started, 1),
        "cells": [summarise(cell, results[cell.key]) for cell in chosen],
        "fixed": [] if arguments.only else fixed(arguments.runs),
    }
    report["passed"] = all(cell["passed"] for cell in report["cells"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    for cell in report["cells"]:
        print(line(cell))
    print(f"wrote {arguments.output}")
    if not arguments.only:
        arguments.docs.write_text(_with_table(arguments.docs.read_text(), report))
        print(f"wrote the table in {arguments.docs}")
    sys.exit(0 if report["passed"] else 1)


def run(chosen: list[Cell], runs: int, processes: int, kept: Path) -> dict[str, list[float]]:
    """Seconds from the start of the candidate to its end by cell, -1 for never."""
    kept.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint()
    found: dict[str, dict[int, list[float]]] = {}
    todo = []
    for cell in chosen:
        known = _load(kept, cell, fingerprint)
        wanted = range(math.ceil(_runs_of(cell, runs) / _BATCH))
        found[cell.key] = {batch: known[batch] for batch in wanted if batch in known}
        todo += [(cell, batch) for batch in wanted if batch not in known]
    bars = (TextColumn("{task.description:45.45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*bars, TimeRemainingColumn()) as progress,
        ProcessPoolExecutor(processes, initializer=_lower_priority) as pool,
    ):
        task = progress.add_task("rollouts", total=len(todo) * _BATCH)
        futures = {pool.submit(run_batch, cell, batch): (cell, batch) for cell, batch in todo}
        for future in as_completed(futures):
            cell, batch = futures[future]
            found[cell.key][batch] = future.result()
            _store(kept, cell, fingerprint, found[cell.key])
            progress.update(task, advance=_BATCH, description=cell.key)
    return {key: [end for batch in sorted(ends) for end in ends[batch]] for key, ends in found.items()}


def run_batch(cell: Cell, batch: int) -> list[float]:
    """The ends of one batch of runs."""
    seed = int.from_bytes(hashlib.sha256(f"{cell.key} | {batch}".encode()).digest()[:8])
    drawn = draw(cell.case, _BATCH, np.random.default_rng(seed))
    rules = Rules(sticky=cell.case.clients > 0)
    return [_run(seconds_of(drawn, index, cell.case), cell.case.history, rules) for index in range(_BATCH)]


def seconds_of(drawn: Drawn, index: int, case: Case) -> list[Second]:
    """One run in the form that the verdicts take."""
    stable = zip(*(counts[index].tolist() for counts in drawn.stable), strict=True)
    candidate = zip(*(counts[index].tolist() for counts in drawn.candidate), strict=True)
    rows = zip(drawn.weights.tolist(), map(Counts._make, stable), map(Counts._make, candidate), strict=True)
    return [Second(t, weight, first, second, case.shadow) for t, (weight, first, second) in enumerate(rows, 1)]


def _run(seconds: list[Second], history: int, rules: Rules) -> float:
    evidence = begin(rules, seconds[:history])
    for second in seconds[history:]:
        evidence = advance(evidence, rules, second)
        if is_failing(evidence, rules):
            if judge(evidence, rules).verdict != "Fail":
                raise AssertionError("is_failing and judge disagree")
            return second.t - history
    return -1


def summarise(cell: Cell, ends: list[float]) -> dict[str, Any]:
    """One cell of the report; a run taken back before its fault began counts as not detected, and is told."""
    onset = 0 if cell.limit is not None else cell.case.onset
    times = sorted(end - onset for end in ends if end > onset)
    share = len(times) / len(ends)
    low, high = clopper_pearson(len(times), len(ends))
    passed = cell.limit is None or low <= cell.limit
    return {
        "rps": cell.case.rps,
        "case": cell.name,
        "kind": cell.kind,
        "runs": len(ends),
        "detected_share": round(share, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "median_s": _quantile(times, 0.5),
        "p95_s": _quantile(times, 0.95),
        "early": sum(1 for end in ends if 0 <= end <= onset),
        "limit": cell.limit,
        "study_s": cell.study,
        "passed": passed,
    }


def fixed(runs: int) -> list[dict[str, Any]]:
    """The fixed thresholds on half an hour of the same kinds of traffic."""
    found = []
    for cell in fixed_cells():
        seed = int.from_bytes(hashlib.sha256(f"fixed | {cell.key}".encode()).digest()[:8])
        drawn = draw(cell.case, runs if cell.limit is not None else runs * 3 // 10, np.random.default_rng(seed))
        for rule in FIXED_RULES:
            times = sorted(float(end) for end in decide(rule, drawn, cell.case.history) if math.isfinite(end))
            low, high = clopper_pearson(len(times), len(drawn.stable[0]))
            found.append(
                {
                    "rule": rule, "rps": cell.case.rps, "case": cell.name, "kind": cell.kind,
                    "runs": len(drawn.stable[0]), "detected_share": round(len(times) / len(drawn.stable[0]), 5),
                    "low": round(low, 5), "high": round(high, 5),
                    "median_s": _quantile(times, 0.5), "p95_s": _quantile(times, 0.95),
                }
            )  # fmt: skip
    return found


def clopper_pearson(hits: int, runs: int, alpha: float = 0.05) -> tuple[float, float]:
    """The exact interval for a share, by bisection of the binomial's tails."""
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _at_most(hits - 1, runs, p) - alpha / 2)
    high = 1.0 if hits == runs else _solve(lambda p: alpha / 2 - _at_most(hits, runs, p))
    return low, high


def _solve(rising: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _at_most(hits: int, runs: int, p: float) -> float:
    if p <= 0 or p >= 1:
        return float(p <= 0)
    logs = (
        math.lgamma(runs + 1) - math.lgamma(k + 1) - math.lgamma(runs - k + 1)
        + k * math.log(p) + (runs - k) * math.log1p(-p)
        for k in range(hits + 1)
    )  # fmt: skip
    return min(1.0, sum(map(math.exp, logs)))


def line(cell: dict[str, Any]) -> str:
    """One cell for the terminal."""
    mark = "" if cell["passed"] else "  ABOVE ITS LIMIT"
    times = f"{cell['median_s']:g} / {cell['p95_s']:g} s" if cell["median_s"] is not None else "-"
    study = f"  (study {cell['study_s'][0]} / {cell['study_s'][1]})" if cell["study_s"] else ""
    share = f"{100 * cell['detected_share']:.2f} % [{100 * cell['low']:.2f}, {100 * cell['high']:.2f}]"
    return f"{cell['rps']:>4g}  {cell['kind']:13} {cell['case']:45} {share:26} {times}{study}{mark}"


def _quantile(times: list[float], share: float) -> float | None:
    return times[min(len(times) - 1, int(share * len(times)))] if times else None


def _runs_of(cell: Cell, runs: int) -> int:
    return runs if cell.limit is not None else math.ceil(runs * 3 / 10)


def _fingerprint() -> str:
    """Of everything that a result depends on."""
    sources = sorted((_ROOT / "operator/penstock/core/analysis").glob("*.py"))
    digest = hashlib.sha256()
    for path in (*sources, _HERE / "imagined.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _file(kept: Path, cell: Cell) -> Path:
    return kept / f"{hashlib.sha256(f'{cell.key} {cell.case}'.encode()).hexdigest()[:16]}.json"


def _load(kept: Path, cell: Cell, fingerprint: str) -> dict[int, list[float]]:
    path = _file(kept, cell)
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("fingerprint") != fingerprint:
        return {}
    return {int(batch): ends for batch, ends in known["batches"].items()}


def _store(kept: Path, cell: Cell, fingerprint: str, batches: dict[int, list[float]]) -> None:
    content = {"cell": cell.key, "fingerprint": fingerprint, "batches": batches}
    _file(kept, cell).write_text(json.dumps(content))


def _lower_priority() -> None:
    os.nice(5)


def _with_table(text: str, report: dict[str, Any]) -> str:
    before, rest = text.split(_BEGIN)
    return before + _BEGIN + table(report) + _END + rest.split(_END)[1]


def _check(output: Path, docs: Path) -> int:
    text = docs.read_text()
    if _with_table(text, json.loads(output.read_text())) == text:
        return 0
    print(f"the table in {docs} is not that of {output}; run `make bench-verdicts`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
