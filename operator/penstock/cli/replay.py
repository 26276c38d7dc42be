"""`penstock rollout replay`: what the shipped verdicts say about recorded or imagined traffic, offline."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import click
import yaml
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from penstock.api.resource import KIND
from penstock.api.rollout import AnalysisSpec
from penstock.core.analysis import UNKNOWN, Counts, Judgement, Rules, Second, advance, begin, judge

__all__ = ["replay"]

_LINE = '{"t": 12, "weight": 100, "stable": {"requests": 180, "errors": 0, "slow": 9}, "candidate": {"requests": 20}}'
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60


@dataclass(frozen=True)
class Replayed:
    """Where the traffic ended: at the verdict that takes back, or at its last second."""

    seconds: tuple[Second, ...]
    judgement: Judgement
    t: int
    passed_at: int | None
    """The first second whose verdict was Pass."""


@click.command()
@click.argument("file", type=click.File())
@click.option(
    "--analysis", "analysis", type=click.File(), help="YAML of spec.rollout.analysis, or a ModelDeployment with it."
)
@click.option("--sticky", is_flag=True, help="Traffic was spread by client; errors and slow are counted per client.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def replay(file: TextIO, analysis: TextIO | None, output: str, *, sticky: bool) -> None:
    """Put traffic, one JSON line a second, to the verdicts: whether the candidate is taken back, and when.

    Weight is the candidate's in 0.1 %; lines with weight 0 are stable's history, and the more of it the better (15
    minutes). `clientErrors` and `slow` may be left out; `slow` counts requests beyond the bound you call slow. With
    `"shadow": true` the candidate got copies.
    """
    rules = Rules.of(_analysis(analysis), sticky=sticky)
    found = _replay(list(_seconds(file)), rules)
    if output == "json":
        click.echo(json.dumps(_report(found), indent=2))
    else:
        _show(found, rules)


def _replay(seconds: list[Second], rules: Rules) -> Replayed:
    """Second by second, as a rollout would; it ends where the candidate is taken back."""
    if not any(second.weight for second in seconds):
        raise click.ClickException("no line gives the candidate a weight above 0, so there is nothing to judge")
    evidence, passed_at = begin(rules), None
    judgement = None
    for index, second in enumerate(seconds):
        evidence = advance(evidence, rules, second)
        if not second.weight:
            continue
        judgement = judge(evidence, rules)
        if judgement.verdict == "Pass" and passed_at is None:
            passed_at = second.t
        if judgement.verdict == "Fail":
            return Replayed(tuple(seconds[: index + 1]), judgement, second.t, passed_at)
    assert judgement is not None
    t = passed_at if judgement.verdict == "Pass" and passed_at is not None else seconds[-1].t
    return Replayed(tuple(seconds), judgement, t, passed_at)


def _report(found: Replayed) -> dict[str, Any]:
    """`verdict`, the second in which it was reached, why, and the evidence metric by metric."""
    judgement = found.judgement
    return {
        "verdict": judgement.verdict,
        "t": found.t,
        "reason": judgement.reason,
        "message": judgement.message,
        "evidence": [metric.model_dump() for metric in judgement.metrics],
        "requestsNeeded": judgement.requests_needed,
    }


def _seconds(lines: Iterable[str]) -> Iterator[Second]:
    last = -1
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            second = _second(json.loads(text), last)
        except ValueError as error:
            raise click.ClickException(f"line {number}: {_said(error)}\nA line looks like {_LINE}") from error
        last = second.t
        yield second


def _said(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"this is no JSON object: {error.msg} at column {error.colno}"
    return str(error)


def _second(line: Any, last: int) -> Second:
    if not isinstance(line, dict):
        raise ValueError(f"found {type(line).__name__}, expected an object")  # noqa: TRY004 - told with the line
    unknown = line.keys() - {"t", "weight", "stable", "candidate", "shadow"}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; expected t, weight, stable, candidate, shadow")
    t, weight = _number(line, "t"), _number(line, "weight")
    if t <= last:
        raise ValueError(f"t is {t} after {last}; lines go forward in time, one a second")
    if weight > 1000:
        raise ValueError(f"weight is {weight}; expected 0 to 1000, in 0.1 %")
    if "stable" not in line:
        raise ValueError("stable is missing; expected its requests, errors and slow")
    shadow = line.get("shadow", False)
    if not isinstance(shadow, bool):
        raise ValueError(f"shadow is {shadow!r}; expected true or false")  # noqa: TRY004 - told with the line
    candidate = _counts(line, "candidate") if "candidate" in line else Counts()
    stable = _counts(line, "stable")
    if not weight and candidate.requests:
        raise ValueError(f"the candidate has {candidate.requests} requests at weight 0; expected none in history")
    return Second(t, weight, stable, candidate, shadow)


def _counts(line: Mapping[str, Any], name: str) -> Counts:
    values = line[name]
    if not isinstance(values, dict):
        raise ValueError(f"{name} is {values!r}; expected an object with requests")  # noqa: TRY004 - told with the line
    unknown = values.keys() - {"requests", "errors", "clientErrors", "slow"}
    if unknown:
        raise ValueError(f"unknown {name}.{', '.join(sorted(unknown))}; expected requests, errors, clientErrors, slow")
    requests = _number(values, "requests", name)
    parts = [_number(values, part, name, 0) for part in ("errors", "clientErrors")]
    slow = _number(values, "slow", name, UNKNOWN if requests else 0)
    for part, count in zip(("errors", "clientErrors", "slow"), (*parts, slow), strict=True):
        if count > requests:
            raise ValueError(f"{name}.{part} is {count} of {requests} requests; expected at most as many")
    return Counts(requests, parts[0], parts[1], slow)


def _number(values: Mapping[str, Any], key: str, inside: str = "", missing: int | None = None) -> int:
    name = f"{inside}.{key}" if inside else key
    if key not in values and missing is not None:
        return missing
    value = values.get(key)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")
    return value


def _analysis(file: TextIO | None) -> AnalysisSpec | None:
    if file is None:
        return None
    try:
        return _specified(yaml.safe_load(file) or {})
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        raise click.ClickException(f"{file.name} is no spec.rollout.analysis: {error}") from error


def _specified(content: Any) -> AnalysisSpec:
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected a mapping")  # noqa: TRY004 - told with the file
    if content.get("kind") == KIND:
        content = content.get("spec", {}).get("rollout", {}).get("analysis", {})
    unknown = content.keys() - {field.alias or name for name, field in AnalysisSpec.model_fields.items()}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(map(str, unknown)))}")
    return AnalysisSpec.model_validate(content)


def _show(found: Replayed, rules: Rules) -> None:
    """The verdict, the counts behind it, and both error rates over time."""
    console = Console(highlight=False)
    judged = [second for second in found.seconds if second.weight]
    judgement = found.judgement
    since = found.t - judged[0].t + 1
    colour = {"Fail": "red", "Pass": "green"}.get(judgement.verdict, "yellow")
    console.print(f"[{colour} bold]{judgement.verdict}[/] ({judgement.reason}) at t={found.t}", end="")
    console.print(f", {since} s after the candidate's first traffic")
    console.print(judgement.message, markup=False, soft_wrap=True)
    if found.passed_at is not None and judgement.verdict == "Fail":
        console.print(f"It would have been promoted from t={found.passed_at} on, had its steps been over.")
    grid = Table(box=box.SIMPLE_HEAD)
    for head in ("", "stable", "candidate", "evidence", "limit"):
        grid.add_column(head, justify="right" if head else "left", no_wrap=True)
    for metric in judgement.metrics:
        grid.add_row(metric.name, metric.stable, metric.candidate, metric.evidence, metric.threshold)
    console.print(grid)
    width = -(-len(judged) // _WIDTH)
    rates = [
        _rates([second.stable for second in judged], width),
        _rates([second.candidate for second in judged], width),
    ]
    top = max(max(rate for rate in each) for each in rates) or 1.0
    for name, each in zip(("stable", "candidate"), rates, strict=True):
        console.print(f"{name:>9} {_spark(each, top)}", markup=False)
    console.print(f"errors, {width} s a mark, full height {100 * min(top, 1.0):.3g} %; {_history(found, rules)}")


def _history(found: Replayed, rules: Rules) -> str:
    seconds = sum(1 for second in found.seconds if not second.weight)
    spread = "by client" if rules.sticky else "by request"
    return f"{seconds} s of history, traffic spread {spread}"


def _rates(counts: list[Counts], width: int) -> list[float]:
    groups = [counts[start : start + width] for start in range(0, len(counts), width)]
    return [sum(one.errors for one in group) / max(1, sum(one.requests for one in group)) for group in groups]


def _spark(rates: list[float], top: float) -> str:
    marks = len(_BARS) - 1
    return "".join(_BARS[0 if not rate else max(1, round(marks * rate / top))] for rate in rates)
