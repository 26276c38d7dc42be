"""What the person at the terminal sees: the stage under way and what it waits for; without a terminal plain lines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.status import Status

__all__ = ["DemoError", "Screen"]


class DemoError(Exception):
    """One sentence: what was seen, what was expected, what to do."""


class Screen:
    """Times stages; `stages_s` is what the report keeps of them."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}
        self._console = Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._title = self._detail = ""

    @contextmanager
    def stage(self, name: str, title: str, *, quiet: bool = False) -> Iterator[None]:
        """One step of the demo, kept as `name`; `quiet` leaves the terminal to another program."""
        start, self._title, self._detail = time.monotonic(), title, ""
        if not quiet and self._console.is_terminal:
            self._status = self._console.status(title)
            self._status.start()
        elif not self._console.is_terminal:
            self.say(f"… {title}")
        mark = "✗"
        try:
            yield
            mark = "✓"
        finally:
            if self._status:
                self._status.stop()
                self._status = None
            self.stages_s[name] = round(time.monotonic() - start, 3)
            self.say(f"{mark} {title}  {self.stages_s[name]:.1f} s")

    def now(self, detail: str) -> None:
        """What the stage waits for at this moment; the same sentence is shown once."""
        if detail == self._detail:
            return
        self._detail = detail
        if self._status:
            self._status.update(f"{self._title}: {detail}")
        else:
            self.say(f"  {detail}")

    def count(self, detail: str) -> None:
        """A number that changes all the time: shown on a terminal only."""
        if self._status:
            self._status.update(f"{self._title}: {detail}")

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, markup=False)

    def show(self, thing: Any) -> None:
        """A table."""
        self._console.print(thing)
