"""build/demo/report.json, the tables, and what must hold for the demo to have passed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from .replacement import Row
from .rollout import rollout_complaint

__all__ = ["DIFFERENCE", "complaint", "predictions_table", "replacements_table", "write_report"]

DIFFERENCE = 1e-6
"""Largest difference of a probability that is still the same arithmetic."""
NOTES = {
    "predictions": "latencies are those of one caller, per_second that of eight; every image is one request",
    "load": "open loop at 100 requests a second, a new connection per request, no retries",
    "rollout": "`failed` of the one taken back are its own errors; `lost` are all others",
    "left_out": "kept connections and gRPC under change: `make bench-rollback` and `make bench-disruption` count them",
}


def complaint(report: Mapping[str, Any]) -> str | None:
    """The first thing that is not as it must be, in one sentence."""
    for name, found in report["models"].items():
        if found["mismatches"]:
            return f"{name}: {found['mismatches']} of {found['images']} labels are not those of onnxruntime."
        if not found["max_abs_difference"] <= DIFFERENCE:
            return f"{name}: a probability is {found['max_abs_difference']:.1e} off, {DIFFERENCE:.0e} is allowed."
    if wrong := rollout_complaint(report["rollout"]):
        return wrong
    replacement = report["replacement"]
    if replacement["failed"]:
        first = replacement["failures"][0]
        return (
            f"{replacement['failed']} of {replacement['requests']} requests failed during the replacements,"
            f" the first {first['second']} s after the start: {first['error']}."
        )
    return None


def predictions_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Each model through each door; `reference` is onnxruntime's accuracy, `off` counts labels unlike its own."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "door", "accuracy", "reference", "off", "max Δp", "p50 ms", "p95 ms", "p99 ms", "per s"):
        table.add_column(column, justify="left" if column in ("model", "door") else "right", no_wrap=True)
    for name, found in models.items():
        for door in ("http", "grpc"):
            at = found[door]
            numbers = (f"{at[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
            table.add_row(
                *(name, door, f"{found['accuracy']:.1%}", f"{found['reference_accuracy']:.1%}"),
                *(str(found["mismatches"]), f"{found['max_abs_difference']:.1e}", *numbers, f"{at['per_second']:.0f}"),
            )
    return table


def replacements_table(rows: list[Row]) -> Table:
    """One line per replacement."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("to", "revision", "Ready after s", "requests", "failed", "own counter"):
        table.add_column(column, justify="left" if column in ("to", "revision") else "right")
    for row in rows:
        table.add_row(row.to, row.revision, f"{row.ready_s:.1f}", str(row.requests), str(row.failed), f"+{row.counter}")
    return table


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({**report, "notes": NOTES}, indent=1) + "\n")
    scratch.replace(path)
