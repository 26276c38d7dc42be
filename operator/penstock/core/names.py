"""Names and labels that several rooms need to agree on.

metadata.name of a ModelDeployment is a DNS-1035 label of at most 40 characters, so every name below fits its kind's
limit without being cut: two deployments can never meet in one name.
"""

from typing import Any, NamedTuple

from penstock.api.resource import API_VERSION, KIND, Metadata

__all__ = [
    "COMPONENT_LABEL",
    "DEPLOYMENT_LABEL",
    "FIELD_MANAGER",
    "MANAGED_BY",
    "MEANS_ANNOTATION",
    "PREPARATION_LABEL",
    "PULL_SECRET",
    "PUSH_SECRET",
    "RENDERED_ANNOTATION",
    "REVISION_LABEL",
    "ROUTER_LABEL",
    "ObjectKey",
    "job_name",
    "key_of",
    "labels",
    "object_metadata",
    "prepare_policy_name",
    "resolve_name",
    "revision_name",
]

FIELD_MANAGER = "penstock"
MANAGED_BY = {"app.kubernetes.io/managed-by": "penstock"}
DEPLOYMENT_LABEL = "penstock.dev/deployment"
REVISION_LABEL = "penstock.dev/revision"
ROUTER_LABEL = "penstock.dev/router"
"""On everything of a router fleet, which carries no deployment label: a fleet is nobody's alone."""
COMPONENT_LABEL = "app.kubernetes.io/component"
PREPARATION_LABEL = "penstock.dev/preparation"
MEANS_ANNOTATION = "penstock.dev/means"
RENDERED_ANNOTATION = "penstock.dev/rendered"
PUSH_SECRET = "penstock-registry-push"  # noqa: S105 - the name of a Secret
PULL_SECRET = "penstock-registry-pull"  # noqa: S105 - the name of a Secret


class ObjectKey(NamedTuple):
    """One object of a namespace; the kind alone is enough, Penstock uses no two groups with the same kind.

    A tuple, as each pass makes, hashes and compares a hundred of them.
    """

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def key_of(manifest: dict[str, Any]) -> ObjectKey:
    """The key of a manifest as rendered or as observed."""
    metadata = manifest["metadata"]
    return ObjectKey(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


def revision_name(deployment: str, digest: str) -> str:
    """`<md>-<hash8>`, the name of the revision and of most of its objects."""
    return f"{deployment}-{digest[:8]}"


def job_name(deployment: str, preparation: str) -> str:
    """`<md>-prepare-<hash8>`, at most 57 characters."""
    return f"{deployment}-prepare-{preparation[:8]}"


def resolve_name(deployment: str, source: str) -> str:
    """`<md>-resolve-<hash8>`, at most 57 characters: the Job that asks what a URI means now."""
    return f"{deployment}-resolve-{source[:8]}"


def prepare_policy_name(deployment: str) -> str:
    """`<md>-prepare`: the NetworkPolicy of all preparation pods of a deployment."""
    return f"{deployment}-prepare"


def labels(owner: Metadata, component: str, revision: str | None = None) -> dict[str, str]:
    """The labels of an owned object. The user's own labels are not copied: Argo CD would claim the children by them."""
    found = {
        "app.kubernetes.io/name": "penstock",
        COMPONENT_LABEL: component,
        **MANAGED_BY,
        "app.kubernetes.io/part-of": "penstock",
        DEPLOYMENT_LABEL: owner.name,
    }
    if revision:
        found[REVISION_LABEL] = revision
    return found


def _owner_reference(owner: Metadata) -> dict[str, Any]:
    """Makes the garbage collector remove the child with its ModelDeployment; no finalizer is needed."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def object_metadata(owner: Metadata, name: str, component: str, revision: str | None = None) -> dict[str, Any]:
    """metadata of an owned object."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner, component, revision),
        "ownerReferences": [_owner_reference(owner)],
    }
