"""What is known already of the preparation that the spec asks for: from status, else from the revision records."""

from collections.abc import Iterator
from dataclasses import replace

from penstock.api.status import PreparationStatus

from .names import REVISION_LABEL
from .observed import Observed
from .revision import RevisionRecord, preparation_key

__all__ = ["begin_with", "find_record", "recall_preparation"]


def begin_with(observed: Observed) -> Observed:
    """As if the spec asked for `rollout.initial` while nothing serves; spec.model follows as its candidate (PD-25)."""
    deployment = observed.deployment
    initial = deployment.spec.rollout.initial if deployment.spec.rollout else None
    if initial is None or deployment.status.stable or next(_live(observed), None):
        return observed
    model = deployment.spec.model.model_copy(update={"uri": initial.uri, "digest": initial.digest})
    spec = deployment.spec.model_copy(update={"model": model})
    return replace(observed, deployment=deployment.model_copy(update={"spec": spec}))


def _live(observed: Observed) -> Iterator[str]:
    """Revisions that are found live though status has been lost."""
    name = observed.deployment.metadata.name
    split, service = observed.get("TrafficSplit", name), observed.get("Service", name)
    named = split["spec"].get("stable") if split else None
    candidate = observed.deployment.status.candidate
    if named and not (candidate and candidate.revision == named):
        yield named
    selected = service["spec"].get("selector", {}).get(REVISION_LABEL) if service else None
    if selected in observed.records:
        yield selected


def recall_preparation(observed: Observed) -> PreparationStatus:
    """Status of the preparation that the spec asks for, as far as it is known.

    A URI that is refreshed has meant several things. Where status does not say which counts, the one that serves does,
    else the newest; the next refresh puts it right.
    """
    spec, namespace = observed.deployment.spec, observed.deployment.metadata.namespace
    told = observed.deployment.status.preparation
    plain = preparation_key(spec, namespace)
    if told and (told.key == plain or (told.resolved and told.key == preparation_key(spec, namespace, told.resolved))):
        return told
    meanings = [
        record
        for record in observed.records.values()
        if record.resolved and record.preparation in (plain, preparation_key(spec, namespace, record.resolved))
    ]
    if not meanings:
        return PreparationStatus(key=plain)
    stable = observed.deployment.status.stable
    live = [stable.revision] if stable else list(_live(observed))
    chosen = next((record for record in meanings if record.name in live), meanings[-1])
    return PreparationStatus(key=chosen.preparation, revision=chosen.name, resolved=chosen.resolved)


def find_record(observed: Observed, status: PreparationStatus) -> RevisionRecord | None:
    """A record that this preparation led to: the same inputs never run twice."""
    for record in observed.records.values():
        if record.preparation == status.key or record.name == status.revision:
            return record
    return None
