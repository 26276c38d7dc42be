"""What the user sees while something takes long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress goes to stderr, so that stdout holds only what a script may want to read."""


class _Running:
    """A spinner line that shows its own age; re-rendered by `Live`."""

    def __init__(self, title: str) -> None:
        self._spinner = Spinner("dots")
        self._title = title
        self._start = time.monotonic()

    def __rich__(self) -> Spinner:
        self._spinner.update(text=Text(f"{self._title}  {time.monotonic() - self._start:.0f} s"))
        return self._spinner


@contextmanager
def step(title: str, *, expect: str = "") -> Iterator[None]:
    """Show ``title`` with its elapsed time; ``expect`` says beforehand how long it may take.

    Without a terminal a line is printed when the step ends, and, for announced long steps, also
    when it begins, so that a log shows what is being waited for.
    """
    start = time.monotonic()
    announced = f"{title} ({expect})" if expect else title
    try:
        if console.is_terminal:
            with Live(_Running(announced), console=console, transient=True, refresh_per_second=8):
                yield
        else:
            if expect:
                console.print(f"… {announced}")
            yield
    except BaseException:
        console.print(f"[red]✗[/] {title}  {time.monotonic() - start:.1f} s")
        raise
    console.print(f"[green]✓[/] {title}  [dim]{time.monotonic() - start:.1f} s[/]")


def say(message: str) -> None:
    """Print one line."""
    console.print(message)
