"""The kinds Penstock reads or writes: where they live in the API, and how little of each is kept in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from penstock.api import resource, router
from penstock.api.traffic import GATEWAY_GROUP, GRPC_ROUTE, HTTP_ROUTE, ROUTE_KINDS
from penstock.core.names import DEPLOYMENT_LABEL, FIELD_MANAGER, ROUTER_LABEL

__all__ = [
    "KINDS",
    "OPTIONAL",
    "WATCHED",
    "Kind",
    "Manifest",
    "controller_uid",
    "deployment_key",
    "kind_of",
    "resource_version",
    "router_key",
    "trim",
]

Manifest = dict[str, Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class Kind:
    """One kind of object: its place in the API, and whether the operator watches it.

    `labelled` kinds are watched by `app.kubernetes.io/managed-by=penstock` only, chosen by the API server. An
    `optional` kind is watched where the cluster serves it; its CRD may come and go.
    """

    name: str
    group: str
    version: str
    plural: str
    watched: bool = False
    labelled: bool = True
    namespaced: bool = True
    optional: bool = False

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def crd(self) -> str:
        """The name of the CustomResourceDefinition that makes it, where one does."""
        return f"{self.plural}.{self.group}"

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, of one object, or of a subresource of it."""
        parts = ["", "apis", self.group, self.version] if self.group else ["", "api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


_TABLE = (
    Kind(resource.KIND, resource.GROUP, resource.VERSION, resource.PLURAL, watched=True, labelled=False),
    Kind(router.ROUTER_KIND, resource.GROUP, resource.VERSION, router.ROUTER_PLURAL, watched=True, labelled=False),
    Kind(router.SPLIT_KIND, resource.GROUP, resource.VERSION, router.SPLIT_PLURAL, watched=True),
    Kind("Deployment", "apps", "v1", "deployments", watched=True),
    Kind("ControllerRevision", "apps", "v1", "controllerrevisions", watched=True),
    Kind("Service", "", "v1", "services", watched=True),
    Kind("ConfigMap", "", "v1", "configmaps", watched=True),
    Kind("Pod", "", "v1", "pods", watched=True),
    Kind("Job", "batch", "v1", "jobs", watched=True),
    Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", watched=True),
    Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers", watched=True),
    Kind("ServiceAccount", "", "v1", "serviceaccounts", watched=True),
    Kind("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings", watched=True),
    Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", watched=True),
    Kind(HTTP_ROUTE, GATEWAY_GROUP, "v1", "httproutes", watched=True, optional=True),
    Kind(GRPC_ROUTE, GATEWAY_GROUP, "v1", "grpcroutes", watched=True, optional=True),
    Kind("Secret", "", "v1", "secrets"),
    Kind("Event", "events.k8s.io", "v1", "events"),
    Kind("Lease", "coordination.k8s.io", "v1", "leases"),
    Kind("Namespace", "", "v1", "namespaces", namespaced=False),
    Kind(
        "CustomResourceDefinition",
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        labelled=False,
        namespaced=False,
    ),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}
WATCHED: tuple[Kind, ...] = tuple(kind for kind in _TABLE if kind.watched and not kind.optional)
OPTIONAL: tuple[Kind, ...] = tuple(kind for kind in _TABLE if kind.optional)


def kind_of(name: str) -> Kind:
    """The kind of that name; raises KeyError with the known ones for a kind this program never touches."""
    try:
        return KINDS[name]
    except KeyError:
        raise KeyError(f"kind {name!r} is not one of {', '.join(sorted(KINDS))}; add it to kube/objects.py") from None


def deployment_key(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """(namespace, name) of the ModelDeployment that an object is or belongs to by label; None for a stranger."""
    metadata = manifest["metadata"]
    if manifest["kind"] == resource.KIND:
        return metadata.get("namespace", ""), metadata["name"]
    name = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL)
    return (metadata.get("namespace", ""), name) if name else None


def router_key(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """(namespace, name) of the Router that an object is or belongs to by label; None for what is of no fleet."""
    metadata = manifest["metadata"]
    if manifest["kind"] == router.ROUTER_KIND:
        return metadata.get("namespace", ""), metadata["name"]
    name = (metadata.get("labels") or {}).get(ROUTER_LABEL)
    return (metadata.get("namespace", ""), name) if name else None


def controller_uid(manifest: Mapping[str, Any]) -> str | None:
    """uid of the controller that owns an object; None for one that nobody controls."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def resource_version(manifest: Mapping[str, Any]) -> str:
    """metadata.resourceVersion, or the empty string."""
    return str(manifest["metadata"].get("resourceVersion", ""))


def trim(manifest: Mapping[str, Any]) -> Manifest:
    """A copy with only what decisions read; field names are shared between objects.

    Managed fields and kubectl's annotation are half of an object. A pod keeps its identity and status alone, a
    HorizontalPodAutoscaler no metric readings: these change every 15 s and would wake a reconcile each time. Of a route
    it is known which fields are still as we have applied them.
    """
    kept = _TRIMMERS.get(manifest["kind"], _everything)(manifest)
    kept["metadata"] = _metadata(manifest["metadata"])
    if manifest["kind"] in ROUTE_KINDS:
        kept["metadata"]["managedFields"] = _applied_by_us(manifest["metadata"])
    shared: Manifest = _shared(kept)
    return shared


def _metadata(metadata: Mapping[str, Any]) -> Manifest:
    kept = {key: value for key, value in metadata.items() if key not in ("managedFields", "selfLink")}
    annotations = kept.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        kept["annotations"] = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
    return kept


def _applied_by_us(metadata: Mapping[str, Any]) -> list[Manifest]:
    return [
        {key: entry[key] for key in ("manager", "operation", "fieldsV1") if key in entry}
        for entry in metadata.get("managedFields") or ()
        if (entry.get("manager"), entry.get("operation")) == (FIELD_MANAGER, "Apply") and not entry.get("subresource")
    ]


def _everything(manifest: Mapping[str, Any]) -> Manifest:
    return dict(manifest)


def _pod(manifest: Mapping[str, Any]) -> Manifest:
    status = manifest.get("status", {})
    kept: Manifest = {key: status[key] for key in ("phase", "reason", "message", "podIP", "startTime") if key in status}
    kept["conditions"] = [
        {key: item[key] for key in ("type", "status", "reason", "message") if key in item}
        for item in status.get("conditions") or ()
    ]
    for field in ("initContainerStatuses", "containerStatuses"):
        kept[field] = [
            {key: item[key] for key in ("name", "ready", "restartCount", "state", "lastState") if key in item}
            for item in status.get(field) or ()
        ]
    return {"apiVersion": manifest.get("apiVersion", "v1"), "kind": "Pod", "status": kept}


def _autoscaler(manifest: Mapping[str, Any]) -> Manifest:
    status = manifest.get("status", {})
    kept: Manifest = {key: status[key] for key in ("currentReplicas", "desiredReplicas") if key in status}
    kept["conditions"] = [
        {key: item[key] for key in ("type", "status", "reason") if key in item}
        for item in status.get("conditions") or ()
    ]
    return {**manifest, "status": kept}


def _definition(manifest: Mapping[str, Any]) -> Manifest:
    """Which versions are served, and whether they are by now; a CRD may have half a megabyte of schemas."""
    versions = manifest.get("spec", {}).get("versions") or ()
    served = [{"name": item["name"], "served": item.get("served", False)} for item in versions]
    established = [
        {"type": item["type"], "status": item["status"]}
        for item in manifest.get("status", {}).get("conditions") or ()
        if item["type"] == "Established"
    ]
    return {"kind": manifest["kind"], "spec": {"versions": served}, "status": {"conditions": established}}


_TRIMMERS: Mapping[str, Callable[[Mapping[str, Any]], Manifest]] = {
    "Pod": _pod,
    "HorizontalPodAutoscaler": _autoscaler,
    "CustomResourceDefinition": _definition,
}


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {intern(key): _shared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return value
