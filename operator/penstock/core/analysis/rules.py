"""What a candidate is held to, as numbers; pinned for the length of a rollout."""

from dataclasses import dataclass
from functools import cached_property

from penstock.api.rollout import AnalysisSpec, ErrorsSpec, LatencySpec
from penstock.api.units import duration_seconds

__all__ = ["Rules"]


@dataclass(frozen=True)
class Rules:
    """The numbers of `spec.rollout.analysis`, defaults filled in.

    `sticky` says that clients, not requests, were spread by weight, and that counts are distinct clients.
    """

    tolerance: float = 2.0
    """Errors and client errors up to this multiple of stable's are accepted."""
    max_rate: float = 0.01
    quantile: float = 0.95
    slow_tolerance: float = 2.0
    alpha: float = 0.01
    """`falseRollback`: over the whole rollout and all metrics together."""
    confidence: float = 0.95
    deadline: float = 1800.0
    """Seconds."""
    sticky: bool = False

    @classmethod
    def of(cls, spec: AnalysisSpec | None, *, sticky: bool = False) -> "Rules":
        """What the spec asks for, with the defaults of the API where it says nothing."""
        spec = spec or AnalysisSpec()
        errors, latency = spec.errors or ErrorsSpec(), spec.latency or LatencySpec()
        return cls(
            tolerance=float(errors.tolerance),
            max_rate=float(errors.max_percent) / 100,
            quantile=float(latency.quantile) / 100,
            slow_tolerance=float(latency.tolerance),
            alpha=float(spec.false_rollback),
            confidence=float(spec.promote_confidence),
            deadline=duration_seconds(spec.deadline),
            sticky=sticky,
        )

    @cached_property
    def fail_at(self) -> float:
        """The combined e-value at which the candidate is taken back (Ville's inequality: 1/alpha)."""
        return 1 / self.alpha

    @cached_property
    def pass_at(self) -> float:
        """The e-value at which the candidate's error rate is proven."""
        return 1 / (1 - self.confidence)
