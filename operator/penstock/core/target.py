"""The revision that the spec asks for: an existing record, a new one, or why there can be none."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from penstock.api.facts import ModelFacts
from penstock.api.model import SourceFormat
from penstock.api.reasons import Reason
from penstock.api.spec import ServerSpec
from penstock.api.units import quantity_value

from .modelrepo import Problem, build_repository, resolve_settings
from .observed import Observed
from .preparing import Preparing
from .revision import RevisionRecord, name_revision
from .serverimages import missing_image, server_image
from .sizes import server_resources

__all__ = ["Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """`record` of the revision asked for, `fresh` when it has to be written; else the reason there is none."""

    record: RevisionRecord | None = None
    fresh: bool = False
    reason: Reason = Reason.PREPARING
    message: str = ""
    refused: bool = False


def find_target(observed: Observed, preparing: Preparing) -> Target:
    """Look among the records first: an existing revision is used as it was made, whatever the defaults are today."""
    if preparing.facts is None:
        return Target(reason=preparing.reason, message=preparing.message, refused=preparing.failed)
    name = name_revision(observed.deployment, preparing.facts)
    known = observed.records.get(name)
    if known:
        return Target(known)
    return _new_record(observed, preparing, name, preparing.facts)


def _new_record(observed: Observed, preparing: Preparing, name: str, facts: ModelFacts) -> Target:
    deployment, settings = observed.deployment, observed.settings
    spec, server = deployment.spec, deployment.spec.server
    resolved = resolve_settings(server, facts, cpu_limit(server))
    served_name = spec.model.served_name or deployment.metadata.name
    repository = build_repository(facts, served_name, resolved)
    missing = missing_image(server, facts, settings)
    if repository.errors or missing:
        problems = (*repository.errors, *([missing] if missing else ()))
        return Target(reason=Reason.INVALID_CONFIG, message=_sentence(problems), refused=True)
    record = RevisionRecord(
        name=name,
        preparation=preparing.status.key,
        model=spec.model,
        facts=facts,
        served_name=served_name,
        server=resolved.to_json(),
        resources=server_resources(server, repository.memory_bytes),
        env=(spec.pod.env or ()) if spec.pod else (),
        runtime_class=spec.pod.runtime_class_name if spec.pod else None,
        server_image=server_image(server, facts, settings),
        fetch_image=settings.jobs_image,
        plain_http=settings.plain_http,
        image_pull_secrets=settings.image_pull_secrets,
        number=max((record.number for record in observed.records.values()), default=0) + 1,
        optimize=spec.optimize,
        format=cast("SourceFormat | None", preparing.status.source_format if preparing.status.opener else None),
        opener=preparing.status.opener,
        resolved=preparing.status.resolved,
        node_cache=settings.node_cache or None,
    )
    return Target(record, fresh=True)


def cpu_limit(server: ServerSpec | None) -> Fraction:
    """Cores the server may use."""
    return quantity_value(server_resources(server, 0)["limits"]["cpu"])


def _sentence(problems: Iterable[Problem]) -> str:
    return "; ".join(f"{problem.path}: {problem.message}" for problem in problems)[:2000]
