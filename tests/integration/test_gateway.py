"""A model on Gateways: the operator, the Gateway API's own CRDs, and Contour with Envoy where it is built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from aiohttp import web

from penstock.api.traffic import ROUTE_KINDS
from penstock.kube.client import KubeClient
from tests.gatewayapi import ROUTES, contour_crds, gateway_crds
from tests.integration.apiserver import eventually
from tests.integration.contour import CONTROLLER, contour_program, host_address, install, running_gateway, served
from tests.integration.fakecluster import V1
from tests.integration.stage import Stage, says_nothing_more
from tests.integration.stories import Telling

pytestmark = pytest.mark.timeout(300)
HTTP_NAME, GRPC_NAME = "digits.example.com", "digits-grpc.example.com"
METHOD = "/inference.GRPCInferenceService/ServerReady"
READY = b"\x08\x01"
Json = dict[str, Any]


def traffic(namespace: str, **more: Any) -> Json:
    """Published on the Gateway `public` of the namespace."""
    parent = {"name": "public", "namespace": namespace}
    names = {"hostnames": [HTTP_NAME], "grpcHostnames": [GRPC_NAME]}
    return {"provider": "Service", "timeout": "1s", "parentRefs": [parent], **names, **more}


@asynccontextmanager
async def gateway_api(client: KubeClient, definitions: list[Json]) -> AsyncIterator[None]:
    """The CRDs for as long as the block lasts."""
    await install(client, *definitions)
    await eventually(lambda: served(client, definitions), 30)
    try:
        yield
    finally:
        for item in definitions:
            name = item["metadata"]["name"]
            found = await client.get("CustomResourceDefinition", "", name)
            await client.delete("CustomResourceDefinition", "", name, found["metadata"]["uid"])


def routes_alone() -> list[Json]:
    return [yaml.safe_load(path.read_text()) for path in gateway_crds(*ROUTES)]


def newer(definition: Json) -> Json:
    """As a later release may be: with a field that the API server fills in, and that no operator of today writes."""
    for version in definition["spec"]["versions"]:
        rule = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"]["items"]
        rule["properties"]["manner"] = {"type": "string", "default": "Usual"}
    return definition


ROUTES_OF = {"HTTPRoute": "digits", "GRPCRoute": "digits-grpc"}


async def published(told: Telling, reason: str) -> str:
    """The message of the condition once it gives this reason."""
    seen: list[str] = []

    async def is_so() -> bool:
        conditions = (await told.status()).get("conditions") or ()
        seen[:] = [item["message"] for item in conditions if (item["type"], item["reason"]) == ("Published", reason)]
        return bool(seen)

    await told.until(is_so, f"Published, {reason}")
    return seen[0]


async def route(told: Telling, kind: str) -> Json:
    return dict(await told.client.find(kind, told.namespace, ROUTES_OF[kind]) or {})


async def test_published_when_the_gateway_api_comes_and_mended_when_edited(stage: Stage) -> None:
    async with stage.telling("open") as told:
        await told.start()
        await told.create(V1, traffic=traffic("infra"))
        await told.settled("Available", V1)
        assert "install the CRDs" in await published(told, "GatewayAPIMissing")
        await says_nothing_more(told)

        async with gateway_api(stage.client, [newer(item) for item in routes_alone()]):
            assert "nobody has answered for it yet" in await published(told, "RoutePending")
            asked = {kind: (await route(told, kind))["spec"] for kind in ROUTE_KINDS}
            assert [spec["rules"][0]["manner"] for spec in asked.values()] == ["Usual", "Usual"]
            await says_nothing_more(told)

            for kind in ROUTE_KINDS:
                plural, edit = f"{kind.lower()}s", {"spec": {"rules": [{"backendRefs": [{"name": "x", "port": 80}]}]}}
                path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{told.namespace}/{plural}/{ROUTES_OF[kind]}"
                merge = "application/merge-patch+json"
                assert (await stage.client.connection.send("PATCH", path, body=edit, content_type=merge)).code == 200

            async def mended() -> bool:
                return {kind: (await route(told, kind))["spec"] for kind in ROUTE_KINDS} == asked

            await told.until(mended, "both routes as before", 60)
            await says_nothing_more(told)
        assert "install the CRDs" in await published(told, "GatewayAPIMissing")
        assert (await told.status())["phase"] == "Available"


async def test_a_route_of_somebody_else_is_left_alone_and_named(stage: Stage) -> None:
    async with gateway_api(stage.client, routes_alone()), stage.telling("taken") as told:
        spec = {"hostnames": ["theirs.example.com"]}
        metadata = {"name": told.name, "namespace": told.namespace}
        theirs = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": spec}
        await told.until(lambda: _posted(stage.client, theirs), "the kind served", 30)
        await told.start()
        await told.create(V1, traffic=traffic("infra"))
        message = await published(told, "NameTaken")
        assert f"HTTPRoute {told.namespace}/digits" in message
        assert (await route(told, "HTTPRoute"))["spec"]["hostnames"] == ["theirs.example.com"]
        assert (await route(told, "GRPCRoute"))["spec"]["hostnames"] == [GRPC_NAME], "the other one is free"
        await told.settled("Failed", V1)


async def test_routes_that_cannot_be_read_keep_no_model_from_being_served(stage: Stage) -> None:
    def refuse_routes(request: web.Request) -> web.Response | None:
        return web.Response(status=403) if "/gateway.networking.k8s.io/v1/" in request.path else None

    async with gateway_api(stage.client, routes_alone()), stage.telling("unread") as told:
        told.proxy.fault = refuse_routes
        await told.start()
        await told.create(V1, traffic=traffic("infra"))
        await told.settled("Available", V1)
        assert "does not serve" in await published(told, "GatewayAPIMissing")

        told.proxy.fault = lambda request: None
        await published(told, "RoutePending")


async def _posted(client: KubeClient, manifest: Json) -> bool:
    path = f"/apis/{manifest['apiVersion']}/namespaces/{manifest['metadata']['namespace']}/httproutes"
    return (await client.connection.send("POST", path, body=manifest)).code == 201


# with a real Gateway


@dataclass(frozen=True)
class Visitor:
    """A client outside of the cluster."""

    port: int

    async def get(self, host: str) -> tuple[int, str]:
        """GET through the Gateway."""
        url = f"http://127.0.0.1:{self.port}/v2/health/ready"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            try:
                async with session.get(url, headers={"Host": host}) as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientConnectionError as problem:
                return 0, str(problem)

    async def call(self, host: str) -> bytes:
        """A unary gRPC call through the Gateway."""
        options = (("grpc.default_authority", host), ("grpc.enable_http_proxy", 0))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) as channel:
            return bytes(await channel.unary_unary(METHOD)(b"", timeout=10))


async def _calls(visitor: Visitor) -> bool:
    """Whether gRPC gets through; the two routes need not come into force at once."""
    try:
        return await visitor.call(GRPC_NAME) == READY
    except grpc.aio.AioRpcError:
        return False


@asynccontextmanager
async def serving_pod(address: str) -> AsyncIterator[dict[str, int]]:
    """What stands for the model's pods; ports by name."""
    app = web.Application()
    app.router.add_get("/v2/health/ready", _served)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_ready)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ServerReady": handler}),)
    )
    port = server.add_insecure_port(f"{address}:0")
    await server.start()
    try:
        yield {"http": int(runner.addresses[0][1]), "grpc": port}
    finally:
        await server.stop(None)
        await runner.cleanup()


async def _served(_: web.Request) -> web.Response:
    return web.Response(text="served")


async def _ready(_: bytes, __: Any) -> bytes:
    return READY


def endpoints(namespace: str, name: str, address: str, ports: dict[str, int]) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-outside",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "test"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": key, "port": port, "protocol": "TCP"} for key, port in ports.items()],
    }


async def test_requests_reach_the_model_through_contour_by_http_and_by_grpc(stage: Stage) -> None:
    program, address = contour_program(), host_address()
    async with gateway_api(stage.client, [*contour_crds()]), stage.telling("contour") as told:
        space = told.namespace
        gateway = running_gateway(program, stage.client, stage.server, told.folder, space, "public")
        async with gateway as port, serving_pod(address) as ports:
            await install(stage.client, endpoints(space, told.name, address, ports))
            visitor = Visitor(port)
            await told.start()
            await told.create(V1, traffic=traffic(space))
            message = await published(told, "Published")
            assert f"HTTPRoute digits on Gateway {space}/public: accepted by {CONTROLLER}" in message
            assert f"GRPCRoute digits-grpc on Gateway {space}/public: accepted by {CONTROLLER}" in message

            async def answers() -> bool:
                return await visitor.get(HTTP_NAME) == (200, "served")

            await told.until(answers, "an answer through the Gateway", 60)
            await told.until(lambda: _calls(visitor), "an answer to a call through the Gateway", 60)
            assert (await visitor.get("other.example.com"))[0] == 404

            parent = {"name": "public", "namespace": space, "sectionName": "https"}
            await told.edit({"traffic": {"parentRefs": [parent]}})
            refusal = await published(told, "RouteNotAccepted")
            assert f"listener https: {CONTROLLER} says Accepted is False, NoMatchingParent" in refusal
            assert (await told.status())["phase"] == "Available", "a Gateway is somebody else's"

            await told.edit({"traffic": {"parentRefs": [{**parent, "sectionName": "http"}]}})
            await published(told, "Published")
            await told.until(answers, "an answer once more", 60)
            await told.edit({"traffic": traffic(space, parentRefs=None, hostnames=None, grpcHostnames=None)})

            async def left_out() -> bool:
                return (await visitor.get(HTTP_NAME))[0] != 200

            await told.until(left_out, "no answer any more", 60)
            assert not await route(told, "HTTPRoute")
