"""A blob of the artifact store for whoever runs the CLI: through the API server, or straight where the store is public.

The chart's registry listens inside the cluster alone. Its Service is reached as `kubectl port-forward` does it, by a
WebSocket of the API server to one of its pods; the API server's HTTP proxy would not do, since it takes away the header
with the registry's token. What comes is believed by its digest alone.
"""

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

import aiohttp
import click

from penstock.api.report import LARGEST_REPORT, REPORT_TYPE, Report, read_report
from penstock.core.names import PULL_SECRET
from penstock.kube.connection import Connection
from penstock.kube.errors import ApiError, NotFound
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import Target, Transport

__all__ = ["Store", "fetch_report"]

_SECONDS = 30.0
_LARGEST = LARGEST_REPORT + (64 << 10)
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1


@dataclass(frozen=True)
class Store:
    """One repository of the store, and the ways to it."""

    connection: Connection
    transport: Transport
    host: str
    repository: str
    namespace: str
    """Of the ModelDeployment: its pull token opens the repository."""

    async def blob(self, path: str, digest: str, accept: str) -> bytes:
        """What is at `/v2/<repository>/<path>`, its bytes having the digest; raises ClickException."""
        request = f"/v2/{self.repository}/{path}"
        token = await self._token()
        service = _service_of(self.host)
        status, body = (
            await self._forwarded(*service, request, token, accept)
            if service
            else await self._public(request, token, accept)
        )
        if status == 404:
            raise click.ClickException(f"the artifact store {self.host}/{self.repository} no longer holds {digest}")
        if status != 200:
            text = body[:200].decode(errors="replace")
            raise click.ClickException(f"the artifact store {self.host} answers {status}: {text!r}")
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if found != digest:
            raise click.ClickException(f"the artifact store {self.host} sent bytes with {found} for {digest}")
        return body

    async def _token(self) -> str:
        try:
            target = Target("get", "Secret", self.namespace, PULL_SECRET)
            secret = await self.transport.request(target, "GET", kind_of("Secret").path(self.namespace, PULL_SECRET))
        except NotFound as error:
            message = f"Secret {PULL_SECRET} is not in namespace {self.namespace}: nothing was ever prepared there"
            raise click.ClickException(message) from error
        except ApiError as error:
            message = f"the token for the artifact store cannot be read ({error}); it takes the right to get Secrets"
            raise click.ClickException(message) from error
        return base64.b64decode(secret.get("data", {}).get("token", "")).decode().strip()

    async def _public(self, path: str, token: str, accept: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}", "Accept": accept}
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"https://{self.host}{path}", headers=headers) as answer,
            ):
                return answer.status, await answer.content.read(_LARGEST)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise click.ClickException(f"the artifact store {self.host} cannot be reached: {error}") from error

    async def _forwarded(
        self, name: str, namespace: str, port: int, path: str, token: str, accept: str
    ) -> tuple[int, bytes]:
        lines = (
            f"GET {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {token}", f"Accept: {accept}",
            "Connection: close", "", "",
        )  # fmt: skip
        try:
            pod, target = await self._backend(name, namespace, port)
            answer = await _exchange(self.connection, namespace, pod, target, "\r\n".join(lines).encode())
        except ApiError as error:
            message = f"there is no way to Service {name} in {namespace}: {error}"
            raise click.ClickException(message) from error
        except aiohttp.WSServerHandshakeError as error:
            raise _no_forward(pod, namespace, f"the API server answers {error.status}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_forward(pod, namespace, str(error) or type(error).__name__) from error
        return _parse(answer, self.host)

    async def _backend(self, name: str, namespace: str, port: int) -> tuple[str, int]:
        """A ready pod of a Service, and the number of the port behind the Service's."""
        target = Target("get", "Service", namespace, name)
        service = await self.transport.request(target, "GET", kind_of("Service").path(namespace, name))
        labels = ",".join(f"{key}={value}" for key, value in (service["spec"].get("selector") or {}).items())
        listing = Target("list", "Pod", namespace, "")
        path = kind_of("Pod").path(namespace)
        answer = await self.transport.request(listing, "GET", path, query=[("labelSelector", labels)])
        pods = [pod for pod in answer.get("items") or () if _is_ready(pod)]
        if not pods or not labels:
            raise click.ClickException(f"Service {name} in {namespace} has no ready pod: the artifact store is down")
        wanted = next((item.get("targetPort", port) for item in service["spec"]["ports"] if item["port"] == port), port)
        return pods[0]["metadata"]["name"], _number(wanted, pods[0])


def _no_forward(pod: str, namespace: str, why: str) -> click.ClickException:
    right = "it takes the right to create pods/portforward there"
    return click.ClickException(f"port-forward to pod {pod} in {namespace} fails: {why}; {right}")


def _service_of(host: str) -> tuple[str, str, int] | None:
    """(name, namespace, port) of a host inside the cluster; None for one outside."""
    address, _, port = host.partition(":")
    parts = address.split(".")
    inside = len(parts) == 2 or parts[2:] in (["svc"], ["svc", "cluster", "local"])
    return (parts[0], parts[1], int(port or 80)) if inside and len(parts) >= 2 else None


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _number(port: int | str, pod: Mapping[str, Any]) -> int:
    if isinstance(port, int):
        return port
    ports = (item for container in pod["spec"]["containers"] for item in container.get("ports") or ())
    return next((int(item["containerPort"]) for item in ports if item.get("name") == port), 0)


async def _exchange(connection: Connection, namespace: str, pod: str, port: int, request: bytes) -> bytes:
    """Send bytes to a port of a pod and read to the end of the answer."""
    url = f"{connection.server}{kind_of('Pod').path(namespace, pod, 'portforward')}?ports={port}"
    authorization = await connection.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    answer, heard = bytearray(), set[int]()
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.ws_connect(
            url, headers=headers, protocols=(_PROTOCOL,), ssl=connection.ssl_context, max_msg_size=_LARGEST
        ) as socket,
        asyncio.timeout(_SECONDS),
    ):
        await socket.send_bytes(bytes([_DATA]) + request)
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel not in heard:
                # the first message of each channel is the port's number alone
                heard.add(channel)
                data = data[2:]
            if channel == _ERROR and data:
                raise OSError(data.decode(errors="replace").strip())
            answer += data
            if len(answer) > _LARGEST:
                raise OSError(f"more than {_LARGEST} bytes came")
            if channel == _DATA and _is_whole(answer):
                break
    return bytes(answer)


def _is_whole(answer: bytearray) -> bool:
    """Whether an answer that says its length has all of it; others end with the connection."""
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end and lengths and lengths[0].strip().isdigit() and len(body) >= int(lengths[0]))


class _Received:
    """The socket that http.client reads: bytes that are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parse(answer: bytes, host: str) -> tuple[int, bytes]:
    response = HTTPResponse(_Received(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        return response.status, response.read()
    except (HTTPException, OSError, ValueError) as error:
        raise click.ClickException(f"the artifact store {host} sent no whole answer: {error}") from error


async def fetch_report(store: Store, digest: str) -> tuple[Report, bytes]:
    """The report under a manifest, and its text as it was written; raises ClickException for what is none."""
    manifest = await store.blob(f"manifests/{digest}", digest, _MANIFEST)
    layers = _layers(manifest)
    layer = next((item for item in layers if item.get("mediaType") == REPORT_TYPE), None)
    if layer is None:
        raise click.ClickException(f"{digest} of the artifact store is no report")
    text = await store.blob(f"blobs/{layer['digest']}", str(layer["digest"]), "*/*")
    try:
        return read_report(text), text
    except ValueError as error:
        raise click.ClickException(f"{error}; it may be of a newer Penstock") from error


def _layers(manifest: bytes) -> list[Manifest]:
    try:
        found = json.loads(manifest)["layers"]
    except (ValueError, KeyError, TypeError):
        return []
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
