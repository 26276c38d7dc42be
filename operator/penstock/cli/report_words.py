"""Numbers and untrusted texts of a report, as people read them."""

import math

from penstock.api.report import Candidate, GateRow, Optimization, Report, Trial

__all__ = [
    "bytes_text",
    "candidates_of",
    "conversion_speed",
    "headline",
    "milliseconds",
    "number",
    "plain",
    "precision_name",
    "settings_of",
    "times",
]

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def plain(text: str, most: int = 2000) -> str:
    """A text of the model's or its tools' on one line: what a terminal would obey becomes a replacement character."""
    line = " ".join(text.split())
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def number(value: float) -> str:
    """Four digits, and all before the point of large ones, with separators: `100,000`."""
    if value == 0 or 1e-3 <= abs(value) < 1e12:
        rounded = round(value, max(0, 3 - math.floor(math.log10(abs(value))))) if value else 0.0
        return f"{rounded:,.0f}" if rounded == int(rounded) else f"{rounded:,.15g}"
    digits, _, power = f"{value:.3g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def bytes_text(size: float) -> str:
    """In the largest binary unit of which there is one."""
    power = min(len(_UNITS) - 1, int(math.log(size, 1024))) if size >= 1 else 0
    value = size / 1024**power
    return f"{value:,.0f} {_UNITS[power]}" if power == 0 or value >= 100 else f"{value:.1f} {_UNITS[power]}"


def milliseconds(value: float) -> str:
    """Three digits, in the unit that keeps them before the point."""
    if value < 1:
        return f"{value * 1000:.3g} µs"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def times(factor: float) -> str:
    """How many times faster."""
    return f"{factor:.2f}x"


def precision_name(candidate: Candidate) -> str:
    """The numerics of a candidate."""
    return plain(candidate.precision or "", 32) or "as it is"


def settings_of(trial: Trial) -> str:
    """What a trial has changed of the settings."""
    changed = {key: value for key, value in trial.settings.items() if (key, value) != ("defaults", True)}
    return ", ".join(f"{plain(key, 64)} {plain(str(value), 64)}" for key, value in changed.items()) or "the defaults"


def headline(report: Report) -> str:
    """What became of the model, in one sentence."""
    if report.error:
        return f"Refused: {plain(report.error.reason, 64)}: {plain(report.error.message)}"
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        return f"Refused: {_names(failed)} did not pass"
    if not report.gates:
        return "Prepared; no gate was asked for"
    return f"Passed: {_names(report.gates)}"


def candidates_of(found: Optimization) -> list[Candidate]:
    """The baseline, whose speed is the measure of all, and then what was tried."""
    base = found.baseline
    if base and base.speedup is None and base.milliseconds is not None:
        base = base.model_copy(update={"speedup": 1.0})
    return [*([base] if base else []), *found.candidates]


def conversion_speed(report: Report) -> str:
    """How the converted model's speed compares with its own framework's; empty where nobody knows."""
    speed = report.conversion.speed if report.conversion else None
    if speed is None or speed.speedup is None:
        return ""
    both = (speed.source.milliseconds, speed.onnx.milliseconds)
    shown = " and ".join(milliseconds(value) for value in both if value is not None)
    factor = f"{times(speed.speedup)} as fast as its own framework"
    return f"{factor} ({shown} a row)" if None not in both else factor


def _names(gates: tuple[GateRow, ...] | list[GateRow]) -> str:
    return ", ".join(plain(gate.name, 64) for gate in gates)
