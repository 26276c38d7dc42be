"""Rendered objects against golden files, and what must hold for every one of them."""

import os
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from penstock.api.facts import MountRef, RepositoryModel
from penstock.api.preparation import PreparationReport
from penstock.api.router import TrafficSplitSpec
from penstock.api.spec import ServerSpec
from penstock.api.units import quantity_value
from penstock.core.plan import Write, plan
from penstock.core.sizes import server_resources
from penstock.core.target import cpu_limit

from .world import World, facts, manifest

GOLDEN = Path(__file__).parent.parent / "golden"
MODELS = {
    "Deployment": client.V1Deployment,
    "Service": client.V1Service,
    "ConfigMap": client.V1ConfigMap,
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
    "HorizontalPodAutoscaler": client.V2HorizontalPodAutoscaler,
    "Job": client.V1Job,
    "NetworkPolicy": client.V1NetworkPolicy,
    "ControllerRevision": client.V1ControllerRevision,
}
FULL = {
    "replicas": 2,
    "autoscaling": {"min": 1, "max": 4, "target": {"cpuPercent": 70}, "behavior": {"scaleDown": {"policies": []}}},
    "server": {
        "batching": {"maxBatchSize": 16, "preferredBatchSizes": [4, 8], "maxQueueDelay": "1ms", "queueTimeout": "1s"},
        "responseCache": {"size": "64Mi"},
        "flags": {"log-verbose": "1"},
        "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    },
    "pod": {
        "labels": {"team": "vision"},
        "annotations": {"note": "kept"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "high",
        "serviceAccountName": "models",
        "imagePullSecrets": [{"name": "pull"}],
        "runtimeClassName": "nvidia",
        "env": [{"name": "LEVEL", "value": "2"}, {"name": "EMPTY"}],
    },
    "traffic": {"timeout": "1m"},
}
SIGNED = {
    "model": {
        "uri": "pvc://claim/models/digits",
        "credentialsSecretRef": {"name": "reader"},
        "signature": {"keySecretRef": {"name": "signing", "key": "pub.pem"}},
    },
    "prepare": {"timeout": "5m", "resources": {"limits": {"memory": "4Gi"}}},
}
MOUNTED = {"model": {"uri": "pvc://large/models/digits", "delivery": "Mount"}, "replicas": 2}
CASES = {
    "smallest": (manifest(), facts()),
    "full": (manifest(**FULL), facts()),
    "signed": (manifest() | {"spec": SIGNED}, facts()),
    "mounted": (
        manifest() | {"spec": MOUNTED},
        facts(mount=MountRef(claim="large", path="models/digits", size_bytes=3 << 30)),
    ),
    "repository": (
        manifest(),
        facts(format="TritonRepository", models=(RepositoryModel(name="classifier", backend="onnxruntime"),)),
    ),
}


class Plain(yaml.SafeDumper):
    """The same value twice is written twice: golden files are read by people."""

    def ignore_aliases(self, data):
        return True


def rendered(case: str) -> list[dict]:
    """Every manifest that a deployment writes from nothing to Available."""
    deployment, known = CASES[case]
    world = World(deployment)
    world.reports[deployment["spec"]["model"]["uri"]] = PreparationReport(facts=known)
    found = {}
    for _ in range(6):
        decided = plan(world.observe(), world.now)
        for write in (*decided.writes, *decided.raises):
            if isinstance(write, Write):
                found[write.manifest["kind"], write.manifest["metadata"]["name"]] = write.manifest
        world.reconcile()
        world.step()
    assert world.status["phase"] == "Available", world.status
    return list(found.values())


@pytest.mark.parametrize("case", CASES)
def test_golden_objects(case):
    text = yaml.dump_all(rendered(case), Dumper=Plain, sort_keys=True, width=120)
    place = GOLDEN / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        place.write_text(text)
    assert text == place.read_text(), "rendered objects changed; if that is meant, run `make golden` and read the diff"


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_by_the_types_of_its_kind(case):
    for item in rendered(case):
        if item["kind"] == "TrafficSplit":
            TrafficSplitSpec.model_validate(item["spec"])
        else:
            MODELS[item["kind"]].model_validate(item)


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_owned_and_every_container_restricted(case):
    for item in rendered(case):
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("md-uid-1", True)
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "penstock"
        pod = item.get("spec", {}).get("template", {}).get("spec")
        if pod is None:
            continue
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_the_opener_of_untrusted_files_has_no_secret():
    (job,) = [item for item in rendered("signed") if item["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    secret = {volume["name"] for volume in pod["volumes"] if "secret" in volume or "persistentVolumeClaim" in volume}
    mounts = {c["name"]: {mount["name"] for mount in c["volumeMounts"]} for c in pod["containers"]}
    assert mounts["inspect"] & secret == set()
    assert mounts["transfer"] >= secret


def test_grace_covers_prestop_and_the_servers_own_wait():
    for case in ("smallest", "full"):
        (item,) = [item for item in rendered(case) if item["kind"] == "Deployment"]
        pod = item["spec"]["template"]["spec"]
        server = pod["containers"][0]
        wait = next(int(a.split("=")[1]) for a in server["args"] if a.startswith("--exit-timeout-secs="))
        stop = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > stop + wait


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ({"requests": {"cpu": "2500m"}}, "2500m"),
        ({"requests": {"cpu": "10m"}}, "1"),
        ({"limits": {"cpu": "50m"}}, "50m"),
    ],
)
def test_no_default_of_a_server_contradicts_what_is_asked(asked, limit):
    """The API server refuses a container that asks for more than its limit; what it counts on is what it gets."""
    server = ServerSpec.model_validate({"resources": asked})
    found = server_resources(server, 1 << 20)
    assert found["limits"]["cpu"] == limit
    assert quantity_value(found["requests"]["cpu"]) <= quantity_value(limit) == cpu_limit(server)
