"""What each rollout command asks of `spec.rollout`, decided from the object as it is; nothing here writes.

Commands are keyed by revision (api.md), so that a value left in Git is inert for every later one. They are held by the
field manager `penstock-cli`, and server-side apply takes from a manager what it no longer names: whatever that manager
holds besides (`upgrade-runtime` sets an image) is therefore said again with each change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from penstock.api.resource import API_VERSION, KIND
from penstock.kube.objects import Manifest

from .held import MANAGER, held_fields, holders

__all__ = ["Change", "abort", "applied", "for_git", "pause", "promote", "resume", "retry"]

_NEUTRAL: Mapping[str, Any] = {"paused": False, "promote": "", "abort": ""}
"""Values that ask for nothing, for fields that another manager holds and that therefore cannot be given up."""


@dataclass(frozen=True)
class Change:
    """Fields of spec.rollout to set and to give up, and what comes of it in one clause."""

    does: str
    values: Mapping[str, Any]
    dropped: tuple[str, ...] = ()
    note: str = ""
    """What stands in the way of it just now."""


def pause(_live: Manifest) -> Change:
    """Hold the weights where they are."""
    return Change("the rollout holds its weights; a candidate that turns out bad is still taken back", {"paused": True})


def resume(live: Manifest) -> Change:
    """Go on after `pause`."""
    if not _rollout(live).get("paused"):
        raise click.ClickException(
            "spec.rollout.paused is not set; a rollout that is Paused for another reason waits for what its message"
            f" says: {live.get('status', {}).get('message', 'nothing yet')}"
        )
    return Change("the rollout goes on", {}, ("paused",))


def promote(live: Manifest, step: int | None, *, full: bool) -> Change:
    """End a step of the candidate, the present one unless told otherwise, or promote it at once."""
    candidate = _candidate(live, "promote")
    revision, current = candidate["revision"], candidate.get("step", 0)
    steps = len(candidate.get("plan") or ())
    if step is not None and (full or not current <= step <= steps):
        raise click.ClickException(
            f"step {step} cannot be ended: {revision} is at step {current} of {steps}; name a step from there on, or"
            " give --full alone to promote it at once"
        )
    note = "spec.rollout.paused is set and comes first: `penstock rollout resume` lets this take effect"
    note = note if _rollout(live).get("paused") else ""
    asked = step or (current if candidate.get("stage") == "Stepping" and not (full and _hurries(live)) else 0)
    if not asked:
        return Change(f"{revision} is promoted now", {"promote": revision}, note=note)
    return Change(
        f"step {asked} of {revision} ends {'now' if asked == current else 'as soon as it begins'}",
        {"promote": f"{revision}/{asked}"},
        note=note,
    )


def _hurries(live: Manifest) -> bool:
    """Whether a promoted revision skips what is left; with autoPromote: false it has only opened the preview."""
    rollout = _rollout(live)
    return rollout.get("strategy") != "BlueGreen" or (rollout.get("blueGreen") or {}).get("autoPromote", True)


def abort(live: Manifest) -> Change:
    """Take the candidate back."""
    revision = _candidate(live, "abort")["revision"]
    return Change(f"{revision} is taken back; stable gets all traffic", {"abort": revision})


def retry(live: Manifest) -> Change:
    """Try again what failed: the revision that was taken back, without the commands for it, or the preparation."""
    status, rollout = live.get("status", {}), _rollout(live)
    failed = (status.get("failedRevision") or {}).get("revision")
    unprepared = (status.get("preparation") or {}).get("reason")
    if not (failed or unprepared):
        raise click.ClickException("nothing to retry: status names no failedRevision and no failed preparation")
    stale = tuple(name for name in ("promote", "abort") if (rollout.get(name) or "").partition("/")[0] == failed)
    token = _next_token(rollout.get("retryToken"), status.get("observedRetryToken"))
    sentence = f"{failed} is tried again from its first step"
    if unprepared:
        sentence = f"the preparation that ended with {unprepared} is tried again"
    return Change(sentence, {"retryToken": token}, stale)


def _next_token(*known: str | None) -> str:
    """A number above all that were used."""
    numbers = [int(token) for token in known if token and token.isdecimal()]
    return str(max(numbers, default=0) + 1)


def _candidate(live: Manifest, verb: str) -> Manifest:
    status = live.get("status", {})
    found: Manifest | None = status.get("candidate")
    if not found:
        failed = (status.get("failedRevision") or {}).get("revision")
        hint = f"; {failed} was taken back, `penstock rollout retry` tries it again" if failed else ""
        raise click.ClickException(f"nothing to {verb}: no candidate is on its way{hint}")
    return found


def _rollout(live: Manifest) -> Manifest:
    found: Manifest = live["spec"].get("rollout") or {}
    return found


def for_git(live: Manifest, change: Change) -> Manifest:
    """The change as people write it to Git."""
    unasked = {name: _NEUTRAL[name] for name in change.dropped if name == "paused" or _is_held_elsewhere(live, name)}
    return _manifest(live, {"rollout": {**unasked, **change.values}})


def applied(live: Manifest, change: Change) -> Manifest:
    """All that the manager holds from now on, for one apply to the object of this uid."""
    spec = held_fields(live)
    kept = {name: value for name, value in spec.get("rollout", {}).items() if name not in change.dropped}
    unasked = {name: _NEUTRAL[name] for name in change.dropped if _is_held_elsewhere(live, name)}
    manifest = _manifest(live, {**spec, "rollout": {**kept, **unasked, **change.values}})
    manifest["metadata"]["uid"] = live["metadata"]["uid"]
    return manifest


def _is_held_elsewhere(live: Manifest, name: str) -> bool:
    """Whether giving up a field of spec.rollout would leave it in place."""
    return any(holder != (MANAGER, "Apply") for holder in holders(live, "rollout", name))


def _manifest(live: Manifest, spec: Manifest) -> Manifest:
    spec = {name: value for name, value in spec.items() if value != {}}
    metadata = {"name": live["metadata"]["name"], "namespace": live["metadata"]["namespace"]}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, **({"spec": spec} if spec else {})}
