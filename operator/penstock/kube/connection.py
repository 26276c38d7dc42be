"""How the API server is reached: address, TLS and credentials, from the service account or a kubeconfig.

The only file that knows `kubernetes.aio`'s client; everything else speaks in paths and plain JSON.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME

from penstock import __version__

__all__ = ["USER_AGENT", "Connection", "Response"]

USER_AGENT = f"penstock/{__version__}"
REQUEST_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Response:
    """An answer: HTTP code, headers with lower-case names, body as sent."""

    code: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A pool of connections with current credentials. A service account's token is read anew every minute."""

    def __init__(self, client: ApiClient, *, kubeconfig: str | None) -> None:
        self._client = client
        self._kubeconfig = kubeconfig
        self._retired: ApiClient | None = None
        self._rebuilding = asyncio.Lock()
        self.generation = 0
        """Counts rebuilds, so that of many requests refused at once only the first rebuilds."""

    @classmethod
    async def open(cls, kubeconfig: str | Path | None = None) -> "Connection":
        """Connect as a kubeconfig says (`kubeconfig`, else $KUBECONFIG, else ~/.kube/config), or inside a cluster.

        In a pod the service account is used unless a kubeconfig is named. Raises ConfigException without either.
        """
        path = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
        if path is None and SERVICE_HOST_ENV_NAME not in os.environ:
            path = os.path.expanduser("~/.kube/config")  # noqa: ASYNC240, PTH111 - reads no file
        return cls(await _client(path), kubeconfig=path)

    async def rebuild(self, generation: int) -> None:
        """Read address and credentials again, unless that was done since `generation`; wait where it is being done.

        Requests in flight keep the previous pool; it is closed with the next rebuild or with `close`.
        """
        async with self._rebuilding:
            if generation != self.generation:
                return
            client = await _client(self._kubeconfig)
            retired, self._retired, self._client = self._retired, self._client, client
            self.generation += 1
        if retired is not None:
            await retired.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
        if self._retired is not None:
            await self._retired.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """One request, one answer, whatever its code; raises aiohttp.ClientError or TimeoutError without an answer."""
        client = self._client
        headers = {"Accept": "application/json", "Content-Type": content_type}
        prepared = await client.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = await client.call_api(*prepared, _request_timeout=REQUEST_TIMEOUT_SECONDS)
        content = await answer.read()
        return Response(answer.status, {key.lower(): value for key, value in answer.headers.items()}, content)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._client.configuration.host)

    @property
    def ssl_context(self) -> SSLContext:
        """TLS with the cluster's authority and the client's certificate, if it has one."""
        context: SSLContext = self._client.rest_client.ssl_context
        return context

    async def authorization(self) -> str | None:
        """The value of the Authorization header as of now, for streams that live beside this client."""
        setting = (await self._client.configuration.auth_settings()).get("BearerToken")
        return str(setting["value"]) if setting else None


async def _client(kubeconfig: str | None) -> ApiClient:
    configuration = Configuration()
    if kubeconfig is None:
        load_incluster_config(client_configuration=configuration)
    else:
        await load_kube_config(config_file=kubeconfig, client_configuration=configuration, persist_config=False)
    configuration.retries = None
    client = ApiClient(configuration)
    client.user_agent = USER_AGENT
    return client
