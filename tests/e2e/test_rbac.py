"""Granted = used: the operator's rights, from the chart, beside what the API server's audit log saw it do."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hack.cluster.settings import Settings

from .chart import Chart
from .cluster import SYSTEM

ACCOUNT = f"system:serviceaccount:{SYSTEM}:penstock"
HERE = Path(__file__).parent
Right = tuple[str, str, str, str]
"""(API group, resource or resource/subresource, verb, name or ""): one right."""
RBAC = "rbac.authorization.k8s.io"
BINDS: Right = (RBAC, "clusterroles", "bind", "penstock-router")
"""Asked for by the API server itself whenever a RoleBinding is written, and in no audit log."""


@pytest.fixture(scope="module")
def requests(cluster, request) -> list[dict[str, Any]]:
    """Every request of the operator since this cluster was started."""
    if not cluster.local:
        pytest.skip("the audit log of an existing cluster is not ours to read")
    log = Settings.from_environment().logs / "audit.jsonl"
    with log.open() as lines:
        found = [json.loads(line) for line in lines if ACCOUNT in line]
    return [event for event in found if event["user"]["username"] == ACCOUNT and "objectRef" in event]


@pytest.fixture(scope="module")
def granted(chart) -> set[Right]:
    rules = [
        rule
        for manifest in chart.template()
        if manifest["kind"] in ("Role", "ClusterRole") and is_the_operators(manifest)
        for rule in manifest["rules"]
    ]
    return {right for rule in rules for right in rights(rule)}


def is_the_operators(manifest: dict[str, Any]) -> bool:
    return manifest["metadata"]["name"] == "penstock"


def rights(rule: dict[str, Any]) -> Iterator[Right]:
    yield from product(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""]))


def used(events: Iterable[dict[str, Any]], granted: set[Right]) -> set[Right]:
    """What the events needed: a server-side apply that created something needed `create` as well."""
    found = set()
    for event in events:
        target = event["objectRef"]
        resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
        made = event["verb"] == "patch" and event["responseStatus"]["code"] == 201
        for verb in (event["verb"], "create") if made else (event["verb"],):
            named = (target.get("apiGroup", ""), resource, verb, target.get("name", ""))
            found.add(named if named in granted else (*named[:3], ""))
        if resource == "rolebindings" and event["verb"] == "patch":
            found.add(BINDS)
    return found


def is_refusal(event: dict[str, Any]) -> bool:
    return event["annotations"].get("authorization.k8s.io/decision") == "forbid"


def fell_in(event: dict[str, Any], chart: Chart) -> bool:
    """Whether the chart, and its roles with it, was being taken away at that moment."""
    moment = datetime.fromisoformat(event["requestReceivedTimestamp"])
    return any(begun <= moment <= ended for begun, ended in chart.absences)


def since(events: list[dict[str, Any]], start: datetime) -> list[dict[str, Any]]:
    return [event for event in events if datetime.fromisoformat(event["requestReceivedTimestamp"]) >= start]


def test_nothing_was_refused_to_the_operator(requests, session_start, chart):
    refused = [event for event in since(requests, session_start) if is_refusal(event) and not fell_in(event, chart)]

    told = {(event["verb"], event["requestURI"].split("?")[0]) for event in refused}
    assert not told, f"asked for, not granted: {sorted(told)}"


def test_everything_granted_is_used_and_everything_used_is_granted(request, requests, session_start, granted):
    """Rights for what a cluster sees once, such as the making of the Lease, are looked for in its whole life."""
    if not ran_whole(request.session):
        pytest.skip("tells something only after all of tests/e2e")
    allowed = [event for event in requests if not is_refusal(event)]

    lately = used(since(allowed, session_start), granted)
    ever = used(allowed, granted)

    assert not lately - granted, f"used, and not by the chart's roles: {sorted(lately - granted)}"
    assert not granted - ever, f"granted, and never used: {sorted(granted - ever)}"


def ran_whole(session: pytest.Session) -> bool:
    """Whether every file of these tests was collected, and nothing was deselected."""
    collected = {item.path.name for item in session.items if item.path.parent == HERE}
    return collected == {path.name for path in HERE.glob("test_*.py")} and not session.config.option.keyword
