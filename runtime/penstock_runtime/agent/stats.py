"""Envoy's counters of a cluster, and what they say about requests.

Envoy moves different counters for every way in which a request can end; which, was measured (the table is a test:
tests/integration/test_router_counters.py). Its plain text is what is read: at 200 models with traffic it costs Envoy
4.7 ms and the reader 0.5 ms a time, JSON 9 and 0.8, the Prometheus text 14 and 1.2.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter, lt, sub
from urllib.parse import quote

__all__ = ["BOUNDS", "LOOK", "SHADOW_GRPC_FILTERS", "Counts", "Meter", "Reading", "cluster_of", "parse", "read_path"]

BOUNDS = (
    *(1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700),
    *(1000, 1500, 2000, 3000, 5000, 10_000, 30_000),
)
"""Upper bounds of the latency buckets in ms; two digits at most, which Envoy's histograms count exactly."""
GRPC_ERRORS = frozenset((2, 4, 8, 13, 14))
"""UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE: the server's fault."""
GRPC_CLIENT_ERRORS = frozenset((3, 5, 6, 7, 9, 11, 12, 16))
"""INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED,
UNAUTHENTICATED: bad requests, as 4xx are."""
GRPC_CANCELLED = 1
_FIELDS = {
    b"upstream_rq_total": "total",
    b"upstream_rq_completed": "completed",
    b"upstream_rq_active": "active",
    b"upstream_rq_retry": "retried",
    b"upstream_rq_cancelled": "cancelled",
    b"upstream_rq_timeout": "timed_out",
    b"upstream_rq_pending_overflow": "overflowed",
    b"upstream_rq_pending_failure_eject": "refused",
    b"upstream_cx_none_healthy": "hostless",
    b"upstream_rq_2xx": "ok",
    b"upstream_rq_3xx": "moved",
    b"upstream_rq_4xx": "client_errors",
    b"upstream_rq_5xx": "server_errors",
}
_TIME = b"upstream_rq_time"
_BUCKET = re.compile(rb",(\d+)\)")
_NAMES = "|".join(sorted(name.decode() for name in (*_FIELDS, _TIME)))
_UNSURE = 2
"""Aborts that a single reading may only seem to show: the counters of one cluster are not read in one instant, and a
request that waits to be tried again has failed in one counter and is not yet in the other (25 ms unless the route's
`retry_back_off` is shorter)."""
_LAG = 3
"""Readings after which the histogram holds a request: Envoy shows histograms once a second, and readings can be late,
so that two may be less than a second apart."""

LOOK = "/stats?type=Counters&usedonly&filter=" + quote(r"^cluster\.[^.]+/[^.]+\.upstream_rq_(completed|total)$")
"""Two lines for every cluster that ever had a request: whatever happens to one changes them, sooner or later."""


def read_path(models: Iterable[str] = ()) -> str:
    """Address of everything that a Meter needs: of the models with these first eight characters of a uid, or of all."""
    some = "|".join(map(re.escape, models))
    name = rf"({some})/[^.]+" if some else r"[^.]+/[^.]+"
    return "/stats?usedonly&histogram_buckets=disjoint&filter=" + quote(
        rf"^cluster\.{name}\.({_NAMES}|grpc\..*\d)$", safe=""
    )


@dataclass(slots=True)
class Reading:
    """Counters of one cluster since Envoy made it."""

    total: int = 0
    """Requests given to a connection, retries included."""
    completed: int = 0
    active: int = 0
    retried: int = 0
    cancelled: int = 0
    timed_out: int = 0
    overflowed: int = 0
    """A circuit breaker was open."""
    refused: int = 0
    """No connection could be made."""
    hostless: int = 0
    """There was no healthy endpoint."""
    ok: int = 0
    moved: int = 0
    client_errors: int = 0
    server_errors: int = 0
    grpc_errors: int = 0
    grpc_client_errors: int = 0
    grpc_cancelled: int = 0
    buckets: tuple[int, ...] = field(default=(0,) * len(BOUNDS))
    """Answered requests by time, one for each of BOUNDS; slower ones are in none."""

    @property
    def aborted(self) -> int:
        """Requests whose client went away before anything was answered (facts/traffic.md §2.2).

        No counter of a cluster tells them; they are the attempts that have begun and neither ended, nor go on, nor
        were tried again. Less than the truth while answers are being streamed.
        """
        return self.total + self.unsent + self.cancelled - self.completed - self.active

    @property
    def unsent(self) -> int:
        """Requests that found no connection, for good."""
        return self.refused + self.overflowed + self.hostless - self.retried

    @property
    def answered(self) -> int:
        """Requests that got an answer, Envoy's own 503 and 504 included; retries are not counted again."""
        return self.ok + self.moved + self.client_errors + self.server_errors

    def follows(self, earlier: "Reading") -> bool:
        """Whether both can be of one life of the cluster: no counter has become smaller."""
        return not any(map(lt, _monotone(self), _monotone(earlier))) and not any(map(lt, self.buckets, earlier.buckets))


_monotone = attrgetter(*(item.name for item in fields(Reading) if item.name not in ("active", "buckets")))


@dataclass(frozen=True, slots=True)
class Counts:
    """What ended in some time, as in the contract between agent and operator."""

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    aborted: int = 0
    latency: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """By BOUNDS, and one more for everything slower: timeouts, aborts and what never reached a server."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.client_errors + other.client_errors,
            self.aborted + other.aborted,
            tuple(map(int.__add__, self.latency, other.latency)),
        )

    def __bool__(self) -> bool:
        return bool(self.requests or self.errors or self.client_errors or self.aborted or any(self.latency))


def cluster_of(line: bytes) -> str:
    """Name of the cluster in a line of Envoy's text."""
    return line.split(b".", 2)[1].decode()


def parse(text: bytes) -> dict[str, Reading]:
    """Envoy's text to readings by name of cluster; raises ValueError when it is not what `read_path` asks for."""
    found: dict[bytes, Reading] = {}
    for line in text.split(b"\n"):
        if not line:
            continue
        key, _, value = line.partition(b": ")
        _, cluster, name = key.split(b".", 2)
        reading = found.get(cluster)
        if reading is None:
            reading = found[cluster] = Reading()
        attribute = _FIELDS.get(name)
        if attribute is not None:
            setattr(reading, attribute, int(value))
        elif name == _TIME:
            reading.buckets = _buckets(value)
        elif name.startswith(b"grpc."):
            _add_status(reading, name.rpartition(b".")[2], value)
    return {cluster.decode(): reading for cluster, reading in found.items()}


def _buckets(value: bytes) -> tuple[int, ...]:
    """Of `B1(0,3) B2(0,0) …`, bound (in the last second, ever); of `No recorded values`, zeros."""
    counts = tuple(map(int, _BUCKET.findall(value)))
    if not counts:
        return (0,) * len(BOUNDS)
    if len(counts) != len(BOUNDS):
        raise ValueError(f"Envoy's latency histogram has {len(counts)} buckets, expected {len(BOUNDS)}: see BOUNDS")
    return counts


def _add_status(reading: Reading, code: bytes, value: bytes) -> None:
    """Statuses are part of the names, once for each method: `grpc.<service>.<method>.<status>`."""
    if not code.isdigit():
        return
    status = int(code)
    if status in GRPC_ERRORS:
        reading.grpc_errors += int(value)
    elif status in GRPC_CLIENT_ERRORS:
        reading.grpc_client_errors += int(value)
    elif status == GRPC_CANCELLED:
        reading.grpc_cancelled += int(value)


class Meter:
    """Readings of one cluster, one after the other, to what ended between them.

    Nothing is told twice and nothing is lost, though readings are never quite in one instant and histograms come up to
    a second late: everything told is a running maximum of sums since Envoy made the cluster. Where a counter shrinks,
    the cluster is a new one that began at 0.
    """

    __slots__ = ("_aborted", "_doubt", "_ended", "_last", "_shadow", "_slow", "_told", "_unsent")

    def __init__(self, *, shadow: bool = False) -> None:
        self._shadow = shadow
        self._begin()

    def _begin(self) -> None:
        self._last = Reading()
        self._told = [0] * (4 + len(BOUNDS) + 1)
        self._doubt = self._aborted = self._slow = self._unsent = 0
        self._ended = deque([0] * _LAG, maxlen=_LAG)

    def advance(self, reading: Reading) -> Counts:
        """What ended since the reading before this one."""
        if not reading.follows(self._last):
            self._begin()
        self._last = reading
        told = list(map(max, self._told, self._totals(reading)))
        requests, errors, client_errors, aborted, *latency = map(sub, told, self._told)
        self._told = told
        return Counts(requests, errors, client_errors, aborted, tuple(latency))

    @property
    def busy(self) -> bool:
        """Whether a later reading may tell more though LOOK shows no change."""
        return self._last.active > 0

    def _totals(self, reading: Reading) -> list[int]:
        """As Counts, since the beginning.

        Copies of requests that a shadow's circuit breaker refused never met the revision. HTTP errors of a gRPC
        cluster are those that Envoy made, and each also has a gRPC status: the larger of both, not their sum.
        """
        refused = reading.overflowed if self._shadow else 0
        ended = reading.answered - refused + self._take_aborted(reading)
        return [
            ended,
            max(reading.server_errors - refused, reading.grpc_errors),
            max(reading.client_errors, reading.grpc_client_errors),
            self._aborted + reading.grpc_cancelled,
            *reading.buckets,
            self._take_slow(reading, ended, refused),
        ]

    def _take_aborted(self, reading: Reading) -> int:
        """The last few are told when the next reading shows them too: they may be requests that just began."""
        seen, self._doubt = self._doubt, reading.aborted
        self._aborted = max(self._aborted, min(seen, self._doubt), self._doubt - _UNSURE)
        return self._aborted

    def _take_slow(self, reading: Reading, ended: int, refused: int) -> int:
        """Requests that are in no bucket.

        Those known to leave none are told at once, or by the next reading where another try may follow. Any other is
        told when the histogram has had time to show it and does not: until then it may be a quick answer that Envoy has
        not counted yet.
        """
        unsent, self._unsent = self._unsent, reading.unsent - refused
        known = reading.timed_out + self._aborted + max(0, min(unsent, self._unsent))
        counted = sum(reading.buckets)
        certain = max(known, self._ended[0] - counted)
        self._ended.append(ended)
        self._slow = max(self._slow, min(ended - counted, certain))
        return self._slow


def _rewrite() -> str:
    """Lua that gives an answer of nothing but headers the HTTP status that stands for its gRPC status."""
    table = {**dict.fromkeys(sorted(GRPC_ERRORS), 500), **dict.fromkeys(sorted(GRPC_CLIENT_ERRORS), 400)}
    entries = ",".join(f'["{code}"]="{status}"' for code, status in table.items())
    return (
        f"local by_status = {{{entries}}}\n"
        "function envoy_on_response(handle)\n"
        '  local status = by_status[handle:headers():get("grpc-status")]\n'
        '  if status then handle:headers():replace(":status", status) end\n'
        "end\n"
    )


SHADOW_GRPC_FILTERS = [
    {
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": _rewrite()},
        },
    },
    {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
    },
]
"""For `http_filters` of a gRPC shadow cluster: copies pass no filter of the listener, so nothing counts their statuses.

A failed unary call is answered by headers alone, whose HTTP status is then counted; nobody sees the answer to a copy.
"""
