"""The HorizontalPodAutoscaler of a deployment's stable revision."""

from typing import Any

from penstock.api.resource import Metadata
from penstock.api.spec import AutoscalingSpec
from penstock.core.names import object_metadata

__all__ = ["horizontal_autoscaler"]


def horizontal_autoscaler(owner: Metadata, revision: str, spec: AutoscalingSpec, floor: int = 0) -> dict[str, Any]:
    """It scales the revision's Deployment, not the ModelDeployment: the user's spec is never written.

    `floor` holds a size that was needed a short time ago, within the bounds of the spec.
    """
    metric = {
        "type": "ContainerResource",
        "containerResource": {
            "name": "cpu",
            "container": "server",
            "target": {"type": "Utilization", "averageUtilization": spec.target.cpu_percent},
        },
    }
    rendered: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": revision},
        "minReplicas": min(max(spec.min, floor), spec.max),
        "maxReplicas": spec.max,
        "metrics": [metric],
    }
    if spec.behavior:
        rendered["behavior"] = spec.behavior
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": object_metadata(owner, owner.name, "server"),
        "spec": rendered,
    }
