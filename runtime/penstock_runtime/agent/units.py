"""Distinct clients of sticky models: who failed, asked badly or waited long, each counted once.

With sticky routing one client that always fails sits on one side of the split, whatever the revision is like; what is
judged then is how many clients fail, not how many of their requests. Envoy's counters do not know clients, so it logs
the failed and slow requests of sticky models, and those only, to a file in the folder it shares with the agent. The
agent empties the file every second and remembers of each client a few bits under a key that dies with the process: no
name is kept, told or logged, and none can be found again.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .ring import KEPT
from .state import RouteState
from .stats import BOUNDS, GRPC_CLIENT_ERRORS, GRPC_ERRORS

__all__ = ["NAMESPACE", "Units", "access_log", "slow_key", "unit_filter", "unit_rules"]

NAMESPACE = "penstock.unit"
"""Of the dynamic metadata that carries a client from its route to the log."""
FILTER = "envoy.filters.http.header_to_metadata"
NOBODY = "-"
"""A request that names no client; it is a client of its own, as it is routed by chance."""
SLOW = 1000
"""Upper bound in ms of what is not slow, until a model's own times are known."""
_HEADER_TO_METADATA = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
_FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_MOST = 16 << 20
_BITS = 1 << 16
_PROBES = 4


def unit_filter() -> dict[str, Any]:
    """For the HTTP filters of every model's listener: does nothing until a route has `unit_rules`."""
    return {"name": FILTER, "typed_config": {"@type": _HEADER_TO_METADATA}}


def unit_rules(*, header: str | None = None, cookie: str | None = None) -> dict[str, Any]:
    """For `typed_per_filter_config` of a sticky model's virtual host: where its clients' names are."""
    source = {"header": header} if header else {"cookie": cookie}
    found = {"metadata_namespace": NAMESPACE, "key": "name", "type": "STRING"}
    rule = {**source, "on_header_present": found, "on_header_missing": {**found, "value": NOBODY}}
    return {FILTER: {"@type": _HEADER_TO_METADATA, "request_rules": [rule]}}


def slow_key(uid: str) -> str:
    """Envoy's runtime key of the duration in ms from which on requests of a model are logged."""
    return f"penstock.slow.{uid[:8]}"


def access_log(uid: str, path: Path) -> dict[str, Any]:
    """For `access_log` of a model's listener: requests of routes with `unit_rules` that failed or took long.

    It can stand in every listener, sticky or not, so that stickiness never changes a listener. Envoy has to be started
    with `--file-flush-interval-msec 200`, or lines come up to 10 s late.
    """
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"and_filter": {"filters": [_is_sticky(), {"or_filter": {"filters": _reasons(uid)}}]}},
        "typed_config": {"@type": _FILE_LOG, "path": str(path), "log_format": {"json_format": _FORMAT}},
    }


_FORMAT = {
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "unit": f"%DYNAMIC_METADATA({NAMESPACE}:name)%",
    "status": "%RESPONSE_CODE%",
    "grpc": "%GRPC_STATUS_NUMBER%",
    "time": "%COMMON_DURATION(DS_RX_END:US_RX_END:ms)%",
}
"""`time` is what the cluster's histogram counts; there is none where no answer came to its end."""


def _is_sticky() -> dict[str, Any]:
    matcher = {"filter": NAMESPACE, "path": [{"key": "name"}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _reasons(uid: str) -> list[dict[str, Any]]:
    def at_least(value: int, key: str) -> dict[str, Any]:
        return {"comparison": {"op": "GE", "value": {"default_value": value, "runtime_key": key}}}

    return [
        {"status_code_filter": at_least(400, "penstock.failed")},
        {"grpc_status_filter": {"exclude": True, "statuses": ["OK"]}},
        {"response_flag_filter": {"flags": ["DC", "DR"]}},
        {"duration_filter": at_least(SLOW, slow_key(uid))},
    ]


@dataclass(frozen=True, slots=True)
class _Line:
    """One logged request."""

    model: str
    revision: str
    unit: str
    failed: bool
    asked_badly: bool
    time: int | None

    @classmethod
    def parse(cls, text: bytes) -> "_Line":
        """Raises ValueError, KeyError or AttributeError for what is no line of ours."""
        told = dict(json.loads(text))
        model, revision, kind = told["cluster"].split("/")
        status, code = int(told["status"] or 0), _number(told.get("grpc"))
        grpc = kind == "grpc"
        return cls(
            model,
            revision,
            str(told.get("unit") or NOBODY),
            failed=code in GRPC_ERRORS if grpc and code is not None else status >= 500,
            asked_badly=code in GRPC_CLIENT_ERRORS if grpc and code is not None else 400 <= status < 500,
            time=_number(told.get("time")),
        )


def _number(value: Any) -> int | None:
    return int(value) if value not in (None, "", NOBODY) else None


@dataclass(slots=True)
class _Model:
    """What is remembered of the clients of one model while the same revisions are served."""

    revisions: frozenset[str]
    age: int = 0
    slow: int = SLOW
    seen: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    told: dict[str, list[int]] = field(default_factory=dict)
    times: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


class Units:
    """Counts each client once for a revision and a reason, until other revisions are served.

    So a client that fails is counted anew when a candidate gets its first request, and not again when its weight grows.
    Where one revision serves alone, clients are forgotten every half hour. Memory is 8 KiB for each revision and reason
    that ever occurred: a Bloom filter that takes a new client for a known one in less than 1 % of cases up to 6,000.
    """

    def __init__(self, path: Path, key: bytes | None = None) -> None:
        self._path = path
        self._key = key or os.urandom(16)
        self._models: dict[str, _Model] = {}
        self._rest = b""
        self._empty()

    def poll(self, routes: Iterable[RouteState]) -> None:
        """Read what Envoy has logged of these sticky models since the last call; to be called every second."""
        self._follow(routes)
        *lines, self._rest = (self._rest + self._read()).split(b"\n")
        for text in lines:
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                line = _Line.parse(text)
                if (model := self._models.get(line.model)) is not None:
                    self._count(model, line)

    def take(self, uid: str) -> dict[str, tuple[int, int, int]]:
        """Clients that were new since the last call, by revision: failed, badly asking, slow."""
        model = self._models.get(uid[:8])
        if model is None:
            return {}
        told, model.told = model.told, {}
        return {revision: (failed, asking, slow) for revision, (failed, asking, slow) in told.items()}

    def learn(self, uid: str, latency: Iterable[int]) -> None:
        """Add what the only revision of a model took, by BOUNDS; what counts as slow stays while two are compared."""
        model = self._models.get(uid[:8])
        if model is not None and len(model.revisions) == 1:
            model.times = list(map(int.__add__, model.times, latency))

    def slow(self, uid: str) -> int:
        """The time in ms above which a request of this model is slow."""
        model = self._models.get(uid[:8])
        return SLOW if model is None else model.slow

    def thresholds(self) -> dict[str, int]:
        """What Envoy's runtime has to say, by key, for models whose times are known."""
        return {slow_key(name): model.slow for name, model in self._models.items() if model.slow != SLOW}

    def _follow(self, routes: Iterable[RouteState]) -> None:
        known, self._models = self._models, {}
        for route in routes:
            serving = frozenset(revision for revision, weight in route.weights.items() if weight)
            model = known.get(route.uid[:8])
            if model is None:
                model = _Model(serving)
            elif model.revisions != serving or (len(serving) == 1 and model.age >= KEPT):
                model = _Model(serving, slow=model.slow, times=[count // 2 for count in model.times])
            model.age += 1
            if model.age % 60 == 1:
                model.slow = _slow_above(model.times) or model.slow
            self._models[route.uid[:8]] = model

    def _count(self, model: _Model, line: _Line) -> None:
        reasons = {
            "failed": line.failed,
            "asked badly": line.asked_badly,
            "slow": line.time is None or line.time > model.slow,
        }
        for place, (reason, holds) in enumerate(reasons.items()):
            if holds and self._is_new(model, line.revision, reason, line.unit):
                model.told.setdefault(line.revision, [0, 0, 0])[place] += 1

    def _is_new(self, model: _Model, revision: str, reason: str, unit: str) -> bool:
        if unit == NOBODY:
            return True
        bits = model.seen.setdefault((revision, reason), bytearray(_BITS // 8))
        digest = blake2b(unit.encode(), key=self._key, digest_size=2 * _PROBES).digest()
        new = False
        for place in range(0, len(digest), 2):
            index, bit = digest[place] << 5 | digest[place + 1] >> 3, 1 << (digest[place + 1] & 7)
            new |= not bits[index] & bit
            bits[index] |= bit
        return new

    def _read(self) -> bytes:
        """The file's content, which is gone from it afterwards; a file that has grown too large is not read at all."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            text = file.read(_MOST)
            if text:
                os.truncate(self._path, 0)
            return text
        return b""

    def _empty(self) -> None:
        """What an earlier process left: nobody remembers whom that one had counted."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)


def _slow_above(times: list[int]) -> int | None:
    """Twice what 95 % of requests stay below, the default of the verdict on latency; None before there are 200."""
    whole = sum(times)
    if whole < 200:
        return None
    counted = 0
    for place, count in enumerate(times[:-1]):
        counted += count
        if counted >= 0.95 * whole:
            return next((bound for bound in BOUNDS if bound >= 2 * BOUNDS[place]), BOUNDS[-1])
    return BOUNDS[-1]
