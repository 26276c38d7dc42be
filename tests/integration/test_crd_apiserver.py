"""The CRDs and their rules on a real API server, and that `penstock validate` answers as it does."""

import asyncio
import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hack.cluster.controlplane import ControlPlane
from kubernetes.client import ApiClient, ApiException, ApiextensionsV1Api, CustomObjectsApi
from kubernetes.config import new_client_from_config

from penstock.api.crd import custom_resource_definitions
from penstock.api.kinds import CRD_NAMES, DEFINITIONS
from penstock.api.resource import GROUP, PLURAL, VERSION, Metadata
from penstock.api.router import Router
from penstock.api.validation import validate
from penstock.core.names import key_of
from penstock.core.router import Fleet, default_router, member_manager, membership, plan_fleet
from penstock.core.settings import Settings
from penstock.kube.objects import KINDS
from tests.integration.apiserver import eventually
from tests.manifests import ACCEPTED, RULES, TYPES, UNKNOWN, manifest, parse, router, split

UNCHECKED = "<nil>"
"""Where the API server says that it left out the rules, because the schema is broken already."""
OF_SCALE = "spec.replicas"
"""The scale subresource complains here as well when there is no spec to find replicas in."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    with ControlPlane(tmp_path_factory.mktemp("crd")) as control_plane:
        connection = new_client_from_config(str(control_plane.kubeconfig))
        definitions = ApiextensionsV1Api(connection)
        for definition in custom_resource_definitions().values():
            definitions.create_custom_resource_definition(definition)

        async def established() -> bool:
            stored = [definitions.read_custom_resource_definition(name) for name in CRD_NAMES]
            found = [item for crd in stored for item in crd.status.conditions or () if item.type == "Established"]
            return [item.status for item in found] == ["True"] * len(CRD_NAMES)

        asyncio.run(eventually(established))
        yield connection
        connection.close()


def create(api: ApiClient, wanted: dict[str, Any], dry_run: str | None = "All") -> dict[str, Any]:
    wanted = copy.deepcopy(wanted)
    options: dict[str, Any] = {"dry_run": dry_run} if dry_run else {}
    plural = DEFINITIONS[wanted["kind"]].plural
    created: dict[str, Any] = CustomObjectsApi(api).create_namespaced_custom_object(
        GROUP, VERSION, "default", plural, wanted, field_validation="Strict", **options
    )
    return created


def refusal(api: ApiClient, wanted: dict[str, Any]) -> Mapping[str, Any]:
    with pytest.raises(ApiException) as caught:
        create(api, wanted)
    answer: Mapping[str, Any] = json.loads(caught.value.body)
    return answer


def causes(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(path, sentence) of each; the scale subresource's paths start with a dot."""
    found = answer["details"].get("causes", ())
    return [(item["field"].removeprefix("."), item["message"]) for item in found if item["field"] != UNCHECKED]


@pytest.mark.parametrize("name", CRD_NAMES)
def test_the_schema_is_accepted_without_reservation(api: ApiClient, name: str) -> None:
    crd = ApiextensionsV1Api(api).read_custom_resource_definition(name)
    assert {item.type: item.status for item in crd.status.conditions} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


@pytest.mark.parametrize("case", RULES)
def test_a_rule_refuses_with_the_same_path_and_words_as_offline(api: ApiClient, case: str) -> None:
    wanted, path, words = RULES[case]
    told = causes(refusal(api, wanted))
    assert {where for where, _ in told} == {path}
    assert any(words in sentence for _, sentence in told), told
    assert {fault.path for fault in validate(wanted)} == {path}


@pytest.mark.parametrize("case", TYPES)
def test_a_type_refuses_at_the_same_path_as_offline(api: ApiClient, case: str) -> None:
    wanted, path, _ = TYPES[case]
    told = {where for where, _ in causes(refusal(api, wanted))}
    assert told | {OF_SCALE} == {path, OF_SCALE}
    assert {fault.path for fault in validate(wanted)} == {path}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_field_that_is_not_known_is_refused(api: ApiClient, case: str) -> None:
    wanted, path, _ = UNKNOWN[case]
    assert f'unknown field "{path}"' in refusal(api, wanted)["message"]


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_valid_offline_is_accepted_and_the_operator_can_read_it(api: ApiClient, case: str) -> None:
    stored = create(api, ACCEPTED[case])
    parse(stored)
    assert stored.get("status") == (None if stored["kind"] == "TrafficSplit" else {"observedGeneration": -1})


def test_defaults_are_written_on_creation(api: ApiClient) -> None:
    stored = create(api, manifest())
    assert stored["status"] == {"observedGeneration": -1}
    assert stored["spec"] == {**manifest()["spec"], "replicas": 1}


def test_scale_reads_and_writes_replicas_and_the_selector(api: ApiClient) -> None:
    objects = CustomObjectsApi(api)
    where = (GROUP, VERSION, "default", PLURAL, "scaled")
    create(api, manifest(name="scaled"), dry_run=None)
    assert objects.get_namespaced_custom_object_scale(*where)["spec"]["replicas"] == 1
    status = {"replicas": 2, "selector": "penstock.dev/deployment=scaled", "observedGeneration": 1}
    objects.patch_namespaced_custom_object_status(*where, {"status": status})
    scale = {"spec": {"replicas": 3}}
    answer = objects.patch_namespaced_custom_object_scale(*where, scale)
    assert answer["spec"]["replicas"] == 3
    assert (answer["status"]["replicas"], answer["status"]["selector"]) == (2, "penstock.dev/deployment=scaled")
    assert objects.get_namespaced_custom_object(*where)["spec"]["replicas"] == 3


def test_a_scale_out_of_bounds_is_refused(api: ApiClient) -> None:
    create(api, manifest(name="bounded"), dry_run=None)
    with pytest.raises(ApiException) as caught:
        CustomObjectsApi(api).patch_namespaced_custom_object_scale(
            GROUP, VERSION, "default", PLURAL, "bounded", {"spec": {"replicas": 5000}}
        )
    assert "spec.replicas" in caught.value.body


def test_status_written_over_spec_and_spec_over_status_change_nothing(api: ApiClient) -> None:
    objects = CustomObjectsApi(api)
    where = (GROUP, VERSION, "default", PLURAL, "apart")
    create(api, manifest(name="apart"), dry_run=None)
    objects.patch_namespaced_custom_object(*where, {"status": {"phase": "Failed"}})
    objects.patch_namespaced_custom_object_status(*where, {"spec": {"replicas": 7}})
    stored = objects.get_namespaced_custom_object(*where)
    assert (stored["spec"]["replicas"], stored["status"]) == (1, {"observedGeneration": -1})


def test_a_router_has_a_status_that_people_do_not_write(api: ApiClient) -> None:
    objects = CustomObjectsApi(api)
    where = (GROUP, VERSION, "default", DEFINITIONS["Router"].plural, "edge")
    create(api, router(), dry_run=None)
    objects.patch_namespaced_custom_object(*where, {"status": {"models": 7}})
    assert objects.get_namespaced_custom_object(*where)["status"] == {"observedGeneration": -1}
    objects.patch_namespaced_custom_object_status(*where, {"status": {"models": 2, "observedGeneration": 1}})
    assert objects.get_namespaced_custom_object(*where)["status"]["models"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generation": 16}, "somebody else has written this split since"),
        ({"generation": 17, "port": 20001}, None),
        ({"generation": 18}, None),
        ({"generation": 1, "deploymentUid": "another-one"}, None),
    ],
)
def test_a_leader_of_yesterday_writes_no_split(api: ApiClient, change: dict[str, Any], words: str | None) -> None:
    objects = CustomObjectsApi(api)
    where = (GROUP, VERSION, "default", DEFINITIONS["TrafficSplit"].plural, "digits")
    with contextlib.suppress(ApiException):
        create(api, split(), dry_run=None)
    patch = {"spec": {**split()["spec"], **change}}
    if words is None:
        objects.patch_namespaced_custom_object(*where, patch, dry_run="All")
        return
    with pytest.raises(ApiException) as caught:
        objects.patch_namespaced_custom_object(*where, patch, dry_run="All")
    ((path, sentence),) = causes(json.loads(caught.value.body))
    assert path == "spec.generation"
    assert words in sentence


FLEETS: dict[str, dict[str, Any]] = {
    "idle": {},
    "busy": {
        "replicas": 3,
        "resources": {"limits": {"cpu": "1500m"}},
        "update": {"pause": "0s"},
        "pod": {"labels": {"team": "vision"}, "tolerations": [{"operator": "Exists"}], "nodeSelector": {"zone": "a"}},
    },
}


@pytest.mark.parametrize("name", FLEETS)
def test_what_the_api_server_stores_of_a_fleet_needs_no_second_write(api: ApiClient, name: str) -> None:
    stored = create(api, router(name, **FLEETS[name]), dry_run=None)
    settings = Settings("jobs:1", "triton:1", router_image="router:1", image_pull_secrets=("pull",))
    fleet = Fleet(Router.parse(stored), settings, users=("digits",))
    objects = {}
    for item in plan_fleet(fleet, NOW).writes:
        place = f"{KINDS[item['kind']].path('default', item['metadata']['name'])}?fieldManager=penstock&force=true"
        objects[key_of(item)] = apply(api, place, item)
    assert len(objects) == 5
    assert plan_fleet(replace(fleet, objects=objects), NOW).writes == ()


def test_every_member_holds_on_to_a_router_by_itself(api: ApiClient) -> None:
    """The garbage collector's part is that of Kubernetes."""
    made = create(api, default_router("default", "shared"), dry_run=None)
    owners = [Metadata(name=name, uid=f"{name}-0000-0000-0000-000000000000") for name in ("11111111", "22222222")]

    def hold(owner: Metadata, *, member: bool) -> list[str]:
        place = KINDS["Router"].path("default", "shared")
        wanted = membership(owner, "shared", made["metadata"]["uid"], member=member)
        found = apply(api, f"{place}?fieldManager={member_manager(owner)}", wanted)
        return sorted(item["name"] for item in found["metadata"].get("ownerReferences", ()))

    assert hold(owners[0], member=True) == ["11111111"]
    assert hold(owners[1], member=True) == ["11111111", "22222222"]
    assert hold(owners[0], member=False) == ["22222222"]
    assert hold(owners[1], member=False) == []


def apply(api: ApiClient, place: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """The object as stored, by server-side apply."""
    path, query = place.split("?")
    answer = api.call_api(
        *api.param_serialize(
            method="PATCH",
            resource_path=path,
            query_params=[tuple(item.split("=")) for item in query.split("&")],
            header_params={"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"},
            body=manifest,
            auth_settings=["BearerToken"],
        )
    )
    stored: dict[str, Any] = json.loads(answer.read())
    assert stored.get("kind") == manifest["kind"], stored
    return stored
