"""A control plane with everything but nodes: the real API server and controllers, and a kubelet that only pretends.

Pods are never placed on a node; their status is written as a kubelet would write it, by what the pod is asked to run:
a preparation reports facts made up from its URI, a server is ready at once, or ends with Triton's words for a model
whose URI says `broken`, a router pod answers for its agent (fakerouters.py).
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from hack.cluster import pki
from hack.cluster.controlplane import ControlPlane
from hack.cluster.masters import AUDIT_POLICY

from penstock.api.facts import ArtifactRef, GateResult, ModelFacts, Tensor
from penstock.api.preparation import REQUEST_VARIABLE, Needs, PreparationError, PreparationReport, PreparationRequest
from penstock.api.proving import LatencyGate
from penstock.api.reasons import Reason
from penstock.api.router import SPLIT_KIND
from penstock.api.units import duration_seconds
from penstock.core.names import COMPONENT_LABEL, MANAGED_BY
from penstock.kube.client import KubeClient
from penstock.kube.errors import ApiError, NotFound
from penstock.kube.objects import kind_of

from .apiserver import connected, eventually
from .fakerouters import FakeRouters

__all__ = [
    "BROKEN",
    "CONVERTED",
    "COUNTING",
    "FAILING",
    "LOAD_ERROR",
    "MISSING",
    "MOVED",
    "V1",
    "V2",
    "AuditedControlPlane",
    "install_crds",
    "pretending_kubelet",
]

V1, V2 = "oci://models.example/digits:v1", "oci://models.example/digits:v2"
BROKEN, MISSING = "oci://models.example/digits:broken", "oci://models.example/digits:missing"
FAILING = "oci://models.example/digits:failing"
"""Serves, and fails every fifth request."""
COUNTING = "oci://models.example/digits:counting"
"""The same, and its server tells what Triton has counted."""
CONVERTED = "oci://models.example/digits:sklearn"
"""Is for the image that converts; its p95 is 4 ms."""
MOVED = "oci://models.example/digits:moved"
"""Means something else by the time it is asked again."""
LOAD_ERROR = "failed to load 'digits': Invalid argument: unexpected inference input 'X'"
_CRDS = Path(__file__).parents[2] / "crds"
_TIME = "2026-01-01T00:00:00Z"
_RAISED = (Path(__file__).parents[1] / "golden/triton/raised.txt").read_bytes().replace(b'"m"', b'"digits"')


class AuditedControlPlane(ControlPlane):
    """With the audit log of the local cluster: one line for each request of a service account."""

    @property
    def audit(self) -> Path:
        """Where the log is."""
        return self._directory / "audit.jsonl"

    def _apiserver(self, programs: Path, store: str, keys: pki.KeyPair) -> tuple[str, ...]:
        policy = self._directory / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        log = (f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}")
        return (*super()._apiserver(programs, store, keys), *log)


async def install_crds(client: KubeClient) -> None:
    """The CRDs as released; returns once they are served."""
    crds = [yaml.safe_load(path.read_text()) for path in sorted(_CRDS.glob("*.yaml"))]
    for crd in crds:
        await client.create(crd)

    async def served() -> bool:
        found = [await client.get("CustomResourceDefinition", "", crd["metadata"]["name"]) for crd in crds]
        established = [
            {"type": item["type"], "status": item["status"]}
            for crd in found
            for item in crd.get("status", {}).get("conditions") or ()
        ]
        return established.count({"type": "Established", "status": "True"}) == len(crds)

    await eventually(served)


@asynccontextmanager
async def pretending_kubelet(kubeconfig: Path) -> AsyncIterator[FakeRouters]:
    """Every pod of Penstock in the cluster gets its status while this is open."""
    async with connected(kubeconfig) as client, FakeRouters() as routers:
        routers.failing[digest_of(FAILING)] = routers.failing[digest_of(COUNTING)] = 0.2
        task = asyncio.create_task(_pretend(client, routers))
        try:
            yield routers
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.1)  # the streams' TLS connections close within the loop's next turns


Event = Callable[[str, Mapping[str, Any]], Awaitable[None]]


async def _pretend(client: KubeClient, routers: FakeRouters) -> None:
    connector = aiohttp.TCPConnector(ssl=client.connection.ssl_context)
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(client.connection.server, connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def on_pod(event: str, pod: Mapping[str, Any]) -> None:
            if event == "DELETED":
                await routers.stop(pod)
            elif event == "ADDED":
                tasks.create_task(_attend(client, routers, pod))

        async def on_split(event: str, split: Mapping[str, Any]) -> None:
            routers.follow(split, deleted=event == "DELETED")

        tasks.create_task(_follow_all(client, session, "Pod", on_pod))
        tasks.create_task(_follow_all(client, session, SPLIT_KIND, on_split))


async def _follow_all(client: KubeClient, session: aiohttp.ClientSession, kind: str, told: Event) -> None:
    version = ""
    while True:
        if not version:
            try:
                listing = await client.list(kind, labels=_SELECTOR)
            except NotFound:
                await asyncio.sleep(0.2)  # its CRD is still to come
                continue
            version = listing.resource_version
            for item in listing.items:
                await told("ADDED", item)
        version = await _follow(session, kind_of(kind).path(), told, version)


_SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())


async def _follow(session: aiohttp.ClientSession, path: str, told: Event, version: str) -> str:
    """Where to go on watching; empty to list anew."""
    query = {"watch": "1", "resourceVersion": version, "labelSelector": _SELECTOR, "allowWatchBookmarks": "true"}
    async with session.get(path, params=query, read_bufsize=1 << 22) as stream:
        async for line in stream.content:
            event = json.loads(line)
            if event["type"] == "ERROR":
                return ""
            version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                await told(event["type"], event["object"])
    return version


async def _attend(client: KubeClient, routers: FakeRouters, pod: Mapping[str, Any]) -> None:
    metadata = pod["metadata"]
    if pod.get("status", {}).get("containerStatuses") or "deletionTimestamp" in metadata:
        return
    match metadata["labels"][COMPONENT_LABEL]:
        case "prepare":
            status = _prepared(pod)
        case "resolve":
            status = _ended_with(PreparationReport(resolved="the second"), ["transfer"])
        case "router":
            status = _routing(await routers.start(pod))
        case _:
            status = _served(pod)
            if _layer(pod) == digest_of(COUNTING):
                status["podIP"] = await routers.start_counting(pod, _RAISED)
                status["podIPs"] = [{"ip": status["podIP"]}]
            if status["conditions"] == _conditions("True"):
                routers.serves(pod, _layer(pod))
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": metadata["name"]}, "status": status}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
    with suppress(ApiError):
        await client.connection.send("PATCH", path, body=body, content_type="application/merge-patch+json")


def _routing(address: str) -> dict[str, Any]:
    running = [_container(name, {"running": {"startedAt": _TIME}}, ready=True) for name in ("agent", "envoy")]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "initContainerStatuses": running[:1],
        "containerStatuses": running[1:],
        "conditions": _conditions("True"),
    }


def _prepared(pod: Mapping[str, Any]) -> dict[str, Any]:
    request = PreparationRequest.model_validate_json(_environment(pod["spec"]["containers"][0])[REQUEST_VARIABLE])
    named = {item["name"] for item in pod["spec"].get("initContainers", ())} - {"server"}
    _asked_before.setdefault(pod["metadata"]["namespace"], []).append(request.uri)
    again = _asked_before[pod["metadata"]["namespace"]].count(MOVED) > 1
    return _ended_with(_moved(request, again=again) or _report(request), ["transfer", "inspect", *named])


_asked_before: dict[str, list[str]] = {}


def _moved(request: PreparationRequest, *, again: bool) -> PreparationReport | None:
    if request.uri != MOVED:
        return None
    return _report(request.model_copy(update={"uri": V2 if again else V1}))


def _ended_with(report: PreparationReport, containers: list[str]) -> dict[str, Any]:
    code = 1 if report.error or report.needs else 0
    first, *others = [_container(name, {"terminated": _end(code, "")}) for name in containers]
    first["state"] = {"terminated": _end(code, report.encode())}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [first, *others]}


def _report(request: PreparationRequest) -> PreparationReport:
    if request.uri == CONVERTED and request.opener == "Basic":
        return PreparationReport(needs=Needs(format="SKLearn", opener="Convert", size_bytes=9000))
    if request.uri == MISSING:
        return PreparationReport(
            error=PreparationError(reason=Reason.UNSUPPORTED_MODEL, message="not a model: expected ONNX, saw a text")
        )
    digest = digest_of(request.uri)
    artifact = ArtifactRef(repository=request.repository, manifest=digest, layer=digest, size_bytes=9000)
    tensors = {
        "inputs": (Tensor(name="X", data_type="FP32", dims=(-1, 64)),),
        "outputs": (Tensor(name="probabilities", data_type="FP32", dims=(-1, 10)),),
    }
    facts = ModelFacts(
        format="ONNX", digest=digest, artifact=artifact, **tensors, batching=True, opset=20, ir_version=10
    )
    if request.gates is None or request.gates.latency is None:
        return PreparationReport(facts=facts)
    return _judged(facts, request.gates.latency)


def _judged(facts: ModelFacts, asked: LatencyGate) -> PreparationReport:
    limit, digest = asked.p95 or "1h", digest_of("report")
    passed = duration_seconds(limit) >= 0.004
    gates = (GateResult(name="latency.p95", asked=limit, measured="4ms", passed=passed),)
    if passed:
        return PreparationReport(facts=facts.model_copy(update={"report": digest}), gates=gates, report=digest)
    error = PreparationError(reason=Reason.LATENCY_FAILED, message=f"p95 is 4ms, {limit} is asked for")
    return PreparationReport(error=error, gates=gates, report=digest)


def digest_of(uri: str) -> str:
    """The content behind a URI."""
    return "sha256:" + hashlib.sha256(uri.encode()).hexdigest()


def _layer(pod: Mapping[str, Any]) -> str:
    """Digest of the content that a server pod fetches."""
    artifact = json.loads(_environment(pod["spec"]["initContainers"][0])["PENSTOCK_ARTIFACT"])
    return str(artifact["layer"])


def _served(pod: Mapping[str, Any]) -> dict[str, Any]:
    fetched = {"initContainerStatuses": [_container("fetch", {"terminated": _end(0, "")})]}
    if _layer(pod) == digest_of(BROKEN):
        made = pod["metadata"]["creationTimestamp"]
        ended = _container("server", {"terminated": _end(1, LOAD_ERROR, made)})
        return {"phase": "Running", **fetched, "containerStatuses": [ended], "conditions": _conditions("False")}
    running = _container("server", {"running": {"startedAt": _TIME}}, ready=True)
    return {"phase": "Running", **fetched, "containerStatuses": [running], "conditions": _conditions("True")}


def _conditions(ready: str) -> list[dict[str, str]]:
    types = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": ready, "Ready": ready}
    return [{"type": name, "status": value, "lastTransitionTime": _TIME} for name, value in types.items()]


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container["env"]}


def _container(name: str, state: Mapping[str, Any], *, ready: bool = False) -> dict[str, Any]:
    return {"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def _end(code: int, message: str, time: str = _TIME) -> dict[str, Any]:
    reason = "Error" if code else "Completed"
    return {"exitCode": code, "reason": reason, "message": message, "startedAt": time, "finishedAt": time}
