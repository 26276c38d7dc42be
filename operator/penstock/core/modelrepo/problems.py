"""Problem: one thing wrong with a model's specification or configuration, said so that its author can mend it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Problem", "Severity", "errors"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and where.

    `path` is a field of what the author wrote: `spec.server.batching.preferredBatchSizes[1]` in a ModelDeployment,
    `dynamic_batching.preferred_batch_size[1]` in a config.pbtxt. `rule` is the stable id of the table in `rules`.
    An error is refused; a warning loads, and probably does not do what its author meant.
    """

    path: str
    rule: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        """One line for people: path, then the sentence."""
        return f"{self.path}: {self.message}" if self.path else self.message


def errors(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Those that must be refused."""
    return tuple(problem for problem in problems if problem.severity == "error")
