"""The table of rules, and the subject they look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from penstock.core.modelrepo.context import Context
from penstock.core.modelrepo.problems import Problem
from penstock.core.modelrepo.proto import ModelConfig

__all__ = ["RULES", "Finding", "Findings", "Rule", "Subject", "TensorView", "check_rules", "rule", "tensor_views"]

Finding: TypeAlias = tuple[str, str]
"""Path in config terms, and the sentence."""
Findings: TypeAlias = Iterator[Finding]
Effect = Literal["refused", "misread", "advice"]


@dataclass(frozen=True, slots=True)
class TensorView:
    """One input or output, its fields as plain Python values; `field` is the message itself."""

    path: str
    name: str
    data_type: int
    dims: tuple[int, ...]
    field: Any

    @property
    def reshaped(self) -> tuple[int, ...]:
        """The shape the backend sees, without the batch."""
        return tuple(self.field.reshape.shape) if self.field.HasField("reshape") else self.dims


@dataclass(frozen=True, slots=True)
class Subject:
    """A config with what is known around it."""

    config: ModelConfig
    context: Context
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    scheduler: str | None

    @classmethod
    def of(cls, config: ModelConfig, context: Context) -> "Subject":
        """Unpack a config once, for all rules."""
        return cls(
            config, context, tensor_views(config, "input"), tensor_views(config, "output"),
            config.WhichOneof("scheduling_choice"),
        )  # fmt: skip

    @property
    def tensors(self) -> tuple[TensorView, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def ensemble(self) -> bool:
        """True for a model that is only a graph of others."""
        return self.scheduler == "ensemble_scheduling" or self.config.platform == "ensemble"


def tensor_views(config: ModelConfig, group: str) -> tuple[TensorView, ...]:
    """The inputs or outputs of a config."""
    return tuple(
        TensorView(f"{group}[{index}]", field.name, field.data_type, tuple(field.dims), field)
        for index, field in enumerate(getattr(config, group))
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `effect`: Triton refuses what breaks it, loads and misreads it, or it is only advice.

    A refused one is always an error; a misread one is an error in strict contexts, a warning elsewhere.
    """

    id: str
    effect: Effect
    meaning: str
    check: Callable[[Subject], Findings]

    def severity(self, *, strict: bool) -> Literal["error", "warning"]:
        """How a finding counts."""
        return "error" if self.effect == "refused" or (strict and self.effect == "misread") else "warning"


RULES: dict[str, Rule] = {}


Check: TypeAlias = Callable[[Subject], Findings]


def rule(name: str, effect: Effect, meaning: str) -> Callable[[Check], Check]:
    """Enter a function into the table. Ids are stable: people name them in their tooling."""

    def enter(check: Check) -> Check:
        if name in RULES:
            raise ValueError(f"two rules have the id {name}")
        RULES[name] = Rule(name, effect, meaning, check)
        return check

    return enter


def check_rules(subject: Subject) -> Iterator[Problem]:
    """Every finding of every rule."""
    strict = subject.context.strict
    for entry in RULES.values():
        for path, message in entry.check(subject):
            yield Problem(path, entry.id, message, entry.severity(strict=strict))
