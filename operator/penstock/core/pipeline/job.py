"""The Jobs of a preparation: the one that prepares, and the small one that asks whether the URI means something else.

Beside them a NetworkPolicy: nobody has any business in such a pod. What leaves it is not limited, as nobody knows where
users' sources are; the containers that open models deny themselves sockets instead.
"""

from typing import Any

from penstock.api.base import wire
from penstock.api.resource import Metadata
from penstock.api.spec import PreparePodSpec
from penstock.api.units import duration_seconds
from penstock.core.names import (
    COMPONENT_LABEL,
    DEPLOYMENT_LABEL,
    PREPARATION_LABEL,
    labels,
    object_metadata,
    prepare_policy_name,
)
from penstock.core.security import pod_security
from penstock.core.settings import Settings

from .containers import UNTRUSTED, containers, resolve_container
from .task import Task
from .volumes import resolve_volumes, volumes

__all__ = ["preparation_job", "preparation_policy", "resolve_job"]

PREPARE, RESOLVE = "prepare", "resolve"
_KEPT_AFTER_END = 3600
_RESOLVE_SECONDS = 180
_PLACEMENT = (
    "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName", "serviceAccountName",
    "runtimeClassName",
)  # fmt: skip


def preparation_job(task: Task, name: str, settings: Settings) -> dict[str, Any]:
    """The Job of one preparation; the same arguments give the same manifest."""
    seconds = max(1, round(duration_seconds(task.prepare.timeout)))
    pod = {**containers(task, settings), "volumes": volumes(task, settings)}
    return _job(task, name, PREPARE, seconds, _KEPT_AFTER_END, pod, settings)


def resolve_job(task: Task, name: str, kept_seconds: int, settings: Settings) -> dict[str, Any]:
    """The Job that asks what the URI means now. Ended it is the clock of the next one, so it is kept until then."""
    pod = {"containers": [resolve_container(task, settings)], "volumes": resolve_volumes(task)}
    return _job(task, name, RESOLVE, _RESOLVE_SECONDS, kept_seconds + _KEPT_AFTER_END, pod, settings)


def _job(
    task: Task, name: str, component: str, seconds: int, kept: int, pod: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    metadata = object_metadata(task.owner, name, component)
    metadata["labels"][PREPARATION_LABEL] = task.key
    asked = task.prepare.pod or PreparePodSpec()
    own = {**labels(task.owner, component), PREPARATION_LABEL: task.key}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": kept,
            "template": {
                "metadata": {
                    "labels": {**(asked.labels or {}), **own},
                    "annotations": {**(asked.annotations or {}), **_without_identity()},
                },
                "spec": {**_pod(asked, settings), **pod},
            },
        },
    }


def _without_identity() -> dict[str, str]:
    """The webhooks of AWS and Azure leave these containers alone; where a pod has one they would mount its token."""
    return {
        "eks.amazonaws.com/skip-containers": ",".join(UNTRUSTED),
        "azure.workload.identity/skip-containers": ";".join(UNTRUSTED),
    }


def _pod(asked: PreparePodSpec, settings: Settings) -> dict[str, Any]:
    said = wire(asked)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": pod_security(),
        **{field: said[field] for field in _PLACEMENT if field in said},
    }
    pulls = dict.fromkeys([*settings.image_pull_secrets, *(item["name"] for item in said.get("imagePullSecrets", ()))])
    if pulls:
        pod["imagePullSecrets"] = [{"name": name} for name in pulls]
    return pod


def preparation_policy(owner: Metadata) -> dict[str, Any]:
    """Closes all preparation pods of a deployment to connections from outside; the loopback is no matter of it."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": object_metadata(owner, prepare_policy_name(owner.name), PREPARE),
        "spec": {
            "podSelector": {
                "matchLabels": {DEPLOYMENT_LABEL: owner.name},
                "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": [PREPARE, RESOLVE]}],
            },
            "policyTypes": ["Ingress"],
        },
    }
