"""The preparation Job against golden files, and what must hold for every one of them."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from penstock.api.preparation import PreparationRequest
from penstock.api.termination import report_bytes
from penstock.api.units import quantity_value
from penstock.core.plan import Write, plan

from .test_rendering import Plain
from .world import START, World, manifest

GOLDEN = Path(__file__).parent.parent / "golden" / "jobs"
CONNECTION = {"endpoint": "https://s3.example", "caConfigMapRef": {"name": "company", "key": "ca.pem"}}
LATENCY = {"latency": {"p95": "20ms"}}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"model": {"uri": "oci://models.example/digits:v1"}},
    "converted": {
        "model": {
            "uri": "s3://models/digits",
            "format": "TorchExport",
            "credentialsSecretRef": {"name": "reader"},
            "connection": CONNECTION,
            "signature": {"keySecretRef": {"name": "signing", "key": "pub.pem"}},
        },
        "optimize": {
            "precision": "INT8",
            "calibration": {"uri": "pvc://data/rows", "maxSamples": 64},
        },
        "gates": {
            "dataset": {
                "uri": "s3://data/test.npz",
                "credentialsSecretRef": {"name": "data-reader"},
                "connection": CONNECTION,
            },
            "parity": {"minTop1Agreement": "0.99"},
            **LATENCY,
        },
        "server": {"resources": {"limits": {"cpu": "2"}}, "instances": {"count": 2}},
        "pod": {"env": [{"name": "LEVEL", "value": "2"}]},
        "prepare": {
            "timeout": "10m",
            "resources": {"requests": {"memory": "6Gi"}, "limits": {"cpu": "4"}},
            "pod": {
                "labels": {"team": "vision", "azure.workload.identity/use": "true"},
                "annotations": {"note": "kept", "eks.amazonaws.com/skip-containers": "none"},
                "nodeSelector": {"zone": "a"},
                "tolerations": [{"key": "big", "operator": "Exists"}],
                "priorityClassName": "low",
                "serviceAccountName": "model-reader",
                "imagePullSecrets": [{"name": "pull"}],
            },
        },
    },
    "sequential": {
        "model": {"uri": "oci://models.example/digits:v1"},
        "optimize": {"hook": {"image": "trainer.example/distil:1", "command": ["distil", "--fast"]}},
        "gates": {
            "dataset": {"uri": "oci://models.example/rows:v1"},
            "accuracy": {"image": "trainer.example/metric:1", "maxDropPercent": "1"},
        },
    },
    "mounted": {
        "model": {"uri": "pvc://claim/models/big", "delivery": "Mount"},
        "gates": LATENCY,
    },
}
USERS = {"hook", "metric", "metric-source"}
TRUSTED = {"fetch", "transfer"}


def written(case: str, now: datetime = START) -> list[dict[str, Any]]:
    """What is written first for a new deployment: the Job, and what goes before it."""
    world = World({**manifest(), "spec": CASES[case]})
    found = [write.manifest for write in plan(world.observe(), now).writes if isinstance(write, Write)]
    return [item for item in found if item["kind"] in ("Job", "NetworkPolicy")]


def job(case: str) -> dict[str, Any]:
    return next(item for item in written(case) if item["kind"] == "Job")


def pod(case: str) -> dict[str, Any]:
    found: dict[str, Any] = job(case)["spec"]["template"]["spec"]
    return found


def containers(case: str) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in (*pod(case).get("initContainers", ()), *pod(case)["containers"])}


def volumes_of(container: dict[str, Any]) -> set[str]:
    return {item["name"] for item in container["volumeMounts"]}


@pytest.mark.parametrize("case", CASES)
def test_golden_jobs(case):
    text = yaml.dump_all(written(case), Dumper=Plain, sort_keys=True, width=120)
    place = GOLDEN / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    assert text == place.read_text(), "rendered objects changed; if that is meant, run `make golden` and read the diff"


@pytest.mark.parametrize("case", CASES)
def test_every_job_is_valid_by_its_type_and_its_request_by_ours(case):
    client.V1Job.model_validate(job(case))
    for container in containers(case).values():
        for variable in container.get("env", ()):
            if variable["name"] == "PENSTOCK_REQUEST":
                request = PreparationRequest.model_validate_json(variable["value"])
                assert (request.server is None) is (case == "plain")


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_restricted_and_bounded(case):
    assert pod(case)["automountServiceAccountToken"] is False
    assert pod(case)["securityContext"]["runAsNonRoot"] is True
    for name, container in containers(case).items():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]), name
        for kind, value in resources["requests"].items():
            assert quantity_value(value) <= quantity_value(resources["limits"].get(kind, value)), (name, kind)


@pytest.mark.parametrize("case", CASES)
def test_secrets_reach_those_with_the_network_alone(case):
    hidden = {item["name"] for item in pod(case)["volumes"] if {"secret", "configMap"} & item.keys()} | {"keep"}
    for name, container in containers(case).items():
        if name not in TRUSTED:
            assert volumes_of(container) & hidden == set(), name
            names = {variable["name"] for variable in container.get("env", ())}
            assert not [one for one in names if "CREDENTIALS" in one or "SIGNATURE" in one or "KEYLESS" in one]


@pytest.mark.parametrize("case", CASES)
def test_every_volume_is_used_and_every_mount_is_there(case):
    used = set().union(*map(volumes_of, containers(case).values()))
    assert used <= {item["name"] for item in pod(case)["volumes"]}
    assert {item["name"] for item in pod(case)["volumes"]} <= used | {"tmp"}


@pytest.mark.parametrize("case", CASES)
def test_an_identity_of_the_pod_is_for_those_with_the_network_alone(case):
    annotations = job(case)["spec"]["template"]["metadata"]["annotations"]
    skipped = set(annotations["eks.amazonaws.com/skip-containers"].split(","))
    assert skipped == set(annotations["azure.workload.identity/skip-containers"].split(";"))
    assert set(containers(case)) - TRUSTED <= skipped
    assert not skipped & TRUSTED


def test_images_of_the_user_see_their_own_folders_and_nothing_of_ours():
    found = containers("sequential")
    assert list(found) == ["fetch", "hook", "inspect", "server", "measure", "metric", "metric-source", "transfer"]
    for name in USERS:
        assert "env" not in found[name]
        writable = [m for m in found[name]["volumeMounts"] if not m.get("readOnly")]
        assert {m["mountPath"] for m in writable} == {"/tmp", "/work/hook" if name == "hook" else "/work/metric"}
        assert all("subPath" in m for m in found[name]["volumeMounts"] if m["name"] == "work")
    assert found["hook"]["command"] == ["distil", "--fast"]


def test_modes_say_who_waits_for_whom():
    modes = {
        case: {
            name: variable["value"]
            for name, container in containers(case).items()
            for variable in container.get("env", ())
            if variable["name"] == "PENSTOCK_MODE"
        }
        for case in CASES
    }
    assert modes["sequential"] == {
        "fetch": "fetch",
        "inspect": "sequential",
        "measure": "sequential",
        "transfer": "publish",
    }
    assert [modes[case] for case in CASES if case != "sequential"] == [{}] * (len(CASES) - 1)


@pytest.mark.parametrize("case", CASES)
def test_all_reports_of_a_pod_are_kept_whole(case):
    """A kubelet keeps 12 KiB of all containers' messages, in equal shares."""
    found = containers(case)
    for name in found.keys() - {*USERS, "server"}:
        environment = {variable["name"]: variable["value"] for variable in found[name]["env"]}
        assert report_bytes(environment) * len(found) <= 12 << 10
    assert all("PENSTOCK_REPORT_BYTES" not in json.dumps(found[name]) for name in {*USERS, "server"} & found.keys())


def test_the_measured_server_has_what_serving_pods_will_have():
    server = containers("converted")["server"]
    assert server["resources"]["limits"] == {"cpu": "2", "memory": "2048Mi"}
    assert server["env"] == [{"name": "LEVEL", "value": "2"}]
    request = json.loads(containers("converted")["measure"]["env"][0]["value"])
    assert request["server"]["resources"] == server["resources"]
    assert request["server"]["instances"] == {"count": 2}


def test_what_was_asked_for_is_not_contradicted_by_defaults():
    resources = containers("converted")["inspect"]["resources"]
    assert resources["requests"]["memory"] == "6Gi"
    assert resources["limits"] == {"cpu": "4", "memory": "6Gi"}


def test_the_policy_selects_the_pods_of_the_job():
    policy, made = written("plain")
    labels = made["spec"]["template"]["metadata"]["labels"]
    selector = policy["spec"]["podSelector"]
    assert selector["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/component"] in selector["matchExpressions"][0]["values"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert "ingress" not in policy["spec"]


def test_a_claim_is_one_volume_however_often_it_is_spoken_of(monkeypatch):
    """On a cluster: a kubelet never mounts the second volume of the same claim, and the pod waits for ever."""
    shared = {
        "model": {"uri": "pvc://content/models/7"},
        "optimize": {"precision": "INT8", "calibration": {"uri": "pvc://other/rows.npz"}},
        "gates": {"dataset": {"uri": "pvc://content/rows.npz"}, "parity": {"minTop1Agreement": "0.99"}},
    }
    monkeypatch.setitem(CASES, "shared", shared)
    volumes = pod("shared")["volumes"]
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
    assert sorted(claims.values()) == ["content", "other"]
    mounts = containers("shared")["transfer"]["volumeMounts"]
    mounted = {mount["mountPath"]: claims[mount["name"]] for mount in mounts if mount["name"] in claims}
    assert mounted == {"/source": "content", "/dataset-source": "content", "/calibration-source": "other"}
