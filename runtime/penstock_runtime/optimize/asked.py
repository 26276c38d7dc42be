"""What optimization is asked for, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Accept", "OptimizeAsked", "Optimized"]

Accept: TypeAlias = Callable[[Path, str | None], str | None]
"""Asks the offline gates about a candidate and its precision: why it fails, None when it passes."""
_MIN_SPEEDUP = "1.2"


@dataclass(frozen=True)
class OptimizeAsked:
    """`spec.optimize`, and where the model is to run.

    `seconds` bounds the measuring of one candidate; what it has to be compared with is measured beside it.
    """

    precision: str = "None"
    min_speedup: float = float(_MIN_SPEEDUP)
    prune: float | None = None
    target: str = "CPU"
    seconds: float = 20.0

    @classmethod
    def read(cls, optimize: Mapping[str, Any] | None, target: str = "CPU") -> "OptimizeAsked":
        """Read the request's JSON; `target` is the kind of spec.server.instances."""
        asked = optimize or {}
        prune = asked.get("prune")
        return cls(
            precision=asked.get("precision") or "None",
            min_speedup=float(asked.get("minSpeedup") or _MIN_SPEEDUP),
            prune=float(prune["amount"]) if prune else None,
            target=target,
        )


@dataclass(frozen=True)
class Optimized:
    """The model to serve: the one that was given, or the candidate that is kept.

    `report` is the report's section `optimization`; `warnings` are for the user, whichever model it is.
    """

    model: Path
    precision: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
