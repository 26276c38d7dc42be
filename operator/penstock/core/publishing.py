"""The routes that publish a model on Gateways: what has to be written, and what their controllers say to them.

Nothing of it stands in the way of a rollout. The routes lead to the client Service, which never changes its address;
a Gateway that refuses them, or a cluster without the Gateway API, is told in the condition `Published` and nowhere
else. Only what this namespace can mend, a name that is taken or a route that the API server refuses, stalls a
deployment that has nothing else to do.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from penstock.api.reasons import Reason
from penstock.api.status import Condition, ModelDeploymentStatus
from penstock.api.traffic import ROUTE_KINDS, TrafficSpec

from .conditions import Verdict
from .names import FIELD_MANAGER, RENDERED_ANNOTATION, ObjectKey, key_of
from .objects import differs, seal
from .observed import Observed
from .router import routes

__all__ = ["Publishing", "announce_routes", "publish"]

Json = Mapping[str, Any]
_URGENCY = (
    Reason.NAME_TAKEN,
    Reason.ROUTE_REFUSED,
    Reason.GATEWAY_API_MISSING,
    Reason.ROUTE_NOT_ACCEPTED,
    Reason.ROUTE_PENDING,
)
"""Of several problems the first of these is told."""
_OURS_TO_MEND = frozenset({Reason.NAME_TAKEN, Reason.ROUTE_REFUSED})


@dataclass(frozen=True)
class Publishing:
    """What to do about the routes, and where they stand."""

    writes: tuple[dict[str, Any], ...] = ()
    removals: tuple[ObjectKey, ...] = ()
    edited: tuple[str, ...] = ()
    """A sentence for each route that somebody else has changed."""
    told: tuple[bool, Reason, str] | None = None
    """The condition `Published`; None where nothing is to be published."""

    def weigh(self, verdict: Verdict) -> Verdict:
        """What is done but for a route that only a change in this namespace can mend is stuck."""
        if verdict.state == "Done" and self.told and self.told[1] in _OURS_TO_MEND:
            return Verdict("Stuck", *self.told[1:])
        return verdict


@dataclass(frozen=True)
class _Finding:
    reason: Reason
    message: str


def publish(observed: Observed) -> Publishing:
    """Where the routes of `spec.traffic` stand; removals are those that it no longer asks for."""
    metadata, traffic = observed.deployment.metadata, observed.deployment.spec.traffic or TrafficSpec()
    wanted = [seal(manifest) for manifest in routes(metadata, traffic)]
    writes = [item for item in wanted if item["kind"] in observed.served and not _is_as_asked(item, observed)]
    kept = {key_of(item) for item in wanted}
    return Publishing(
        writes=tuple(writes),
        removals=tuple(sorted(key for key in observed.objects if key.kind in ROUTE_KINDS and key not in kept)),
        edited=tuple(_edited_sentence(item) for item in writes if _is_edited(item, observed)),
        told=_told([found for item in wanted for found in _findings(item, observed)]) if wanted else None,
    )


def announce_routes(
    before: ModelDeploymentStatus, after: ModelDeploymentStatus
) -> Iterator[tuple[Literal["Normal", "Warning"], str, str]]:
    """The model can be reached through its Gateways, or no longer; that somebody has yet to answer is no news."""
    known, told = _condition_of(before), _condition_of(after)
    if told is None or told.reason == Reason.ROUTE_PENDING.value or (known and known.reason == told.reason):
        return
    yield ("Normal" if told.status == "True" else "Warning"), told.reason, told.message


def _condition_of(status: ModelDeploymentStatus) -> Condition | None:
    return next((item for item in status.conditions or () if item.type == "Published"), None)


def _told(found: list[_Finding]) -> tuple[bool, Reason, str]:
    problems = [item for item in found if item.reason is not Reason.PUBLISHED]
    if not problems:
        return True, Reason.PUBLISHED, "; ".join(dict.fromkeys(item.message for item in found))
    first = min(problems, key=lambda item: _URGENCY.index(item.reason))
    return False, first.reason, first.message


# a route as it is


def _live(manifest: Json, observed: Observed) -> Json | None:
    return observed.get(manifest["kind"], manifest["metadata"]["name"])


def _is_as_asked(manifest: dict[str, Any], observed: Observed) -> bool:
    live = _live(manifest, observed)
    if live is None or not _same_spec(manifest, live):
        return False
    return not differs({key: value for key, value in manifest.items() if key != "spec"}, live)


def _same_spec(manifest: Json, live: Json) -> bool:
    """To the word: a filter that somebody has added to a rule of ours is a change of what clients get."""
    found = live.get("spec", {})
    return all(found.get(key) == value for key, value in manifest["spec"].items()) or _is_as_applied(manifest, live)


def _is_as_applied(manifest: Json, live: Json) -> bool:
    """Whether nobody has written the fields since we did: what they say beside our words is the API server's work.

    A default of another release of the Gateway API, or a webhook, adds it again after each write. Who writes a list
    takes it from whoever held it.
    """
    if _rendered(live) != _rendered(manifest):
        return False
    held: dict[str, Any] = {}
    for entry in live["metadata"].get("managedFields") or ():
        if (entry["manager"], entry["operation"]) == (FIELD_MANAGER, "Apply"):
            held |= entry.get("fieldsV1", {}).get("f:spec", {})
    return all(held.get(f"f:{key}") == {} for key in manifest["spec"])


def _rendered(manifest: Json) -> str | None:
    found: str | None = (manifest["metadata"].get("annotations") or {}).get(RENDERED_ANNOTATION)
    return found


def _is_edited(manifest: Json, observed: Observed) -> bool:
    """Whether it is we who wrote this very route before, and somebody else who changed it."""
    live = _live(manifest, observed)
    if live is None or _same_spec(manifest, live):
        return False
    return _rendered(live) in (None, _rendered(manifest))


def _edited_sentence(manifest: Json) -> str:
    name = _name(manifest)
    return f"{name} was changed by somebody else and is put back; it is Penstock's, change spec.traffic instead"


def _name(manifest: Json) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


# what its controllers say


def _findings(manifest: dict[str, Any], observed: Observed) -> Iterator[_Finding]:
    obstacle = observed.unpublished.get(key_of(manifest))
    live, name = _live(manifest, observed), _name(manifest)
    if manifest["kind"] not in observed.served:
        kind, version = manifest["kind"], manifest["apiVersion"]
        sentence = f"this cluster does not serve {kind} ({version}) to the operator"
        remedy = "install the CRDs of the Gateway API, or the operator's rights to them by its chart"
        meanwhile = "until then the model is reached at its Service"
        yield _Finding(Reason.GATEWAY_API_MISSING, f"{sentence}: {remedy}; {meanwhile}")
    elif obstacle:
        yield _Finding(*obstacle)
    elif live is None or not _same_spec(manifest, live):
        yield _Finding(Reason.ROUTE_PENDING, f"{name} is being written")
    else:
        for parent in manifest["spec"]["parentRefs"]:
            yield _look_at_parent(parent, live, name)


def _look_at_parent(parent: Json, live: Json, name: str) -> _Finding:
    """What is said of the route as it is now; the best of it, as a controller of yesterday may have left its word."""
    namespace, generation = live["metadata"]["namespace"], live["metadata"].get("generation")
    gateway = f"Gateway {parent.get('namespace', namespace)}/{parent['name']}"
    place = f"{name} on {gateway}" + (f", listener {parent['sectionName']}" if "sectionName" in parent else "")
    answers = [item for item in (live.get("status") or {}).get("parents") or () if _is_about(item, parent, namespace)]
    if not answers:
        doubt = "does it exist, and is there a controller for its class?"
        return _Finding(Reason.ROUTE_PENDING, f"{place}: nobody has answered for it yet; {doubt}")
    found = [_judge(answer, generation, place) for answer in answers]
    return min(found, key=lambda item: (item.reason is not Reason.PUBLISHED, item.reason is Reason.ROUTE_PENDING))


def _is_about(answer: Json, parent: Json, namespace: str) -> bool:
    return _identity(answer.get("parentRef") or {}, namespace) == _identity(parent, namespace)


def _identity(parent: Json, namespace: str) -> tuple[Any, ...]:
    fields = ("name", "sectionName", "port")
    kind = parent.get("kind", "Gateway")
    return (kind, parent.get("namespace", namespace), *(parent.get(field) for field in fields))


def _judge(answer: Json, generation: int | None, place: str) -> _Finding:
    controller = answer.get("controllerName", "its controller")
    said = {item["type"]: item for item in _current(answer.get("conditions") or (), generation)}
    if not {"Accepted", "ResolvedRefs"} <= said.keys():
        return _Finding(Reason.ROUTE_PENDING, f"{place}: {controller} has not looked at generation {generation} yet")
    wrong = [item for kind, item in said.items() if item["status"] != _WISHED.get(kind, item["status"])]
    if not wrong:
        return _Finding(Reason.PUBLISHED, f"{place}: accepted by {controller}")
    first = wrong[0]
    words = f"{first['type']} is {first['status']}, {first.get('reason', '')}: {first.get('message', '')}"
    undecided = first["status"] == "Unknown"
    reason = Reason.ROUTE_PENDING if undecided else Reason.ROUTE_NOT_ACCEPTED
    return _Finding(reason, f"{place}: {controller} says {words}")


_WISHED = {"Accepted": "True", "ResolvedRefs": "True", "PartiallyInvalid": "False"}


def _current(conditions: Iterable[Json], generation: int | None) -> Iterator[Json]:
    return (item for item in conditions if item.get("observedGeneration") == generation)
