"""The chart as Helm renders it: valid objects, nothing above restricted Pod Security, rights and images as said."""

import itertools
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack.cluster.binaries import binary
from hack.cluster.settings import cache_dir
from kubernetes import client
from pydantic import BaseModel, ValidationError

from penstock import __version__
from penstock.api.kinds import CRD_NAMES
from penstock.api.router import Router
from penstock.controller.credentials import AUDIENCE, ISSUER, KEYS_SECRET
from penstock.controller.operator import LEASE
from penstock.controller.settings import read_settings
from penstock.core.names import PULL_SECRET, PUSH_SECRET
from penstock.core.router import AGENT_PORT, fleet_objects
from penstock.core.router.fleet import CLUSTER_ROLE
from penstock.core.server import METRICS_PORT
from penstock.kube.objects import KINDS, OPTIONAL, WATCHED

pytestmark = pytest.mark.timeout(900)
"""The first run on a machine builds helm."""

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "penstock"
NAMESPACE = "penstock-system"
Objects = list[dict[str, Any]]
MODELS: dict[str, type[BaseModel]] = {
    "ClusterRole": client.V1ClusterRole,
    "ClusterRoleBinding": client.V1ClusterRoleBinding,
    "ConfigMap": client.V1ConfigMap,
    "CustomResourceDefinition": client.V1CustomResourceDefinition,
    "DaemonSet": client.V1DaemonSet,
    "Deployment": client.V1Deployment,
    "NetworkPolicy": client.V1NetworkPolicy,
    "PersistentVolumeClaim": client.V1PersistentVolumeClaim,
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "Service": client.V1Service,
    "ServiceAccount": client.V1ServiceAccount,
}
"""Every kind the chart may hold; no webhook, no certificate, and PodMonitor only when asked for."""
OF_THE_CLUSTER = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
EVERYTHING = {
    "global": {"imageRegistry": "mirror.example:5000/team", "imagePullSecrets": ["pull-a", {"name": "pull-b"}]},
    "images": {
        "operator": {"repository": "localhost/penstock/operator", "tag": "abc"},
        "registry": {"repository": "docker.io/library/registry", "digest": "sha256:" + "1" * 64},
        "tritonOpenVINO": {"repository": ""},
        "tritonTensorRT": {"repository": "nvcr.example/triton", "tag": "25"},
    },
    "operator": {
        "replicas": 3,
        "watchNamespaces": ["vision", "speech"],
        "maxModelSize": "2Gi",
        "logLevel": "DEBUG",
        "podAnnotations": {"a": "b"},
        "priorityClassName": "high",
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "registry": {"podAnnotations": {"c": "d"}, "plainHttp": ["other.example:80"], "priorityClassName": "high"},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {}}],
        "registryFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    },
    "metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
}
MATRIX: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "everything": EVERYTHING,
    "no CRD, no policies": {"crds": {"install": False}, "networkPolicy": {"enabled": False}},
    "a store elsewhere": {"registry": {"enabled": False, "host": "store.example:8443"}},
    "a store without a volume": {"registry": {"persistence": {"enabled": False}, "collectAtStart": False}},
    "a claim of one's own": {"registry": {"persistence": {"existingClaim": "models", "storageClassName": "fast"}}},
    "a cache on every node": {"nodeCache": {"enabled": True}},
    "a cache of a store elsewhere": {
        "nodeCache": {"enabled": True, "podAnnotations": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        "registry": {"enabled": False, "host": "store.example:8443"},
    },
    "an operator at rest": {"operator": {"replicas": 0}},
}


@pytest.fixture(scope="session")
def helm() -> Path:
    return binary("helm", cache_dir())


def run_helm(values: dict[str, Any], namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
    command = [str(binary("helm", cache_dir())), "template", "penstock", str(CHART), "-n", namespace, "-f", "-"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


@cache
def _rendered(values: str, namespace: str) -> str:
    """As JSON, which is read anew for each test far faster than YAML."""
    done = run_helm(json.loads(values), namespace)
    assert done.returncode == 0, done.stderr
    return json.dumps([item for item in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if item])


def render(values: dict[str, Any], namespace: str = NAMESPACE) -> Objects:
    found: Objects = json.loads(_rendered(json.dumps(values), namespace))
    return found


def one(objects: Objects, kind: str, name: str = "penstock", namespace: str | None = None) -> dict[str, Any]:
    found = [
        item
        for item in objects
        if (item["kind"], item["metadata"]["name"]) == (kind, name)
        and namespace in (None, item["metadata"].get("namespace"))
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pods(objects: Objects) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(metadata, spec) of every pod template."""
    for item in objects:
        if item["kind"] in ("Deployment", "DaemonSet"):
            yield item["spec"]["template"]["metadata"], item["spec"]["template"]["spec"]


def containers(objects: Objects) -> Iterator[dict[str, Any]]:
    for _, pod in pods(objects):
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def environment(objects: Objects) -> dict[str, str]:
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    return {entry["name"]: entry.get("value", "from the pod") for entry in pod["containers"][0]["env"]}


@pytest.fixture(params=MATRIX)
def objects(request: pytest.FixtureRequest, helm: Path) -> Objects:
    return render(MATRIX[request.param])


def test_every_object_is_valid_field_by_field(objects: Objects) -> None:
    for item in objects:
        if item["kind"] != "PodMonitor":
            MODELS[item["kind"]].model_validate(item)


def test_that_validation_finds_a_misspelt_field(helm: Path) -> None:
    deployment = one(render({}), "Deployment")
    deployment["spec"]["template"]["spec"]["serviceAcountName"] = "x"
    with pytest.raises(ValidationError):
        MODELS["Deployment"].model_validate(deployment)


def test_names_are_unique_and_namespaces_said(objects: Objects) -> None:
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    for kind, namespace, name in names:
        expected = {None} if kind in OF_THE_CLUSTER else {NAMESPACE, "vision", "speech"}
        assert namespace in expected, f"{kind} {name}"


def test_pods_meet_restricted_pod_security(objects: Objects) -> None:
    for _, pod in pods(objects):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(
            {"configMap", "secret", "emptyDir", "persistentVolumeClaim"} & volume.keys() for volume in pod["volumes"]
        )
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", ()))


def test_quota_and_limit_range_find_what_they_ask_for(objects: Objects) -> None:
    for container in containers(objects):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys()
    for _, pod in pods(objects):
        assert all(volume.get("emptyDir", {"sizeLimit": ""}).keys() == {"sizeLimit"} for volume in pod["volumes"])


def test_only_the_operator_has_a_token_of_the_api_server(objects: Objects) -> None:
    mounted = {pod["containers"][0]["name"]: pod["automountServiceAccountToken"] for _, pod in pods(objects)}
    assert {name for name, token in mounted.items() if token} == {"operator"}


def test_selectors_find_their_pods_and_no_others(objects: Objects) -> None:
    labels = {pod["containers"][0]["name"]: metadata["labels"] for metadata, pod in pods(objects)}
    for item in objects:
        selector = {
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "DaemonSet": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "Service": lambda spec: spec["selector"],
        }.get(item["kind"], lambda _: None)(item.get("spec"))
        if selector is not None:
            chosen = {name for name, found in labels.items() if selector.items() <= found.items()}
            assert chosen == {item["metadata"]["labels"]["app.kubernetes.io/component"]}, item["metadata"]["name"]


def test_a_new_version_alone_restarts_nothing_but_changed_images(objects: Objects) -> None:
    for metadata, _ in pods(objects):
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & metadata["labels"].keys()


def test_ports_have_names_that_are_used(objects: Objects) -> None:
    for container in containers(objects):
        ports = {port["name"] for port in container.get("ports", ())}
        probed = {container[name]["httpGet"]["port"] for name in container if name.endswith("Probe")}
        assert probed <= ports


def test_every_image_comes_from_the_one_registry(helm: Path) -> None:
    rendered = render(EVERYTHING)
    made = {
        value
        for name, value in environment(rendered).items()
        if name.startswith("PENSTOCK_IMAGE_") and "PULL" not in name
    }
    images = {container["image"] for container in containers(rendered)} | made
    assert images == {
        "mirror.example:5000/team/penstock/operator:abc",
        "mirror.example:5000/team/library/registry@sha256:" + "1" * 64,
        f"mirror.example:5000/team/penstock-jobs:{__version__}",
        f"mirror.example:5000/team/penstock-triton:{__version__}",
        f"mirror.example:5000/team/penstock-router:{__version__}",
        f"mirror.example:5000/team/penstock-convert:{__version__}",
        f"mirror.example:5000/team/penstock-tensorflow:{__version__}",
        f"mirror.example:5000/team/penstock-triton-torch:{__version__}",
        "mirror.example:5000/team/triton:25",
    }


def test_images_are_called_as_make_images_pushes_them(helm: Path) -> None:
    rendered = render({"global": {"imageRegistry": "reg.example"}})
    assert {container["image"] for container in containers(rendered)} == {
        f"reg.example/penstock-operator:{__version__}",
        f"reg.example/penstock-registry:{__version__}",
    }


def test_pull_secrets_reach_every_pod(helm: Path) -> None:
    rendered = render(EVERYTHING)
    assert [pod["imagePullSecrets"] for _, pod in pods(rendered)] == [[{"name": "pull-a"}, {"name": "pull-b"}]] * 2
    assert environment(rendered)["PENSTOCK_IMAGE_PULL_SECRETS"] == "pull-a,pull-b"


def test_the_operator_reads_what_the_chart_writes(helm: Path) -> None:
    settings = read_settings(environment(render(EVERYTHING)))
    assert settings.watch_namespaces == ("vision", "speech")
    assert settings.log_level == "DEBUG"
    assert settings.decisions.max_model_bytes == 2 * 2**30
    assert settings.decisions.registry == f"registry.{NAMESPACE}:5000"
    assert settings.decisions.plain_http == (f"registry.{NAMESPACE}:5000", "other.example:80")
    assert settings.decisions.image_pull_secrets == ("pull-a", "pull-b")
    assert settings.decisions.jobs_image == f"mirror.example:5000/team/penstock-jobs:{__version__}"
    assert settings.decisions.router_image == f"mirror.example:5000/team/penstock-router:{__version__}"
    assert settings.decisions.convert_image == f"mirror.example:5000/team/penstock-convert:{__version__}"
    assert settings.decisions.tensorflow_image == f"mirror.example:5000/team/penstock-tensorflow:{__version__}"
    assert settings.decisions.server_images == {
        "pytorch": f"mirror.example:5000/team/penstock-triton-torch:{__version__}",
        "tensorrt": "mirror.example:5000/team/triton:25",
    }


def test_a_store_elsewhere_brings_no_registry_and_is_spoken_to_with_tls(helm: Path) -> None:
    rendered = render(MATRIX["a store elsewhere"])
    assert [item for item in rendered if item["metadata"]["name"] in ("registry", "penstock-registry")] == []
    settings = read_settings(environment(rendered))
    assert (settings.decisions.registry, settings.decisions.plain_http) == ("store.example:8443", ())


def test_another_namespace_is_followed_everywhere(helm: Path) -> None:
    rendered = render({}, "elsewhere")
    assert read_settings(environment(rendered)).decisions.registry == "registry.elsewhere:5000"
    assert {item["metadata"].get("namespace") for item in rendered} == {None, "elsewhere"}
    assert {subject["namespace"] for item in rendered for subject in item.get("subjects", ())} == {"elsewhere"}


def test_the_registry_trusts_the_operators_key_and_no_more(helm: Path) -> None:
    rendered = render({})
    config = yaml.safe_load(one(rendered, "ConfigMap", "penstock-registry")["data"]["config.yml"])
    token = config["auth"]["token"]
    assert (token["issuer"], token["service"]) == (ISSUER, AUDIENCE)
    pod = one(rendered, "Deployment", "penstock-registry")["spec"]["template"]["spec"]
    keys = next(volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert keys == {"secretName": KEYS_SECRET, "items": [{"key": "jwks.json", "path": "jwks.json"}]}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert token["jwks"] == f"{mounts['keys']}/jwks.json"
    assert config["storage"]["filesystem"]["rootdirectory"] == mounts["data"]
    assert config["storage"]["delete"] == {"enabled": True}


def test_an_upgrade_can_leave_the_registry_alone(helm: Path) -> None:
    """Its pod has the operator's image for as long as it is collected at the start."""
    pinned = {"images": {"registry": {"digest": "sha256:" + "1" * 64}}, "registry": {"collectAtStart": False}}
    newer = {**pinned, "images": {**pinned["images"], "operator": {"tag": "9.9.9"}}}
    pods = [one(render(values), "Deployment", "penstock-registry")["spec"]["template"] for values in (pinned, newer)]
    assert pods[0] == pods[1]


def test_a_changed_configuration_restarts_the_registry(helm: Path) -> None:
    def mark(namespace: str) -> str:
        deployment = one(render({}, namespace), "Deployment", "penstock-registry")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["penstock.dev/config"])

    assert mark(NAMESPACE) == mark(NAMESPACE) != mark("elsewhere")


def test_what_serving_models_need_stays_when_the_release_goes(helm: Path) -> None:
    kept = {
        (item["kind"], item["metadata"]["name"])
        for item in render({})
        if item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {
        ("PersistentVolumeClaim", "penstock-registry"),
        ("ClusterRole", CLUSTER_ROLE),
        *(("CustomResourceDefinition", name) for name in CRD_NAMES),
    }


@pytest.mark.parametrize("plural", ["modeldeployments", "routers", "trafficsplits"])
def test_the_crds_are_the_generated_ones(helm: Path, plural: str) -> None:
    chart = one(render({}), "CustomResourceDefinition", f"{plural}.penstock.dev")
    del chart["metadata"]["annotations"]["helm.sh/resource-policy"]
    assert chart == yaml.safe_load((ROOT / "crds" / f"penstock.dev_{plural}.yaml").read_text())
    assert not any(item["kind"] == "CustomResourceDefinition" for item in render({"crds": {"install": False}}))


def test_several_operators_are_spread_and_guarded(helm: Path) -> None:
    rendered = render(EVERYTHING)
    assert one(rendered, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    assert pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"
    assert not any(item["kind"] == "PodDisruptionBudget" for item in render({}))


OWNED = (
    "Router",
    "TrafficSplit",
    "Deployment",
    "ControllerRevision",
    "Service",
    "ConfigMap",
    "Job",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
)
OWNED_BY_ROUTERS = ("ServiceAccount", "RoleBinding", "NetworkPolicy")
"""They go with their Router, never before."""


def needed_rights() -> set[tuple[str, str, str, str]]:
    """(group, resource, verb, name) that the operator needs where ModelDeployments are, from the kinds it handles."""
    found = {(kind.group, kind.plural, verb, "") for kind in (*WATCHED, *OPTIONAL) for verb in ("list", "watch")}
    for kind in (*(KINDS[name] for name in OWNED), *OPTIONAL):
        found |= {(kind.group, kind.plural, verb, "") for verb in ("create", "patch", "delete")}
    for kind in (KINDS[name] for name in OWNED_BY_ROUTERS):
        found |= {(kind.group, kind.plural, verb, "") for verb in ("create", "patch")}
    found |= {("penstock.dev", f"{plural}/status", "patch", "") for plural in ("modeldeployments", "routers")}
    found.add(("penstock.dev", "trafficsplits", "update", ""))  # what somebody added to one is taken away whole
    found.add(("rbac.authorization.k8s.io", "clusterroles", "bind", CLUSTER_ROLE))
    found.add(("events.k8s.io", "events", "create", ""))
    return found | {
        ("", "secrets", verb, name) for verb in ("get", "create", "patch") for name in (PUSH_SECRET, PULL_SECRET)
    }


def rights(role: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    return {
        right
        for rule in role["rules"]
        for right in itertools.product(
            rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""])
        )
    }


READS_CRD = {("apiextensions.k8s.io", "customresourcedefinitions", "get", name) for name in CRD_NAMES} | {
    ("apiextensions.k8s.io", "customresourcedefinitions", verb, kind.crd)
    for kind in OPTIONAL
    for verb in ("list", "watch")
}


def test_the_operator_may_do_what_it_does_and_nothing_else(helm: Path) -> None:
    rendered = render({})
    assert rights(one(rendered, "ClusterRole")) == needed_rights() | READS_CRD
    assert rights(one(rendered, "Role")) == {
        ("coordination.k8s.io", "leases", "create", ""),
        ("coordination.k8s.io", "leases", "get", LEASE),
        ("coordination.k8s.io", "leases", "update", LEASE),
        *(("", "secrets", verb, KEYS_SECRET) for verb in ("get", "create", "patch")),
    }


def test_with_namespaces_named_it_has_rights_in_those_only(helm: Path) -> None:
    rendered = render(EVERYTHING)
    assert rights(one(rendered, "ClusterRole")) == READS_CRD
    for namespace in ("vision", "speech"):
        assert rights(one(rendered, "Role", "penstock-models", namespace)) == needed_rights()
        assert one(rendered, "RoleBinding", "penstock-models", namespace)["roleRef"]["name"] == "penstock-models"


def test_agents_read_routes_and_endpoints_and_nothing_else(helm: Path) -> None:
    for values in ({}, EVERYTHING):
        assert rights(one(render(values), "ClusterRole", CLUSTER_ROLE)) == {
            (group, plural, verb, "")
            for group, plural in (
                ("penstock.dev", "routers"),
                ("penstock.dev", "trafficsplits"),
                ("discovery.k8s.io", "endpointslices"),
            )
            for verb in ("get", "list", "watch")
        }


def test_people_write_routers_but_no_splits(helm: Path) -> None:
    written = {right[1] for right in rights(one(render({}), "ClusterRole", "penstock-edit")) if right[2] == "patch"}
    read = {right[1] for right in rights(one(render({}), "ClusterRole", "penstock-view"))}
    assert written == {"modeldeployments", "modeldeployments/scale", "routers"}
    assert {"routers", "routers/status", "trafficsplits"} <= read


def test_roles_of_people_are_bound_to_nobody(helm: Path) -> None:
    rendered = render({})
    bound = {item["roleRef"]["name"] for item in rendered if item["kind"].endswith("Binding")}
    assert bound == {"penstock"}
    assert {
        right[0] for name in ("penstock-edit", "penstock-view") for right in rights(one(rendered, "ClusterRole", name))
    } == {"penstock.dev"}


def test_the_registry_asks_nobody_and_answers_pods_of_penstock(helm: Path) -> None:
    policy = one(render({}), "NetworkPolicy", "penstock-registry")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    peers = policy["ingress"][0]["from"]
    assert peers[0] == {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/managed-by": "penstock"}},
    }


def test_the_operator_reaches_the_agents_and_they_let_it_in(helm: Path) -> None:
    egress = one(render({}), "NetworkPolicy")["spec"]["egress"]
    (agents,) = [rule for rule in egress if rule["ports"] == [{"port": AGENT_PORT, "protocol": "TCP"}]]
    router = Router.parse({"metadata": {"name": "default", "uid": "u"}, "spec": {}})
    settings = read_settings(environment(render({})) | {"PENSTOCK_NAMESPACE": NAMESPACE}).decisions
    fleet = {item["kind"]: item for item in fleet_objects(router, settings)}
    labels = fleet["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert agents["to"][0]["namespaceSelector"] == {}
    assert agents["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    peers = fleet["NetworkPolicy"]["spec"]["ingress"][1]["from"]
    assert peers == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}]
    monitor = one(render(EVERYTHING), "PodMonitor", "penstock-routers")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    containers = fleet["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert monitor["podMetricsEndpoints"][0]["port"] in {port["name"] for port in containers[0]["ports"]}
    assert fleet["RoleBinding"]["roleRef"]["name"] == CLUSTER_ROLE


def test_the_operator_reaches_what_servers_count(helm: Path) -> None:
    egress = one(render({}), "NetworkPolicy")["spec"]["egress"]
    (servers,) = [rule for rule in egress if rule["ports"] == [{"port": METRICS_PORT, "protocol": "TCP"}]]
    pod = json.loads((ROOT / "tests/golden/releases/0.1.0/smallest.json").read_text())["template"]
    assert servers["to"][0]["namespaceSelector"] == {}
    assert servers["to"][0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert METRICS_PORT in [port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]]


def test_monitors_name_ports_that_exist(helm: Path) -> None:
    rendered = render(EVERYTHING)
    operator = one(rendered, "PodMonitor")
    assert operator["metadata"]["labels"]["release"] == "prometheus"
    assert [endpoint["port"] for endpoint in operator["spec"]["podMetricsEndpoints"]] == ["http"]
    assert one(rendered, "PodMonitor", "penstock-models")["spec"]["namespaceSelector"] == {"any": True}
    assert not any(item["kind"] == "PodMonitor" for item in render({}))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt section": ({"registy": {}}, "registy"),
    "a misspelt setting": ({"operator": {"replica": 2}}, "replica"),
    "an image without a name": ({"images": {"jobs": {"repository": ""}}}, "images/jobs/repository"),
    "an optional image with a bad name": ({"images": {"convert": {"repository": "!"}}}, "images/convert/repository"),
    "a tag with a slash": ({"images": {"jobs": {"tag": "a/b"}}}, "images/jobs/tag"),
    "a digest that is none": ({"images": {"triton": {"digest": "sha256:12"}}}, "images/triton/digest"),
    "a policy that is none": ({"images": {"operator": {"pullPolicy": "Sometimes"}}}, "images/operator/pullPolicy"),
    "a registry with a scheme": ({"global": {"imageRegistry": "//reg"}}, "global/imageRegistry"),
    "a pull secret without a name": ({"global": {"imagePullSecrets": [{}]}}, "imagePullSecrets"),
    "replicas in quotes": ({"operator": {"replicas": "2"}}, "operator/replicas"),
    "a level that is none": ({"operator": {"logLevel": "TRACE"}}, "operator/logLevel"),
    "a namespace twice": ({"operator": {"watchNamespaces": ["a", "a"]}}, "watchNamespaces"),
    "a namespace that is none": ({"operator": {"watchNamespaces": ["A_b"]}}, "watchNamespaces"),
    "a size in words": ({"operator": {"maxModelSize": "10 GB"}}, "operator/maxModelSize"),
    "no requests": ({"operator": {"resources": {"requests": None}}}, "operator/resources"),
    "a store nowhere": ({"registry": {"enabled": False}}, "registry/host"),
    "a store with a path": ({"registry": {"host": "reg.example/models"}}, "registry/host"),
    "a cache in words": ({"nodeCache": {"size": "large"}}, "nodeCache/size"),
    "a cache on the whole node": ({"nodeCache": {"hostPath": "/"}}, "nodeCache/hostPath"),
    "a cache in a folder that climbs": ({"nodeCache": {"hostPath": "/var/../etc"}}, "nodeCache/hostPath"),
    "a cache in the node's own folder": ({"nodeCache": {"hostPath": "/var"}}, "nodeCache/hostPath"),
    "a port that is none": ({"networkPolicy": {"apiServerPorts": [70000]}}, "apiServerPorts"),
    "no port": ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
    "no images": ({"images": None}, "missing property 'images'"),
    "no image of a backend": ({"images": {"tritonTensorRT": None}}, "missing property 'tritonTensorRT'"),
    "ports of the API server that are none": ({"networkPolicy": {"apiServerPorts": None}}, "apiServerPorts"),
    "an interval in words": ({"metrics": {"podMonitor": {"interval": "often"}}}, "podMonitor/interval"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_by_its_place(case: str, helm: Path) -> None:
    values, place = REFUSED[case]
    done = run_helm(values)
    assert done.returncode != 0
    assert place in done.stderr.replace(".", "/"), done.stderr


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and key not in ("requests", "limits"):
            yield from leaves(value, here)
        else:
            yield here


def test_a_name_of_digits_stays_a_name(helm: Path) -> None:
    rendered = render(
        {
            "global": {"imagePullSecrets": ["1"]},
            "operator": {"priorityClassName": "2"},
            "registry": {"persistence": {"storageClassName": "3"}},
        }
    )
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    assert (pod["imagePullSecrets"], pod["priorityClassName"]) == ([{"name": "1"}], "2")
    assert one(rendered, "PersistentVolumeClaim", "penstock-registry")["spec"]["storageClassName"] == "3"


FREE = {"podAnnotations", "nodeSelector", "tolerations", "affinity", "requests", "limits", "labels"}
"""Objects whose fields are Kubernetes' or the user's."""


def places(properties: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the schema as far as the chart's own fields go."""
    for name, schema in properties.items():
        here = f"{path}.{name}" if path else name
        meant = definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
        if name not in FREE and "properties" in meant:
            yield from places(meant["properties"], definitions, here)
        else:
            yield here


def test_every_value_has_its_place_in_the_schema_and_the_other_way() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    told = {path.removesuffix(".requests").removesuffix(".limits") for path in leaves(values)}
    known = set(places(schema["properties"], schema["definitions"]))
    assert told == {path.removesuffix(".requests").removesuffix(".limits") for path in known}


def test_every_value_is_explained_in_the_readme() -> None:
    readme = (CHART / "README.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    told = {path.removesuffix(".requests").removesuffix(".limits") for path in leaves(values)}
    told = {
        path.replace("images.operator.", "images.*.")
        for path in told
        if not path.startswith("images.") or "operator" in path
    }
    assert sorted(path for path in told if f"`{path}`" not in readme) == []
    rows = set(re.findall(r"^\| `([\w.*]+)` \|", readme, re.MULTILINE))
    assert rows == told


def test_the_chart_carries_the_versions_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
