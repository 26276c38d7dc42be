"""The answer to `/v1/observe`: what an operator is told of the models it asks for."""

import json
import re
from collections.abc import Callable, Iterable, Mapping

from .ring import Rings
from .state import Routes, RouteState
from .stats import BOUNDS

__all__ = ["answer", "read_since", "state_text"]

_BOUNDS = json.dumps(BOUNDS, separators=(",", ":"))
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


def read_since(text: str) -> int:
    """The second of the query's `since`; raises ValueError with a sentence for whoever asked."""
    if not _SECONDS.fullmatch(text):
        raise ValueError(f"since is {text!r:.80}; expected seconds since 1970, like 1763734500")
    return int(float(text))


def answer(
    routes: Routes,
    rings: Rings,
    uids: Iterable[str],
    since: int | None,
    now: float,
    warm: Callable[[str], Mapping[str, int]],
) -> bytes:
    """JSON of the models known here, with the rows after `since`, or without rows when it is None.

    Rows are contiguous up to the last finished second: one that is idle has no revision, and one that belongs to no
    single route has state -1, so that a hole can never be taken for a second without traffic. They are copied from
    the ring as text: 900 rows of two revisions take 2 ms.
    """
    splits = []
    for uid in dict.fromkeys(uids):
        route = routes.get(uid)
        if route is not None:
            head = _head(route, warm(uid))
            splits.append(f"{json.dumps(uid)}:{{{head},{_history(rings, uid, since)}}}")
    return f'{{"now":{now:.3f},"splits":{{{",".join(splits)}}}}}'.encode()


def state_text(route: RouteState) -> str | None:
    """A route as one entry of `states`; None when it cannot be told which route a request meets."""
    if route.changing or not route.generation:
        return None
    state = {"generation": route.generation, "weights": dict(route.weights), "shadow": route.shadow}
    return json.dumps(state, separators=(",", ":"))


def _head(route: RouteState, warm: Mapping[str, int]) -> str:
    head = {
        "generation": route.generation,
        "expired": route.expired,
        "warm": dict(warm),
        "rejected": route.rejected,
    }
    return json.dumps(head, separators=(",", ":"))[1:-1]


def _history(rings: Rings, uid: str, since: int | None) -> str:
    """Bounds, first second of the ring, states and rows."""
    states: dict[str, int] = {}
    rows = []
    for row in () if since is None else rings.rows(uid, since):
        index = -1 if row.state is None else states.setdefault(row.state, len(states))
        rows.append(f"[{row.second},{index},{row.counts}]")
    return f'"bounds":{_BOUNDS},"from":{rings.reach(uid)},"states":[{",".join(states)}],"rows":[{",".join(rows)}]'
