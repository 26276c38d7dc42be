"""The service account of a pod as credentials: found, used for requests and streams, read again when refused."""

# ruff: noqa: ASYNC240 - a test may write its few bytes

import asyncio
import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import Forbidden
from tests.integration.test_watch import watching


async def issue_token(client: KubeClient, namespace: str, account: str, *, admin: bool) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
    assert (await client.connection.send("POST", path, body=body)).code == 201
    if admin:
        body = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{namespace}-{account}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        assert (await client.connection.send("POST", bindings, body=body)).code == 201
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await client.connection.send("POST", f"{path}/{account}/token", body=body)
    return str(json.loads(answer.body)["status"]["token"])


@pytest.fixture
def token_file(control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process looks as if it ran in a pod of the cluster."""
    cluster = json.loads(control_plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    authority = tmp_path / "ca.crt"
    authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    module = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    return tmp_path / "token"


async def test_a_pod_uses_its_service_account_for_requests_and_for_the_watch(
    client: KubeClient, namespace: str, token_file: Path
) -> None:
    token_file.write_text(await issue_token(client, namespace, "operator", admin=True))
    connection = await Connection.open()
    try:
        async with watching(KubeClient(connection), namespace) as running:
            assert running.ready.is_set()
    finally:
        await connection.close()


async def test_a_rotated_token_is_read_when_the_old_one_is_refused(
    client: KubeClient, namespace: str, token_file: Path
) -> None:
    good = await issue_token(client, namespace, "operator", admin=True)
    token_file.write_text("no-token-of-this-cluster")
    connection = await Connection.open()
    try:
        token_file.write_text(good)
        one = KubeClient(connection)
        await asyncio.gather(*(one.list("ConfigMap", namespace) for _ in range(5)))
        assert connection.generation == 1, "refused together, read once"
    finally:
        await connection.close()


async def test_a_service_account_without_rights_is_named_in_the_refusal(
    client: KubeClient, namespace: str, token_file: Path
) -> None:
    token_file.write_text(await issue_token(client, namespace, "poor", admin=False))
    connection = await Connection.open()
    try:
        with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:poor"):
            await KubeClient(connection).list("ConfigMap", namespace)
    finally:
        await connection.close()
