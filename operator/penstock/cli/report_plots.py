"""The plots of a report's page: SVG in the page's own colours, with the numbers as tooltips.

Sizes are in the units of a view box 640 wide, so that a plot scales with the page; text sizes are the page's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock.api.report import Candidate, GateRow, Histogram, Throughput

from .report_markup import Child, Markup, tag
from .report_words import bytes_text, number, plain, precision_name, times

__all__ = ["Mark", "accuracy_plot", "candidate_plot", "histogram_plot", "throughput_plot"]

_WIDTH = 640.0
_LEFT, _RIGHT = 8.0, 632.0
_LABELS = 176.0
_ROW = 34.0


@dataclass(frozen=True)
class Mark:
    """A vertical line at a value; `kind` is measured, asked or other, which decides its look."""

    value: float
    text: str
    kind: str = "measured"


@dataclass(frozen=True)
class _Scale:
    """Values to x, linear or logarithmic."""

    low: float
    high: float
    log: bool
    left: float = _LEFT
    right: float = _RIGHT

    def at(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        return self.left + (self.right - self.left) * (self._place(value) / self._place(self.high))

    def _place(self, value: float) -> float:
        return math.log(value / self.low) if self.log else value - self.low

    def ticks(self) -> list[float]:
        """Round values within, four to nine of them, or a power of ten each."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            skip = max(1, math.ceil(len(powers) / 9))
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            found = [base * 10.0**power for power in range(powers.start - 1, powers.stop, skip) for base in steps]
            return [value for value in found if self.low <= value <= self.high]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next((factor for factor in (1.0, 2.0, 5.0) if (self.high - self.low) / (step * factor) <= 8), 10.0)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def histogram_plot(histogram: Histogram, unit: str, marks: Sequence[Mark], title: str) -> Markup:
    """Bars over an axis, with a labelled line for each mark; empty bins at both ends are left out."""
    bins = _trimmed(histogram)
    edges = [*(low for low, _, _ in bins), bins[-1][1]]
    log = edges[0] > 0 and edges[-1] / edges[0] > 3 and _is_geometric(edges)
    values = [mark.value for mark in marks if mark.value > 0 or not log]
    scale = _scale([*edges, *values], log=log)
    total, most = sum(histogram.counts), max(count for _, _, count in bins)
    top, base = 18.0 * len(marks) + 8, 18.0 * len(marks) + 148
    parts: list[Child] = []
    for low, high, count in bins:
        if count:
            x, width = scale.at(low), max(1.0, scale.at(high) - scale.at(low) - 1)
            height = max(1.5, (base - top) * count / most)
            tip = f"{number(low)} to {number(high)} {unit}: {count:,} ({100 * count / total:.3g} %)"
            parts.append(
                tag("rect", tag("title", tip), x=x, y=base - height, width=width, height=height, rx=1.5, class_="bar")
            )
    for index, mark in enumerate(sorted(marks, key=lambda mark: mark.value)):
        parts.extend(_mark(scale, mark, 14.0 + 18 * index, base))
    parts.extend(_axis(scale, base, unit))
    return _plot(base + (36 if unit else 24), title, parts)


def _trimmed(histogram: Histogram) -> list[tuple[float, float, int]]:
    bins = [(low, high, count) for (low, high), count in zip(pairwise(histogram.edges), histogram.counts, strict=True)]
    filled = [index for index, (_, _, count) in enumerate(bins) if count] or [0]
    return bins[max(0, filled[0] - 1) : filled[-1] + 2]


def _is_geometric(edges: Sequence[float]) -> bool:
    """Whether bins grow with their place, as those of an equal share of a decade do."""
    return edges[-1] - edges[-2] > 1.5 * (edges[1] - edges[0])


def _scale(values: Sequence[float], *, log: bool, left: float = _LEFT, right: float = _RIGHT) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.03, high * 1.03, log=True, left=left, right=right)
    margin = (high - low) * 0.03 or abs(high) * 0.1 or 1.0
    return _Scale(low - margin if low else 0.0, high + margin, log=False, left=left, right=right)


def _mark(scale: _Scale, mark: Mark, y: float, base: float) -> list[Child]:
    x = scale.at(mark.value)
    end = x > (_LEFT + _RIGHT) / 2
    return [
        tag("line", x1=x, x2=x, y1=y - 9, y2=base, class_=f"mark {mark.kind}"),
        tag(
            "text", mark.text, x=x - 5 if end else x + 5, y=y, text_anchor="end" if end else "start",
            class_=f"label {mark.kind}",
        ),
    ]  # fmt: skip


def _axis(scale: _Scale, y: float, unit: str) -> list[Child]:
    parts: list[Child] = [tag("line", x1=scale.left, x2=scale.right, y1=y, y2=y, class_="axis")]
    last = -math.inf
    for value in scale.ticks():
        x = scale.at(value)
        if x - last < 44 or not scale.left + 10 <= x <= scale.right - 14:
            continue
        last = x
        parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
        parts.append(tag("text", number(value), x=x, y=y + 18, text_anchor="middle", class_="tick"))
    if unit:
        parts.append(tag("text", unit, x=scale.right, y=y + 32, text_anchor="end", class_="tick"))
    return parts


def candidate_plot(candidates: Sequence[Candidate], least: float | None) -> Markup:
    """Two bars each, speed and size, against the baseline."""
    fastest = max([item.speedup or 0 for item in candidates] + [least or 1, 1])
    largest = max([item.size_bytes or 0 for item in candidates] + [1])
    half = (_RIGHT - _LABELS) / 2 - 40
    right = _LABELS + half + 64
    parts: list[Child] = [
        tag("text", "times as fast", x=_LABELS, y=12, class_="tick"),
        tag("text", "size", x=right, y=12, class_="tick"),
    ]
    bottom = 22 + _ROW * len(candidates)
    if least:
        x = _LABELS + half * least / fastest
        parts.append(tag("line", x1=x, x2=x, y1=18, y2=bottom, class_="mark asked"))
        parts.append(
            tag("text", f"asked: {times(least)}", x=x, y=bottom + 12, text_anchor="middle", class_="label asked")
        )
    for index, item in enumerate(candidates):
        y = 22 + _ROW * index
        kind = "bar kept" if item.kept else "bar other"
        name = plain(item.name, 24)
        parts.append(
            tag("text", tag("title", f"{item.name}: {precision_name(item)}"), name, x=0, y=y + 16, class_="name")
        )
        if item.speedup is not None:
            width = max(1.5, half * item.speedup / fastest)
            parts.append(tag("rect", x=_LABELS, y=y + 2, width=width, height=18, rx=2, class_=kind))
            parts.append(tag("text", times(item.speedup), x=_LABELS + width + 6, y=y + 16, class_="value"))
        else:
            parts.append(tag("text", "not measured", x=_LABELS, y=y + 16, class_="value"))
        if item.size_bytes is not None:
            width = max(1.5, half * item.size_bytes / largest)
            parts.append(tag("rect", x=right, y=y + 2, width=width, height=18, rx=2, class_=kind))
            parts.append(tag("text", bytes_text(item.size_bytes), x=right + width + 6, y=y + 16, class_="value"))
    return _plot(bottom + 18, "Speed and size of each candidate", parts, width=_WIDTH + 50)


def accuracy_plot(gate: GateRow) -> Markup:
    """A value with its interval, what was asked, and the source's own value, on one line."""
    value = gate.value or 0.0
    low, high = gate.interval or (value, value)
    known = [low, high, value, *(item for item in (gate.bound, gate.baseline) if item is not None)]
    spread = max(known) - min(known) or abs(value) * 0.05 or 1.0
    scale = _Scale(min(known) - spread * 0.15, max(known) + spread * 0.15, log=False)
    y = 62.0
    parts: list[Child] = []
    if gate.bound is not None:
        asked = f"asked: {'at least' if gate.better != 'Lower' else 'at most'} {number(gate.bound)}"
        parts.extend(_mark(scale, Mark(gate.bound, asked, "asked"), 14, y + 18))
    if gate.baseline is not None:
        parts.extend(_mark(scale, Mark(gate.baseline, f"source: {number(gate.baseline)}", "other"), 32, y + 18))
    tip = f"95 % interval: {number(low)} to {number(high)}"
    parts.append(tag("line", tag("title", tip), x1=scale.at(low), x2=scale.at(high), y1=y, y2=y, class_="interval"))
    ends = [scale.at(end) for end in (low, high)]
    parts.extend(tag("line", x1=x, x2=x, y1=y - 6, y2=y + 6, class_="interval") for x in ends)
    parts.append(tag("circle", tag("title", number(value)), cx=scale.at(value), cy=y, r=6, class_="dot"))
    parts.extend(_axis(scale, y + 18, gate.unit))
    return _plot(y + (54 if gate.unit else 42), f"{gate.name} with its 95 % confidence interval", parts)


def throughput_plot(measured: Sequence[Throughput], asked: Sequence[Mark]) -> Markup:
    """Rows per second for each batch size."""
    scale = _Scale(0, max([item.rows_per_second for item in measured] + [mark.value for mark in asked]) or 1, log=False,
                   left=_LABELS, right=_RIGHT - 90)  # fmt: skip
    top = 18.0 * len(asked) + 4
    parts: list[Child] = []
    for index, item in enumerate(measured):
        y = top + _ROW * index
        width = max(1.5, scale.at(item.rows_per_second) - _LABELS)
        rows = "1 row" if item.batch_size == 1 else f"{item.batch_size:,} rows"
        parts.append(tag("text", f"{rows}, {item.concurrency} at once", x=0, y=y + 16, class_="name"))
        parts.append(tag("rect", x=_LABELS, y=y + 2, width=width, height=18, rx=2, class_="bar"))
        parts.append(tag("text", f"{number(item.rows_per_second)}/s", x=_LABELS + width + 6, y=y + 16, class_="value"))
    bottom = top + _ROW * len(measured)
    for index, mark in enumerate(asked):
        parts.extend(_mark(scale, mark, 14 + 18.0 * index, bottom - 8))
    return _plot(bottom, "Rows answered per second", parts)


def _plot(height: float, title: str, parts: Sequence[Child], width: float = _WIDTH) -> Markup:
    return tag(
        "svg", tag("title", title), *parts, viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", aria_label=title,
        class_="plot",
    )  # fmt: skip
