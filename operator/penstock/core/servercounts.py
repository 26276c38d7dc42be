"""What tritonserver itself counts, asked for once when a revision was taken back: to explain, never to decide.

It is no measure of what clients got: an error that a backend answers with, and a request that a backend keeps for
ever, are successes to Triton, and what it refuses (bad input, a full queue) it does not count at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Examination", "Findings", "ModelCounts", "ServerCounts"]


@dataclass(frozen=True)
class ModelCounts:
    """One model in one server, all versions, since the server started; warm-up is in it."""

    served: int = 0
    """What Triton calls successes."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """By Triton's reason; those that are 0 are left out."""
    queued_microseconds: int = 0
    computed_microseconds: int = 0
    """Both are sums over `served`."""
    waiting: int = 0
    """Requests in its queue now."""


ServerCounts = Mapping[str, ModelCounts]
"""Of one server, by model."""


@dataclass(frozen=True)
class Examination:
    """What is worth asking: about the revision that was taken back then, and the one that it was compared with."""

    revision: str
    time: str
    candidate: tuple[str, ...] = ()
    """Addresses of its pods."""
    stable: tuple[str, ...] = ()

    @property
    def about(self) -> tuple[str, str]:
        """One ending of one revision; pods come and go meanwhile."""
        return self.revision, self.time


@dataclass(frozen=True)
class Findings:
    """What was answered; pods that did not answer are missing."""

    about: tuple[str, str]
    asked: int = 0
    """Pods of the candidate."""
    candidate: tuple[ServerCounts, ...] = ()
    stable: tuple[ServerCounts, ...] = ()
