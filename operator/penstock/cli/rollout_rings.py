"""Second-by-second counters for people, from the routers' rings through the API server's pod proxy.

Whoever runs the CLI has no way into the pod network, but the API server has one, for those with the right to get
`pods/proxy` (Kubernetes' own `edit` has it). Without that right, or where the proxy cannot reach a pod, status tells
what it tells, and `Rings.note` says what is missing.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.kube.errors import ApiError
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import Target, Transport

__all__ = ["Cell", "Rings"]

_KEPT_SECONDS = 300
_PORT = 10091


@dataclass
class Cell:
    """A revision's counts over some seconds; `buckets` are latencies by upper bound in ms, and one more beyond."""

    requests: int = 0
    errors: int = 0
    buckets: list[int] = field(default_factory=list)
    bounds: tuple[int, ...] = ()

    def add(self, counts: Sequence[Any], bounds: tuple[int, ...]) -> None:
        """Take in one revision's entry of a row: requests, errors, client errors, aborted, latency buckets."""
        self.requests += counts[0]
        self.errors += counts[1]
        self.bounds = bounds
        length = max(len(self.buckets), len(counts[4]))
        both = (values + [0] * (length - len(values)) for values in (self.buckets, list(counts[4])))
        self.buckets = [mine + theirs for mine, theirs in zip(*both, strict=True)]

    @property
    def error_percent(self) -> float | None:
        """None without requests."""
        return 100 * self.errors / self.requests if self.requests else None

    def quantile(self, share: float) -> float | None:
        """Latency in ms below which `share` of the requests ended, straight within a bucket; beyond the last bound inf.

        None without requests.
        """
        left = share * sum(self.buckets)
        lower = 0
        for count, upper in zip(self.buckets, (*self.bounds, float("inf")), strict=False):
            if count and left <= count:
                return lower + (upper - lower) * left / count
            left -= count
            lower = int(min(upper, 1e12))
        return None


class Rings:
    """The rows of one deployment's router pods, read again and again."""

    def __init__(self, transport: Transport, live: Manifest) -> None:
        metadata, traffic = live["metadata"], live["spec"].get("traffic") or {}
        self._transport = transport
        self._namespace, self._uid = metadata["namespace"], metadata["uid"]
        self._router = (traffic.get("router") or {}).get("name", "default")
        self._rows: dict[str, dict[int, Sequence[Any]]] = {}
        self._bounds: tuple[int, ...] = ()
        self.note = ""
        """Why there are no rows, or not those of all pods."""

    async def read(self) -> None:
        """Ask each router pod for what is new; never raises for what the API server or a pod answers."""
        self.note = ""
        try:
            names = await self._pods()
        except ApiError as error:
            self.note = f"router pods cannot be listed ({error.message}); numbers are those of status"
            return
        self._rows = {name: rows for name, rows in self._rows.items() if name in names}
        if not names:
            self.note = f"Router {self._router} has no pods; numbers are those of status"
        for name in names:
            try:
                self._take(name, await self._ask(name))
            except ApiError as error:
                self.note = f"pod {name} cannot be asked through the API server ({error.message})"

    def cells(self, revision: str, count: int) -> list[Cell]:
        """A revision's last five minutes in so many cells, oldest first; the newest ends with the newest row."""
        newest = max((second for rows in self._rows.values() for second in rows), default=0)
        found = [Cell() for _ in range(count)]
        width = _KEPT_SECONDS / count
        for rows in self._rows.values():
            for second, row in rows.items():
                place = count - 1 - int((newest - second) / width)
                if revision in row[2] and place >= 0:
                    found[place].add(row[2][revision], self._bounds)
        return found

    async def _pods(self) -> list[str]:
        labels = f"penstock.dev/router={self._router},app.kubernetes.io/component=router"
        answer = await self._transport.request(
            Target("list", "Pod", self._namespace, ""),
            "GET",
            kind_of("Pod").path(self._namespace),
            query=[("labelSelector", labels)],
        )
        return sorted(pod["metadata"]["name"] for pod in answer.get("items") or () if _is_ready(pod))

    async def _ask(self, name: str) -> Manifest:
        known = max(self._rows.get(name, ()), default=int(time.time()) - _KEPT_SECONDS)
        path = kind_of("Pod").path(self._namespace, f"{name}:{_PORT}", "proxy") + "/v1/observe"
        query = [("uid", self._uid), ("since", str(known))]
        return await self._transport.request(Target("get", "Pod", self._namespace, name), "GET", path, query=query)

    def _take(self, name: str, answer: Mapping[str, Any]) -> None:
        split = answer.get("splits", {}).get(self._uid) or {}
        self._bounds = tuple(split.get("bounds") or self._bounds)
        rows = self._rows.setdefault(name, {})
        rows.update((int(row[0]), row) for row in split.get("rows") or ())
        oldest = max(rows, default=0) - _KEPT_SECONDS
        for second in [second for second in rows if second <= oldest]:
            del rows[second]


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
