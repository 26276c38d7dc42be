"""Foreign load: what other work on the node takes from a measurement, seen from inside a container.

`/proc/stat` counts the whole machine, also in a container. What it says was busy, less this program's own share and the
server's, is foreign; time stolen by a hypervisor counts as such. It does harm only while the machine has nothing left.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ForeignLoad", "Machine", "read_machine"]

_MUCH, _LITTLE = 0.1, 0.1
"""Of the machine's cores: foreign load above, and idle time below which a window does not count."""


@dataclass(frozen=True)
class Machine:
    """Seconds of all cores since the start of the machine."""

    busy: float
    idle: float
    cores: int


def read_machine(path: Path = Path("/proc/stat")) -> Machine | None:
    """The machine's clocks; None where they cannot be seen."""
    try:
        lines = path.read_text().splitlines()
        ticks = [int(part) for part in lines[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    cores = sum(line.startswith("cpu") for line in lines) - 1
    if len(ticks) < 8 or cores < 1:
        return None
    idle = ticks[3] + ticks[4]
    hertz = os.sysconf("SC_CLK_TCK")
    return Machine((sum(ticks) - idle) / hertz, idle / hertz, cores)


class ForeignLoad:
    """Asked after each window why it must not count; `server` tells the seconds of processor the server has used."""

    def __init__(
        self,
        server: Callable[[], float | None],
        machine: Callable[[], Machine | None] = read_machine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server, self._machine, self._clock = server, machine, clock
        self._last = self._look()

    def __call__(self) -> str | None:
        """The reason against the time since it was last asked; None: nothing was in the way, or it cannot be seen."""
        before, self._last = self._last, self._look()
        if before is None or self._last is None:
            return None
        wall, busy, idle, ours, cores = (
            self._last[0] - before[0], self._last[1].busy - before[1].busy, self._last[1].idle - before[1].idle,
            self._last[2] - before[2], self._last[1].cores,
        )  # fmt: skip
        if wall <= 0 or busy + idle <= 0:
            return None
        foreign, free = (busy - ours) / wall / cores, idle / (busy + idle)
        if foreign <= _MUCH or free >= _LITTLE:
            return None
        return f"other work took {foreign:.0%} of the node's {cores} cores, and {free:.0%} were idle"

    def _look(self) -> tuple[float, Machine, float] | None:
        machine, server = self._machine(), self._server()
        if machine is None or server is None:
            return None
        return self._clock(), machine, server + time.process_time()
