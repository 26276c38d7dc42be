"""What the agent knows to be in force, model by model: the view that counters and answers are made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["KINDS", "WHOLE", "RouteState", "Routes", "cluster_name", "metric_prefix"]

WHOLE = 1000
"""Weights are in 0.1 %."""
KINDS = ("http", "grpc", "shadow-http", "shadow-grpc")
"""The clusters that one revision may have."""


@dataclass(frozen=True)
class RouteState:
    """The route of one model as Envoy's data plane attested it.

    `weights` are those in force, in 0.1 % by revision: stable alone when `expired`. `shadow` is the mirrored revision
    and its share. While `changing` another route is on its way into Envoy and a request may meet either of both; after
    it, `since` is the Unix time at which the new one was attested. A second belongs to one state if it began at or
    after `since` and was not `changing` when it ended.
    """

    uid: str
    generation: int = 0
    """Attested; 0: not routed yet."""
    weights: Mapping[str, int] = field(default_factory=dict)
    shadow: tuple[str, int] | None = None
    expired: bool = False
    rejected: str = ""
    """What Envoy or the agent said to the newest split, if it was refused; the last good route stays in force."""
    sticky: bool = False
    """Routed by a header or cookie of the client; counters of requests then say little."""
    since: float = 0.0
    changing: bool = False


class Routes(Protocol):
    """All models of this agent; answers change only between two turns of the event loop."""

    def get(self, uid: str) -> RouteState | None:
        """One model, None where the agent knows no split of that uid."""

    def all(self) -> Iterable[RouteState]:
        """Every model."""


def cluster_name(uid: str, revision: str, kind: str) -> str:
    """`<first 8 of uid>/<revision>/<kind>`; no dots, which Envoy would cut metric names at."""
    return f"{metric_prefix(uid)}{revision}/{kind}"


def metric_prefix(uid: str) -> str:
    """What the names of all clusters of a model begin with."""
    return f"{uid[:8]}/"
