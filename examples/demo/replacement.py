"""One model replaced by the other and back, again and again, while requests keep coming at a fixed rate."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .cluster import Cluster
from .deployment import Serving, apply_deployment, requests_answered, wait_until_ready
from .screen import DemoError, Screen
from .traffic import RATE, Traffic

__all__ = ["AT_ONCE", "Model", "Row", "replace_under_load", "summary"]

AT_ONCE = {"strategy": "Immediate"}
"""spec.rollout of a revision that takes over as soon as it is ready."""
_ROUNDS = ("mlp", "linear", "mlp", "linear", "mlp")
_EACH_WAY = 3_000
_AFTER_READY = 3 * RATE
"""Requests that the new revision answers alone before the next one comes."""
_MARGIN = 30
"""Requests more than asked for: counts arrive a moment late."""


@dataclass(frozen=True)
class Model:
    """A model as the registry has it."""

    uri: str
    digest: str
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, str]:
        """spec.model."""
        return {"uri": self.uri, "digest": self.digest, **self.needs}


@dataclass(frozen=True)
class Row:
    """One replacement: from the moment the manifest was applied to the moment the next one was."""

    to: str
    revision: str
    ready_s: float
    requests: int
    failed: int
    counter: int
    """Successful requests that the new revision's own servers counted after it was Ready."""


def replace_under_load(
    cluster: Cluster, screen: Screen, models: Mapping[str, Model], first: Serving, load: Traffic
) -> list[Row]:
    """Five replacements, each by a revision that was never there before; 3,000 requests and more go each way."""
    rows: list[Row] = []
    serving = first
    load.wait_for(RATE)
    for number, to in enumerate(_ROUNDS, 1):
        before = load.progress()
        screen.now(f"{number} of {len(_ROUNDS)}: {to}")
        serving, ready, counted = _replace(cluster, screen, models[to], serving, f"replacement {number}")
        screen.now(f"{serving.revision} ({to}) serves after {ready:.1f} s")
        load.wait_for(max(before["sent"] + _share(to), load.progress()["sent"] + _AFTER_READY))
        moved = requests_answered(cluster, serving.revision) - counted
        if moved <= 0:
            raise DemoError(
                f"{serving.revision} is said to serve, but its own counter stands still at {counted} requests."
            )
        after = load.progress()
        rows.append(
            Row(
                to,
                serving.revision,
                round(ready, 2),
                after["sent"] - before["sent"],
                after["failed"] - before["failed"],
                moved,
            )
        )
    return rows


def _replace(cluster: Cluster, screen: Screen, model: Model, before: Serving, mark: str) -> tuple[Serving, float, int]:
    """The new revision once it is Ready, the seconds that took, and what its counter stood at then."""
    start = time.monotonic()
    apply_deployment(cluster, model.spec, mark, AT_ONCE)
    serving = wait_until_ready(cluster, screen, model.digest, other_than=before.revision)
    return serving, time.monotonic() - start, requests_answered(cluster, serving.revision)


def _share(to: str) -> int:
    """Requests that one replacement has to last for, so that all of its direction make 3,000."""
    return -(-_EACH_WAY // _ROUNDS.count(to)) + _MARGIN


def summary(rows: list[Row], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of all replacements together."""
    each_way = {to: sum(row.requests for row in rows if row.to == to) for to in sorted(set(_ROUNDS))}
    return {
        "requests": result["requests"],
        "failed": result["failed"],
        "seconds": result["seconds"],
        "offered_per_second": result["offered_per_second"],
        "p50_ms": result["p50_ms"],
        "p95_ms": result["p95_ms"],
        "p99_ms": result["p99_ms"],
        "latest_start_ms": result["latest_start_ms"],
        "failures": result["failures"],
        "requests_to": each_way,
        "replacements": [asdict(row) for row in rows],
    }
