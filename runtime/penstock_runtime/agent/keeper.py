"""Keeps the agent alive: `python3 -m penstock_runtime.agent.keeper`, the first process of the agent's container.

A container that ends makes its pod unready and comes back after ever longer pauses; Envoy, which is healthy, would be
taken out of the Service with it. So the agent may die or hang, and its container does not.
"""

import contextlib
import os
import select
import signal
import sys
import time

__all__ = ["HEARTBEAT", "Keeper"]

HEARTBEAT = "PENSTOCK_HEARTBEAT"
"""Names the variable that tells the agent into which descriptor it writes while its loop turns."""
_SILENCE = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_LONG_RUN = 10.0


class Keeper:
    """Starts the command again whenever it ends or has been silent for `silence` seconds, until SIGTERM."""

    def __init__(self, command: list[str], silence: float = _SILENCE) -> None:
        self._command, self._silence = command, silence
        self._child = 0
        self._stopping = False

    def run(self) -> None:
        """Returns after SIGTERM, when the command has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        pause = _FIRST_PAUSE
        while not self._stopping:
            begun = time.monotonic()
            print(f"keeper: the agent {self._watch()}", file=sys.stderr, flush=True)
            pause = _FIRST_PAUSE if time.monotonic() - begun > _LONG_RUN else min(pause * 2, _LONGEST_PAUSE)
            if not self._stopping:
                time.sleep(pause)

    def _watch(self) -> str:
        """Run the command once; how it ended."""
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)  # noqa: FBT003 - the standard library's signature
        environment = {**os.environ, HEARTBEAT: str(writer)}
        self._child = os.posix_spawn(self._command[0], self._command, environment)
        os.close(writer)
        if self._stopping:
            os.kill(self._child, signal.SIGTERM)
        alive = self._follow(reader)
        os.close(reader)
        if alive:
            os.kill(self._child, signal.SIGKILL)
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        return "hung and was killed" if alive else f"ended with {os.waitstatus_to_exitcode(status)}"

    def _follow(self, reader: int) -> bool:
        """Read heartbeats; True if they stop, False if the command ends."""
        while select.select([reader], [], [], self._silence)[0]:
            if not os.read(reader, 4096):
                return False
        return True

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._child:
            with contextlib.suppress(ProcessLookupError):  # it has just been waited for
                os.kill(self._child, signal.SIGTERM)


def main() -> int:
    """The keeper of the agent of this package."""
    Keeper([sys.executable, "-m", "penstock_runtime.agent"]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
