"""What the cache believes when the watch and our own writes disagree."""

from typing import Any

import pytest

from penstock.core.names import ObjectKey
from penstock.kube.cache import Cache
from penstock.kube.objects import WATCHED, deployment_key, kind_of, trim


def thing(name: str = "x", version: str = "5", uid: str = "u1", kind: str = "ConfigMap", **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "ns",
        "uid": uid,
        "resourceVersion": version,
        "labels": {"penstock.dev/deployment": "digits"},
        **more.pop("metadata", {}),
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}


KEY = ObjectKey("ConfigMap", "ns", "x")
OWNER = ("ns", "digits")


def test_a_new_object_is_a_change_and_is_found_by_name_owner_and_kind() -> None:
    cache = Cache()
    assert cache.put(thing())
    found = cache.get(KEY)
    assert found is not None
    assert cache.children(OWNER) == {KEY: found}
    assert cache.counts() == {"ConfigMap": 1}
    assert list(cache.of_kind("ConfigMap")) == [found]
    assert list(cache.of_kind("ConfigMap", "elsewhere")) == []


@pytest.mark.parametrize(
    ("version", "data", "changed", "kept"),
    [
        ("6", {"a": "2"}, True, "2"),
        ("6", {"a": "1"}, False, "1"),
        ("5", {"a": "2"}, False, "1"),
        ("4", {"a": "2"}, False, "1"),
        ("10", {"a": "2"}, True, "2"),
        ("opaque", {"a": "2"}, True, "2"),
    ],
)
def test_an_older_version_never_overwrites_a_newer_one(version: str, data: Any, changed: bool, kept: str) -> None:
    cache = Cache()
    cache.put(thing(data={"a": "1"}))
    assert cache.put(thing(version=version, data=data)) is changed
    assert cache.get(KEY)["data"]["a"] == kept  # type: ignore[index]


def test_our_own_write_coming_back_by_the_watch_is_no_change() -> None:
    cache = Cache()
    written = thing(version="7", data={"a": "1"})
    assert cache.put(written)
    assert not cache.put(written)


def test_a_deletion_we_made_holds_against_what_the_watch_still_delivers() -> None:
    cache = Cache()
    cache.put(thing(version="5"))
    assert cache.forget(KEY, "u1")
    assert not cache.put(thing(version="6"))
    assert cache.get(KEY) is None
    assert cache.children(OWNER) == {}
    assert not cache.drop(thing(version="9"))


def test_the_successor_of_a_deleted_object_is_another_object() -> None:
    cache = Cache()
    cache.put(thing(version="5", uid="u1"))
    cache.forget(KEY, "u1")
    assert cache.put(thing(version="8", uid="u2"))
    assert not cache.drop(thing(version="7", uid="u1"))
    assert cache.get(KEY)["metadata"]["uid"] == "u2"  # type: ignore[index]


def test_a_late_answer_does_not_bring_back_what_the_watch_saw_deleted() -> None:
    cache = Cache()
    cache.put(thing(version="5"))
    assert cache.drop(thing(version="9"))
    assert not cache.put(thing(version="6"))
    assert cache.put(thing(version="11")), "a label selector that matches again delivers the same uid, but later"


def test_memory_of_the_gone_is_bounded() -> None:
    cache = Cache(remember=2)
    for number in range(5):
        cache.forget(KEY, f"u{number}")
    assert cache.put(thing(uid="u0"))
    assert not cache.put(thing(uid="u4"))


def test_a_complete_list_drops_what_it_does_not_contain() -> None:
    cache = Cache()
    cache.put(thing("kept", uid="u1", version="3"))
    cache.put(thing("lost", uid="u2", version="4"))
    cache.put(thing("newer", uid="u3", version="21"))
    cache.put(thing("other", uid="u4", version="4", kind="Service"))
    gone = cache.retain("ConfigMap", None, {"u1"}, "20")
    assert [item["metadata"]["name"] for item in gone] == ["lost"]
    assert len(cache) == 3
    assert not cache.put(thing("lost", uid="u2", version="19"))


def test_a_list_of_one_namespace_says_nothing_about_others() -> None:
    cache = Cache()
    cache.put(thing())
    assert cache.retain("ConfigMap", "elsewhere", set(), "20") == []
    assert [item["metadata"]["name"] for item in cache.retain("ConfigMap", "ns", set(), "20")] == ["x"]


def test_an_object_that_changes_its_label_changes_its_owner() -> None:
    cache = Cache()
    cache.put(thing(version="5"))
    cache.put(thing(version="6", metadata={"labels": {"penstock.dev/deployment": "other"}}))
    assert cache.children(OWNER) == {}
    assert list(cache.children(("ns", "other"))) == [KEY]


def test_a_model_deployment_is_nobodys_child() -> None:
    cache = Cache()
    cache.put(thing("digits", kind="ModelDeployment"))
    assert cache.children(OWNER) == {}
    found = cache.get_deployment(OWNER)
    assert found is not None
    assert deployment_key(found) == OWNER


def test_a_stranger_has_no_deployment() -> None:
    assert deployment_key(thing(metadata={"labels": {}})) is None
    assert deployment_key(thing(metadata={"labels": None})) is None


def test_trimming_drops_what_nobody_reads() -> None:
    raw = thing(
        metadata={
            "managedFields": [{"manager": "penstock"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"},
        }
    )
    kept = trim(raw)["metadata"]
    assert "managedFields" not in kept
    assert kept["annotations"] == {"mine": "1"}
    assert "managedFields" in raw["metadata"], "the original is left as it is"


def test_of_a_route_it_is_known_which_fields_are_ours() -> None:
    ours = {"manager": "penstock", "operation": "Apply", "fieldsV1": {"f:spec": {"f:rules": {}}}}
    theirs = {**ours, "manager": "contour"}
    raw = thing(kind="HTTPRoute", metadata={"managedFields": [theirs, {**ours, "time": "2026-01-01T00:00:00Z"}]})
    assert trim(raw)["metadata"]["managedFields"] == [ours]


def test_a_pod_keeps_identity_and_status_only() -> None:
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "hostIP": "10.9.9.9",
        "qosClass": "Burstable",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [
            {"name": "server", "ready": True, "restartCount": 1, "state": {"running": {}}, "imageID": "sha256:…"}
        ],
    }
    kept = trim(thing(kind="Pod", spec={"containers": []}, status=status))
    assert "spec" not in kept
    assert kept["status"] == {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "initContainerStatuses": [],
        "containerStatuses": [{"name": "server", "ready": True, "restartCount": 1, "state": {"running": {}}}],
    }


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({"hostIP": "1"}, {"hostIP": "2"}, False),
        ({"phase": "Pending"}, {"phase": "Running"}, True),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, {"conditions": []}, True),
    ],
)
def test_only_what_a_pods_status_says_to_us_is_a_change(before: Any, after: Any, changed: bool) -> None:
    cache = Cache()
    cache.put(thing(kind="Pod", version="5", status=before))
    assert cache.put(thing(kind="Pod", version="6", status=after)) is changed


def test_an_autoscalers_readings_are_no_change() -> None:
    cache = Cache()
    scaler = {"spec": {"maxReplicas": 3}, "status": {"desiredReplicas": 1, "currentMetrics": [{"value": 10}]}}
    cache.put(thing(kind="HorizontalPodAutoscaler", version="5", **scaler))
    moved = {**scaler, "status": {"desiredReplicas": 1, "currentMetrics": [{"value": 70}]}}
    assert not cache.put(thing(kind="HorizontalPodAutoscaler", version="6", **moved))
    scaled = {**scaler, "status": {"desiredReplicas": 2, "currentMetrics": []}}
    assert cache.put(thing(kind="HorizontalPodAutoscaler", version="7", **scaled))


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "subresource", "path"),
    [
        ("Pod", None, None, None, "/api/v1/pods"),
        ("Pod", "a", "b", None, "/api/v1/namespaces/a/pods/b"),
        ("Deployment", "a", None, None, "/apis/apps/v1/namespaces/a/deployments"),
        ("ModelDeployment", "a", "b", "status", "/apis/penstock.dev/v1alpha1/namespaces/a/modeldeployments/b/status"),
        ("Namespace", "ignored", "b", None, "/api/v1/namespaces/b"),
    ],
)
def test_paths(kind: str, namespace: str | None, name: str | None, subresource: str | None, path: str) -> None:
    assert kind_of(kind).path(namespace, name, subresource) == path


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(KeyError, match="'Ingress' is not one of"):
        kind_of("Ingress")


def test_only_what_people_write_is_watched_without_a_label() -> None:
    assert [kind.name for kind in WATCHED if not kind.labelled] == ["ModelDeployment", "Router"]


def test_a_list_of_one_name_says_nothing_of_others() -> None:
    cache = Cache()
    for name in ("a", "b"):
        metadata = {"name": name, "uid": name, "resourceVersion": "1"}
        cache.put({"apiVersion": "v1", "kind": "CustomResourceDefinition", "metadata": metadata})
    assert cache.retain("CustomResourceDefinition", None, (), "9", name="c") == []
    (gone,) = cache.retain("CustomResourceDefinition", None, (), "9", name="a")
    assert gone["metadata"]["name"] == "a"
    assert cache.counts() == {"CustomResourceDefinition": 1}


def test_of_a_crd_only_what_is_served_is_kept() -> None:
    versions = [{"name": "v1", "served": True, "schema": {"openAPIV3Schema": {}}}, {"name": "v1beta1"}]
    conditions = [
        {"type": "Established", "status": "True", "message": "m"},
        {"type": "NamesAccepted", "status": "True"},
    ]
    kept = trim(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "httproutes.gateway.networking.k8s.io", "managedFields": [{}]},
            "spec": {"group": "gateway.networking.k8s.io", "versions": versions},
            "status": {"conditions": conditions, "storedVersions": ["v1"]},
        }
    )
    assert kept == {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "httproutes.gateway.networking.k8s.io"},
        "spec": {"versions": [{"name": "v1", "served": True}, {"name": "v1beta1", "served": False}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }


def test_objects_of_a_kind_that_is_served_again_are_seen_again() -> None:
    cache = Cache()
    for kind in ("HTTPRoute", "ConfigMap"):
        cache.put(thing(kind=kind, uid=kind))
    assert [item["kind"] for item in cache.lose_sight("HTTPRoute")] == ["HTTPRoute"]
    assert cache.counts() == {"ConfigMap": 1}
    assert not list(cache.of_kind("HTTPRoute", "ns"))
    assert cache.put(thing(kind="HTTPRoute", uid="HTTPRoute"))
    assert ObjectKey("HTTPRoute", "ns", "x") in cache.children(OWNER)
