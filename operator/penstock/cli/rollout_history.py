"""`penstock rollout history`: ended rollouts from status, models from the revision records."""

from collections.abc import Mapping
from datetime import datetime

from rich.table import Table

from penstock.core.names import DEPLOYMENT_LABEL
from penstock.kube.errors import ApiError
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import Target

from .rollout_session import Session

__all__ = ["history_table", "read_records"]


async def read_records(session: Session) -> Mapping[str, str]:
    """Model URI by revision; empty for whoever may not list ControllerRevisions."""
    target = Target("list", "ControllerRevision", session.namespace, "")
    query = [("labelSelector", f"{DEPLOYMENT_LABEL}={session.name}")]
    path = kind_of("ControllerRevision").path(session.namespace)
    try:
        answer = await session.quick.request(target, "GET", path, query=query)
    except ApiError:
        return {}
    return {
        item["metadata"]["name"]: (item.get("data") or {}).get("model", {}).get("uri", "")
        for item in answer.get("items") or ()
    }


def history_table(live: Manifest, uris: Mapping[str, str]) -> Table:
    """One line a rollout, newest first; the one that is under way comes before all."""
    status = live.get("status") or {}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("ended", "revision", "outcome", "reason", "by", "took", "model"):
        table.add_column(column, no_wrap=True)
    candidate = status.get("candidate")
    if candidate:
        name = candidate["revision"]
        told = candidate.get("stage") or "Preparing"
        table.add_row("-", name, "under way", told, "-", "-", uris.get(name) or candidate.get("uri", ""))
    for entry in sorted(status.get("history") or (), key=lambda entry: str(entry["endTime"]), reverse=True):
        name = entry["revision"]
        told = (entry["outcome"], entry["reason"], entry.get("by") or "-")
        table.add_row(entry["endTime"], name, *told, _took(entry), uris.get(name, ""))
    return table


def _took(entry: Manifest) -> str:
    """Between its times, in whole seconds; both are RFC 3339."""
    if not entry.get("startTime"):
        return "-"
    start, end = (datetime.fromisoformat(entry[name]) for name in ("startTime", "endTime"))
    minutes, seconds = divmod(int((end - start).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
