"""What a kubelet writes about the one container of a serving pod: it runs, it ends, it waits longer each time.

Between two starts nothing changes: the time of an end is that of the end, however often somebody looks.
"""

from datetime import datetime, timedelta
from typing import Any

__all__ = ["is_ready", "tend"]

_FIRST, _LONGEST = 10, 300
"""Seconds of the back-off, which doubles; after the first end a container is started again at once."""


def tend(pod: dict[str, Any], now: datetime, ends_with: str | None, *, loads: bool = True) -> dict[str, Any]:
    """The pod a second later: its server ends with this message, or runs and is ready once it has loaded."""
    known = pod["status"].get("containerStatuses")
    container = _next(known[0], now, ends_with) if known else _started({"running": {"startedAt": _text(now)}}, 0)
    ready = "running" in container["state"] and loads and ends_with is None
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {**pod, "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}}


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the pod's Ready condition is True."""
    return any(condition["status"] == "True" for condition in pod["status"].get("conditions", ()))


def _next(container: dict[str, Any], now: datetime, ends_with: str | None) -> dict[str, Any]:
    state, restarts = container["state"], container["restartCount"]
    if "running" in state:
        if ends_with is None:
            return container
        end = {"exitCode": 1, "reason": "Error", "message": ends_with, "finishedAt": _text(now)}
        return {**container, "state": {"terminated": end}}
    last = state.get("terminated") or container["lastState"]["terminated"]
    pause = min(_FIRST * 2 ** (restarts - 1), _LONGEST) if restarts else 0
    if now >= datetime.fromisoformat(last["finishedAt"]) + timedelta(seconds=pause):
        return _started({"running": {"startedAt": _text(now)}}, restarts + 1, last)
    waits = {"reason": "CrashLoopBackOff", "message": f"back-off {pause}s restarting failed container=server"}
    return _started({"waiting": waits}, restarts, last)


def _started(state: dict[str, Any], restarts: int, last: dict[str, Any] | None = None) -> dict[str, Any]:
    before = {"terminated": last} if last else {}
    return {"name": "server", "state": state, "lastState": before, "restartCount": restarts}


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
