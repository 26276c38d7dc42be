"""A proxy that knows writes: it lists those the API server has answered, and can lose any answer, or everything."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from .proxy import FaultProxy

__all__ = ["Write", "WriteProxy"]

_READS = ("GET", "HEAD")


@dataclass(frozen=True)
class Write:
    """A mutating request and the API server's answer to it."""

    method: str
    path: str
    code: int

    @property
    def renewal(self) -> bool:
        """Whether it only renews or releases a lease, which happens by the clock and says nothing of the work."""
        return self.method == "PUT" and "/leases/" in self.path

    def __str__(self) -> str:
        return f"{self.method} {re.sub(r'^/apis?/', '', self.path)} {self.code}"


class WriteProxy(FaultProxy):
    """`answered` is told of each write but lease renewals, with its number from 1; False loses the answer."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig)
        self.written: list[Write] = []
        self.renewals = 0
        self.answered: Callable[[int], bool] = lambda number: True
        self._away = False
        self._last = 0.0

    def disconnect(self) -> None:
        """Be an API server that is gone: every open stream breaks, every request finds nobody."""
        self._away = True
        self.cut()

    def reconnect(self) -> None:
        """Be there again."""
        self._away = False

    @property
    def quiet_for(self) -> float:
        """Seconds since the last write, refused ones included, lease renewals not."""
        return asyncio.get_running_loop().time() - self._last

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self._away:
            return _hang_up(request)
        if request.method in _READS:
            return await super()._forward(request)
        self.requests[request.method, "plain"] += 1
        injected = self.fault(request)
        if injected is not None:
            self._last = asyncio.get_running_loop().time()
            return injected
        answer = await self._pass_on(request)
        return answer if self._note(Write(request.method, request.path, answer.status)) else _hang_up(request)

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = {key: request.headers[key] for key in ("Content-Type", "Accept", "User-Agent")}
        async with self._session.request(
            request.method, self._server + request.path_qs, data=await request.read(), headers=headers
        ) as upstream:
            body = await upstream.read()
            return web.Response(status=upstream.status, body=body, content_type=upstream.content_type)

    def _note(self, write: Write) -> bool:
        if write.renewal:
            self.renewals += 1
            return True
        self.written.append(write)
        self._last = asyncio.get_running_loop().time()
        return self.answered(len(self.written))


def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
