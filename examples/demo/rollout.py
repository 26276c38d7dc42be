"""A good revision promoted step by step on evidence, and a faulty one taken back by itself, both under load."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from .cluster import Cluster
from .deployment import Serving, apply_deployment, wait_until_ready, wait_until_taken_back
from .faults import MARK, Fault
from .replacement import Model
from .screen import Screen
from .traffic import RATE, Traffic

__all__ = ["FAULT", "promote_and_take_back", "rollout_complaint", "rollout_summary", "rollout_table"]

FAULT = Fault("Error", 20)
"""Of the faulty revision: every fifth request to it fails."""
_HISTORY = 5 * RATE
"""Requests to stable before anything is compared with it."""
_STEPS = {"canary": {"steps": [{"weight": 10, "hold": "5s"}, {"weight": 50, "hold": "5s"}]}}


def promote_and_take_back(
    cluster: Cluster, screen: Screen, good: Model, bad: Model, first: Serving, load: Traffic
) -> tuple[Serving, dict[str, Any]]:
    """Both rollouts; what serves afterwards, and what the report says of them."""
    load.wait_for(_HISTORY)
    screen.now("v2 beside v1, at 10 %, then 50 %")
    start, before = time.monotonic(), load.progress()
    apply_deployment(cluster, good.spec, "canary", _STEPS)
    serving = wait_until_ready(cluster, screen, good.digest, other_than=first.revision)
    promoted = {"revision": serving.revision, **_since(start, before, load)}
    screen.now(f"v2 promoted after {promoted['seconds']:.1f} s; now v3, of which every fifth answer is an error")
    start, before = time.monotonic(), load.progress()
    apply_deployment(cluster, bad.spec, "faulty", _STEPS)
    found = wait_until_taken_back(cluster, screen, stable=serving.revision)
    return serving, {"promoted": promoted, "taken_back": {**asdict(found), **_since(start, before, load)}}


def _since(start: float, before: Mapping[str, int], load: Traffic) -> dict[str, Any]:
    after = load.progress()
    return {
        "seconds": round(time.monotonic() - start, 2),
        "requests": after["sent"] - before["sent"],
        "failed": after["failed"] - before["failed"],
    }


def rollout_summary(found: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """With the counts of the whole load: `lost` are failures that the faulty revision has not made itself."""
    faulty = sum(number for error, number in result["errors"].items() if MARK in error)
    counts = {"requests": result["requests"], "failed": result["failed"], "lost": result["failed"] - faulty}
    return {**found, **counts, "p99_ms": result["p99_ms"], "errors": result["errors"]}


def rollout_complaint(found: Mapping[str, Any]) -> str | None:
    """What is not as it must be."""
    if found["promoted"]["failed"]:
        return f"{found['promoted']['failed']} requests failed while the good revision was promoted: {found['errors']}."
    if found["lost"]:
        return f"{found['lost']} requests were lost during the rollouts: {found['errors']}."
    return None


def rollout_table(found: Mapping[str, Any]) -> Table:
    """One line per rollout."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("revision", "outcome", "after s", "requests", "failed", "because"):
        table.add_column(column, justify="right" if column in ("after s", "requests", "failed") else "left")
    for key, outcome in (("promoted", "promoted"), ("taken_back", "taken back")):
        one = found[key]
        counts = (f"{one['seconds']:.1f}", str(one["requests"]), str(one["failed"]))
        table.add_row(one["revision"], outcome, *counts, one.get("message", "evidence of both steps"))
    return table
