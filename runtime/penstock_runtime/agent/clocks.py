"""The clocks of a node, as one thing that tests can replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Clocks"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


@dataclass(frozen=True)
class Clocks:
    """Seconds of the monotonic clock, which all processes of a boot share, Unix seconds, and the boot itself."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    boot: str = field(default_factory=_boot)
