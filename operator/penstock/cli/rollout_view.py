"""A rollout as people see it: one picture of both revisions, from status and, where they could be read, the rings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.kube.objects import Manifest

from .rollout_rings import Cell, Rings

__all__ = ["View", "picture", "summary"]

CELLS = 30
_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"Pass": "green", "Fail": "red", "Available": "green", "RolledBack": "red", "Failed": "red"}
Value = Callable[[Cell], float | None]


@dataclass(frozen=True)
class View:
    """What is known at one moment; `rings` is None where nobody asked for them."""

    live: Manifest
    rings: Rings | None = None

    @property
    def status(self) -> Manifest:
        """As the operator wrote it; empty before it did."""
        return self.live.get("status") or {}

    def role(self, name: str) -> Manifest:
        """`stable` or `candidate`; empty where there is none."""
        return self.status.get(name) or {}

    def cells(self, role: str) -> list[Cell]:
        """The last five minutes of that revision; empty without rings."""
        revision = self.role(role).get("revision", "")
        return self.rings.cells(revision, CELLS) if self.rings else []


def picture(view: View) -> RenderableType:
    """For a terminal, and as plain text for anything else."""
    metadata, status = view.live["metadata"], view.status
    phase = status.get("phase", "Pending")
    title = Text(f"{metadata['namespace']}/{metadata['name']}  ").append(phase, _STYLES.get(phase, "yellow"))
    parts: list[RenderableType] = [title, *_messages(view), Text(), _columns(view)]
    candidate = view.role("candidate")
    if candidate:
        parts += [Text(), *(Text(line) for line in _course(candidate))]
    if candidate.get("analysis") or candidate.get("verdict"):
        parts += [Text(), _verdict(candidate)]
    if view.rings and view.rings.note:
        parts += [Text(), Text(view.rings.note, "dim")]
    return Group(*parts)


def _messages(view: View) -> Iterator[Text]:
    """The status' own sentence, and those of conditions that say something else."""
    said = {view.status.get("message")}
    if view.status.get("message"):
        yield Text(view.status["message"])
    if view.status.get("observedGeneration", -1) < view.live["metadata"].get("generation", 0):
        yield Text("the operator has not looked at the newest change yet", "yellow")
    for condition in view.status.get("conditions") or ():
        told = condition.get("message")
        expected = "False" if condition["type"] in ("Reconciling", "Stalled", "RuntimeOutdated") else "True"
        if condition["status"] != expected and told not in said:
            said.add(told)
            yield Text(f"{condition['type']}={condition['status']} {condition['reason']}: {told}")


def _columns(view: View) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="bold")
    table.add_column("")
    roles = [role for role in ("stable", "candidate") if view.role(role)]
    for role in roles:
        table.add_column(role, no_wrap=True)
    for name, cell in (("revision", _plain("revision")), ("model", _plain("uri")), ("weight", _weight)):
        table.add_row(name, *(cell(view.role(role)) for role in roles))
    table.add_row("ready", *(_replicas(view.role(role)) for role in roles))
    if view.rings:
        table.add_row("requests/s", *(_rate(view.cells(role)) for role in roles))
        table.add_row("errors", *_lines(view, roles, lambda cell: cell.error_percent, "%"))
        table.add_row("p95", *_lines(view, roles, lambda cell: cell.quantile(0.95), "ms"))
    return table


def _plain(field: str) -> Callable[[Manifest], str]:
    return lambda role: str(role.get(field) or "-")


def _weight(role: Manifest) -> str:
    return f"{role['weight']} %" if role.get("weight") else "-"


def _replicas(role: Manifest) -> str:
    return f"{role.get('readyReplicas', 0)} of {role.get('replicas', 0)}"


def _rate(cells: list[Cell]) -> str:
    """Of the newest whole cell."""
    seconds = 300 / CELLS
    return f"{cells[-2].requests / seconds:.1f}" if len(cells) > 1 else "-"


def _lines(view: View, roles: list[str], value: Value, unit: str) -> list[str]:
    """The last five minutes as a number and a line for each role, on one scale so that both can be compared."""
    rows = {role: view.cells(role) for role in roles}
    known = [found for cells in rows.values() for cell in cells if (found := value(cell)) not in (None, float("inf"))]
    top = max((number for number in known if number is not None), default=0.0)
    return [
        f"{_number(_sum(cells), value, unit)}  {_sparkline([value(cell) for cell in cells], top)}"
        for cells in rows.values()
    ]


def _sum(cells: list[Cell]) -> Cell:
    total = Cell()
    for cell in cells:
        if cell.bounds:
            total.add((cell.requests, cell.errors, 0, 0, cell.buckets), cell.bounds)
    return total


def _number(total: Cell, value: Value, unit: str) -> str:
    found = value(total)
    if found is None:
        return f"- {unit}".rjust(8)
    text = f"> {max(total.bounds)}" if found == float("inf") else f"{found:.2f}" if unit == "%" else f"{found:.0f}"
    return f"{text} {unit}".rjust(8)


def _sparkline(values: list[float | None], top: float) -> str:
    """A bar a cell; a cell without requests stays empty."""

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        return _BARS[min(len(_BARS) - 1, int(min(value / top, 1) * len(_BARS)))] if top else _BARS[0]

    return "".join(bar(value) for value in values).rstrip()


def _course(candidate: Manifest) -> Iterator[str]:
    """The pinned plan with the present step marked."""
    plan, shadow, stage = candidate.get("plan") or (), candidate.get("shadow"), candidate.get("stage")
    step = candidate.get("step", 0)
    if stage:
        yield f"stage {stage}" + (f", step {step} of {len(plan)}" if step else "")
    if shadow:
        reached = 0 if stage == "Shadowing" else 1 if stage in ("Stepping", "Promoting") else -1
        yield _planned(candidate, shadow, reached, f"copies of {shadow['weight']} %")
    for number, planned in enumerate(plan, 1):
        ahead = number > step or (number == step and stage == "Replacing")
        reached = -1 if ahead else 0 if number == step and stage == "Stepping" else 1
        yield _planned(candidate, planned, reached, f"{planned['weight']} %")


def _planned(candidate: Manifest, planned: Manifest, reached: int, what: str) -> str:
    """One line of the plan: behind (1), at it (0), ahead (-1)."""
    hold, seen = planned["holdSeconds"], candidate.get("observedSeconds", 0)
    line = f"  {' ▶✓'[reached + 1]} {what} for {hold} s"
    if reached:
        return line
    left = f"{hold - seen} s to hold" if seen < hold else "held long enough"
    return f"{line}: observed {seen} s, {candidate.get('stepRequests', 0)} requests, {left}"


def _verdict(candidate: Manifest) -> RenderableType:
    verdict, analysis = candidate.get("verdict", "Undecided"), candidate.get("analysis") or {}
    told = f" after {analysis.get('requests', 0)} requests"
    slow = analysis.get("slowAboveMilliseconds")
    line = Text("verdict ").append(verdict, _STYLES.get(verdict, "yellow")).append(told)
    line.append(f"; slow is above {slow} ms" if slow else "")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("metric", "stable", "candidate", "evidence against it", "taken back at"):
        table.add_column(name)
    metrics = analysis.get("metrics") or ()
    for metric in metrics:
        table.add_row(*(metric.get(field) or "-" for field in ("name", "stable", "candidate", "evidence", "threshold")))
    return Group(line, table) if metrics else line


def summary(view: View) -> Mapping[str, Any]:
    """For machines: what status says of the rollout, and the last five minutes by revision where they could be read."""
    status, metadata = view.status, view.live["metadata"]
    fields = ("phase", "message", "stable", "candidate", "failedRevision", "conditions")
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "current": status.get("observedGeneration", -1) >= metadata.get("generation", 0),
        **{name: status.get(name) for name in fields},
        "recent": {role: _recent(view.cells(role)) for role in ("stable", "candidate") if view.role(role)}
        if view.rings
        else None,
        "note": view.rings.note if view.rings else "",
    }


def _recent(cells: list[Cell]) -> Mapping[str, Any]:
    total = _sum(cells)
    slow = total.quantile(0.95)
    return {
        "requests": total.requests,
        "errors": total.errors,
        "p95Milliseconds": None if slow in (None, float("inf")) else round(slow or 0, 1),
    }
