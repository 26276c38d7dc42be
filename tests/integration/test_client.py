"""What the real API server does with each request; docs/adr/0002 rests on the first half of this file."""

import asyncio
import json
from typing import Any

import pytest

from penstock.kube.client import NO_VERSION, SCALE_MANAGER, STATUS_MANAGER, KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import AlreadyTaken, Conflict, Forbidden, Invalid, NotFound, Unauthorized
from penstock.kube.objects import KINDS
from tests.integration.apiserver import connected, eventually, model_deployment, owned

OTHER_UID = "5a0e2f5e-0000-4000-8000-000000000000"
POD = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
BATCH_POD = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
SCALED = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}, "maxReplicas": 3}
CONTENT: dict[str, dict[str, Any]] = {
    "ConfigMap": {"data": {"a": "1"}},
    "ControllerRevision": {"revision": 1, "data": {"a": 1}},
    "Deployment": {"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": POD}},
    "HorizontalPodAutoscaler": {"spec": SCALED},
    "Job": {"spec": {"template": BATCH_POD}},
    "Lease": {"spec": {"holderIdentity": "x"}},
    "ModelDeployment": {"spec": {"model": {"uri": "oci://x"}}},
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}},
    "Secret": {"data": {"token": "dA=="}},
    "Service": {"spec": {"ports": [{"port": 8000}], "selector": {"app": "x"}}},
}
WRITTEN = sorted(CONTENT)


def manifest(kind: str, namespace: str, name: str = "x") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": metadata, **CONTENT[kind]}


def managers(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(e["manager"], e["operation"], e.get("subresource", "")) for e in found["metadata"]["managedFields"]}


@pytest.mark.parametrize("kind", WRITTEN)
async def test_the_first_write_creates_and_records_ownership_as_apply(
    client: KubeClient, namespace: str, kind: str
) -> None:
    created = await client.create(manifest(kind, namespace))
    assert managers(created) == {("penstock", "Apply", "")}
    assert created["metadata"]["resourceVersion"] != NO_VERSION
    second = await client.apply(manifest(kind, namespace), uid=created["metadata"]["uid"])
    third = await client.apply(manifest(kind, namespace), uid=created["metadata"]["uid"])
    assert third == second
    if kind != "Job":  # a Job's first re-apply stores it once more, with nothing to be seen in it
        assert second == created


@pytest.mark.parametrize("kind", WRITTEN)
async def test_the_first_write_leaves_a_strangers_object_as_it_is(
    client: KubeClient, namespace: str, kind: str
) -> None:
    theirs = await client.post(manifest(kind, namespace))
    with pytest.raises(AlreadyTaken) as caught:
        await client.create(manifest(kind, namespace))
    assert (caught.value.kind, caught.value.namespace, caught.value.name) == (kind, namespace, "x")
    assert await client.get(kind, namespace, "x") == theirs


def client_as(client: KubeClient, manager: str) -> KubeClient:
    return KubeClient(client.connection, manager=manager)


async def test_of_many_creates_at_once_one_wins(client: KubeClient, namespace: str) -> None:
    contenders = [client_as(client, f"manager-{number}") for number in range(20)]
    results = await asyncio.gather(
        *(one.create(manifest("ConfigMap", namespace)) for one in contenders), return_exceptions=True
    )
    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, AlreadyTaken) for result in results) == 19


async def test_a_create_whose_answer_was_lost_finds_its_own_object(client: KubeClient, namespace: str) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    wanted = owned(owner, "ConfigMap", "own", data={"a": "1"})
    first = await client.create(wanted)
    assert (await client.create(wanted))["metadata"]["uid"] == first["metadata"]["uid"]
    secret = manifest("Secret", namespace)
    first = await client.create(secret)
    assert (await client.create(secret))["metadata"]["uid"] == first["metadata"]["uid"]


async def test_an_object_of_another_owner_is_taken_and_its_owner_named(client: KubeClient, namespace: str) -> None:
    one = await client.post(model_deployment("one", namespace))
    two = await client.post(model_deployment("two", namespace))
    await client.create(owned(one, "ConfigMap", "shared", data={}))
    with pytest.raises(AlreadyTaken, match="owned by ModelDeployment one"):
        await client.create(owned(two, "ConfigMap", "shared", data={}))


async def test_apply_takes_fields_over_from_others(client: KubeClient, namespace: str) -> None:
    created = await client.create(manifest("ConfigMap", namespace))
    await client.replace({**created, "data": {"a": "edited", "b": "2"}})
    applied = await client.apply(manifest("ConfigMap", namespace), uid=created["metadata"]["uid"])
    assert applied["data"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize("kind", WRITTEN)
async def test_apply_reaches_only_the_uid_it_names(client: KubeClient, namespace: str, kind: str) -> None:
    with pytest.raises(Conflict):
        await client.apply(manifest(kind, namespace), uid=OTHER_UID)
    with pytest.raises(NotFound):
        await client.get(kind, namespace, "x")
    before = await client.create(manifest(kind, namespace))
    with pytest.raises(Conflict):
        await client.apply(manifest(kind, namespace), uid=OTHER_UID)
    assert await client.get(kind, namespace, "x") == before


async def test_apply_can_ask_for_a_version(client: KubeClient, namespace: str) -> None:
    created = await client.create(manifest("ConfigMap", namespace))
    uid, version = created["metadata"]["uid"], created["metadata"]["resourceVersion"]
    changed = {**manifest("ConfigMap", namespace), "data": {"a": "2"}}
    await client.apply(changed, uid=uid, resource_version=version)
    with pytest.raises(Conflict):
        await client.apply(changed, uid=uid, resource_version=version)


async def test_status_is_written_whole_and_nothing_else(client: KubeClient, namespace: str) -> None:
    created = await client.post(model_deployment(namespace=namespace))
    first = await client.apply_status(created, {"phase": "Pending", "message": "m"})
    second = await client.apply_status(first, {"phase": "Available"})
    assert first["status"] == {"phase": "Pending", "message": "m"}
    assert second["status"] == {"phase": "Available"}, "a field no longer written is gone"
    assert second["spec"] == created["spec"]
    assert second["metadata"]["generation"] == created["metadata"]["generation"]
    assert (STATUS_MANAGER, "Apply", "status") in managers(second)
    same = await client.apply_status(second, {"phase": "Available"})
    assert same["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_a_status_reaches_only_the_version_it_was_decided_from(client: KubeClient, namespace: str) -> None:
    created = await client.post(model_deployment(namespace=namespace))
    await client.apply_status(created, {"phase": "Pending"})
    with pytest.raises(Conflict):
        await client.apply_status(created, {"phase": "Available"})


async def test_a_namesake_does_not_inherit_a_status(client: KubeClient, namespace: str) -> None:
    created = await client.post(model_deployment(namespace=namespace))
    await client.delete("ModelDeployment", namespace, "digits", created["metadata"]["uid"])
    with pytest.raises((NotFound, Conflict)):
        await client.apply_status(created, {"phase": "Available"})
    namesake = await client.post(model_deployment(namespace=namespace))
    with pytest.raises(Conflict):
        await client.apply_status(created, {"phase": "Available"})
    assert await client.get("ModelDeployment", namespace, "digits") == namesake


async def test_the_server_checks_no_uid_on_status(client: KubeClient, namespace: str) -> None:
    created = await client.post(model_deployment(namespace=namespace))
    manifest_ = {**created, "metadata": {"name": "digits", "uid": OTHER_UID}, "status": {"phase": "Pending"}}
    answer = await client.connection.send(
        "PATCH",
        KINDS["ModelDeployment"].path(namespace, "digits", "status"),
        query=[("fieldManager", "x"), ("force", "true")],
        body=manifest_,
        content_type="application/apply-patch+yaml",
    )
    assert answer.code == 200, "why a version and not a uid is the precondition there"


async def test_replicas_survive_the_hand_over(client: KubeClient, namespace: str) -> None:
    with_replicas = manifest("Deployment", namespace)
    without = {**with_replicas, "spec": {k: v for k, v in with_replicas["spec"].items() if k != "replicas"}}
    created = await client.create({**with_replicas, "spec": {**with_replicas["spec"], "replicas": 4}})
    uid = created["metadata"]["uid"]
    handed = await client.hand_over_replicas(created, 4)
    assert (SCALE_MANAGER, "Apply", "") in managers(handed)
    released = await client.apply(without, uid=uid)
    assert released["spec"]["replicas"] == 4
    taken_back = await client.apply(with_replicas, uid=uid)
    assert taken_back["spec"]["replicas"] == 2
    dropped = await client.apply(without, uid=uid)
    assert dropped["spec"]["replicas"] == 1, "why the hand-over is needed"


async def test_deletion_reaches_only_the_uid_it_names(client: KubeClient, namespace: str) -> None:
    created = await client.create(manifest("ConfigMap", namespace))
    uid = created["metadata"]["uid"]
    with pytest.raises(Conflict):
        await client.delete("ConfigMap", namespace, "x", OTHER_UID)
    assert await client.delete("ConfigMap", namespace, "x", uid) is None
    assert await client.delete("ConfigMap", namespace, "x", uid) is None, "gone already is gone"
    assert await client.find("ConfigMap", namespace, "x") is None
    assert await client.find("Secret", namespace, "x") is None


async def test_an_object_held_by_a_finalizer_is_returned_and_not_taken_for_new(
    client: KubeClient, namespace: str
) -> None:
    wanted = manifest("ConfigMap", namespace)
    held = await client.create({**wanted, "metadata": {**wanted["metadata"], "finalizers": ["example.com/hold"]}})
    left = await client.delete("ConfigMap", namespace, "x", held["metadata"]["uid"])
    assert left is not None
    assert left["metadata"]["deletionTimestamp"]
    with pytest.raises(Conflict, match="is being deleted") as caught:
        await client.create(wanted)
    assert type(caught.value) is Conflict


async def test_refused_content_names_the_field(client: KubeClient, namespace: str) -> None:
    wrong = {**manifest("Service", namespace), "spec": {"ports": [{"port": 99999999}]}}
    with pytest.raises(Invalid) as caught:
        await client.create(wrong)
    assert "spec.ports[0].port" in [cause.field for cause in caught.value.causes]


async def test_a_used_up_quota_is_recognised(client: KubeClient, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
        "status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}},
    }
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    assert (await client.connection.send("POST", path, body=quota)).code == 201
    assert (await client.connection.send("PUT", f"{path}/none/status", body=quota)).code == 200

    async def refused() -> bool:
        try:
            await client.create(manifest("Job", namespace, "limited"))
        except Forbidden as error:
            return error.quota
        found = await client.get("Job", namespace, "limited")
        await client.delete("Job", namespace, "limited", found["metadata"]["uid"])
        return False

    await eventually(refused)


async def test_pod_security_is_recognised(client: KubeClient, namespace: str) -> None:
    found = await client.get("Namespace", "", namespace)
    labels = {**found["metadata"]["labels"], "pod-security.kubernetes.io/enforce": "restricted"}
    await client.replace({**found, "metadata": {**found["metadata"], "labels": labels}})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}, "spec": POD["spec"]}

    async def refused() -> bool:
        try:
            await client.create(pod)
        except Forbidden as error:
            return error.pod_security
        left = await client.get("Pod", namespace, "p")
        await client.delete("Pod", namespace, "p", left["metadata"]["uid"])
        return False

    await eventually(refused)


async def test_somebody_without_rights_is_told_so(control_plane: Any, namespace: str) -> None:
    async with connected(control_plane.user("nobody")) as nobody:
        with pytest.raises(Forbidden, match='User "nobody" cannot list') as caught:
            await nobody.list("ConfigMap", namespace)
    assert not caught.value.quota


async def test_refused_credentials_are_read_again_from_the_file(control_plane: Any, tmp_path: Any) -> None:
    wrong = tmp_path / "kubeconfig"
    text = control_plane.kubeconfig.read_text()
    wrong.write_text(_with_token(text, "not-a-token"))
    connection = await Connection.open(wrong)
    try:
        with pytest.raises(Unauthorized):
            await KubeClient(connection).list("ConfigMap", "default")
        wrong.write_text(text)
        await KubeClient(connection).list("ConfigMap", "default")
        assert connection.generation == 2
    finally:
        await connection.close()


async def test_lists_come_in_pages(client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.kube.client.PAGE", 3)
    for number in range(8):
        wanted = manifest("ConfigMap", namespace, f"x{number}")
        wanted["metadata"]["labels"] = {"even": str(number % 2 == 0)}
        await client.create(wanted)
    assert len((await client.list("ConfigMap", namespace)).items) == 8
    even = await client.list("ConfigMap", namespace, labels="even=True")
    assert [item["metadata"]["name"] for item in even.items] == ["x0", "x2", "x4", "x6"]
    assert int(even.resource_version) > int(even.items[-1]["metadata"]["resourceVersion"]) - 1


def _with_token(kubeconfig: str, token: str) -> str:
    content = json.loads(kubeconfig)
    content["users"][0]["user"] = {"token": token}
    return json.dumps(content)
