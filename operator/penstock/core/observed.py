"""One snapshot of the world: all that `plan()` may look at."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.resource import ModelDeployment
from penstock.api.router import FIRST_PORT

from .fleet import FleetView
from .names import REVISION_LABEL, ObjectKey
from .pods import is_owned
from .revision import RevisionRecord
from .servercounts import Findings
from .settings import Settings

__all__ = ["Observed"]


@dataclass(frozen=True)
class Observed:
    """A ModelDeployment, the objects that are its own, its pods, and what is in its way."""

    deployment: ModelDeployment
    settings: Settings
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    pods: tuple[Mapping[str, Any], ...] = ()
    obstacles: Mapping[ObjectKey, tuple[Reason, str]] = field(default_factory=dict)
    """Objects that could not be written last time, and why: a foreign object has the name, a quota is used up."""
    fleet: FleetView | None = None
    """What the router pods last said; None unless they were asked within the last seconds."""
    findings: Findings | None = None
    """What the servers of a revision that was taken back have counted; for words alone."""
    router: Mapping[str, Any] | None = None
    """The live Router that the live split names, else the one that the spec names."""
    served: frozenset[str] = frozenset()
    """Kinds of the Gateway API that this cluster serves."""
    unpublished: Mapping[ObjectKey, tuple[Reason, str]] = field(default_factory=dict)
    """Routes that could not be written last time, and why."""
    port: int = FIRST_PORT
    """The listener of this model in a router pod, chosen by the controller."""

    @cached_property
    def records(self) -> dict[str, RevisionRecord]:
        """The readable revision records by name, oldest first; a newer release may have left one that is not."""
        found = []
        for item in self.of_kind("ControllerRevision"):
            with suppress(KeyError, ValueError):
                found.append(RevisionRecord.from_manifest(dict(item)))
        return {record.name: record for record in sorted(found, key=lambda record: record.number)}

    def of_kind(self, kind: str) -> Iterable[Mapping[str, Any]]:
        """Own objects of one kind, in name order."""
        return [self.objects[key] for key in sorted(key for key in self.objects if key.kind == kind)]

    def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """One own object, or None."""
        return self.objects.get(ObjectKey(kind, self.deployment.metadata.namespace, name))

    def asked_replicas(self, revision: str | None) -> int:
        """As many pods as the revision's Deployment asks for now."""
        live = self.get("Deployment", revision) if revision else None
        return int(live["spec"].get("replicas", 1)) if live else 0

    def ready_replicas(self, revision: str | None) -> int:
        """Ready pods, as the revision's Deployment counts them."""
        live = self.get("Deployment", revision) if revision else None
        return int(live.get("status", {}).get("readyReplicas", 0)) if live else 0

    def pods_of(self, revision: str) -> tuple[Mapping[str, Any], ...]:
        """Serving pods of one revision."""
        return tuple(pod for pod in self.pods if pod["metadata"].get("labels", {}).get(REVISION_LABEL) == revision)

    def pods_of_job(self, job: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        """Pods of one preparation Job."""
        return tuple(pod for pod in self.pods if is_owned(pod, job["metadata"]["uid"]))
