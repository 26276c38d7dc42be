"""Envoy, asked on loopback: by which documents it works, and who is healthy."""

import json
import re
from collections.abc import Iterable

from .http import Client, HttpError
from .settings import Ports

__all__ = ["UNREACHABLE", "Envoy"]

UNREACHABLE = (OSError, TimeoutError, HttpError, EOFError, ValueError, KeyError)
"""How a question to Envoy may fail: it is starting, busy or gone."""


class Envoy:
    """The admin interface and the attestation; every method raises one of UNREACHABLE while Envoy cannot answer."""

    def __init__(self, ports: Ports) -> None:
        self._admin = Client(f"http://127.0.0.1:{ports.admin}")
        self._attest = Client(f"http://127.0.0.1:{ports.attest}")
        self._refusals: dict[str, int] = {}

    async def attested(self) -> int:
        """The version of the route table, as the data plane answers it."""
        return int(json.loads(await self._attest.get("/", seconds=2.0))["version"])

    async def was_refused(self, document: str) -> bool:
        """Whether Envoy has refused a document, or a part of it, since this was asked last."""
        count = 0
        for line in (await self._page(f"/stats?type=Counters&filter={_REFUSALS[document]}")).decode().splitlines():
            count += int(line.rpartition(" ")[2])
        before = self._refusals.get(document, count)
        self._refusals[document] = count
        return count > before

    async def clusters_version(self) -> int:
        """The version of the clusters' document that was taken last without any refusal; 0 for none."""
        line = (await self._page(r"/stats?type=TextReadouts&filter=^cluster_manager\.cds\.version_text$")).decode()
        return int(line.rpartition(" ")[2].strip().strip('"') or 0)

    async def clusters(self, state: str) -> frozenset[str]:
        """Names of the `active` or `warming` clusters."""
        dump = json.loads(await self._page(f"/config_dump?resource=dynamic_{state}_clusters&mask=cluster.name"))
        return frozenset(one["cluster"]["name"] for one in dump.get("configs", ()))

    async def listeners(self) -> dict[str, int]:
        """Ports by name of the listeners that accept connections."""
        lines = (await self._page("/listeners")).decode().splitlines()
        pairs = (line.partition("::") for line in lines)
        return {name: int(address.rpartition(":")[2]) for name, _, address in pairs}

    async def healthy(self, clusters: Iterable[str]) -> dict[str, int]:
        """Healthy servers by cluster; a cluster that Envoy does not have is absent."""
        wanted = frozenset(clusters)
        prefixes = "|".join(sorted({re.escape(name.rpartition("/")[0]) for name in wanted}))
        pattern = f"^cluster\\.({prefixes})/http\\.membership_healthy$" if len(prefixes) < _LONGEST else _ANY_HEALTHY
        found = {}
        for line in (await self._page(f"/stats?type=Gauges&filter={pattern}")).decode().splitlines():
            name, _, value = line.partition(": ")
            found[name.removeprefix("cluster.").removesuffix(".membership_healthy")] = int(value)
        return {name: count for name, count in found.items() if name in wanted}

    async def active_requests(self) -> int:
        """Requests of clients that are not answered yet."""
        line = (await self._page(r"/stats?type=Gauges&filter=^http\.model\.downstream_rq_active$")).decode()
        return int(line.rpartition(" ")[2] or 0)

    async def start_drain(self) -> None:
        """Fail readiness, ask kept connections to close, and go on serving."""
        await self._admin.request("POST", "/healthcheck/fail")
        await self._admin.request("POST", "/drain_listeners?graceful&skip_exit")

    async def _page(self, path: str) -> bytes:
        return await self._admin.get(path)


_REFUSALS = {
    "cds": r"^cluster_manager\.cds\.update_(rejected|failure)$",
    "rds": r"^http\.attest\.rds\.routes\.update_(rejected|failure)$",
}
_LONGEST = 4000
_ANY_HEALTHY = r"^cluster\..*/http\.membership_healthy$"
