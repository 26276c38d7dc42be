"""GateRow: one thing that was measured, against what was asked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from penstock.api.reasons import Reason
from penstock_runtime.failure import shorten

__all__ = ["GateRow", "first_failed", "number", "share", "size_text"]

_LARGE = 1e12
_LONGEST = {"asked": 64, "measured": 160, "sentence": 600}


@dataclass(frozen=True)
class GateRow:
    """What was asked and measured, as text with units, and as numbers of one unit where there are any.

    `asked` is empty for what is measured whatever was asked. `reason` and `sentence` say why it failed and what can be
    done; both may be there for a row that passed, as a remark. `interval` is the 95 % confidence interval of `value`,
    `baseline` the source's own value, `rows` how many were looked at.
    """

    name: str
    asked: str = ""
    measured: str = ""
    passed: bool = True
    reason: Reason | None = None
    sentence: str = ""
    value: float | None = None
    bound: float | None = None
    better: str | None = None
    """`Higher` or `Lower`."""
    interval: tuple[float, float] | None = None
    baseline: float | None = None
    rows: int | None = None
    unit: str = ""

    def to_answer(self) -> dict[str, Any]:
        """JSON as `penstock.api.report` has it: nothing that is not known, and finite numbers only."""
        answer: dict[str, Any] = {"name": self.name, "passed": bool(self.passed)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in answer or value is None or value == "":
                continue
            if isinstance(value, tuple):
                value = [float(part) for part in value]
            elif isinstance(value, float):
                value = float(value)
            if all(math.isfinite(part) for part in (value if isinstance(value, list) else [value]) if _real(part)):
                answer[field.name] = shorten(value, _LONGEST[field.name]) if field.name in _LONGEST else value
        return answer


def _real(value: object) -> bool:
    return isinstance(value, float)


def first_failed(rows: Iterable[GateRow]) -> GateRow | None:
    """The row that a refusal is about."""
    return next((row for row in rows if not row.passed), None)


def number(value: float) -> str:
    """A number for people: four significant digits, and all digits before the point of large ones: `100,000`."""
    return f"{value:,.0f}" if 999.95 <= abs(value) < _LARGE else f"{value:.4g}"


def share(part: int, whole: int) -> str:
    """`539 of 540 rows`."""
    return f"{part:,} of {whole:,} rows"


def size_text(size: int) -> str:
    """Bytes for people: `284 bytes`, `1.5 MiB`."""
    if size < 1024:
        return f"{size} bytes"
    step = min(3, (size.bit_length() - 1) // 10)
    return f"{size / 1024**step:.4g} {('KiB', 'MiB', 'GiB')[step - 1]}"
