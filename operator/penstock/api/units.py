"""Durations and quantities as Kubernetes users write them, in one canonical form.

The canonical form matters: a revision's name is a hash of what the user wrote, and `60s` and `1m`
must not be two revisions.
"""

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil

__all__ = [
    "NUMBER_PATTERN",
    "canonical_duration",
    "canonical_number",
    "canonical_quantity",
    "canonical_real",
    "duration_seconds",
    "quantity_value",
]

_DURATION_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
DURATION_PATTERN = r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+$"

_SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50),
}  # fmt: skip
_FINEST = 10**9
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `1m30s`; raises ValueError for anything else."""
    return _milliseconds(text) / 1000


def canonical_duration(text: str) -> str:
    """The shortest spelling of the same length of time: `90s` becomes `1m30s`; raises ValueError."""
    rest = _milliseconds(text)
    parts = []
    for unit, size in _DURATION_UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


@lru_cache(maxsize=1024)
def _milliseconds(text: str) -> int:
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 1m30s or 500ms")
    sizes = dict(_DURATION_UNITS)
    return int(sum(Decimal(number) * sizes[unit] for number, unit in _DURATION_PART.findall(text)))


def quantity_value(text: str | int) -> Fraction:
    """The exact number behind a Kubernetes quantity (`500m` is 1/2, `1Ki` is 1024); raises ValueError."""
    match = _QUANTITY.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write it like 500m, 2 or 1Gi")
    return Fraction(match[1]) * _SUFFIXES[match[2] or ""]


def canonical_quantity(text: str | int) -> str:
    """The spelling the API server itself would choose among equal ones: `1024Mi` becomes `1Gi`; raises ValueError.

    What is finer than a billionth is rounded up to one, as Kubernetes does.
    """
    value = Fraction(ceil(quantity_value(text) * _FINEST), _FINEST)
    binary = str(text).endswith("i")
    order = ("Pi", "Ti", "Gi", "Mi", "Ki") if binary else ("P", "T", "G", "M", "k")
    scaled = ((suffix, value / _SUFFIXES[suffix]) for suffix in (*order, "", "m", "u", "n"))
    suffix, number = next(found for found in scaled if found[1].denominator == 1)
    return f"{number}{suffix}" if value else "0"


NUMBER_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"


def canonical_number(text: str | int) -> str:
    """The shortest spelling of a non-negative decimal number: `0.50` becomes `0.5`; raises ValueError."""
    if not re.fullmatch(NUMBER_PATTERN, str(text)):
        raise ValueError(f'{text!r} is not a plain number; write it like 2 or "0.5"')
    value = Decimal(str(text)).normalize()
    return f"{value:f}"


REAL_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,9})?([eE]-?[0-9]{1,2})?$"


def canonical_real(text: str | int) -> str:
    """The shortest spelling of a number that may be very small: `1E-03` becomes `0.001`; raises ValueError."""
    if not re.fullmatch(REAL_PATTERN, str(text)):
        raise ValueError(f'{text!r} is not a number; write it like 2, "0.5" or "1e-3"')
    value = Decimal(str(text)).normalize()
    return f"{value:f}" if -10 < value.adjusted() < 10 else f"{value:e}"
