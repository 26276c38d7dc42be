"""The CRD and its rules on a real API server, and that `penstock validate` answers as it does."""

import asyncio
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hack.cluster.controlplane import ControlPlane
from kubernetes.client import ApiClient, ApiException, ApiextensionsV1Api, CustomObjectsApi
from kubernetes.config import new_client_from_config

from penstock.api.crd import custom_resource_definition
from penstock.api.resource import GROUP, PLURAL, VERSION, ModelDeployment
from penstock.api.validation import validate
from tests.integration.apiserver import eventually
from tests.manifests import ACCEPTED, RULES, TYPES, UNKNOWN, manifest

NAME = f"{PLURAL}.{GROUP}"
UNCHECKED = "<nil>"
"""Where the API server says that it left out the rules, because the schema is broken already."""
OF_SCALE = "spec.replicas"
"""The scale subresource complains here as well when there is no spec to find replicas in."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    with ControlPlane(tmp_path_factory.mktemp("crd")) as control_plane:
        connection = new_client_from_config(str(control_plane.kubeconfig))
        definitions = ApiextensionsV1Api(connection)
        definitions.create_custom_resource_definition(custom_resource_definition())

        async def established() -> bool:
            conditions = definitions.read_custom_resource_definition(NAME).status.conditions or ()
            return any(item.type == "Established" and item.status == "True" for item in conditions)

        asyncio.run(eventually(established))
        yield connection
        connection.close()


def create(api: ApiClient, wanted: dict[str, Any], dry_run: str | None = "All") -> dict[str, Any]:
    wanted = copy.deepcopy(wanted)
    options: dict[str, Any] = {"dry_run": dry_run} if dry_run else {}
    created: dict[str, Any] = CustomObjectsApi(api).create_namespaced_custom_object(
        GROUP, VERSION, "default", PLURAL, wanted, field_validation="Strict", **options
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


def test_the_schema_is_accepted_without_reservation(api: ApiClient) -> None:
    crd = ApiextensionsV1Api(api).read_custom_resource_definition(NAME)
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
    parsed = ModelDeployment.parse(stored)
    assert parsed.status.observed_generation == -1


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
