"""The revision that the spec asks for: an existing record, a new one, or why there can be none."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from penstock.api.facts import ModelFacts
from penstock.api.reasons import Reason
from penstock.api.spec import Resources, ServerSpec
from penstock.api.units import quantity_value

from .modelrepo import Problem, build_repository, resolve_settings
from .observed import Observed
from .preparing import Preparing
from .revision import RevisionRecord, name_revision
from .sizes import DEFAULT_CPU_LIMIT, DEFAULT_CPU_REQUEST, mebibytes

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
    if repository.errors:
        return Target(reason=Reason.INVALID_CONFIG, message=_sentence(repository.errors), refused=True)
    record = RevisionRecord(
        name=name,
        preparation=preparing.status.key,
        model=spec.model,
        facts=facts,
        served_name=served_name,
        server=resolved.to_json(),
        resources=_resources(server, repository.memory_bytes),
        env=(spec.pod.env or ()) if spec.pod else (),
        runtime_class=spec.pod.runtime_class_name if spec.pod else None,
        server_image=(server.image if server else None) or settings.triton_image,
        fetch_image=settings.jobs_image,
        plain_http=settings.plain_http,
        image_pull_secrets=settings.image_pull_secrets,
        number=max((record.number for record in observed.records.values()), default=0) + 1,
    )
    return Target(record, fresh=True)


def cpu_limit(server: ServerSpec | None) -> Fraction:
    """Cores the server may use."""
    limits = (server.resources.limits if server and server.resources else None) or {}
    return quantity_value(limits.get("cpu", DEFAULT_CPU_LIMIT))


def _resources(server: ServerSpec | None, memory_bytes: int) -> dict[str, dict[str, str]]:
    asked = (server.resources if server else None) or Resources()
    requests, limits = dict(asked.requests or {}), dict(asked.limits or {})
    limits.setdefault("cpu", DEFAULT_CPU_LIMIT)
    limits.setdefault("memory", max(mebibytes(memory_bytes), requests.get("memory", "0"), key=quantity_value))
    requests.setdefault("cpu", min(DEFAULT_CPU_REQUEST, limits["cpu"], key=quantity_value))
    requests.setdefault("memory", limits["memory"])
    return {"requests": requests, "limits": limits}


def _sentence(problems: Iterable[Problem]) -> str:
    return "; ".join(f"{problem.path}: {problem.message}" for problem in problems)[:2000]
