"""A small reverse proxy in front of the real API server, for faults no API server makes on demand.

Plain HTTP in, the administrator's credentials out; `fault`, `flow` and `cut` are what the tests turn.
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from penstock.kube.connection import Connection

__all__ = ["FaultProxy", "gone"]

Fault = Callable[[web.Request], web.Response | None]


class FaultProxy:
    """Forwards everything; `fault` may answer a request instead, watch events wait while `flow` is not set.

    Counts requests by (method, watch or not).
    """

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self.fault: Fault = lambda request: None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.flow = asyncio.Event()
        self.flow.set()
        self._streams: set[web.StreamResponse] = set()

    async def __aenter__(self) -> Self:
        connection = await Connection.open(self._kubeconfig)
        self._server, context = connection.server, connection.ssl_context
        await connection.close()
        self._session = _session(context)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        await self._runner.cleanup()
        await self._session.close()

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that goes through here."""
        server = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        path = folder / "proxy.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def cut(self) -> None:
        """Break every open watch stream in the middle."""
        for stream in self._streams:
            transport = stream._req.transport if stream._req else None  # type: ignore[attr-defined]
            if transport is not None:
                transport.abort()

    @property
    def writes(self) -> int:
        """Requests that change something."""
        return sum(count for (method, _), count in self.requests.items() if method not in ("GET", "HEAD"))

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        watching = "watch" in request.query
        self.requests[request.method, "watch" if watching else "plain"] += 1
        injected = self.fault(request)
        if injected is not None:
            return injected
        headers = {
            key: value for key, value in request.headers.items() if key in ("Content-Type", "Accept", "User-Agent")
        }
        body = await request.read() or None
        async with self._session.request(
            request.method, self._server + request.path_qs, data=body, headers=headers
        ) as upstream:
            answer = web.StreamResponse(status=upstream.status, headers={"Content-Type": upstream.content_type})
            await answer.prepare(request)
            if watching:
                self._streams.add(answer)
            try:
                async for chunk in upstream.content.iter_any():
                    if watching:
                        await self.flow.wait()
                    await answer.write(chunk)
            except (aiohttp.ClientError, ConnectionError):
                pass
            finally:
                self._streams.discard(answer)
            return answer


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )


def gone() -> web.Response:
    """What the API server says of a version it no longer keeps, as one event of a watch."""
    event: dict[str, Any] = {
        "type": "ERROR",
        "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410},
    }
    return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
