"""The chart installed, upgraded and removed by the real helm on a real API server; no node is needed for that."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hack.cluster.binaries import binary
from hack.cluster.controlplane import ControlPlane
from hack.cluster.settings import cache_dir
from kubernetes.client import (
    ApiClient,
    ApiException,
    ApiextensionsV1Api,
    AppsV1Api,
    AuthorizationV1Api,
    CoreV1Api,
    RbacAuthorizationV1Api,
)
from kubernetes.config import new_client_from_config
from kubernetes.utils import create_from_dict

from penstock.api.crd import custom_resource_definition
from penstock.api.kinds import CRD_NAMES
from penstock.api.resource import SCHEMA_ANNOTATION
from penstock.api.router import Router
from penstock.core.router import fleet_objects
from penstock.core.settings import Settings

pytestmark = pytest.mark.timeout(900)
CHART = Path(__file__).parents[2] / "helm" / "penstock"
NAMESPACE = "penstock-system"
CRD = "modeldeployments.penstock.dev"
ROUTER_ROLE = "penstock-router"
RBAC = "rbac.authorization.k8s.io"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:penstock"


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path
    home: Path
    api: ApiClient

    def helm(self, *arguments: str, **values: Any) -> str:
        command = [str(binary("helm", cache_dir())), *arguments, "-n", NAMESPACE]
        command += ["-f", "-"] if "upgrade" in arguments else []
        places = {f"HELM_{name}_HOME": str(self.home / name) for name in ("CACHE", "CONFIG", "DATA")}
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), **places}
        done = subprocess.run(
            command, input=json.dumps(values), env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def upgrade(self, *options: str, **values: Any) -> str:
        return self.helm("upgrade", "--install", "--create-namespace", "penstock", str(CHART), *options, **values)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ControlPlane(tmp_path / "control-plane") as control_plane:
        api = new_client_from_config(str(control_plane.kubeconfig))
        yield Cluster(control_plane.kubeconfig, tmp_path, api)
        api.close()


def deployments(cluster: Cluster) -> dict[str, int]:
    found = AppsV1Api(cluster.api).list_namespaced_deployment(NAMESPACE).items
    return {item.metadata.name: item.metadata.generation for item in found}


def test_install_upgrade_and_uninstall(cluster: Cluster) -> None:
    definitions = ApiextensionsV1Api(cluster.api)
    older = custom_resource_definition()
    older["metadata"]["annotations"] = {SCHEMA_ANNOTATION: "0"}
    definitions.create_custom_resource_definition(older)
    cluster.upgrade("--take-ownership", "--force-conflicts")
    assert deployments(cluster) == {"penstock": 1, "penstock-registry": 1}
    stored = definitions.read_custom_resource_definition(CRD)
    assert stored.metadata.annotations[SCHEMA_ANNOTATION] != "0"

    cluster.upgrade(operator={"logLevel": "DEBUG"}, metrics={"podMonitor": {"enabled": False}})
    assert deployments(cluster) == {"penstock": 2, "penstock-registry": 1}

    cluster.helm("uninstall", "penstock")
    assert deployments(cluster) == {}
    assert [definitions.read_custom_resource_definition(name).metadata.name for name in CRD_NAMES] == [*CRD_NAMES]
    assert RbacAuthorizationV1Api(cluster.api).read_cluster_role(ROUTER_ROLE).rules
    claims = CoreV1Api(cluster.api).list_namespaced_persistent_volume_claim(NAMESPACE).items
    assert [claim.metadata.name for claim in claims] == ["penstock-registry"]

    cluster.upgrade()
    assert deployments(cluster) == {"penstock": 1, "penstock-registry": 1}


def test_the_operator_may_lead_and_no_more_in_a_namespace_it_does_not_watch(cluster: Cluster) -> None:
    core = CoreV1Api(cluster.api)
    for name in ("vision", "private"):
        core.create_namespace({"metadata": {"name": name}})
    cluster.upgrade(operator={"watchNamespaces": ["vision"]})
    roles = RbacAuthorizationV1Api(cluster.api)
    assert [role.metadata.name for role in roles.list_namespaced_role("vision").items] == ["penstock-models"]
    assert roles.list_namespaced_role("private").items == []
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
    asked = {
        ("vision", "list", "apps", "deployments", ""): True,
        ("private", "list", "apps", "deployments", ""): False,
        ("vision", "get", "", "secrets", "penstock-registry-push"): True,
        ("vision", "get", "", "secrets", "somebody-else"): False,
        ("vision", "list", "", "secrets", ""): False,
        ("vision", "bind", RBAC, "clusterroles", ROUTER_ROLE): True,
        ("vision", "bind", RBAC, "clusterroles", "edit"): False,
        ("vision", "create", "networking.k8s.io", "networkpolicies", ""): True,
        ("vision", "delete", "networking.k8s.io", "networkpolicies", ""): False,
        ("private", "create", "penstock.dev", "routers", ""): False,
        (NAMESPACE, "update", "coordination.k8s.io", "leases", "penstock"): True,
        (NAMESPACE, "get", "", "secrets", "penstock-registry-keys"): True,
    }
    for (namespace, verb, group, resource, name), answer in asked.items():
        where = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name}
        review = {"spec": {"user": OPERATOR, "groups": groups, "resourceAttributes": where}}
        assert _allowed(cluster.api, review) is answer, where


def _allowed(api: ApiClient, review: dict[str, Any]) -> bool:
    return bool(AuthorizationV1Api(api).create_subject_access_review(review).status.allowed)


@pytest.mark.parametrize("namespaces", [[], ["vision"]])
def test_the_operator_makes_a_fleet_and_gives_away_no_other_role(cluster: Cluster, namespaces: list[str]) -> None:
    CoreV1Api(cluster.api).create_namespace({"metadata": {"name": "vision"}})
    cluster.upgrade(operator={"watchNamespaces": namespaces})
    metadata = {"name": "default", "namespace": "vision", "uid": "f6cb3c5e-0000-4000-8000-000000000000"}
    settings = Settings("jobs:1", "triton:1", router_image="router:1", namespace=NAMESPACE)
    fleet = {item["kind"]: item for item in fleet_objects(Router.parse({"metadata": metadata, "spec": {}}), settings)}
    cluster.api.set_default_header("Impersonate-User", OPERATOR)
    create_from_dict(cluster.api, {"apiVersion": "v1", "kind": "List", "items": list(fleet.values())})
    roles, greedy = RbacAuthorizationV1Api(cluster.api), fleet["RoleBinding"]
    greedy = {**greedy, "metadata": {"name": "greedy"}, "roleRef": {**greedy["roleRef"], "name": "cluster-admin"}}
    with pytest.raises(ApiException, match="attempting to grant RBAC permissions not currently held"):
        roles.create_namespaced_role_binding("vision", greedy)


def test_router_pods_are_admitted_where_pod_security_is_restricted(cluster: Cluster) -> None:
    core = CoreV1Api(cluster.api)
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": "vision", "labels": enforced}})
    metadata = {"name": "default", "namespace": "vision", "uid": "f6cb3c5e-0000-4000-8000-000000000000"}
    router = Router.parse({"metadata": metadata, "spec": {}})
    account, *_, deployment = fleet_objects(router, Settings("jobs:1", "triton:1", router_image="router:1"))
    core.create_namespaced_service_account("vision", account)
    pod = {**deployment["spec"]["template"], "metadata": {"name": "router"}}
    core.create_namespaced_pod("vision", pod, dry_run="All")


def test_pods_are_admitted_where_pod_security_is_restricted(cluster: Cluster) -> None:
    core = CoreV1Api(cluster.api)
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": NAMESPACE, "labels": enforced}})
    cluster.upgrade(nodeCache={"enabled": True})
    apps = AppsV1Api(cluster.api)
    caches = apps.list_namespaced_daemon_set(NAMESPACE).items
    assert [item.metadata.name for item in caches] == ["penstock-node-cache"]
    for item in (*apps.list_namespaced_deployment(NAMESPACE).items, *caches):
        template = cluster.api.sanitize_for_serialization(item.spec.template)
        core.create_namespaced_pod(NAMESPACE, {**template, "metadata": {"name": item.metadata.name}}, dry_run="All")
    careless = {"metadata": {"name": "careless"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    with pytest.raises(ApiException, match="violates PodSecurity"):
        core.create_namespaced_pod(NAMESPACE, careless, dry_run="All")
