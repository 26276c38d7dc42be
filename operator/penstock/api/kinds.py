"""The kinds of the group: what each CRD says beside the fields of its models, and whether an installed one will do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .base import ApiModel, Rule
from .resource import GROUP, KIND, PLURAL, SCHEMA_ANNOTATION, SCHEMA_VERSION
from .router import (
    ROUTER_KIND,
    ROUTER_PLURAL,
    SPLIT_KIND,
    SPLIT_PLURAL,
    RouterSpec,
    RouterStatus,
    TrafficSplitSpec,
)
from .rules import DEPLOYMENT_NAME
from .spec import ModelDeploymentSpec
from .status import ModelDeploymentStatus
from .trafficrules import ROUTER_NAME, SPLIT_NAME

__all__ = ["CRD_NAMES", "DEFINITIONS", "Column", "Definition", "schema_problem"]


@dataclass(frozen=True)
class Column:
    """One printer column; a `wide` one only with `-o wide`."""

    name: str
    path: str
    description: str = ""
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True)
class Definition:
    """One kind; `rules` are those of the whole object."""

    kind: str
    plural: str
    description: str
    spec: type[ApiModel]
    columns: tuple[Column, ...]
    status: type[ApiModel] | None = None
    short_names: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    scalable: bool = False

    @property
    def name(self) -> str:
        """The name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


_AGE = Column("Age", ".metadata.creationTimestamp", type="date")
_READY = '.status.conditions[?(@.type=="Ready")].status'
_TABLE = (
    Definition(
        KIND,
        PLURAL,
        "A trained model, served on Triton Inference Server.",
        ModelDeploymentSpec,
        (
            Column("Phase", ".status.phase", "Where the deployment stands."),
            Column("Stable", ".status.stable.revision", "The revision that serves."),
            Column("Candidate", ".status.candidate.revision", "The revision on its way."),
            Column("Weight", ".status.candidate.weight", "Percent of the requests that the candidate gets."),
            Column("Verdict", ".status.candidate.verdict", "What the evidence says about the candidate."),
            Column("Ready", _READY, "Whether the spec is what serves."),
            _AGE,
            Column("URL", ".status.url", "Where requests go.", wide=True),
            Column("Message", ".status.message", "What is going on.", wide=True),
        ),
        ModelDeploymentStatus,
        short_names=("md", "mdep"),
        rules=(DEPLOYMENT_NAME,),
        scalable=True,
    ),
    Definition(
        ROUTER_KIND,
        ROUTER_PLURAL,
        "A fleet of Envoy pods that takes the requests of the namespace's models; `default` is made on first use.",
        RouterSpec,
        (
            Column("Replicas", ".status.replicas", "Router pods.", "integer"),
            Column("Ready", ".status.readyReplicas", "Those that serve.", "integer"),
            Column("Models", ".status.models", "ModelDeployments that use it.", "integer"),
            _AGE,
            Column("Image", ".status.image", "The router image.", wide=True),
            Column("Message", ".status.message", "What is going on.", wide=True),
        ),
        RouterStatus,
        rules=(ROUTER_NAME,),
    ),
    Definition(
        SPLIT_KIND,
        SPLIT_PLURAL,
        "The desired route of one ModelDeployment, written by the operator alone and read by the router pods.",
        TrafficSplitSpec,
        (
            Column("Generation", ".spec.generation", "Grows with every change of the route.", "integer"),
            Column("Stable", ".spec.stable", "The revision that serves."),
            Column("Port", ".spec.port", "Where the router pods listen for this model.", "integer"),
            _AGE,
            Column("Router", ".spec.router", "The fleet.", wide=True),
        ),
        rules=(SPLIT_NAME,),
    ),
)
DEFINITIONS: Mapping[str, Definition] = {definition.kind: definition for definition in _TABLE}
CRD_NAMES: tuple[str, ...] = tuple(definition.name for definition in _TABLE)
"""The CRDs that an operator needs before it leads."""


def schema_problem(name: str, crd: Mapping[str, Any] | None) -> str | None:
    """Why no operator of this release may lead over the CRD of that name as installed; None when it may."""
    if crd is None:
        return f"CRD {name} is not installed; apply the chart's CRDs"
    found = int(crd["metadata"].get("annotations", {}).get(SCHEMA_ANNOTATION, "0"))
    if found >= SCHEMA_VERSION:
        return None
    return (
        f"CRD {name} has schema {found}, this operator needs {SCHEMA_VERSION} or newer;"
        " upgrade the chart with its CRDs (crds.install=true), or apply crds/ of this release"
    )
