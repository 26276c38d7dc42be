"""The kind itself: group, version, names, and the object as one typed whole."""

from typing import Any

from .base import ApiModel
from .spec import ModelDeploymentSpec
from .status import ModelDeploymentStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "SCHEMA_ANNOTATION",
    "SCHEMA_VERSION",
    "VERSION",
    "Metadata",
    "ModelDeployment",
]

GROUP = "penstock.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"
SCHEMA_ANNOTATION = "penstock.dev/schema"
SCHEMA_VERSION = 6
"""Grows with every change of a CRD; an operator does not lead over an older one, which drops fields in silence."""


class Metadata(ApiModel):
    """The part of metadata that decisions use."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    deletion_timestamp: str | None = None


class ModelDeployment(ApiModel):
    """One ModelDeployment; `parse` raises pydantic.ValidationError for one the schema would have refused."""

    metadata: Metadata
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = ModelDeploymentStatus()

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> "ModelDeployment":
        """From a manifest as the API server or a file holds it."""
        return cls.model_validate(manifest)
