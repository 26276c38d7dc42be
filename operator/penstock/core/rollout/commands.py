"""What spec.rollout orders about one revision: abort over paused over promote (retryToken is the failed revision's).

Commands name a revision, so that one left in Git says nothing about the next.
"""

from dataclasses import dataclass

from penstock.api.rollout import RolloutSpec

__all__ = ["Commands", "read_commands"]


@dataclass(frozen=True)
class Commands:
    """Orders in force for a candidate."""

    abort: bool = False
    paused: bool = False
    promote: bool = False
    end_step: int | None = None
    """This step of the plan counts as done."""


def read_commands(rollout: RolloutSpec, revision: str) -> Commands:
    """Those that name this revision; `paused` is for whichever is on its way."""
    if rollout.abort == revision:
        return Commands(abort=True)
    named, _, step = (rollout.promote or "").partition("/")
    promote = named == revision
    return Commands(
        paused=rollout.paused,
        promote=promote and not step,
        end_step=int(step) if promote and step else None,
    )
