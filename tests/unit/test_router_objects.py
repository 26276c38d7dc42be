"""Splits, Services and router fleets: what is rendered, and when the pods of a fleet may be replaced."""

import copy
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes import client

from penstock.api.base import wire
from penstock.api.reasons import Reason
from penstock.api.resource import Metadata
from penstock.api.router import Router, SplitRevision, SplitShadow, SplitSupervision, TrafficSplitSpec
from penstock.api.validation import validate
from penstock.core.names import ObjectKey, key_of
from penstock.core.router import (
    Fleet,
    client_service,
    default_router,
    fleet_objects,
    is_moving,
    member_manager,
    membership,
    plan_fleet,
    preview_service,
    to_revision,
    to_router,
    traffic_split,
)
from penstock.core.settings import Settings
from penstock.kube.objects import KINDS, deployment_key, router_key

GOLDEN = Path(__file__).parents[1] / "golden" / "routers"
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
OWNER = Metadata(name="digits", namespace="vision", uid="0aa1b2c3-md")
SETTINGS = Settings(jobs_image="jobs:1", triton_image="triton:1", router_image="router:1", image_pull_secrets=("pull",))
MODELS = {
    "Deployment": client.V1Deployment,
    "NetworkPolicy": client.V1NetworkPolicy,
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
    "RoleBinding": client.V1RoleBinding,
    "Service": client.V1Service,
    "ServiceAccount": client.V1ServiceAccount,
}
FULL = {
    "replicas": 3,
    "image": "mirror.example/router@sha256:" + "1" * 64,
    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1500m"}},
    "drain": "5m",
    "update": {"pause": "0s"},
    "pod": {
        "labels": {"team": "vision", "penstock.dev/router": "another"},
        "annotations": {"note": "kept"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}, {"name": "own"}],
    },
}


def router(name: str = "default", status: dict[str, Any] | None = None, **spec: Any) -> Router:
    metadata = {"name": name, "namespace": "vision", "uid": f"router-{name}", "generation": 4}
    return Router.parse({"metadata": metadata, "spec": spec, "status": status or {}})


SPLIT = TrafficSplitSpec(
    router="default",
    deployment="digits",
    deployment_uid=OWNER.uid,
    generation=17,
    port=20007,
    stable="digits-5b8d0c11",
    revisions=(
        SplitRevision(name="digits-7c9f41d2", model="digits", weight=5),
        SplitRevision(name="digits-5b8d0c11", model="digits", weight=995),
    ),
    shadow=SplitShadow(name="digits-7c9f41d2", share=100),
    supervision=SplitSupervision(timeout_seconds=60, renew_time="2026-01-01T12:00:00Z"),
    timeout_milliseconds=30_000,
    max_request_bytes=2**26,
    max_concurrent=1024,
)
CASES: dict[str, list[dict[str, Any]]] = {
    "default": list(fleet_objects(router(), SETTINGS)),
    "full": list(fleet_objects(router("edge", **FULL), SETTINGS)),
    "route": [
        traffic_split(OWNER, SPLIT),
        default_router("vision"),
        client_service(OWNER, to_router("default", 20007)),
        client_service(OWNER, to_revision(OWNER, "digits-5b8d0c11")),
        client_service(OWNER, to_revision(OWNER, None)),
        preview_service(OWNER, "digits-7c9f41d2"),
        membership(OWNER, "default", "router-default", member=True),
    ],
}


class Plain(yaml.SafeDumper):
    """The same value twice is written twice: golden files are read by people."""

    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("case", CASES)
def test_golden_objects(case):
    text = yaml.dump_all(CASES[case], Dumper=Plain, sort_keys=True, width=120)
    place = GOLDEN / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    assert text == place.read_text(), "rendered objects changed; if that is meant, run `make golden` and read the diff"


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_by_the_types_of_its_kind(case):
    for item in CASES[case]:
        if item["kind"] in MODELS:
            MODELS[item["kind"]].model_validate(item)
        elif "spec" in item:
            assert validate(item) == ()


def test_every_kind_of_a_fleet_is_watched_and_found_by_its_router():
    for item in CASES["full"]:
        assert KINDS[item["kind"]].watched
        assert router_key(item) == ("vision", "edge")
        assert deployment_key(item) is None
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Router", "router-edge", True)


def pod(case: str) -> dict[str, Any]:
    found: dict[str, Any] = CASES[case][-1]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("case", ["default", "full"])
def test_the_token_is_the_agents_alone(case):
    spec = pod(case)
    assert spec["automountServiceAccountToken"] is False
    (agent,), (envoy,) = spec["initContainers"], spec["containers"]
    assert agent["restartPolicy"] == "Always"
    assert [mount["name"] for mount in agent["volumeMounts"]] == ["run", "token"]
    assert [mount["name"] for mount in envoy["volumeMounts"]] == ["run"]


@pytest.mark.parametrize("case", ["default", "full"])
def test_containers_are_restricted_and_bounded(case):
    spec = pod(case)
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("case", "drain"), [("default", 60), ("full", 300)])
def test_a_pod_that_goes_away_has_time_to_drain(case, drain):
    spec = pod(case)
    assert spec["terminationGracePeriodSeconds"] > drain
    assert spec["containers"][0]["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain", "port": 10091}
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--drain-time-s") + 1] == str(drain)
    assert {"name": "PENSTOCK_DRAIN_SECONDS", "value": str(drain)} in spec["initContainers"][0]["env"]


def test_no_probe_makes_a_pod_depend_on_its_agent_once_it_serves():
    for case in ("default", "full"):
        spec = pod(case)
        assert not [key for key in spec["initContainers"][0] if key.endswith("Probe")]
        probes = {key: value["httpGet"]["port"] for key, value in spec["containers"][0].items() if "Probe" in key}
        assert probes == {"startupProbe": 10091, "readinessProbe": "stats", "livenessProbe": "stats"}


@pytest.mark.parametrize(
    ("asked", "requests", "limits"),
    [
        (None, {"cpu": "100m", "memory": "128Mi"}, {"memory": "512Mi"}),
        ({"limits": {"memory": "64Mi"}}, {"cpu": "100m", "memory": "64Mi"}, {"memory": "64Mi"}),
        ({"requests": {"memory": "1Gi"}}, {"cpu": "100m", "memory": "1Gi"}, {"memory": "1Gi"}),
        ({"limits": {"cpu": "50m"}}, {"cpu": "50m", "memory": "128Mi"}, {"cpu": "50m", "memory": "512Mi"}),
        ({"limits": {"cpu": 4}}, {"cpu": "100m", "memory": "128Mi"}, {"cpu": "4", "memory": "512Mi"}),
    ],
)
def test_what_is_not_asked_of_envoy_is_filled_in_and_never_contradicts(asked, requests, limits):
    deployment = fleet_objects(router(**({"resources": asked} if asked else {})), SETTINGS)[-1]
    envoy = deployment["spec"]["template"]["spec"]["containers"][0]
    assert envoy["resources"] == {"requests": requests, "limits": limits}


def test_labels_of_people_do_not_take_a_pod_out_of_its_fleet():
    template = CASES["full"][-1]["spec"]["template"]
    assert template["metadata"]["labels"]["penstock.dev/router"] == "edge"
    assert template["metadata"]["labels"]["team"] == "vision"


def test_the_agent_answers_the_operators_namespace_alone():
    policy = fleet_objects(router(), Settings("j", "t", namespace="elsewhere"))[2]["spec"]
    everybody, operator = policy["ingress"]
    assert "from" not in everybody
    assert [port["port"] for port in everybody["ports"]] == [20000, 10090]
    assert operator["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}]
    assert [port["port"] for port in operator["ports"]] == [10091]


def test_a_member_holds_its_own_reference_and_leaves_by_holding_none():
    joined = membership(OWNER, "default", "u", member=True)
    left = membership(OWNER, "default", "u", member=False)
    (reference,) = joined["metadata"]["ownerReferences"]
    assert (reference["uid"], reference.get("controller")) == (OWNER.uid, None)
    assert "ownerReferences" not in left["metadata"]
    assert member_manager(OWNER) == "penstock-0aa1b2c3"


# the fleet's plan
def made_from(deployment: dict[str, Any], **status: Any) -> dict[str, Any]:
    """A pod of a Deployment."""
    return {"metadata": {"name": "p", **deployment["spec"]["template"]["metadata"]}, "status": status}


def standing(fleet: Fleet) -> dict[ObjectKey, dict[str, Any]]:
    """All objects as planned, as the API server and the Deployment controller leave them when all is done."""
    found = {key_of(item): copy.deepcopy(item) for item in plan_fleet(fleet, NOW).writes}
    live = next(item for key, item in found.items() if key.kind == "Deployment")
    live["status"] = dict.fromkeys(("replicas", "readyReplicas"), live["spec"]["replicas"])
    return found


def written(fleet: Fleet) -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in plan_fleet(fleet, NOW).writes}


def told(fleet: Fleet) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in plan_fleet(fleet, NOW).status.conditions or ()}


def test_a_new_fleet_is_written_whole_and_in_order_and_then_left_alone():
    fresh = Fleet(router(), SETTINGS, users=("digits",))
    assert [item["kind"] for item in plan_fleet(fresh, NOW).writes] == [
        "ServiceAccount", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget", "Deployment",
    ]  # fmt: skip
    assert told(fresh) == {"Ready": ("False", "RolloutInProgress"), "Reconciling": ("True", "RolloutInProgress")}
    done = plan_fleet(Fleet(router(), SETTINGS, standing(fresh), users=("digits",)), NOW)
    assert (done.writes, done.deletes) == ((), ())
    assert wire(done.status)["models"] == 1
    assert (done.status.observed_generation, done.status.replicas, done.status.ready_replicas) == (4, 2, 2)
    assert done.status.message == "2 of 2 router pods are ready, for 1 models"


def test_status_says_the_same_in_the_next_pass_but_keeps_its_times():
    fresh = Fleet(router(), SETTINGS, users=("digits",))
    first = plan_fleet(Fleet(router(), SETTINGS, standing(fresh)), NOW).status
    again = Fleet(router(status=wire(first)), SETTINGS, standing(fresh))
    assert plan_fleet(again, NOW + timedelta(hours=1)).status == first


OTHER_IMAGE = Settings("jobs:1", "triton:1", router_image="router:2", image_pull_secrets=("pull",))


def after(fleet: Fleet, **change: Any) -> Fleet:
    """The fleet looked at again when its objects stand as first planned, and something has changed since."""
    objects = standing(fleet)
    pods = (made_from(next(item for item in objects.values() if item["kind"] == "Deployment")),) * 2
    return Fleet(**{**fleet.__dict__, "objects": objects, "pods": pods, **change})


def test_a_new_image_moves_an_idle_fleet():
    fleet = after(Fleet(router(), SETTINGS, users=("digits",)), settings=OTHER_IMAGE)
    assert list(written(fleet)) == ["Deployment"]
    assert "paused" not in written(fleet)["Deployment"]["spec"]


@pytest.mark.parametrize(
    ("why", "words"),
    [({"rolling_out": ("digits",)}, "in a rollout any more; now in one: digits"), ({"moving": "edge"}, "Router edge")],
)
def test_pods_wait_while_there_is_evidence_to_lose(why, words):
    fleet = after(Fleet(router(), SETTINGS, users=("digits",)), settings=OTHER_IMAGE, **why)
    assert written(fleet)["Deployment"]["spec"]["paused"] is True
    assert told(fleet)["Reconciling"] == ("True", "RolloutInProgress")
    assert words in (plan_fleet(fleet, NOW).status.message or "")


def test_a_rollout_alone_writes_nothing():
    fleet = after(Fleet(router(), SETTINGS, users=("digits",)), rolling_out=("digits",))
    assert written(fleet) == {}
    assert told(fleet)["Ready"] == ("True", "Ready")


def test_more_replicas_need_not_wait():
    fleet = after(Fleet(router(), SETTINGS), router=router(replicas=5), rolling_out=("digits",))
    assert written(fleet)["Deployment"]["spec"]["replicas"] == 5
    assert "paused" not in written(fleet)["Deployment"]["spec"]


def test_a_field_that_is_no_longer_rendered_is_a_new_template_too():
    before = Fleet(router(pod={"nodeSelector": {"zone": "a"}}), SETTINGS)
    fleet = after(before, router=router(), rolling_out=("digits",))
    assert written(fleet)["Deployment"]["spec"]["paused"] is True


def test_a_fleet_without_pods_is_never_paused_for_it_would_get_none():
    fleet = after(Fleet(router(), SETTINGS), settings=OTHER_IMAGE, rolling_out=("digits",), pods=())
    assert "paused" not in written(fleet)["Deployment"]["spec"]


@dataclass
class Cluster:
    """A fleet with a Deployment controller that does one thing at a time."""

    image: str = "router:1"
    rolling_out: bool = False
    objects: dict[ObjectKey, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    writes: int = 0

    def look(self) -> Fleet:
        own = Settings("jobs:1", "triton:1", router_image=self.image)
        rolling = ("digits",) if self.rolling_out else ()
        return Fleet(router(), own, self.objects, tuple(self.pods), users=("digits",), rolling_out=rolling)

    def operate(self) -> None:
        for item in plan_fleet(self.look(), NOW).writes:
            status = self.objects.get(key_of(item), {}).get("status", {})
            self.objects[key_of(item)] = {**item, "status": status}
            self.writes += 1

    @property
    def deployment(self) -> dict[str, Any]:
        return next(item for key, item in self.objects.items() if key.kind == "Deployment")

    def control(self) -> None:
        live = self.deployment
        fresh = made_from(live)
        if not live["spec"].get("paused"):
            if not self.pods:
                self.pods = [fresh] * live["spec"]["replicas"]
            elif (old := next((i for i, pod in enumerate(self.pods) if pod != fresh), None)) is not None:
                self.pods[old] = fresh
        live["status"] = dict.fromkeys(("replicas", "readyReplicas"), len(self.pods))


STEPS = st.lists(st.sampled_from(["operate", "control", "begin", "end", "router:1", "router:2"]), max_size=40)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_no_pod_is_replaced_during_a_rollout_and_all_are_in_the_end(steps):
    cluster = Cluster()
    cluster.operate()
    cluster.control()
    for step in steps:
        before = list(cluster.pods)
        if step in ("begin", "end"):
            cluster.rolling_out = step == "begin"
            cluster.operate()
        elif step.startswith("router"):
            cluster.image = step
        else:
            getattr(cluster, step)()
        assert not cluster.rolling_out or cluster.pods == before
    cluster.rolling_out = False
    for _ in range(6):
        cluster.operate()
        cluster.control()
    assert cluster.pods == [made_from(cluster.deployment)] * 2
    assert cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"] == cluster.image
    assert not is_moving(cluster.deployment, cluster.pods)
    writes = cluster.writes
    cluster.operate()
    assert cluster.writes == writes


def test_of_two_fleets_the_one_that_has_begun_goes_on():
    fleet = Cluster()
    fleet.operate()
    fleet.control()
    fleet.image = "router:2"
    fleet.operate()
    assert is_moving(fleet.deployment, fleet.pods)
    assert plan_fleet(replace(fleet.look(), moving="edge"), NOW).writes == ()


def test_only_a_fleet_that_the_operator_made_goes_with_its_last_model():
    assert plan_fleet(Fleet(router(), SETTINGS, made=True), NOW).deletes == (ObjectKey("Router", "vision", "default"),)
    assert plan_fleet(Fleet(router(), SETTINGS, made=True, users=("digits",)), NOW).deletes == ()
    written_by_people = plan_fleet(Fleet(router(), SETTINGS), NOW)
    assert (written_by_people.deletes, len(written_by_people.writes)) == ((), 5)


def test_a_router_that_goes_is_left_to_the_garbage_collector():
    metadata = {"name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    plan = plan_fleet(Fleet(Router.parse({"metadata": metadata, "spec": {}}), SETTINGS), NOW)
    assert (plan.writes, plan.deletes) == ((), ())


UNPLACED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
NO_IMAGE = {"name": "envoy", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
REFUSED = {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota: small"}


@pytest.mark.parametrize(
    ("conditions", "pods", "reason", "words"),
    [
        ([], [{"conditions": [UNPLACED]}], Reason.UNSCHEDULABLE, "0/3 nodes"),
        ([], [{"containerStatuses": [NO_IMAGE]}], Reason.IMAGE_UNAVAILABLE, "ErrImagePull: not found"),
        ([REFUSED], [], Reason.QUOTA_EXCEEDED, "exceeded quota"),
        ([{**REFUSED, "message": "denied"}], [], Reason.POD_REFUSED, "denied"),
        ([], [], Reason.SERVING, "1 of 2 router pods are ready"),
    ],
)
def test_status_says_what_keeps_a_pod_from_serving(conditions, pods, reason, words):
    fleet = after(Fleet(router(), SETTINGS))
    live = next(item for key, item in fleet.objects.items() if key.kind == "Deployment")
    fleet = replace(fleet, pods=tuple(made_from(live, **status) for status in pods))
    live["status"] |= {"readyReplicas": 1, "conditions": conditions}
    assert told(fleet) == {"Ready": ("False", reason), "Reconciling": ("True", reason)}
    assert words in (plan_fleet(fleet, NOW).status.message or "")


def test_without_an_image_nothing_is_written_and_it_is_said():
    fleet = Fleet(router(), Settings("jobs:1", "triton:1"))
    assert plan_fleet(fleet, NOW).writes == ()
    assert told(fleet)["Stalled"] == ("True", "InvalidSpec")


def test_an_object_in_the_way_is_named():
    taken = {ObjectKey("Deployment", "vision", "x"): (Reason.NAME_TAKEN, "Deployment vision/x belongs to somebody")}
    fleet = Fleet(router(), SETTINGS, obstacles=taken)
    assert told(fleet) == {"Ready": ("False", "NameTaken"), "Stalled": ("True", "NameTaken")}
