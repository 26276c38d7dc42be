"""What every API model shares: camelCase on the wire, frozen in the program, and marks for the CRD generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from .units import (
    DURATION_PATTERN,
    NUMBER_PATTERN,
    QUANTITY_PATTERN,
    REAL_PATTERN,
    canonical_duration,
    canonical_number,
    canonical_quantity,
    canonical_real,
    duration_seconds,
)

__all__ = ["ApiModel", "Duration", "K8s", "Number", "Quantity", "Real", "Rule", "wire"]


@dataclass(frozen=True)
class Rule:
    """A CEL rule of the CRD: `rule` must hold, or the API server answers `message` at `field_path`.

    `holds` says the same in Python, of the value as plain JSON, for `penstock validate`; a test puts one table of
    manifests to both.
    """

    rule: str
    holds: Callable[[Any], bool]
    message: str
    field_path: str | None = None


@dataclass(frozen=True)
class K8s:
    """What a structural schema needs and a Python type cannot say.

    `list_type` is `atomic`, `set` or `map` (then `keys`); `int_or_string` accepts both; `preserve` keeps unknown
    fields; `rules` are CEL; `default` is written by the API server on creation, never below `model` or `server`.
    Several marks of one type add up, the outer one over the inner one.
    """

    list_type: Literal["atomic", "set", "map"] | None = None
    keys: tuple[str, ...] = ()
    int_or_string: bool = False
    preserve: bool = False
    pattern: str | None = None
    format: str | None = None
    max_properties: int | None = None
    max_length: int | None = None
    minimum: int | None = None
    rules: tuple[Rule, ...] = ()
    default: Any = None


class ApiModel(BaseModel):
    """Base of every type on the wire. Unknown fields are ignored: the API server has pruned what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules over the fields of one object."""


def wire(model: BaseModel) -> dict[str, Any]:
    """The JSON form: camelCase, fields that say nothing left out; what hashes and server-side apply work on."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


_ONE_DAY = Rule(
    "duration(self) <= duration('24h')",
    lambda text: duration_seconds(text) <= 86400,
    "this is longer than a day; write at most 24h",
)
Duration = Annotated[
    str, AfterValidator(canonical_duration), K8s(pattern=DURATION_PATTERN, max_length=32, rules=(_ONE_DAY,))
]
Quantity = Annotated[
    str,
    BeforeValidator(canonical_quantity),
    K8s(int_or_string=True, pattern=QUANTITY_PATTERN, max_length=32, minimum=0),
]
Number = Annotated[
    str, BeforeValidator(canonical_number), K8s(int_or_string=True, pattern=NUMBER_PATTERN, max_length=16, minimum=0)
]
"""A percentage, probability or ratio: an integer, or a decimal number as text; the API has no floats."""
Real = Annotated[
    str, BeforeValidator(canonical_real), K8s(int_or_string=True, pattern=REAL_PATTERN, max_length=20, minimum=0)
]
"""As Number, and as small as 1e-9: a tolerance."""
