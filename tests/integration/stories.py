"""What happens to one ModelDeployment in a namespace of its own, while its operator suffers.

A story is told once undisturbed, and then again with one fault after each of its writes. Every telling has a proxy, an
operator and a namespace of its own, so that many run side by side.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from penstock.api.resource import API_VERSION, KIND
from penstock.core.names import COMPONENT_LABEL, MANAGED_BY
from penstock.kube.client import KubeClient

from .operators import Nursery, Operator, operator_environment
from .portrait import NUDGE, owned_by_penstock
from .writes import WriteProxy

__all__ = ["Telling", "telling"]

PATIENCE = 200.0
QUIET = 1.5
"""Seconds; more than a refused or unanswered write waits until it is tried again."""
_COLLECTION = f"/apis/{API_VERSION}/namespaces/{{}}/modeldeployments"


@dataclass
class Telling:
    """One namespace, the proxy in front of it, the operator that looks after it."""

    client: KubeClient
    proxy: WriteProxy
    nursery: Nursery
    namespace: str
    folder: Path
    kubeconfig: Path
    operator: Operator | None = None
    name: str = "digits"
    starts: int = 0
    faulted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the fault has happened."""
    owed: int = 0
    """The number of a write whose answer was lost, and which must therefore be tried again."""

    # the operator
    async def start(self, identity: str = "pod-1") -> Operator:
        """Start an operator; the same identity is the same pod, which has its lease at once."""
        environment = operator_environment(self.kubeconfig, self.namespace, identity=identity)
        self.operator = await self.nursery.start(environment, self.folder / "operator.log")
        self.starts += 1
        return self.operator

    def kill_after(self, number: int) -> None:
        """SIGKILL the operator before it sees the answer to that write, counted from now."""
        self._fault_at(number, lambda: self.operator and self.operator.signal(signal.SIGKILL))

    def lose_answer(self, number: int) -> None:
        """Break the connection instead of passing on the answer to that write, counted from now."""
        self.owed = len(self.proxy.written) + number
        self._fault_at(number, lambda: None)

    def _fault_at(self, number: int, happen: Callable[[], object]) -> None:
        self.faulted.clear()
        due = len(self.proxy.written) + number

        def answered(seen: int) -> bool:
            if seen == due:
                happen()
                self.faulted.set()
            return seen != due

        self.proxy.answered = answered

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Start the operator anew whenever it has died, as a kubelet does."""
        task = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_alive(self) -> None:
        while True:
            assert self.operator is not None
            await self.operator.ended(1e6)
            await self.start()

    # the user
    async def create(self, uri: str, **spec: Any) -> None:
        """What a user applies; a request may take 1 s at most, so that replaced revisions drain quickly.

        Unless the rest of the spec says otherwise there is no router, and the Service selects the revision itself.
        """
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": {"model": {"uri": uri}, "traffic": {"provider": "Service", "timeout": "1s"}, **spec},
        }
        await self._send("POST", "", manifest)

    async def edit(self, spec: dict[str, Any]) -> None:
        """A merge patch of the spec."""
        await self._send("PATCH", f"/{self.name}", {"spec": spec})

    async def nudge(self) -> None:
        """Change what nothing depends on: one more pass is made."""
        if await self.client.find(KIND, self.namespace, self.name):
            await self._send("PATCH", f"/{self.name}", {"metadata": {"annotations": {NUDGE: uuid4().hex}}})

    async def delete(self) -> None:
        """As `kubectl delete` does."""
        await self._send("DELETE", f"/{self.name}", {"propagationPolicy": "Background"})

    async def _send(self, method: str, suffix: str, body: dict[str, Any]) -> None:
        path = _COLLECTION.format(self.namespace) + suffix
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        query = [("fieldManager", "user")]
        answer = await self.client.connection.send(method, path, query=query, body=body, content_type=kind)
        assert answer.code < 300, answer.body

    # what is seen
    def writes(self) -> list[str]:
        """All writes so far, one line each."""
        return [f"{number:3} {write}" for number, write in enumerate(self.proxy.written, 1)]

    @property
    def still(self) -> bool:
        """Whether nothing was written for a while, and nothing is about to be written again."""
        return self.proxy.quiet_for > QUIET and len(self.proxy.written) != self.owed

    async def has_faulted(self) -> bool:
        """Whether the fault has happened, or all writes are made and it never will."""
        return self.faulted.is_set() or (self.still and (await self.status()).get("phase") == "Available")

    async def status(self) -> dict[str, Any]:
        found = await self.client.find(KIND, self.namespace, self.name)
        return dict((found or {}).get("status", {}))

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = PATIENCE) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await condition():  # noqa: ASYNC110 - the API server is asked
                    await asyncio.sleep(0.4)
        except TimeoutError:
            raise AssertionError(
                f"{self.namespace}: not within {seconds:.0f} s: {what}\n{await self._told()}"
            ) from None

    async def settled(self, phase: str, uri: str) -> None:
        """Until the phase is this one for the present spec, `uri` serves, nothing drains, and nothing is written."""

        async def condition() -> bool:
            if not self.still:
                return False
            found = await self.client.get(KIND, self.namespace, self.name)
            status = found.get("status", {})
            return (
                status.get("phase") == phase
                and status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("stable", {}).get("uri") == uri
                and await self.count("Deployment") == await self.count("Pod") == 1
            )

        await self.until(condition, f"{phase} with {uri}")

    async def gone(self) -> None:
        """Until nothing of it is left."""

        async def condition() -> bool:
            left = await owned_by_penstock(self.client, self.namespace)
            return self.still and [item["metadata"]["name"] for item in left] == ["penstock-registry-keys"]

        await self.until(condition, "all objects gone")

    async def count(self, kind: str) -> int:
        """Objects of serving pods."""
        labels = ",".join(f"{key}={value}" for key, value in (MANAGED_BY | {COMPONENT_LABEL: "server"}).items())
        return len((await self.client.list(kind, self.namespace, labels=labels)).items)

    async def _told(self) -> str:
        left = [
            f"{item['kind']} {item['metadata']['name']}"
            for item in await owned_by_penstock(self.client, self.namespace)
        ]
        log = self.folder / "operator.log"
        tail = log.read_text()[-3000:] if log.exists() else ""
        return f"status {await self.status()}\nobjects {left}\nlog {tail}"


@asynccontextmanager
async def telling(
    client: KubeClient, server: Path, nursery: Nursery, folder: Path, title: str
) -> AsyncIterator[Telling]:
    """A fresh namespace with a proxy; the operator is killed in the end."""
    namespace = f"{title}-{uuid4().hex[:6]}"
    await client.post({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    place = folder / namespace
    place.mkdir()
    async with WriteProxy(server) as proxy:
        told = Telling(client, proxy, nursery, namespace, place, proxy.kubeconfig(place))
        try:
            yield told
        finally:
            if told.operator is not None:
                await told.operator.kill()
