"""What INT8 has to look like for a processor: other instructions want other numbers.

x86 multiplies unsigned activations with signed weights. Without VNNI it adds two such products in 16 bits, which
saturates silently, so weights keep one bit less. Arm multiplies signed with signed.
"""

import platform
from collections.abc import Collection
from dataclasses import dataclass

from penstock_runtime.machine import speed_flags

__all__ = ["GPU", "Isa", "read_isa"]

_ARM = ("aarch64", "arm64")


@dataclass(frozen=True)
class Isa:
    """The instruction set that decides, and its form of INT8: signed activations, and weights of seven bits."""

    name: str
    signed_activations: bool
    seven_bits: bool


GPU = Isa("gpu", signed_activations=True, seven_bits=False)
"""TensorRT wants both signed and symmetric."""


def read_isa(flags: Collection[str] | None = None, machine: str | None = None) -> Isa:
    """Of this machine, on which the server is expected to run too."""
    found = set(speed_flags() if flags is None else flags)
    if (platform.machine() if machine is None else machine) in _ARM:
        return Isa("arm-i8mm" if "i8mm" in found else "arm", signed_activations=True, seven_bits=False)
    for name in ("amx_int8", "avx512_vnni", "avx_vnni"):
        if name in found:
            return Isa(name, signed_activations=False, seven_bits=False)
    name = next((flag for flag in ("avx512f", "avx2") if flag in found), "x86")
    return Isa(name, signed_activations=False, seven_bits=True)
