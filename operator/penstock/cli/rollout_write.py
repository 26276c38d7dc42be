"""Writing a change without taking anything from a tool that syncs from Git unless told to."""

import re
from collections.abc import Mapping

import click
import yaml

from penstock.api.resource import KIND
from penstock.kube.errors import Conflict
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import Target, Transport

from .held import MANAGER
from .rollout_change import Change, applied, for_git

__all__ = ["write"]

_APPLY = "application/apply-patch+yaml"
_PEOPLE = "kubectl"
"""Managers of this prefix are people at a terminal, whose last word counts; all others are tools that come back."""


async def write(transport: Transport, live: Manifest, change: Change, *, force: bool) -> str:
    """Apply the change and return what to tell: the manifest for Git, under comments that say what was done.

    Raises ClickException, with the manifest in its message, where a field is another tool's and `force` is not given.
    """
    taken = await _apply(transport, live, change, force=force)
    notes = [f"{change.does}: applied as {MANAGER}"]
    notes += [f"{field} was {owner}'s and is taken over" for field, owner in sorted(taken.items())]
    notes += [change.note] if change.note else []
    notes.append("fields that Git does not name survive a sync; for a cluster rebuilt from Git write there:")
    return "".join(f"# {note}\n" for note in notes) + _text(for_git(live, change))


async def _apply(transport: Transport, live: Manifest, change: Change, *, force: bool) -> dict[str, str]:
    """Which fields were taken from whom."""
    try:
        await _send(transport, applied(live, change), force=False)
    except Conflict as conflict:
        owners = _owners(conflict)
        if not owners:
            raise click.ClickException(f"{conflict}; look again and repeat the command") from conflict
        tools = {field: owner for field, owner in owners.items() if not owner.startswith(_PEOPLE)}
        if tools and not force:
            raise click.ClickException(_refusal(live, change, tools)) from conflict
    else:
        return {}
    await _send(transport, applied(live, change), force=True)
    return owners


async def _send(transport: Transport, manifest: Manifest, *, force: bool) -> None:
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    await transport.request(
        Target("apply", KIND, namespace, name, mutating=True),
        "PATCH",
        kind_of(KIND).path(namespace, name),
        query=[("fieldManager", MANAGER), ("force", str(force).lower())],
        body=manifest,
        content_type=_APPLY,
    )


def _owners(conflict: Conflict) -> dict[str, str]:
    """Field → manager; empty where the conflict is about the object and not about fields."""
    found = {}
    for cause in conflict.causes:
        named = re.search(r'conflict with "([^"]+)"', cause.message)
        if named:
            found[cause.field.removeprefix(".")] = named[1]
    return found


def _refusal(live: Manifest, change: Change, tools: Mapping[str, str]) -> str:
    held = ", ".join(f"{field} by {owner}" for field, owner in sorted(tools.items()))
    return (
        f"nothing was changed. Held from Git: {held}, which would set it back at its next sync. Commit this, or add"
        f" --force to have it until then:\n{_text(for_git(live, change))}"
    )


def _text(manifest: Manifest) -> str:
    return yaml.safe_dump(manifest, sort_keys=False)
