"""What the router pods told the operator: routes in force, warm revisions, and counters second by second."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FleetView", "RevisionCounts", "RouterPodView", "Row"]


@dataclass(frozen=True)
class RevisionCounts:
    """One revision in one second, over all router pods.

    `requests` are those that ended, aborted ones included, so that a dead or hanging revision never looks idle;
    `errors` are HTTP 5xx and gRPC codes 2, 4, 8, 13, 14, answers that Envoy made itself included; `client_errors` are
    other 4xx and the gRPC codes of bad requests; `aborted` are requests whose client went away unanswered.
    `latency` counts requests by upper bound as in `Row.bounds`, one more bucket for anything slower; timeouts and
    aborts are in the last. With sticky routing `errors`, `client_errors` and the last bucket count units, each once.
    """

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    aborted: int = 0
    latency: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One second of one model, merged over the router pods that agreed on the route for all of it.

    `second` is the Unix second in which it ended; `weights` are in 0.1 % by revision, as attested; `shadow` is the
    mirrored share in 0.1 % of the revision named first, or None.
    """

    second: int
    generation: int
    weights: Mapping[str, int]
    counts: Mapping[str, RevisionCounts]
    bounds: tuple[int, ...] = ()
    """Upper bounds of the latency buckets in ms."""
    shadow: tuple[str, int] | None = None


@dataclass(frozen=True)
class RouterPodView:
    """One Ready router pod as it last answered, for one model."""

    name: str
    answered: bool
    """It answered within the last 5 s."""
    generation: int = 0
    """Attested through Envoy's own data plane; 0: it does not route this model yet."""
    expired: bool = False
    """Supervision was lost and everything goes to stable, until a higher generation comes."""
    warm: Mapping[str, int] = field(default_factory=dict)
    """Healthy endpoints by revision."""
    rejected: str = ""
    """What Envoy said to the last configuration, when it refused it."""

    def follows(self, generation: int) -> bool:
        """Whether it routes by this generation, of its own will."""
        return self.answered and self.generation == generation and not self.expired

    @property
    def refusal(self) -> str:
        """A sentence about what Envoy has refused; empty where it has not."""
        return f"{self.name} refuses it: {self.rejected}" if self.rejected else ""


@dataclass(frozen=True)
class FleetView:
    """The fleet as it answered for one model: every Ready router pod, and the rows newer than status knows."""

    pods: tuple[RouterPodView, ...] = ()
    rows: tuple[Row, ...] = ()

    def attests(self, generation: int) -> bool:
        """Whether every Ready pod routes by this generation, of its own will; False without pods."""
        return bool(self.pods) and all(pod.follows(generation) for pod in self.pods)

    def warm(self, revision: str) -> int:
        """Endpoints of a revision that every Ready pod can reach."""
        return min((pod.warm.get(revision, 0) for pod in self.pods), default=0)
